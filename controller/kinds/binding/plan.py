"""Situation of a ModelBinding -> Change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controller.address import Address
from controller.change import Action, Change, Wait
from controller.errors import listed, nearest
from controller.kind import Observed, Reference, Refs, Situation
from controller.kinds.binding.spec import BindingSpec, BindingState
from controller.resource import digest


def references(spec: BindingSpec) -> Iterable[Reference]:
    """Fallbacks may be mutual, so they name and do not order."""
    return [Reference(Address.of("ModelBinding", name), orders=False) for name in spec.fallbacks]


def plan(situation: Situation[BindingSpec, BindingState]) -> Change:
    before = _state(situation)
    if situation.desired is None:
        if before is None:
            return Change(Action.NOOP, "not there, and not wanted")
        return Change(Action.DELETE, f"removed from git; {_spoken(before)} answers no more", before=before)
    spec = situation.desired.spec
    after = spec.full()
    waits = tuple(_problems(situation.desired.address, spec, situation.refs))
    bad = _judged_bad(situation.past.bad, after)
    if before == after:
        reason = f"{_spoken(after)} answers, as git says"
        return Change(Action.NOOP, reason, before=before, after=before, conditions=(*waits, *bad))
    known = digest(after) in situation.past.been_healthy
    if before is None:
        return Change(Action.CREATE, f"{_spoken(after)} answers", after=after, waits=waits, healthy=True, conditions=bad)
    reason = f"{_spoken(after)} answers (was {_difference(before, after)})"
    if known:
        reason = f"back to {_spoken(after)} (was {_difference(before, after)})"
    return Change(
        Action.UPDATE,
        reason,
        before=before,
        after=after,
        waits=waits,
        healthy=True,
        urgent=known and not waits,
        conditions=bad,
        risk="high" if bad else "low",
    )


def _judged_bad(known: tuple[str, ...], after: Mapping[str, Any]) -> tuple[Wait, ...]:
    """A person may bind what a rollout judged bad; it is said."""
    if digest({key: after[key] for key in ("model", "endpoint", "version")}) not in known:
        return ()
    return (Wait("JudgedBad", str(after["version"]), f"{after['version']} was aborted by a rollout before"),)


def _state(situation: Situation[BindingSpec, BindingState]) -> Mapping[str, Any] | None:
    observed = situation.observed
    return observed.state if isinstance(observed, Observed) and isinstance(observed.state, Mapping) else None


def _problems(address: Address, spec: BindingSpec, refs: Refs) -> Iterable[Wait]:
    endpoints = refs.environment.get("endpoints", {})
    if spec.endpoint not in endpoints:
        hint = nearest(spec.endpoint, endpoints)
        yield Wait(
            "Invalid",
            f"endpoint {spec.endpoint}",
            f"spec.endpoint: environment {refs.environment.get('name')} has no endpoint {spec.endpoint!r}{hint}; "
            f"allowed: {listed(endpoints)}",
        )
    elif endpoints[spec.endpoint].get("inferenceEndpoint"):
        yield Wait(
            "Invalid",
            f"endpoint {spec.endpoint}",
            f"spec.endpoint: {spec.endpoint!r} is created by an evaluation for itself, nothing is there for a binding; "
            f"allowed: {listed(name for name, each in endpoints.items() if not each.get('inferenceEndpoint'))}",
        )
    for name in spec.fallbacks:
        target = Address.of("ModelBinding", name)
        if target == address:
            yield Wait("Invalid", f"fallback {name}", f"spec.fallbacks: {name!r} is the binding itself")
        elif target not in refs.named:
            yield Wait("Reference", target, f"spec.fallbacks: there is no ModelBinding {name!r}")


def _spoken(state: Mapping[str, Any]) -> str:
    return f"{state['model']} {state['version']} at {state['endpoint']}"


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The shortest thing that tells before from after."""
    parts = [str(before.get(key)) for key in ("model", "version", "endpoint") if before.get(key) != after.get(key)]
    return " ".join(parts) or f"fallbacks {', '.join(before.get('fallbacks', ())) or 'none'}"
