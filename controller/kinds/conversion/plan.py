"""Situation of a Conversion -> Change: wait for its source, price it, start it once, follow it, try again, end it, cancel it.

Signals, as `provider.py` brings them (each part may be `{unknown: why}`):
    source    of a model of the Hub, before it starts: repo, revision (the commit), bytes; or `{invalid: why}`
    prices    as_of, live, hardware {name: {usd_per_hour}}
    sight     of the attempt that runs now: stage, code, message, seconds, since_end, cost_usd
    progress  of the same, for whoever follows: step, steps, said
    verified  of what it left: ok, problems, files, digest, revision, metadata, smoke
Nothing starts blind. Everything that ends it works blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controller import attempts
from controller.address import Address
from controller.change import Action, Change, Cost, Wait
from controller.kind import Observed, Reference, Situation
from controller.kinds.conversion.spec import ConversionSpec, ConversionState
from controller.kinds.conversion.start import start
from controller.model import spoken

Situated = Situation[ConversionSpec, ConversionState]
State = Mapping[str, Any]
AGAIN: Mapping[str, tuple[float, ...]] = {
    "preempted": (0.0,),
    "lost": (0.0,),
    "hub_unreachable": (0.0, 60.0, 300.0),
    "download_damaged": (0.0, 60.0, 300.0),
}
"""Ends that another attempt may mend, and how many seconds after the first, second, ... of them it begins."""
LEAST_SECONDS = 60.0


def references(spec: ConversionSpec) -> Iterable[Reference]:
    """The training that it converts; and other conversions: how fast they were, for which nobody waits."""
    out = [Reference(Address("Conversion/*"), orders=False)]
    if spec.source.training is not None:
        out.append(Reference(Address.of("TrainingRequest", spec.source.training)))
    return out


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
    signals = (seen.signals or {}) if isinstance(seen, Observed) else {}
    sight = signals.get("sight", {})
    over = attempts.overdue(situation, state, sight)
    if over:
        return _end(situation, state, sight, "failed", over)
    if not sight or "unknown" in sight:
        why = sight.get("unknown") or getattr(seen, "reason", "") or "nobody has looked yet"
        blind = Wait("Blind", "job", f"its job cannot be seen: {why}")
        return attempts.stay(situation, state, f"{state['phase']}, but {blind.reason}", 30.0, (blind,))
    stage = sight["stage"]
    if stage == "succeeded":
        return _verify(situation, state, sight, signals.get("verified", {}))
    if stage in ("failed", "lost"):
        return _again(situation, state, sight)
    if stage == "cancelled":
        told = f"cancelled from outside: {sight.get('message') or 'somebody stopped it'}"
        return _end(situation, state, sight, "cancelled", told)
    if stage == "running" and state["phase"] == "queued":
        return attempts.step(situation, {**state, "phase": "running"}, f"its job runs on {state['hardware']}", sight)
    if stage == "queued":
        return attempts.stay(situation, state, f"queued for {state['hardware']} since {state['started_at'] or 'now'}", 10.0)
    return attempts.stay(situation, state, _told_progress(state, sight, signals.get("progress") or {}), 10.0)


def _verify(situation: Situated, state: State, sight: Mapping[str, Any], found: Mapping[str, Any]) -> Change:
    if state["phase"] != "verifying":
        return attempts.step(situation, {**state, "phase": "verifying"}, "its program has finished; its files are looked at", sight)
    if not found or "unknown" in found:
        blind = Wait("Blind", "result", f"its files cannot be looked at: {found.get('unknown', 'nobody has looked yet')}")
        return attempts.stay(situation, state, blind.reason, 15.0, (blind,))
    if not found["ok"]:
        return _end(situation, state, sight, "failed", f"what it left is not whole: {'; '.join(found['problems'])}")
    kept = {key: found[key] for key in ("files", "metadata", "smoke", "revision")}
    after = {**state, **kept, "result": found["digest"], "seconds": round(sight.get("seconds") or 0.0, 1)}
    where = f" at {after['repo']}@{after['revision'][:10]}" if after["repo"] else ""
    files = ", ".join(f"{each['quantization']} ({_size(each['bytes'])})" for each in after["files"])
    return _end(situation, after, sight, "succeeded", f"made {files}{where}; each was loaded and has generated")


def _again(situation: Situated, state: State, sight: Mapping[str, Any]) -> Change:
    """Another attempt, where that may help, where one is left, and within the budget."""
    code, message = sight.get("code") or sight["stage"], sight.get("message") or "no message"
    if code == "preempted" and not state["usd_per_hour"]:
        state = {**state, "attempts": state["attempts"] + 1}  # somebody stopped this machine's work: no fault of its own, and free
    if code not in AGAIN:
        return _end(situation, state, sight, "failed", f"failed ({code}): {message}")
    if state["attempt"] >= state["attempts"]:
        return _end(situation, state, sight, "failed", f"failed ({code}): {message}; no attempt is left")
    spent = attempts.cost(state, sight)
    timeout = attempts.affordable(state["usd_per_hour"], state["timeout"], state["budget_usd"], spent)
    if timeout < LEAST_SECONDS:
        used = f"the budget of {state['budget_usd']:.2f} USD is used up"
        return _end(situation, state, sight, "failed", f"failed ({code}): {message}; {used}")
    told = f"attempt {state['attempt']} of {state['attempts']} ended: {message}"
    left = AGAIN[code][min(state["attempt"], len(AGAIN[code])) - 1] - (sight.get("since_end") or 0.0)
    if left > 0:
        return attempts.stay(situation, state, f"{told}; the next one begins in {spoken(max(1, round(left)))}", max(left, 1.0))
    attempt = state["attempt"] + 1
    after = {**state, "phase": "queued", "attempt": attempt, "timeout": timeout, "job": "", "spent_usd": spent, "cost_usd": spent}
    most = attempts.ceiling(state["usd_per_hour"], timeout, 1, None)
    return Change(
        Action.STEP,
        f"{told}; attempt {attempt} of {state['attempts']}, {_usd(spent)} so far, at most {_usd(spent + most)}",
        before=situation.past.after,
        after=after,
        cost=Cost(most, most),
        running=True,
        part=f"attempt-{attempt}",
        evidence={"code": code, "message": message},
    )


# -- how it ends -----------------------------------------------------------------------------------------------------


def _end(situation: Situated, state: State, sight: Mapping[str, Any], phase: str, told: str, urgent: bool = False) -> Change:
    after = {**state, "phase": phase, "cost_usd": attempts.cost(state, sight), "ended_at": _time(situation), "said": told}
    spent = f"{_usd(after['cost_usd'])} were spent" if after["cost_usd"] else "nothing was spent"
    return Change(
        Action.STEP,
        f"{told}; {spent}",
        before=state,
        after=after,
        ends="completed" if phase == "succeeded" else phase,
        part="end",
        evidence={"message": sight.get("message", "")},
        urgent=urgent,
        payload={"gone": attempts.gone(situation, state)},
    )


def _cancel(situation: Situated) -> Change:
    """Its file is gone. What it has cost stays in the log, so it ends first and is archived after that."""
    seen, state = situation.observed, situation.past.after or {}
    sight = (seen.signals or {}).get("sight", {}) if isinstance(seen, Observed) else {}
    return _end(situation, state, sight, "cancelled", "cancelled: its file is gone", urgent=True)


# -- small things ----------------------------------------------------------------------------------------------------


def _time(situation: Situated) -> str:
    return situation.now.isoformat()


def _told_progress(state: State, sight: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    told = "running" if not progress.get("steps") else f"step {progress.get('step', 0)} of {progress['steps']}"
    if progress.get("said"):
        told += f", {progress['said']}"
    cost = attempts.cost(state, sight)
    return f"{told}, {_usd(cost)} so far" if cost else told


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{max(count, 1e5) / 1e6:.1f} MB"


def _usd(usd: float) -> str:
    """A CPU for some minutes costs less than a cent."""
    return f"{usd:.2f} USD" if usd >= 0.01 or not usd else f"{usd:.4f} USD"
