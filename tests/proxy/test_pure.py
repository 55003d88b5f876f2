"""The parts that are functions: the split, the model's place in the body, usage, histograms, and the table's rules."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.body import asked_model, model_spans, with_model
from controller.proxy.checks import problems
from controller.proxy.live import pick, point
from controller.proxy.stats import Stats, bucket_of, bucket_upper_seconds, percentile
from controller.proxy.table import Guard, Price, RouteTable, Variant, decode, encode
from controller.proxy.usage import Capture, Usage

SESSIONS = [f"session-{i}" for i in range(5000)]


def variants(*weights: float) -> list[Variant]:
    first = Variant(name="stable", model="m", version="1", endpoint="e", weight=100 - sum(weights))
    rest = [Variant(name=f"c{i}", model="m", version="1", endpoint="e", weight=w) for i, w in enumerate(weights)]
    return [first, *rest]


def moved(weight: float) -> set[str]:
    return {session for session in SESSIONS if pick(variants(weight), point("salt", session)) == 1}


def test_a_raised_weight_moves_sessions_forward_and_none_back() -> None:
    sets = [moved(weight) for weight in (0, 0.5, 5, 20, 50, 99.5, 100)]
    assert not sets[0]
    assert all(before < after for before, after in pairwise(sets))
    assert len(sets[-1]) == len(SESSIONS)
    assert len(sets[3]) == pytest.approx(1000, abs=4 * 28.3)  # four standard deviations
    assert len(sets[4]) == pytest.approx(2500, abs=4 * 35.4)


def test_another_salt_is_another_split() -> None:
    other = {session for session in SESSIONS if pick(variants(20), point("pepper", session)) == 1}
    assert len(other & moved(20)) == pytest.approx(200, abs=60)


def test_a_variant_of_weight_0_gets_nothing_even_at_the_edge() -> None:
    many = variants(100 / 3, 100 / 3, 100 - 200 / 3)
    assert many[0].weight == pytest.approx(0)
    split = [many[0].__class__(name="stable", model="m", version="1", endpoint="e", weight=0), *many[1:]]
    assert pick(split, 99.99999999999999) == 3
    assert pick(variants(0), 0.0) == 0


def _spelled(draw: st.DrawFn, key: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if c.isalpha() and draw(st.booleans()) else c for c in key)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Objects with nested and repeated `model` keys, escapes and odd whitespace; at least one is real."""
    values = st.recursive(
        st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", '"model"', "\\model", "a"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
    pairs = draw(st.lists(st.tuples(st.sampled_from(["messages", 'x"model":"y', "stream", "ä"]), values), max_size=4))
    pairs += [("model", draw(st.text(min_size=1))) for _ in range(draw(st.integers(1, 3)))]
    pairs = draw(st.permutations(pairs))
    space = st.sampled_from(["", " ", "\n", "\t\r\n "])
    ascii_only = draw(st.booleans())
    texts = []
    for key, value in pairs:
        spelled = f'"{_spelled(draw, key)}"' if key == "model" and draw(st.booleans()) else json.dumps(key)
        parts = (spelled, json.dumps(value, ensure_ascii=ascii_only))
        texts.append(draw(space) + (draw(space) + ":" + draw(space)).join(parts) + draw(space))
    return (draw(space) + "{" + ",".join(texts) + "}" + draw(space)).encode("utf-8", "replace")


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    return pairs


@settings(max_examples=500, deadline=None)
@given(bodies(), st.text(st.characters(codec="utf-8"), min_size=1))
def test_only_the_models_on_top_are_replaced(body: bytes, model: str) -> None:
    assert isinstance(asked_model(body), str)
    changed = with_model(body, model_spans(body), model)
    before = json.loads(body, object_pairs_hook=_pairs)
    after = json.loads(changed, object_pairs_hook=_pairs)
    assert after == [(key, model if key == "model" else value) for key, value in before]
    rest = [body[end:start] for (_, end), (start, _) in _around(body)]
    assert all(part in changed for part in rest)


def _around(body: bytes) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    spans = [(0, 0), *model_spans(body), (len(body), len(body))]
    return list(pairwise(spans))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('{}[]",:\\model u006d1', max_size=40).map(str.encode))
def test_no_body_breaks_the_scanner(body: bytes) -> None:
    try:
        asked_model(body)
        spans = model_spans(body)
    except ValueError:
        return
    assert spans


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model":1}', b'{"model":null}', b'{"model":"a"', b"[" * 5000])
def test_a_body_without_a_model_is_a_sentence(body: bytes) -> None:
    with pytest.raises(ValueError, match="The body"):
        asked_model(body)


def test_numbers_that_are_too_long_and_depth_do_not_matter() -> None:
    body = b'{"n":' + b"9" * 6000 + b',"x":{"model":"no"},"model":"a"}'
    assert with_model(body, model_spans(body), "b") == body[:-4] + b'"b"}'


def _captured(content: bytes, price: Price | None = None, stream: bool = False, size: int = 7) -> Any:
    capture = Capture(stream)
    for i in range(0, len(content), size):
        capture.add(content[i : i + size])
    return capture.usage(price, 400)


def test_usage_of_the_usual_shapes() -> None:
    price = Price(input=3, output=15)
    used = _captured(b'{"id":1,"usage":{"prompt_tokens":1000,"completion_tokens":100}}', price)
    assert (used.input_tokens, used.output_tokens) == (1000, 100)
    assert used.cost_usd == pytest.approx(0.0045)
    assert _captured(b'{"usage":{"input_tokens":5,"output_tokens":6,"cost":0.25}}', price).cost_usd == 0.25
    assert _captured(b'{"usage":{"input_tokens":5,"output_tokens":6}}').cost_usd is None
    assert _captured(b'{"usage":null}', price) is None
    assert _captured(b'{"usage":{"input_tokens":"many"}}', price) is None
    assert _captured(b'{"usage":' + b" " * (1 << 20) + b"{}}", price, size=65536) is None


def test_usage_of_a_stream_is_that_of_its_last_event() -> None:
    events = b'data: {"usage":{"prompt_tokens":1}}\n\n' + b'data: {"x":"y"}\n\n' * 20000
    events += b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8}}\r\n\r\n'
    events += b'data: {"choices":[],"usage":null}\n\ndata: [DONE]\n\n'
    assert _captured(events, stream=True, size=1000).output_tokens == 8
    told_nothing = _captured(b'data: {"x":1}\n\n' * 5, Price(input=1, output=1), stream=True)
    assert told_nothing == Usage(100, 5, 105e-6, estimated=True)
    begun = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    ended = b'event: message_delta\ndata: {"usage":{"output_tokens":44}}\n\n'
    spread = _captured(begun + b'data: {"x":1}\n\n' * 20000 + ended, stream=True, size=1000)
    assert (spread.input_tokens, spread.output_tokens) == (9, 44)
    whole = b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":3,"output_tokens":4}}}\n\n'
    assert _captured(whole, stream=True).input_tokens == 3


def test_percentiles_are_within_one_bucket() -> None:
    drawn = random.Random(7)
    times = sorted(drawn.lognormvariate(0, 1) for _ in range(5000))
    histogram: dict[int, int] = {}
    for seconds in times:
        bucket = bucket_of(seconds)
        assert bucket_upper_seconds(bucket - 1) < seconds <= bucket_upper_seconds(bucket) * (1 + 1e-9)
        histogram[bucket] = histogram.get(bucket, 0) + 1
    for q in (0.5, 0.95, 0.99, 1.0):
        exact = times[int(q * 5000) - 1]
        found = percentile({str(bucket): count for bucket, count in histogram.items()}, q)
        assert found is not None
        assert exact <= found * (1 + 1e-9) <= exact * 1.051
    assert percentile({}, 0.5) is None
    assert percentile({0: 0}, 0.5) is None


def route(**more: Any) -> dict[str, Any]:
    one = {"name": "stable", "model": "m", "version": "1", "endpoint": "e", "weight": 100}
    return {"variants": [one], **more}


def table(routes: Any, **more: Any) -> RouteTable:
    content = {"serial": 1, "digest": "d", "routes": routes, "endpoints": {"e": {"url": "http://h:1/v1"}}, **more}
    return decode(json.dumps(content).encode())


def test_a_table_says_everything_that_is_wrong_with_it() -> None:
    bad = table(
        {
            "a": route(fallbacks=["a", "b", "b"], guard={"error_rate": 2, "minimum": 0}),
            "c": {"variants": [{"name": "s", "model": "", "version": "", "endpoint": "no", "weight": -1}]},
            "d": {"variants": []},
            "e f": route(),
        },
        endpoints={"e": {"url": "ftp://u@h", "api_key": "sk-12345", "timeout_s": 0}},
    )
    text = "\n".join(problems(bad))
    parts = ["itself", "'b', which has no route", "twice", "error_rate", "minimum", "needs a step", "the weights sum"]
    parts += ["needs a name and a model", "'no'", "has no variants", "'e f'", "url", "api_key", "timeout_s"]
    assert [part for part in parts if part not in text] == []
    assert "sk-12345" not in text


def test_a_newer_writer_does_not_break_an_older_proxy() -> None:
    newer = table({"a": route(newer=1)}, newest={"x": 1})
    assert problems(newer) == []
    assert decode(encode(newer)) == newer


def test_missing_fields_are_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="digest"):
        decode(b'{"serial":1}')


def test_figures_keep_the_last_steps_and_their_time() -> None:
    now = [1000.0]
    stats = Stats(lambda: now[0])
    for i in range(30):
        stats.adopt(table({"a": route(step=f"s{i}")}))
        stats.cell("a", f"s{i}", "stable").add(error=True, seconds=None, usage=None, tries=1)
        now[0] += 10
    stats.adopt(table({"a": route(step="s29")}))
    shown = stats.shown()["a"]
    assert shown["step"] == "s29"
    assert shown["step_seconds"] == 10
    assert list(shown["steps"]) == [f"s{i}" for i in range(9, 30)]


def test_a_guard_trips_once_and_only_with_enough_requests() -> None:
    stats = Stats(lambda: 5.0)
    guard = Guard(error_rate=0.5, minimum=4)
    judged = []
    for error in (True, True, False, False, True):
        cell = stats.cell("a", "s", "candidate")
        cell.add(error=error, seconds=None, usage=None, tries=1)
        judged.append(stats.judge("a", "s", cell.requests, cell.errors, guard))
    assert judged == [False, False, False, True, False]
    trip = stats.tripped("a", "s")
    assert trip is not None
    assert (trip.requests, trip.errors, trip.at) == (4, 2, 5.0)
