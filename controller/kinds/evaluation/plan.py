"""Situation of an Evaluation -> Change: wait for what it compares, start, follow, resume, end with a verdict.

The work is a child process under a handle; what it found arrives as signals. The verdict was computed there from the answers
(`judgement`), not here: resampling takes seconds, and a pass must stay short enough to switch traffic back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from controller.address import Address
from controller.change import Action, Change, Wait
from controller.errors import listed, nearest
from controller.kind import Observed, Reference, Refs, Situation, Unknown
from controller.kinds.evaluation.money import priced, worst_calls
from controller.kinds.evaluation.sides import (
    TRAINED,
    answering,
    asked,
    created,
    listed_prices,
    resolved,
    trained,
    unservable,
)
from controller.kinds.evaluation.spec import EvaluationSpec, EvaluationState, Side
from controller.model import spoken

Situated = Situation[EvaluationSpec, EvaluationState]
LOOK_SECONDS = 5.0
RESUME_SECONDS = (5.0, 30.0, 120.0, 600.0)
"""Waits before the work is started again, by how often that brought nothing."""


def references(spec: EvaluationSpec) -> Iterable[Reference]:
    out = [Reference(Address.of("TrainingRequest", side.training)) for side in (spec.candidate, spec.baseline) if side.training]
    if spec.candidate.bound or spec.baseline.bound:
        out.append(Reference(Address.of("ModelBinding", spec.agent)))
    return dict.fromkeys(out)


def paths(spec: EvaluationSpec) -> Iterable[str]:
    """Files of this repository."""
    return spec.dataset.files


def plan(situation: Situated) -> Change:
    past = situation.past
    if situation.desired is None:
        return _removed(situation)
    if past.ended:
        reason = f"ended ({past.ended}): a run never starts again; use a new name"
        return Change(Action.NOOP, reason, before=past.after, after=past.after)
    if not past.running:
        return _start(situation, situation.desired.spec)
    return _go_on(situation, situation.desired.spec)


def _removed(situation: Situated) -> Change:
    past = situation.past
    if not past.exists:
        return Change(Action.NOOP, "not there, and not wanted")
    if past.ended:
        return Change(Action.DELETE, f"archived ({past.ended})", before=past.after, part="archive")
    reason, seen = "cancelled: its file is gone; what was answered stays paid", situation.observed
    signals = seen.signals or {} if isinstance(seen, Observed) else {}
    state = past.after or {}
    return Change(
        Action.STEP,  # and archived after that: a removal would wait while a rollout names it, and the bill with it
        reason,
        before=past.after,
        after={**state, "phase": "cancelled", "reasons": [reason], "cost": signals.get("cost_usd", state.get("cost"))},
        ends="cancelled",
        part="end",
        payload={"handle": past.handle, "cancel": True, "serving": sorted((past.after or {}).get("serving", {}))},
        urgent=True,
    )


# -- start -----------------------------------------------------------------------------------------------------------


def _start(situation: Situated, spec: EvaluationSpec) -> Change:
    refs, seen = situation.refs, situation.observed
    signals = (seen.signals if isinstance(seen, Observed) else None) or {}
    lists, hardware = signals.get("lists", {}), signals.get("hardware", {})
    environment = refs.environment
    candidate, baseline = (resolved(side, spec.agent, refs) for side in (spec.candidate, spec.baseline))
    targets = asked(spec, candidate, baseline)
    answers = {name: answering(target, environment.get("endpoints", {}), lists) for name, target in targets.items()}
    prices = listed_prices(targets, answers, environment.get("prices", {}), lists)
    serving = created(spec, refs, targets, answers, hardware)
    cost, bill, over = priced(spec, environment.get("prices", {}), candidate, baseline, prices, serving)
    waits = [*_missing(spec, refs, candidate, baseline), *_unfit(spec, refs, candidate, baseline)]
    waits += unservable(spec, refs, targets, answers, hardware)
    if over:
        waits.append(Wait("Budget", "budgetUsd", over))
    moved = {name: found for name, found in answers.items() if found != targets[name]["endpoint"]}
    state = EvaluationState(
        agent=spec.agent,
        phase="running",
        candidate=candidate or {},
        baseline=baseline or {},
        dataset=spec.dataset.label,
        judge=f"{spec.judge.model} ({spec.judge.prompt})" if spec.judge else "",
        ceiling=cost.ceiling,
        endpoints=moved,
        prices=prices,
        serving=serving,
    ).full()
    return Change(
        Action.RUN,
        f"compares {_named(candidate, spec.candidate)} with {_named(baseline, spec.baseline)} on at most {spec.examples} questions"
        f" of {spec.dataset.label}, for {bill}{_moved(moved, targets)}",
        after=state,
        cost=cost,
        waits=tuple(waits),
        running=True,
        payload={"handle": "", "order": ordered(situation, spec, state)},
    )


def _moved(moved: Mapping[str, str], targets: Mapping[str, Mapping[str, str]]) -> str:
    """Who is asked elsewhere, and why."""
    return "".join(
        f"; the {name} at {there}: {targets[name]['endpoint']} does not list {targets[name]['model']}"
        for name, there in moved.items()
    )


def _missing(
    spec: EvaluationSpec, refs: Refs, candidate: Mapping[str, str] | None, baseline: Mapping[str, str] | None
) -> Iterable[Wait]:
    for name, side, found in (("candidate", spec.candidate, candidate), ("baseline", spec.baseline, baseline)):
        if found is not None:
            continue
        if side.bound:
            address = Address.of("ModelBinding", spec.agent)
            yield Wait("Reference", address, f"spec.{name}: there is no ModelBinding {spec.agent!r} yet")
            continue
        address = Address.of("TrainingRequest", side.training or "")
        facts, over = trained(refs, side), refs.past(address).ended
        cause = f"{address} {facts.phase}" if facts and over else str(address)  # so that the log tells when it has failed
        yield Wait("Reference", cause, f"spec.{name}: {_untrained(refs, address, side)}")


def _untrained(refs: Refs, address: Address, side: Side) -> str:
    facts, past = trained(refs, side), refs.past(address)
    if past.failed:
        return f"{address} failed: {past.failed}"
    if facts is None:
        return f"waits for {address}, which has not started"
    if facts.phase == TRAINED:
        return f"{address} did not push its artefact, so nothing serves it; evaluate what serves it by model, endpoint and version"
    return f"waits for {address} ({facts.phase or 'not started'})"


def _unfit(
    spec: EvaluationSpec, refs: Refs, candidate: Mapping[str, str] | None, baseline: Mapping[str, str] | None
) -> Iterable[Wait]:
    endpoints = refs.environment.get("endpoints", {})
    named = {"candidate": candidate or spec.candidate.full(), "baseline": baseline or spec.baseline.full()}
    named |= {"judge": spec.judge.full()} if spec.judge else {}
    for name, target in named.items():
        endpoint = target.get("endpoint")
        if endpoint and endpoint not in endpoints:
            known = f"there is no endpoint {endpoint!r}{nearest(endpoint, endpoints)}; allowed: {listed(endpoints)}"
            yield Wait("Invalid", f"endpoint {endpoint}", f"spec.{name}.endpoint: {known}")
    if candidate is not None and candidate == baseline:
        yield Wait(
            "Invalid", "candidate", f"spec.candidate: {candidate['version']} is the baseline too; there is nothing to compare"
        )
    for side in (spec.candidate, spec.baseline):
        facts = trained(refs, side)
        if facts is None or facts.source != spec.dataset.label:
            continue
        if None in (facts.split, spec.dataset.split) or facts.split == spec.dataset.split:
            told = f"spec.dataset: {side.training} was trained on {facts.source}; an evaluation on what was trained says nothing"
            yield Wait("Invalid", "dataset", told)


def ordered(situation: Situated, spec: EvaluationSpec, state: Mapping[str, Any]) -> dict[str, Any]:
    """What the child process needs; made from the frozen spec and the sides that were found at the start."""
    assert situation.desired is not None
    facts = [trained(situation.refs, side) for side in (spec.candidate, spec.baseline)]
    candidate, baseline = state["candidate"] or None, state["baseline"] or None
    moved, prices = state.get("endpoints", {}), situation.refs.environment.get("prices", {})
    written = spec.full()
    if "judge" in moved:
        written["judge"]["endpoint"] = moved["judge"]
    return {
        "name": situation.desired.address.name,
        "agent": spec.agent,
        "candidate": _placed(candidate, moved.get("candidate")),
        "baseline": _placed(baseline, moved.get("baseline")),
        "state": dict(state),
        "dataset": {**spec.dataset.full(), "objects": dict(situation.desired.paths)},
        "trained_on": [{"source": each.source, "split": each.split, "revision": each.at} for each in facts if each and each.source],
        "spec": written,
        "worst": worst_calls(spec, prices, candidate, baseline, state.get("prices"), state.get("serving")),
        "ceiling": state["ceiling"],
    }


def _placed(target: Mapping[str, str] | None, elsewhere: str | None) -> dict[str, str]:
    return {**(target or {}), **({"endpoint": elsewhere} if elsewhere else {})}


# -- a run that goes on ----------------------------------------------------------------------------------------------


def _go_on(situation: Situated, spec: EvaluationSpec) -> Change:
    past, seen = situation.past, situation.observed
    state = dict(past.after or {})
    found = seen.signals if isinstance(seen, Observed) and seen.signals else {}
    if found.get("phase") == "ended":
        return _completed(situation, state, found)
    told = f"it cannot be seen: {seen.reason}" if isinstance(seen, Unknown) else _progress(found)
    if past.started_at is not None and situation.now >= past.started_at + timedelta(seconds=spec.deadline):  # counts blind too
        reason = f"failed: its deadline of {spoken(spec.deadline)} is over, {told}"
        return _failed(situation, state, found, reason)
    if isinstance(seen, Unknown):
        return _stay(situation, state, f"cannot be seen: {seen.reason}", 4 * LOOK_SECONDS)
    if found.get("phase") == "running":
        return _stay(situation, state, told, LOOK_SECONDS)
    return _resume(situation, spec, state, found, told)


def _completed(situation: Situated, state: dict[str, Any], found: Mapping[str, Any]) -> Change:
    result = found["result"]
    verdict = result["verdict"]
    after = EvaluationState.model_validate(
        {
            **state,
            "phase": "completed",
            "verdict": verdict["verdict"],
            "reasons": list(verdict["reasons"]),
            "score": {"candidate": verdict.get("candidate_score"), "baseline": verdict.get("baseline_score")},
            "needed": verdict.get("needed"),
            "examples": verdict["examples"],
            "cost": result.get("cost_usd"),
            "links": dict(result.get("links", {})),
            "revision": result.get("revision", ""),
        },
        strict=False,
    ).full()
    reason = f"{verdict['verdict']}: {' '.join(verdict['reasons'][:2])} {_spent(result.get('cost_usd'))}"
    return Change(
        Action.STEP,
        reason,
        before=state,
        after=after,
        ends="completed",
        part="end",
        evidence={"report": result["report"]},
        payload={"handle": situation.past.handle, "serving": sorted(state.get("serving", {}))},
    )


def _failed(situation: Situated, state: dict[str, Any], found: Mapping[str, Any], reason: str) -> Change:
    after = {**state, "phase": "failed", "reasons": [reason], "cost": found.get("cost_usd", state.get("cost"))}
    payload = {"handle": situation.past.handle, "cancel": True, "serving": sorted(state.get("serving", {}))}
    return Change(Action.STEP, reason, before=state, after=after, ends="failed", part="end", payload=payload)


def _resume(situation: Situated, spec: EvaluationSpec, state: dict[str, Any], found: Mapping[str, Any], told: str) -> Change:
    """Its process has ended without a result: killed, an outage, or something that a person has to see first."""
    done = int(found.get("done", 0))
    fruitless = state["resumed"] if done == state["resumed_at"] else 0
    delay = RESUME_SECONDS[min(fruitless, len(RESUME_SECONDS) - 1)]
    due = datetime.fromisoformat(found["at"]) + timedelta(seconds=delay) if found.get("at") else situation.now
    why = f" ({found['reason']})" if found.get("reason") else ""
    if situation.now < due and found.get("phase") != "failed":
        return _stay(
            situation, state, f"stopped{why}, goes on in {spoken(round((due - situation.now).total_seconds()))}; {told}", delay
        )
    after = {**state, "resumed": fruitless + 1, "resumed_at": done}
    return Change(
        Action.STEP,
        f"goes on after it stopped{why}; {told}",
        before=state,
        after=after,
        running=True,
        part=f"resume-{done}-{fruitless}",
        payload={"handle": situation.past.handle, "order": ordered(situation, spec, state)},
    )


def _stay(situation: Situated, state: Mapping[str, Any], reason: str, seconds: float) -> Change:
    again = situation.now + timedelta(seconds=seconds)
    return Change(Action.NOOP, reason, before=state, after=state, again=again, running=True)


# -- sentences -------------------------------------------------------------------------------------------------------


def _progress(found: Mapping[str, Any]) -> str:
    if found.get("waiting") and found.get("phase") == "running":
        return f"{found['waiting']}. {_spent(found.get('cost_usd'))}".rstrip(".")
    if not found.get("total"):
        return "no call has been made yet"
    return f"{found.get('done', 0)} of {found['total']} calls done. {_spent(found.get('cost_usd'))}".rstrip(".")


def _spent(usd: float | None) -> str:
    return "What it cost is not known." if usd is None else f"{usd:.2f} USD were spent."


def _named(target: Mapping[str, str] | None, side: Side) -> str:
    if target:
        return f"{target['model']} {target['version']}"
    return "what is bound" if side.bound else f"the artefact of {side.training}"
