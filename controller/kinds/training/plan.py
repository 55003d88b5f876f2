"""Situation of a TrainingRequest -> Change: check and price it, start it once, follow it, try again, end it, cancel it.

Signals, as `provider.py` brings them (each part may be `{unknown: why}`):
    dataset   name, source, revision, digest, rows, tokens (a pass), estimated, stops, findings [{code, severity, message, advice}]
    prices    as_of, live, hardware {name: {usd_per_hour, gpu, gpus}}
    sight     of the attempt that runs now: stage, code, message, seconds, cost_usd, batch, accumulation,
              progress {step, steps, loss, learning_rate, tokens_per_second, eta_seconds, losses [[step, loss], ...]}
    verified  of what it left: ok, problems, files, bytes, digest, revision, metrics
Nothing starts blind. Everything that ends it works blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from controller import attempts
from controller.address import Address
from controller.change import Action, Change, Cost, Wait
from controller.kind import Observed, Reference, Situation
from controller.kinds.training.spec import TrainingSpec, TrainingState
from controller.kinds.training.start import start
from controller.model import spoken

Situated = Situation[TrainingSpec, TrainingState]
State = Mapping[str, Any]
AGAIN = frozenset({"out_of_memory", "preempted", "lost", "hub_failed"})
"""Ends that another attempt may mend."""
LEAST_SECONDS = 60.0
TOLD_FIFTHS = 5
"""The log hears of a training that goes on when another fifth of its steps is done, the last one by its end ..."""
TOLD_SECONDS = 60.0
"""... and not more often than this."""
KEPT = ("step", "steps", "loss", "tokens_per_second", "eta_seconds")
"""Of the progress, in the log."""


def references(spec: TrainingSpec) -> Iterable[Reference]:
    """Other runs: how fast they were. Not ordered, so nobody waits for anybody."""
    return [Reference(Address("TrainingRequest/*"), orders=False)]


def paths(spec: TrainingSpec) -> Iterable[str]:
    """Files of this repository."""
    return [*spec.dataset.files, *(spec.evaluation.files if spec.evaluation else ())]


def plan(situation: Situated) -> Change:
    past = situation.past
    if past.ended:
        return attempts.ended(situation)
    if past.exists and past.after is not None:
        return _cancel(situation) if situation.desired is None else _go_on(situation, past.after)
    if situation.desired is None:
        told = "cancelled before it is known whether it started" if past.intents else "not there, and not wanted"
        return Change(Action.NOOP, told, before=past.after, after=past.after)
    return start(situation)


# -- a run that goes on ----------------------------------------------------------------------------------------------


def _go_on(situation: Situated, state: State) -> Change:
    seen = situation.observed
    sight = (seen.signals or {}).get("sight", {}) if isinstance(seen, Observed) else {}
    over = attempts.overdue(situation, state, sight)
    if over:
        return _fail(situation, state, sight, over)
    if not sight or "unknown" in sight:
        why = sight.get("unknown") or getattr(seen, "reason", "") or "nobody has looked yet"
        blind = Wait("Blind", "job", f"its job cannot be seen: {why}")
        return attempts.stay(situation, state, f"{state['phase']}, but {blind.reason}", 30.0, (blind,))
    stage = sight["stage"]
    if stage == "succeeded":
        return _verify(situation, state, sight)
    if stage in ("failed", "lost"):
        return _again(situation, state, sight)
    if stage == "cancelled":
        return _end(
            situation, state, sight, "cancelled", f"cancelled from outside: {sight.get('message') or 'somebody stopped it'}"
        )
    if stage == "running" and state["phase"] == "queued":
        return attempts.step(situation, {**state, "phase": "running"}, f"its job runs on {state['hardware']}", sight)
    if stage == "queued":
        return attempts.stay(situation, state, f"queued for {state['hardware']} since {state['started_at'] or 'now'}", 10.0)
    if stage == "running" and _is_worth_telling(situation, state, sight.get("progress") or {}):
        return _further(situation, state, sight)
    return attempts.stay(situation, state, _told_progress(state, sight), 10.0)


def _is_worth_telling(situation: Situated, state: State, progress: Mapping[str, Any]) -> bool:
    """Another fifth, a while after the last thing that the log was told."""
    since = situation.past.since
    quiet = since is not None and situation.now >= since + timedelta(seconds=TOLD_SECONDS)
    return quiet and _fifths(state.get("progress") or {}) < _fifths(progress) < TOLD_FIFTHS


def _fifths(progress: Mapping[str, Any]) -> int:
    """How many fifths of the steps are done."""
    steps = progress.get("steps") or 0
    return int(TOLD_FIFTHS * (progress.get("step") or 0) // steps) if steps > 0 else 0


def _further(situation: Situated, state: State, sight: Mapping[str, Any]) -> Change:
    """So that whoever reads the log sees it move. It changes nothing outside and costs nothing more than its start may."""
    progress = sight["progress"]
    kept = {key: progress[key] for key in KEPT if progress.get(key) is not None}
    after = {**state, "progress": {**kept, "cost_usd": attempts.cost(state, sight)}}
    change = attempts.step(situation, after, _told_progress(state, sight), sight)
    return replace(change, part=f"progress-{state['attempt']}-{10 // TOLD_FIFTHS * _fifths(progress)}")


def _verify(situation: Situated, state: State, sight: Mapping[str, Any]) -> Change:
    assert isinstance(situation.observed, Observed)
    if state["phase"] != "verifying":
        return attempts.step(
            situation, {**state, "phase": "verifying"}, "its program has finished; what it left is looked at", sight
        )
    found = (situation.observed.signals or {}).get("verified", {})
    if not found or "unknown" in found:
        blind = Wait("Blind", "result", f"its result cannot be looked at: {found.get('unknown', 'nobody has looked yet')}")
        return attempts.stay(situation, state, blind.reason, 15.0, (blind,))
    if not found["ok"]:
        return _end(situation, state, sight, "failed", f"what it left is not whole: {'; '.join(found['problems'])}")
    result = {"result": found["digest"], "files": found["files"], "bytes": found["bytes"], "revision": found.get("revision", "")}
    after = {**state, **result, "metrics": found.get("metrics", {})}
    where = f" at {after['repo']}@{after['revision'][:10]}" if after["repo"] else ""
    return _end(situation, after, sight, "succeeded", f"trained {after['version']}{where}, {_told_metrics(after['metrics'])}")


def _again(situation: Situated, state: State, sight: Mapping[str, Any]) -> Change:
    """Another attempt, where that may help, where one is left, and within the budget."""
    code, message = sight.get("code") or sight["stage"], sight.get("message") or "no message"
    batch, accumulation = sight.get("batch") or state["batch"], sight.get("accumulation") or state["accumulation"]
    told = f"attempt {state['attempt']} of {state['attempts']} ended: {message}"
    if code == "preempted" and not state["usd_per_hour"]:
        state = {**state, "attempts": state["attempts"] + 1}  # somebody stopped this machine's work: no fault of its own, and free
    if code not in AGAIN:
        return _fail(situation, state, sight, f"failed ({code}): {message}")
    if state["attempt"] >= state["attempts"]:
        return _fail(situation, state, sight, f"failed ({code}): {message}; no attempt is left")
    if code == "out_of_memory":
        if batch <= 1:
            return _fail(situation, state, sight, f"out of memory with one row at once: {message}; take larger hardware")
        batch, accumulation = batch // 2, accumulation * 2
        told = f"out of memory: again with batch {batch} x {accumulation}"
    spent = attempts.cost(state, sight)
    timeout = attempts.affordable(state["usd_per_hour"], state["timeout"], state["budget_usd"], spent)
    if timeout < LEAST_SECONDS:
        return _fail(situation, state, sight, f"failed ({code}): {message}; the budget of {state['budget_usd']:.2f} USD is used up")
    attempt = state["attempt"] + 1
    after = {**state, "phase": "queued", "attempt": attempt, "batch": batch, "accumulation": accumulation, "timeout": timeout}
    after |= {"job": "", "spent_usd": spent, "cost_usd": spent, "progress": {}}
    most = attempts.ceiling(state["usd_per_hour"], timeout, 1, None)
    return Change(
        Action.STEP,
        f"{told}; attempt {attempt} of {state['attempts']}, {spent:.2f} USD so far, at most {spent + most:.2f}",
        before=situation.past.after,
        after=after,
        cost=Cost(most, most),
        running=True,
        part=f"attempt-{attempt}",
        evidence={"code": code, "message": message},
    )


# -- how it ends -----------------------------------------------------------------------------------------------------


def _fail(situation: Situated, state: State, sight: Mapping[str, Any], told: str) -> Change:
    return _end(situation, state, sight, "failed", told)


def _end(situation: Situated, state: State, sight: Mapping[str, Any], phase: str, told: str, urgent: bool = False) -> Change:
    after = {**state, "phase": phase, "cost_usd": attempts.cost(state, sight), "ended_at": _time(situation), "said": told}
    reason = f"{told}; {_spent(after['cost_usd'])}"
    ends = "completed" if phase == "succeeded" else phase
    progress = {key: value for key, value in (sight.get("progress") or {}).items() if key != "losses"}
    evidence = {"message": sight.get("message", ""), "progress": progress}
    return Change(
        Action.STEP,
        reason,
        before=state,
        after=after,
        ends=ends,
        part="end",
        evidence=evidence,
        urgent=urgent,
        payload={"gone": attempts.gone(situation, state)},
    )


def _cancel(situation: Situated) -> Change:
    """Its file is gone. What it has cost stays in the log, so it ends first and is archived after that."""
    seen, state = situation.observed, situation.past.after or {}
    sight = (seen.signals or {}).get("sight", {}) if isinstance(seen, Observed) else {}
    return _end(situation, state, sight, "cancelled", "cancelled: its file is gone", urgent=True)


# -- small things ----------------------------------------------------------------------------------------------------


def _spent(usd: float) -> str:
    return f"{usd:.2f} USD were spent" if usd else "nothing was spent"


def _time(situation: Situated) -> str:
    return situation.now.isoformat()


def _told_progress(state: State, sight: Mapping[str, Any]) -> str:
    progress = sight.get("progress") or {}
    told = "running" if not progress.get("steps") else f"step {progress.get('step', 0)} of {progress['steps']}"
    if progress.get("loss") is not None:
        told += f", loss {progress['loss']:.3g}"
    if progress.get("eta_seconds") is not None:
        told += f", about {spoken(round(progress['eta_seconds']))} left"
    cost = attempts.cost(state, sight)
    return f"{told}, {cost:.2f} USD so far" if cost else told


def _told_metrics(metrics: Mapping[str, Any]) -> str:
    before, after = metrics.get("before", {}).get("loss"), metrics.get("after", {}).get("loss")
    if before is None or after is None:
        return "without a held-out loss"
    return f"held-out loss {before:.3g} -> {after:.3g}"
