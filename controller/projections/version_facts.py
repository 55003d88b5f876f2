"""What the events of a training, an evaluation and a conversion say about one version: small mappings for `registry.py`.

Why apart from the fold: these read states of other kinds, perhaps of a newer release, so every look is lenient and what is kept is
bounded; the fold only decides which version they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from controller.events import Event
from controller.judgement.rules import Rules

FILES_KEPT = 50
MEASURES_KEPT = 40
TEXT_KEPT = 500
NUMBERS = ("candidate", "baseline", "difference", "low", "high", "n")


def trained(event: Event, after: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training that has succeeded: what it was made from and what came of it."""
    dataset = _mapping(after.get("dataset"))
    return {
        "training": name_of(event),
        "training_job_id": after.get("job") or None,
        "base_model": after.get("base_model") or None,
        "base_revision": after.get("base_revision") or None,
        "training_method": after.get("method") or None,
        "training_dataset": dataset_label(dataset) or None,
        "dataset": {key: dataset.get(key) for key in ("name", "revision", "digest", "rows", "split") if dataset.get(key)},
        "hub_repo": after.get("repo") or None,
        "hub_revision": after.get("revision") or None,
        "result": after.get("result") or None,
        "metrics": _bounded(_mapping(after.get("metrics"))),
        "trained_at": after.get("ended_at") or event.time,
    }


def dataset_label(dataset: Mapping[str, Any]) -> str:
    """`ls://name@revision`, or the files; the name where that is all there is."""
    source = dataset.get("source") or dataset.get("name") or ""
    label = source if isinstance(source, str) else ", ".join(str(each) for each in source)
    revision = dataset.get("revision")
    return f"{label}@{revision}" if label and revision and "@" not in label else label


def shortened(label: str) -> str:
    """For people: of a commit, an object id or a digest the first twelve digits."""
    return re.sub(r"@([0-9a-f]{12})[0-9a-f]{8,}", r"@\1", label)


def evaluated(event: Event, after: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Of an evaluation that has completed. `found` is what `summary` made of its report, or nothing."""
    score = _mapping(after.get("score"))
    mine, theirs = _number(score.get("candidate")), _number(score.get("baseline"))
    scores = _mapping(found.get("scores"))
    accuracy = _mapping(scores.get("accuracy")).get("candidate")
    per_1k = _mapping(scores.get("cost_per_1k_tokens")).get("candidate")
    against = _mapping(after.get("baseline"))
    return {
        "evaluation": name_of(event),
        "verdict": after.get("verdict") or None,
        "evaluated_at": event.time,
        "evaluated_by": event.id,
        "eval_dataset": after.get("dataset") or None,
        "eval_examples": after.get("examples"),
        "evaluation_score": mine,
        "eval_scores": {
            "accuracy": accuracy,
            "baseline_improvement": improvement(mine, theirs),
            "avg_latency_ms": found.get("avg_latency_ms"),
            "cost_per_1k": per_1k if per_1k is not None else found.get("cost_per_1k"),
        },
        "scores": scores,
        "confidence": found.get("confidence"),
        "compared_with": " ".join(str(against[key]) for key in ("model", "version") if against.get(key)) or None,
        "needed": after.get("needed"),
    }


def improvement(mine: float | None, theirs: float | None) -> str | None:
    """`+12%`: the weighted score's change relative to the baseline's."""
    if mine is None or not theirs:
        return None
    return f"{round(100 * (mine / theirs - 1), 1) + 0.0:+g}%"


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation's report (`judgement.record.Record` as data) that a registry keeps: scores with intervals.

    `difference`, `low` and `high` of a measure are candidate minus baseline, or the relative change for latency and cost; seconds
    and USD are per call, means of calls that answered.
    """
    verdict = _mapping(report.get("verdict"))
    scores: dict[str, dict[str, Any]] = {}
    for each in [each for each in _sequence(verdict.get("evidence")) if isinstance(each, Mapping)][:MEASURES_KEPT]:
        kept = {key: value for key in NUMBERS if (value := _number(each.get(key))) is not None}
        scores[str(each.get("measure", ""))[:TEXT_KEPT]] = {**kept, "state": each.get("state", "")}
    answers = [each for each in _sequence(report.get("answers")) if isinstance(each, Mapping) and each.get("side") == "candidate"]
    seconds = [value for each in answers if not each.get("error") and (value := _number(each.get("seconds"))) is not None]
    rules = verdict.get("rules")
    alpha = _number(rules.get("alpha", Rules().alpha)) if isinstance(rules, Mapping) else None  # defaults are left out
    return {
        "scores": scores,
        "confidence": None if alpha is None else round(1 - 2 * alpha, 6),
        "avg_latency_ms": round(1000 * fmean(seconds), 3) if seconds else None,
        "cost_per_1k": _per_1k(answers),
    }


def _per_1k(answers: Iterable[Mapping[str, Any]]) -> float | None:
    """USD per 1,000 tokens of the calls where both are known."""
    usd = tokens = 0.0
    for each in answers:
        cost, used = _number(each.get("cost_usd")), (_number(each.get("tokens_in")) or 0) + (_number(each.get("tokens_out")) or 0)
        if cost is not None and used:
            usd, tokens = usd + cost, tokens + used
    return round(1000 * usd / tokens, 9) if tokens else None


def converted(event: Event, after: Mapping[str, Any]) -> dict[str, Any]:
    """Of a conversion that has succeeded: the files it made."""
    files = [each for each in _sequence(after.get("files")) if isinstance(each, Mapping)]
    kept = ("name", "quantization", "bytes", "sha256")
    return {
        "conversion": name_of(event),
        "converted_at": event.time,
        "files": [{key: each[key] for key in kept if each.get(key) is not None} for each in files[:FILES_KEPT]],
    }


def cost_of(data: Mapping[str, Any]) -> float | None:
    """What an outcome says that the work has cost so far in US dollars; None where it does not say."""
    after, notes = _mapping(data.get("after")), _mapping(data.get("notes"))
    for value in (notes.get("cost_usd"), after.get("cost_usd"), after.get("cost")):
        if (usd := _number(value)) is not None:
            return usd
    return None


def name_of(event: Event) -> str:
    return event.subject.partition("/")[2]


def _bounded(value: Any, depth: int = 3) -> Any:
    """Numbers and short texts, a few levels deep."""
    if isinstance(value, Mapping):
        return {str(key)[:80]: _bounded(each, depth - 1) for key, each in list(value.items())[:MEASURES_KEPT]} if depth else None
    if isinstance(value, str):
        return value[:TEXT_KEPT]
    return value if isinstance(value, bool | int | float) or value is None else str(value)[:TEXT_KEPT]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
