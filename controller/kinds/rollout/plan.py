"""Situation of a Rollout -> Change: start, judge, step, promote, abort, give way, and what it leaves behind in git.

Going forward needs figures; every way back works blind. A run that has ended is a noop for ever under its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from controller.address import Address
from controller.change import Action, Change, Wait
from controller.errors import listed, nearest
from controller.kind import Observed, Reference, Situation
from controller.kinds.rollout.spec import Analysis, EvaluationFacts, RateLimit, RelativeLimit, RolloutSpec, RolloutState, Strategy
from controller.model import spoken
from controller.resource import digest

Situated = Situation[RolloutSpec, RolloutState]
Figures = Mapping[str, Any]
TARGET = ("model", "endpoint", "version")
PROOFS = ("deploy", "deploy_canary")
"""Verdicts of an evaluation on which a rollout may start."""
EARLY_Z = 3.3
"""An abort before the hold is over needs evidence that chance gives once in 2,000 looks (one-sided normal quantile)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a strategy. `hold` None = until somebody removes the file. Not `judged` = only time passes."""

    weight: float
    hold: float | None
    shadow: float = 0.0
    judged: bool = True


def references(spec: RolloutSpec) -> Iterable[Reference]:
    proof = [Reference(Address.of("Evaluation", spec.evaluation))] if spec.evaluation else []
    return [Reference(Address.of("ModelBinding", spec.binding), exclusive=True), *proof]


def steps_of(strategy: Strategy) -> tuple[list[Step], str]:
    """The stages, and what follows when the last one passes: promoted or completed."""
    if strategy.canary is not None:
        return [Step(step.weight, step.hold) for step in strategy.canary], "promoted"
    if strategy.blue_green is not None:
        preview = [Step(0.0, strategy.blue_green.preview, judged=False)] if strategy.blue_green.preview else []
        return [*preview, Step(100.0, strategy.blue_green.hold)], "promoted"
    if strategy.shadow is not None:
        shadow = strategy.shadow
        return [Step(0.0, shadow.hold, shadow.percent)], "promoted" if shadow.then == "promote" else "completed"
    if strategy.split is not None:
        return [Step(strategy.split.weight, strategy.split.hold)], "completed"
    return [], "promoted"


def plan(situation: Situated) -> Change:
    past = situation.past
    if past.ended:
        return _ended(situation)
    if situation.desired is None:
        if past.running:
            return _cancel(situation)
        return Change(Action.NOOP, "not there, and not wanted", before=past.after, after=past.after)
    if not past.running:
        return _start(situation)
    return _go_on(situation, situation.desired.spec)


# -- start -----------------------------------------------------------------------------------------------------------


def _start(situation: Situated) -> Change:
    assert situation.desired is not None
    resource, spec = situation.desired, situation.desired.spec
    stable = _target(situation.refs.get(Address.of("ModelBinding", spec.binding)))
    steps, following = steps_of(spec.strategy)
    candidate = _candidate(situation, spec)
    waits = tuple(_obstacles(situation, spec, stable, candidate))
    name = resource.address.name
    state: dict[str, Any] = {
        "binding": spec.binding,
        "phase": "progressing",
        "step": 0,
        "steps": len(steps),
        "weight": 0.0,
        "shadow": 0.0,
        "step_id": "",
        "salt": f"{name}-{resource.spec_digest[:8]}",
        "stable": stable or {},
        "candidate": candidate or {},
        "baseline": None,
        "settled": False,
        "guard": spec.guard.full() if spec.guard else None,
        "verdict": "",
    }
    bad = _judged_bad(situation, spec, candidate)
    to = candidate["version"] if candidate else f"the candidate of Evaluation/{spec.evaluation}"
    risk = "high" if bad else "low"
    if not steps:
        after = {**state, "phase": "promoted", "weight": 100.0}
        return Change(
            Action.RUN,
            f"all sessions to {to} at once (was {_version(stable)})",
            after=after,
            waits=waits,
            conditions=bad,
            risk=risk,
            ends=following,
        )
    after = _at_step(state, name, 0, steps)
    return Change(
        Action.RUN,
        f"{_share(steps[0], to)} (was {_version(stable)})",
        after=after,
        waits=waits,
        conditions=bad,
        risk=risk,
        running=True,
    )


def _candidate(situation: Situated, spec: RolloutSpec) -> dict[str, str] | None:
    """As written, else what its evaluation is about; None while that is not known."""
    if spec.candidate is not None:
        return _target(spec.candidate.full())
    address = Address.of("Evaluation", spec.evaluation or "")
    found = (situation.refs.get(address) or situation.refs.past(address).after or {}).get("candidate")
    return _target(found) if found and all(found.get(key) for key in TARGET) else None


def _judged_bad(situation: Situated, spec: RolloutSpec, target: Mapping[str, str] | None) -> tuple[Wait, ...]:
    """A person may try again what was aborted before; nothing automatic ever does."""
    if target is None or digest(target) not in situation.refs.past(Address.of("ModelBinding", spec.binding)).bad:
        return ()
    return (Wait("JudgedBad", target["version"], f"{target['version']} was aborted by a rollout before"),)


def _obstacles(
    situation: Situated, spec: RolloutSpec, stable: Mapping[str, str] | None, candidate: Mapping[str, str] | None
) -> Iterable[Wait]:
    target = Address.of("ModelBinding", spec.binding)
    if stable is None:
        yield Wait("Reference", target, f"spec.binding: there is no ModelBinding {spec.binding!r} yet")
    elif stable == candidate:
        yield Wait("Invalid", "candidate", f"spec.candidate: {stable['version']} is what {spec.binding} uses already")
    if spec.evaluation:
        yield from _unproven(situation, spec, Address.of("Evaluation", spec.evaluation))
    if candidate is not None:
        yield from _unserved(situation, candidate["endpoint"])


def _unserved(situation: Situated, endpoint: str) -> Iterable[Wait]:
    endpoints = situation.refs.environment.get("endpoints", {})
    if endpoint not in endpoints:
        told = f"there is no endpoint {endpoint!r}{nearest(endpoint, endpoints)}; allowed: {listed(endpoints)}"
        yield Wait("Invalid", f"endpoint {endpoint}", f"spec.candidate.endpoint: {told}")
    elif endpoints[endpoint].get("inferenceEndpoint"):
        allowed = listed(name for name, each in endpoints.items() if not each.get("inferenceEndpoint"))
        told = f"{endpoint!r} is created by an evaluation for itself, nothing is there for a rollout; allowed: {allowed}"
        yield Wait("Invalid", f"endpoint {endpoint}", f"spec.candidate.endpoint: {told}")


def _unproven(situation: Situated, spec: RolloutSpec, address: Address) -> Iterable[Wait]:
    """Why the evaluation does not let it start. Of one that has ended the log keeps the last state."""
    past = situation.refs.past(address)
    found = situation.refs.get(address) or past.after
    if found is None:
        failed = f" ({address} failed: {past.failed})" if past.failed else ""
        yield Wait("Reference", address, f"spec.evaluation: there is no verdict of {address} yet{failed}")
        return
    proof = EvaluationFacts.model_validate({key: found.get(key) for key in EvaluationFacts.model_fields if found.get(key)})
    if proof.verdict not in PROOFS:
        why = " ".join(proof.reasons[:2]) or (f"failed: {past.failed}" if past.failed else proof.phase)
        cause = f"{address} {proof.verdict or proof.phase}"  # so that the log tells when it changes
        yield Wait("Reference", cause, f"spec.evaluation: {address} has the verdict {proof.verdict or 'none'}: {why}")
    elif proof.verdict == "deploy_canary" and (spec.strategy.immediate or spec.strategy.blue_green or spec.strategy.split):
        yield Wait("Invalid", "strategy", f"spec.strategy: the verdict of {address} is deploy_canary; allowed: canary, shadow")
    written = spec.candidate
    if written and proof.candidate and any(proof.candidate.get(key) != getattr(written, key) for key in ("model", "version")):
        other = f"{address} is about {proof.candidate.get('model')} {proof.candidate.get('version')}"
        yield Wait("Invalid", "evaluation", f"spec.evaluation: {other}, not about {written.model} {written.version}")


# -- a run that goes on ----------------------------------------------------------------------------------------------


def _go_on(situation: Situated, spec: RolloutSpec) -> Change:
    state = dict(situation.past.after or {})
    bound = _target(situation.refs.get(Address.of("ModelBinding", state["binding"])))
    if bound != state["stable"]:
        return _end(situation, state, "superseded", f"superseded: {state['binding']} now uses {_version(bound)}")
    signals = situation.observed.signals if isinstance(situation.observed, Observed) else None
    steps, following = steps_of(spec.strategy)
    if not signals or signals.get("step") != state["step_id"]:
        return _stay(situation, state, f"stays at {_percent(state)}: the gateway's figures are not known", 5.0)
    tripped = signals.get("tripped")
    if tripped:
        return _abort(
            situation,
            state,
            f"the gateway's guard tripped at {tripped['errors']} errors of {tripped['requests']} requests",
            {"tripped": tripped},
        )
    step = steps[min(state["step"], len(steps) - 1)]
    stable, candidate = _sides(state, signals)
    elapsed = signals.get("seconds")
    held = elapsed is not None and step.hold is not None and elapsed >= step.hold
    judgement, told = judge(spec.analysis, stable, candidate, final=held) if step.judged else ("pass", "not judged")
    evidence = {"stable": _brief(stable), "candidate": _brief(candidate), "seconds": elapsed}
    if judgement == "fail":
        return _abort(situation, state, told, evidence)
    if elapsed is None:
        return _stay(situation, state, f"{_percent(state)}: not every gateway serves this step yet", 2.0)
    if not held:
        left = None if step.hold is None else step.hold - elapsed
        until = "until its file is removed" if left is None else f"for another {spoken(math.ceil(left))}"
        return _stay(situation, state, f"holds at {_percent(state)} {until}", _interval(step.hold, left))
    if judgement == "more":
        wait = Wait("Inconclusive", f"step {state['step']}", f"waits at {_percent(state)} for samples: {told}")
        return _stay(situation, state, f"inconclusive at {_percent(state)}: {told}", _interval(step.hold, None), (wait,))
    if spec.paused:
        return _stay(situation, state, f"paused at {_percent(state)}", 15.0)
    return _forward(situation, spec, state, steps, following, (told, evidence, stable))


def _forward(
    situation: Situated,
    spec: RolloutSpec,
    state: dict[str, Any],
    steps: list[Step],
    following: str,
    found: tuple[str, Mapping[str, Any], Figures | None],
) -> Change:
    told, evidence, stable = found
    index = state["step"] + 1
    assert situation.desired is not None
    if index < len(steps):
        after = _at_step({**state, "baseline": _brief(stable)}, situation.desired.address.name, index, steps)
        return Change(
            Action.STEP,
            f"{_share(steps[index], state['candidate']['version'])}: {told}",
            before=state,
            after=after,
            running=True,
            part=f"step-{index}",
            evidence=evidence,
        )
    if following == "promoted":
        after = {**state, "phase": "promoted", "weight": 100.0, "shadow": 0.0, "step_id": "", "verdict": told}
        return Change(
            Action.STEP,
            f"promoted {state['candidate']['version']}: {told}",
            before=state,
            after=after,
            ends="promoted",
            part="end",
            evidence=evidence,
        )
    return _end(situation, state, "completed", f"completed: {told}; all sessions on {_version(state['stable'])}", evidence)


def _stay(situation: Situated, state: Mapping[str, Any], reason: str, seconds: float, waits: tuple[Wait, ...] = ()) -> Change:
    again = situation.now + timedelta(seconds=seconds)
    return Change(Action.NOOP, reason, before=state, after=state, again=again, waits=waits, running=True)


def _abort(situation: Situated, state: Mapping[str, Any], told: str, evidence: Mapping[str, Any]) -> Change:
    reason = f"aborted, {told}; all sessions on {_version(state['stable'])}"
    return _end(
        situation,
        state,
        "aborted",
        reason,
        evidence,
        bad={Address.of("ModelBinding", state["binding"]): digest(state["candidate"])},
    )


def _end(
    situation: Situated,
    state: Mapping[str, Any],
    phase: str,
    reason: str,
    evidence: Mapping[str, Any] | None = None,
    bad: Mapping[Address, str] | None = None,
) -> Change:
    after = {**state, "phase": phase, "weight": 0.0, "shadow": 0.0, "step_id": "", "verdict": reason}
    return Change(
        Action.STEP, reason, before=state, after=after, ends=phase, part="end", urgent=True, evidence=evidence or {}, bad=bad or {}
    )


def _cancel(situation: Situated) -> Change:
    state = situation.past.after or {}
    return Change(
        Action.DELETE,
        f"cancelled: its file is gone; all sessions on {_version(state.get('stable'))}",
        before=state,
        ends="cancelled",
        part="end",
        urgent=True,
    )


# -- a run that has ended --------------------------------------------------------------------------------------------


def _ended(situation: Situated) -> Change:
    """It has no effect but what its `after` says; what it has to write to git goes with every plan until it is there."""
    past, state = situation.past, situation.past.after
    if situation.desired is None:
        if state is None:
            return Change(Action.NOOP, f"ended ({past.ended})")
        return Change(Action.DELETE, f"archived ({past.ended})", before=state, part="archive", urgent=True)
    if past.written and state is not None and past.ended == "promoted" and not state["settled"]:
        return _settle(state, "its promotion was in git, and what git says now counts")
    if past.written or state is None:
        return Change(Action.NOOP, f"ended ({past.ended}): a run never starts again; use a new name", before=state, after=state)
    address = situation.desired.address
    binding = Address.of("ModelBinding", state["binding"])
    bound = _target(situation.refs.get(binding))
    if past.ended != "promoted":
        message = "" if past.ended == "aborted" else f"Remove {address}: {past.ended}"
        reason = state["verdict"] or f"{past.ended}: all sessions on {_version(bound)}"
        return Change(Action.NOOP, reason, before=state, after=state, edits={address: None}, message=message)
    if bound == state["stable"]:
        fields = {key: state["candidate"][key] for key in TARGET if state["candidate"][key] != state["stable"][key]}
        return Change(
            Action.NOOP,
            f"promoted, {state['verdict'] or 'at once'}; all sessions on {state['candidate']['version']}",
            before=state,
            after=state,
            edits={binding: fields, address: None},
            message=f"Promote {state['binding']} to {state['candidate']['version']}",
        )
    if not state["settled"]:
        return _settle(state, f"its promotion has no effect any more: {state['binding']} uses {_version(bound)}")
    return Change(Action.NOOP, "promoted", before=state, after=state, edits={address: None}, message=f"Remove {address}: promoted")


def _settle(state: Mapping[str, Any], reason: str) -> Change:
    return Change(Action.STEP, reason, before=state, after={**state, "settled": True}, part="settle", ends="promoted", urgent=True)


# -- judgement -------------------------------------------------------------------------------------------------------


def judge(analysis: Analysis, stable: Figures | None, candidate: Figures | None, *, final: bool) -> tuple[str, str]:
    """`pass`, `fail` or `more`, and the sentence behind it.

    At the end of a hold point estimates decide; before it only a difference in errors that chance does not give
    (Newcombe's hybrid score interval, Statistics in Medicine 17 (1998) 873-890, method 10).
    """
    need = analysis.minimum_samples
    if candidate is None or candidate["requests"] < need:
        return "more", f"{candidate['requests'] if candidate else 0} of {need} requests to the candidate"
    if _relative(analysis) and (stable is None or stable["requests"] < need):
        return "more", f"{stable['requests'] if stable else 0} of {need} requests to the stable version"
    counts = f"of {candidate['requests']} and {stable['requests'] if stable else 0} requests"
    compared = [
        (name, *_compare(name, unit, limit, stable, candidate))
        for name, unit, limit in (
            ("errorRate", "%", analysis.error_rate),
            ("p95", "s", analysis.latency_p95),
            ("costPerRequest", "USD", analysis.cost_per_request),
        )
        if limit is not None
    ]
    faults = [told for _, told, bad, _ in compared if bad]
    fine = [told for _, told, bad, _ in compared if not bad]
    unknown = [_LABEL[name] for name, _, _, known in compared if not known]
    if not final:
        limit = analysis.error_rate
        sure = limit is not None and _surely_worse(limit, stable, candidate)
        return ("fail", f"{faults[0]} {counts}") if sure and faults else ("pass", "nothing bad so far")
    if faults:
        return "fail", f"{', '.join(faults)} {counts}"
    if unknown:
        return "more", f"{', '.join(unknown)} of both sides is not known yet"
    return "pass", f"{', '.join(fine) or 'nothing to judge'} {counts}"


_LABEL = {"errorRate": "error rate", "p95": "p95 latency", "costPerRequest": "cost per request"}


def _relative(analysis: Analysis) -> bool:
    limits = (analysis.error_rate, analysis.latency_p95, analysis.cost_per_request)
    return any(limit is not None and limit.worse_by is not None for limit in limits)


def _compare(
    name: str, unit: str, limit: RateLimit | RelativeLimit, stable: Figures | None, candidate: Figures
) -> tuple[str, bool, bool]:
    """(sentence, is it bad, is it known)"""
    mine = candidate[name]
    theirs = stable[name] if stable else None
    if mine is None or (limit.worse_by is not None and theirs is None):
        return f"no {_LABEL[name]}", False, False
    bad = bool(limit.at_most is not None and mine > limit.at_most)
    if limit.worse_by is not None and theirs is not None:
        allowed = theirs + limit.worse_by if name == "errorRate" else theirs * (1 + limit.worse_by / 100)
        bad = bad or bool(mine > allowed + 1e-12)
    against = f" against {_number(theirs)} {unit}" if theirs is not None else ""
    return f"{_LABEL[name]} {_number(mine)} {unit}{against}", bad, True


def _surely_worse(limit: RateLimit, stable: Figures | None, candidate: Figures) -> bool:
    low, _ = _wilson(candidate["errors"], candidate["requests"])
    if limit.at_most is not None and 100 * low > limit.at_most:
        return True
    if limit.worse_by is None or stable is None or not stable["requests"]:
        return False
    mine, theirs = candidate["errors"] / candidate["requests"], stable["errors"] / stable["requests"]
    _, high = _wilson(stable["errors"], stable["requests"])
    lower = mine - theirs - math.sqrt((mine - low) ** 2 + (high - theirs) ** 2)
    return bool(100 * lower > limit.worse_by)


def _wilson(errors: int, requests: int, z: float = EARLY_Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 22 (1927) 209-212)."""
    p, n = errors / requests, requests
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _sides(state: Mapping[str, Any], signals: Mapping[str, Any]) -> tuple[Figures | None, Figures | None]:
    """Stable and candidate; where stable has no share of this step, what it had before."""
    variants = signals.get("variants", {})
    stable = variants.get("stable")
    if state["weight"] >= 100:
        stable = state.get("baseline") or signals.get("before") or stable
    return stable, variants.get("candidate")


# -- small things ----------------------------------------------------------------------------------------------------


def _at_step(state: Mapping[str, Any], name: str, index: int, steps: list[Step]) -> dict[str, Any]:
    step = steps[index]
    return {**state, "step": index, "weight": step.weight, "shadow": step.shadow, "step_id": f"{name}/{index}-{state['salt'][-8:]}"}


def _target(state: Mapping[str, Any] | None) -> dict[str, str] | None:
    return {key: state[key] for key in TARGET} if state else None


def _version(target: Mapping[str, Any] | None) -> str:
    return str(target["version"]) if target else "nothing"


def _share(step: Step, version: str) -> str:
    if step.shadow:
        return f"copies of {step.shadow:g} % of requests to {version}"
    if step.weight == 0:
        return f"{version} beside, for testers only"
    return f"{step.weight:g} % of sessions to {version}"


def _percent(state: Mapping[str, Any]) -> str:
    return f"{state['shadow']:g} % copies" if state["shadow"] else f"{state['weight']:g} %"


def _brief(figures: Figures | None) -> dict[str, Any] | None:
    keys = ("requests", "errors", "errorRate", "p95", "costPerRequest")
    return {key: figures.get(key) for key in keys} if figures else None


def _number(value: float) -> str:
    """Three significant digits, without exponents where people do not expect them."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _interval(hold: float | None, left: float | None) -> float:
    """How soon to look again: often in a short step, seldom in a long one, and when the hold is over."""
    usual = min(15.0, max(1.0, (hold or 300.0) / 20))
    return usual if left is None else max(0.2, min(usual, left))
