"""registry.json of other tools: what is accepted and kept, what is refused and where, and that nothing is lost on the way round."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.cli.output import replace
from controller.errors import InvalidState, TurnoutError
from controller.events import Event
from controller.projections.registry import REGISTRY, is_agent
from controller.projections.version_views import flat, per_agent
from controller.registry_file import MOST_BYTES, MOST_VERSIONS, Flat, PerAgent, dump, read


def problems(document: Any) -> dict[str, str]:
    """JSON path -> message of everything that is wrong."""
    with pytest.raises(InvalidState) as raised:
        read(document if isinstance(document, bytes) else json.dumps(document).encode(), "old/registry.json")
    assert all(problem.path == "old/registry.json" for problem in raised.value.problems)
    return {problem.field: problem.message for problem in raised.value.problems}


@pytest.mark.parametrize("version", ["v1.0.0", "v1.1.0-beta", "v2-finetuned", "v2-20251209", "7", "überarbeitet"])
def test_versions_are_kept_as_they_are(version: str) -> None:
    document = {"models": [{"agent": "docs", "model_id": "acme/docs", "version": version}]}
    assert read(json.dumps(document).encode(), "r").agents["docs"]["history"][0]["version"] == version
    assert json.loads(dump(read(json.dumps(document).encode(), "r").document))["models"][0]["version"] == version


def test_every_problem_is_told_at_once_with_its_place() -> None:
    found = problems(
        {
            "docs": {
                "current": {"version": "v1", "deployed_at": "yesterday"},
                "history": [
                    {"version": 2},
                    {"version": "v3", "eval_scores": {"accuracy": "0.9", "baseline_improvement": "better"}, "speed": 1},
                ],
            },
            "Not A Name": {"history": []},
        }
    )
    assert set(found) == {
        "$.docs.current.deployed_at",
        "$.docs.history[0].version",
        "$.docs.history[1].eval_scores.accuracy",
        "$.docs.history[1].eval_scores.baseline_improvement",
        "$.docs.history[1].speed",
        '$["Not A Name"] (key)',
    }
    assert "'yesterday' is not a time" in found["$.docs.current.deployed_at"]
    assert "found 2" in found["$.docs.history[0].version"]
    assert 'found "0.9"' in found["$.docs.history[1].eval_scores.accuracy"]
    assert "write it like +12%" in found["$.docs.history[1].eval_scores.baseline_improvement"]


def test_problems_of_the_flat_form() -> None:
    found = problems({"models": [{"agent": "docs"}, {"agent": "docs", "model_id": "m", "version": "v1", "evaluation_score": True}]})
    assert set(found) == {"$.models[0].model_id", "$.models[0].version", "$.models[1].evaluation_score"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not JSON"),
        (b'{"models": [', "not JSON"),
        (b'{"models": [], "models": []}', "'models' is there twice"),
        (b'{"docs": {"history": [{"version": "v", "eval_scores": {"accuracy": NaN}}]}}', "NaN is not a number"),
        (b'{"docs": {"history": [{"version": "v", "eval_scores": {"accuracy": 1e999}}]}}', "too large"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "valid dictionary"),
        (b'{"docs": []}', "valid dictionary"),
        (b" " * (MOST_BYTES + 1), "bytes; allowed are"),
    ],
)
def test_what_is_no_registry_is_refused(content: bytes, told: str) -> None:
    assert told in " ".join(problems(content).values())


def test_a_version_twice_and_too_many_are_refused() -> None:
    one = {"version": "v1", "model": "m"}
    found = problems({"docs": {"history": [one, {"version": "v1", "model": "other"}, one]}})
    assert list(found) == ["$.docs.history[2]"]
    assert "first at $.docs.history[0]" in found["$.docs.history[2]"]
    many = {"docs": {"history": [{"version": f"v{number}"} for number in range(MOST_VERSIONS + 1)]}}
    assert f"at most {MOST_VERSIONS}" in " ".join(problems(many).values())


# -- there and back --------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20)
names = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
moments = st.datetimes().map(lambda moment: moment.isoformat()) | st.dates().map(str)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


flat_documents = st.lists(
    st.fixed_dictionaries(
        {"agent": names, "model_id": texts, "version": texts},
        optional={"deployed_at": optional(moments), "evaluation_score": optional(numbers), "training_job_id": optional(texts)},
    ),
    max_size=6,
    unique_by=lambda each: (each["agent"], each["version"]),
).map(lambda models: {"models": models})
scores = st.fixed_dictionaries(
    {},
    optional={
        "accuracy": optional(numbers),
        "baseline_improvement": optional(st.integers(-99, 99).map(lambda number: f"{number:+d}%")),
        "avg_latency_ms": optional(numbers),
        "cost_per_1k": optional(numbers),
    },
)
words = ("base_model", "training_method", "training_dataset", "eval_dataset", "hub_repo", "deployment_status", "endpoint", "commit")
histories = st.lists(
    st.fixed_dictionaries(
        {"version": texts},
        optional={
            "model": optional(texts),
            **{word: optional(texts) for word in words},
            "eval_scores": optional(scores),
            "trained_at": optional(moments),
            "deployed_at": optional(moments),
        },
    ),
    max_size=5,
    unique_by=lambda each: each["version"],
)
currents = st.fixed_dictionaries(
    {"version": texts}, optional={"model": optional(texts), "endpoint": optional(texts), "deployed_at": optional(moments)}
)
agents = st.fixed_dictionaries({}, optional={"current": optional(currents), "history": histories})
per_agent_documents = st.dictionaries(names, agents, max_size=4)


def through_the_log(content: bytes) -> dict[str, Any]:
    """Imported into an empty registry, its states through JSON as the cache keeps them."""
    found = read(content, "r")
    event = Event(id="e", source="t", type="turnout.registry.imported.v1", sequence=1, data={"digest": "d", "agents": found.agents})
    states: dict[str, dict[str, Any]] = defaultdict(dict)
    REGISTRY.fold(states, event)
    kept = json.loads(json.dumps(states, sort_keys=True))
    return {key: state for key, state in kept.items() if is_agent(key)}


@settings(deadline=None, max_examples=60)
@given(flat_documents)
def test_the_flat_form_goes_round(document: dict[str, Any]) -> None:
    content = dump(document)
    assert Flat.model_validate_json(dump(read(content, "r").document)) == Flat.model_validate(document)
    back = Flat.model_validate(flat(through_the_log(content)))
    assert sorted(back.models, key=str) == sorted(Flat.model_validate(document).models, key=str)


@settings(deadline=None, max_examples=60)
@given(per_agent_documents)
def test_the_per_agent_form_goes_round(document: dict[str, Any]) -> None:
    content = dump(document)
    before = PerAgent.model_validate(document)
    assert PerAgent.model_validate_json(dump(read(content, "r").document)) == before
    exported = per_agent(through_the_log(content))
    assert told(PerAgent.model_validate(exported)) == told(before)
    again = per_agent(through_the_log(dump(exported)))
    assert again == exported  # a second round changes nothing at all


def told(document: PerAgent) -> dict[str, Any]:
    """Without what says nothing: an agent without versions, scores without a figure; no status is `imported`."""
    plain = document.model_dump()
    for agent in plain.values():
        for each in agent["history"]:
            each["deployment_status"] = each["deployment_status"] or "imported"
            if not any(value is not None for value in (each["eval_scores"] or {}).values()):
                each["eval_scores"] = None
    return plain


# -- files -----------------------------------------------------------------------------------------------------------


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    contents = [dump({"models": [{"agent": "a", "model_id": letter * 200_000, "version": "v"}]}) for letter in "xyz"]
    replace(path, contents[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def look() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    def write(content: bytes) -> None:
        for _ in range(20):
            replace(path, content)

    reader = threading.Thread(target=look)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert seen <= set(contents)
    assert path.read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == ["registry.json"]


def test_a_link_and_the_mode_of_a_file_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    replace(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TurnoutError, match="cannot be written"):
        replace(tmp_path / "none" / "registry.json", b"x")
