"""How each simulated model behaves (`model_server.py`): set over HTTP, validated, kept in a file if asked.

A patch `{model: {field: value}}` changes some fields of some models; null sets a field or a whole model back. The model
`*` stands for every model and for every request that names none; what a model has of its own goes before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

ALL = "*"  # every model
_LONGEST_MS = 600_000
_MOST_TOKENS = 100_000

# What can be wrong with an answer on the wire. `finished` in the journal only where the note says well-formed.
FAULTS = {
    "hang_before_head": "says nothing, for ever",
    "close_before_head": "closes the connection before any byte",
    "reset_before_head": "resets the connection (RST) before any byte",
    "not_http": "answers with bytes that are not HTTP, then closes",
    "close_mid_head": "closes in the middle of the head",
    "hang_mid_body": "half of the body (of the events of a stream), then silence, for ever",
    "close_mid_body": "half of the body, then closes",
    "reset_mid_body": "half of the body, then resets (RST)",
    "end_early": "half of the body, well-formed as HTTP: a stream lacks its last events, JSON its second half",
    "error_event": "half of the events of a stream, then the vendor's error event, well-formed as HTTP (streams only)",
    "length_too_long": "announces ten bytes more than it sends, and keeps the connection",
    "length_too_short": "announces ten bytes fewer than it sends, and keeps the connection",
    "two_lengths": "two content-lengths that differ; the first is right",
    "two_equal_lengths": "the same content-length twice",
    "length_and_chunked": "a content-length of 4 beside a chunked body",
    "bad_chunk_size": "in the middle a chunk size that is no number",
    "huge_chunk_size": "in the middle a chunk size beyond 64 bits",
    "chunk_extension": "every chunk size has an extension, which is well-formed",
    "obs_fold": "a header that goes on in the next line",
    "extra_bytes": "some bytes after the end of the answer, in the same write",
    "second_answer": "a whole second answer that nobody asked for, in the same write",
}
WHOLE = frozenset({"two_equal_lengths", "chunk_extension", "obs_fold", "extra_bytes", "second_answer"})  # it can be read
FRAMINGS = ("length", "chunked", "eof", "http10")
EARLY = ("answer", "refuse")
METRICS_FAULTS = ("hang", "garbage", "error", "old_names", "without_vllm")


@dataclass(frozen=True)
class Behaviour:
    """What a model does. A `status` without an `error_rate` is the answer to every request. Times are milliseconds.

    The fields from `early` on count only for the model `*`, because they concern what names no model.
    """

    error_rate: float | None = None
    latency_ms: float = 0  # before anything is answered
    output_tokens: int = 12  # fewer where the request allows fewer
    status: int | None = None  # of a failure; 500 where only a rate is given
    hang: bool = False
    die_mid_stream: bool = False  # as the fault `close_mid_body`, of successful answers only
    retry_after: float | str | None = None  # the header of failures and refusals
    first_token_ms: float | None = None  # between the head of a stream and its first token
    token_ms: float | None = None  # between two tokens; an answer that is not streamed takes as long as a stream
    speed: float | None = None  # divides the three times above
    concurrency: int | None = None  # how many requests of the model are served at once; the others wait
    queue: int | None = None  # how many may wait; one more gets 429
    kv_tokens: int | None = None  # tokens that fit into the KV cache (65,536)
    fault: str | None = None  # one of FAULTS
    fault_rate: float | None = None  # the share of requests that the fault hits; all without
    framing: str | None = None  # length, chunked, eof (HTTP/1.1, ends with the connection), http10 (the same, HTTP/1.0)
    gzip: bool | None = None  # compresses every answer, asked or not
    drip_ms: float | None = None  # every byte in a write of its own, with this gap; 0 is without a gap
    header_kb: int | None = None  # one more header of this size
    informational: list[int] | None = None  # 1xx answers before the final one
    metrics_running: float | None = None  # what `/metrics` says instead of the truth
    metrics_waiting: float | None = None
    metrics_kv_cache: float | None = None
    early: str | None = None  # answers when the head is there: `answer` keeps reading the body, `refuse` is 413 and a close
    health: int | str | None = None  # of `/health`: a status from 400 to 599, or `hang`
    metrics: str | None = None  # of `/metrics`: one of METRICS_FAULTS

    def fails(self, number: int) -> bool:
        """Whether the request of this number (from 1) fails. Errors are spread evenly: 0.1 is every tenth."""
        if self.error_rate is None:
            return self.status is not None
        return _hit(self.error_rate, number)

    def fault_of(self, number: int) -> str | None:
        """The fault of the request of this number (from 1), spread evenly like errors."""
        if self.fault is None or self.fault_rate is None:
            return self.fault
        return self.fault if _hit(self.fault_rate, number) else None


def _hit(rate: float, number: int) -> bool:
    share = Fraction(str(rate))
    return int(number * share) > int((number - 1) * share)


@dataclass(frozen=True)
class _Rule:
    says: str
    accepts: Callable[[Any], bool]
    of_all: bool = False  # it makes sense for the model `*` only


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(low: float, high: float) -> _Rule:
    return _Rule(f"is a number from {low} to {high}", lambda value: _numeric(value) and low <= value <= high)


def _whole(low: int, high: int) -> _Rule:
    return _Rule(
        f"is a whole number from {low} to {high}",
        lambda value: _numeric(value) and isinstance(value, int) and low <= value <= high,
    )


def _one_of(*names: str, of_all: bool = False) -> _Rule:
    return _Rule(f"is one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names, of_all)


def _is_retry_after(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= 100 and value.isascii() and value.isprintable()
    return _numeric(value) and 0 <= value <= 1_000_000


def _is_informational(value: Any) -> bool:
    statuses = value if isinstance(value, list) and len(value) <= 64 else [None]
    return all(_numeric(one) and isinstance(one, int) and 100 <= one <= 199 and one != 101 for one in statuses)


_FLAG = _Rule("is true or false", lambda value: isinstance(value, bool))
_TIME = _number(0, _LONGEST_MS)
_STATUS = _whole(400, 599)
_RULES: dict[str, _Rule] = {
    "error_rate": _number(0, 1),
    "latency_ms": _TIME,
    "output_tokens": _whole(1, _MOST_TOKENS),
    "status": _STATUS,
    "hang": _FLAG,
    "die_mid_stream": _FLAG,
    "retry_after": _Rule("is a number of seconds or a text of printable ASCII", _is_retry_after),
    "first_token_ms": _TIME,
    "token_ms": _TIME,
    "speed": _number(0.001, 1000),
    "concurrency": _whole(1, 100_000),
    "queue": _whole(0, 1_000_000),
    "kv_tokens": _whole(1, 1_000_000_000),
    "fault": _one_of(*FAULTS),
    "fault_rate": _number(0, 1),
    "framing": _one_of(*FRAMINGS),
    "gzip": _FLAG,
    "drip_ms": _TIME,
    "header_kb": _whole(1, 1024),
    "informational": _Rule("is a list of at most 64 statuses from 100 to 199 without 101", _is_informational),
    "metrics_running": _number(0, 1_000_000),
    "metrics_waiting": _number(0, 1_000_000),
    "metrics_kv_cache": _number(0, 1),
    "early": _one_of(*EARLY, of_all=True),
    "health": _Rule('is a status from 400 to 599 or "hang"', lambda value: value == "hang" or _STATUS.accepts(value), True),
    "metrics": _one_of(*METRICS_FAULTS, of_all=True),
}


def changed(model: str, own: dict[str, Any], patch: Any) -> tuple[dict[str, Any], list[str]]:
    """The fields that a model has of its own, with this patch, and all that is wrong with the patch."""
    if patch is None:
        return {}, []
    if not isinstance(patch, dict):
        return own, ["is neither an object nor null"]
    fields = dict(own)
    found: list[str] = []
    for name, value in patch.items():
        rule = _RULES.get(name)
        if rule is None:
            found.append(f"{name} is not known; there are {', '.join(_RULES)}")
        elif value is None:
            fields.pop(name, None)
        elif rule.of_all and model != ALL:
            found.append(f"{name} concerns no single model; set it for the model {ALL!r}")
        elif not rule.accepts(value):
            found.append(f"{name} {rule.says}, not {json.dumps(value)}")
        else:
            fields[name] = value
    return (own, found) if found else (fields, [])


class Behaviours:
    """The behaviours of all endpoints of the process, by endpoint and model."""

    def __init__(self, state: Path | None) -> None:
        self._state = state
        self._own: dict[str, dict[str, dict[str, Any]]] = {}  # what was set
        self._whole: dict[str, dict[str, Behaviour]] = {}  # the same over `*` and the defaults
        if state is not None and state.exists():
            for endpoint, models in json.loads(state.read_text(encoding="utf-8")).items():
                self.merge(endpoint, models)

    def of(self, endpoint: str, model: str) -> Behaviour:
        models = self._whole.get(endpoint)
        if not models:
            return _ORDINARY
        return models.get(model) or models.get(ALL) or _ORDINARY

    def shown(self, endpoint: str) -> dict[str, dict[str, Any]]:
        """What was set of each model, with the defaults of the fields that have one."""
        behaviours = {model: Behaviour(**own) for model, own in self._own.get(endpoint, {}).items()}
        return {
            model: {name: value for name, value in asdict(behaviour).items() if value is not None}
            for model, behaviour in behaviours.items()
            if behaviour != _ORDINARY
        }

    def merge(self, endpoint: str, patch: Any) -> list[str]:
        """Apply a patch `{model: {field: value}}` as a whole, or nothing of it; returns what is wrong with it."""
        if not isinstance(patch, dict):
            return ["The body is an object: {model: {field: value}}"]
        models = dict(self._own.get(endpoint, {}))
        found: list[str] = []
        for model, fields in patch.items():
            own, problems = changed(model, models.get(model, {}), fields)
            found += [f"{model}: {problem}" for problem in problems]
            models[model] = own
        if not found:
            self._own[endpoint] = {model: own for model, own in models.items() if own}
            base = models.get(ALL, {})
            self._whole[endpoint] = {model: Behaviour(**{**base, **own}) for model, own in self._own[endpoint].items()}
        return found

    def keep(self) -> None:
        if self._state is None:
            return
        self._state.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._state.with_name(self._state.name + ".tmp")
        temporary.write_text(json.dumps(self._own, indent=1), encoding="utf-8")
        os.replace(temporary, self._state)


_ORDINARY = Behaviour()
