"""The start of a conversion: what it would be, what it waits for, and what it would cost. Pure; a part of `plan.py`.

Everything that a run needs later is settled here, from the spec, the environment of that day, the training and the price list,
and goes into its state. A start without them waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controller import attempts
from controller.address import Address
from controller.change import Action, Change, Cost, Wait
from controller.errors import listed, nearest
from controller.kind import Observed, Refs, Situation
from controller.kinds.conversion import estimate as estimates
from controller.kinds.conversion.spec import ConversionSpec, ConversionState, TrainingFacts
from controller.model import spoken

Situated = Situation[ConversionSpec, ConversionState]
State = Mapping[str, Any]
TRAINED = "succeeded"


def start(situation: Situated) -> Change:
    assert situation.desired is not None
    spec, seen = situation.desired.spec, situation.observed
    signals = seen.signals if isinstance(seen, Observed) else None
    state = resolved(situation, spec)
    if not signals:
        why = seen.reason if seen is not None and not isinstance(seen, Observed) else "nobody has looked yet"
        wait = Wait("Blind", "prices", f"what it would cost cannot be known: {why}")
        return Change(Action.RUN, f"converts {_named(spec)}: {wait.reason}", after=state, waits=(wait,), running=True)
    waits = [*_source_waits(situation.refs, spec, state, signals), *_obstacles(spec, state), *_price_waits(state, signals)]
    price = signals.get("prices", {}).get("hardware", {}).get(state["hardware"], {})
    state["usd_per_hour"] = price.get("usd_per_hour", 0.0)
    state["timeout"] = attempts.affordable(state["usd_per_hour"], state["timeout"], state["budget_usd"], 0.0)
    found = _estimate(situation, state)
    most = attempts.ceiling(state["usd_per_hour"], state["timeout"], state["attempts"], state["budget_usd"])
    if not waits and state["budget_usd"] is not None and _too_little(state, found):
        told = f"spec.budgetUsd: {state['budget_usd']:.2f} USD are too little, {found.told()} is likely ({found.basis})"
        waits.append(Wait("Invalid", "budgetUsd", f"{told}; raise it, or ask for fewer quantizations"))
    prices = signals.get("prices", {})
    old = f"the price list cannot be read; those of {prices.get('as_of')} count"
    return Change(
        Action.RUN,
        _told_start(spec, state, found, most),
        after=state,
        cost=Cost(round(min(found.usd[1], most), 4), most),
        waits=tuple(waits),
        conditions=(Wait("OldPrices", prices["as_of"], old),) if prices.get("hardware") and not prices.get("live", True) else (),
        running=True,
        evidence={"usd": list(found.usd), "hours": list(found.hours), "basis": found.basis},
    )


def resolved(situation: Situated, spec: ConversionSpec) -> dict[str, Any]:
    """The state that a run starts with. Later it is read from the log only."""
    defaults = situation.refs.environment["training"]
    backend = spec.backend or defaults["backend"]
    push = spec.push if spec.push is not None else backend != "local"
    state = ConversionState(
        phase="queued",
        agent=spec.agent,
        version=spec.version,
        quantizations=list(spec.quantizations),
        prompt=spec.smoke.prompt,
        tokens=spec.smoke.tokens,
        backend=backend,
        hardware=spec.hardware or "",
        timeout=spec.timeout,
        deadline=spec.deadline,
        budget_usd=spec.budget_usd,
        attempts=1 + (spec.retries if spec.retries is not None else defaults["retries"]),
        repo=_repository(situation, spec, defaults) if push else "",
    )
    return state.full()


def _repository(situation: Situated, spec: ConversionSpec, defaults: Mapping[str, Any]) -> str:
    """Braces that are unknown stay and are an obstacle. Dots and hyphens of versions may stand in names on the Hub; `+` may not."""
    name = str(spec.repository)
    parts = {"prefix": defaults["prefix"], "agent": spec.agent, "version": spec.version.replace("+", "-")}
    parts |= {"date": f"{situation.now:%Y%m%d}", "org": defaults["org"] or "{org}"}
    for key, value in parts.items():
        name = name.replace(f"{{{key}}}", str(value))
    return name


# -- what is converted -----------------------------------------------------------------------------------------------


def _source_waits(refs: Refs, spec: ConversionSpec, state: dict[str, Any], signals: Mapping[str, Any]) -> Iterable[Wait]:
    """Settles the source, or says what it waits for."""
    if spec.source.training is not None:
        yield from _of_training(refs, spec.source.training, state)
        return
    found = signals.get("source", {})
    if "invalid" in found:
        yield Wait("Invalid", "source", f"spec.source: {found['invalid']}")
    elif not found or "unknown" in found:
        yield Wait("Blind", "source", f"its source cannot be looked at: {found.get('unknown', 'nobody has looked yet')}")
    else:
        state["source"] = {key: found[key] for key in ("repo", "revision", "bytes")}


def _of_training(refs: Refs, name: str, state: dict[str, Any]) -> Iterable[Wait]:
    address = Address.of("TrainingRequest", name)
    facts, past = trained(refs, address), refs.past(address)
    if past.failed:
        yield Wait("Reference", f"{address} failed", f"spec.source: {address} failed: {past.failed}")
    elif facts is None:
        yield Wait("Reference", address, f"spec.source: waits for {address}, which has not started")
    elif facts.phase != TRAINED:
        more = "; it ends like that, so name another" if past.ended else ""
        told = f"spec.source: waits for {address} ({facts.phase or 'not started'}){more}"
        yield Wait("Reference", f"{address} {facts.phase}", told)  # the phase is part of the cause, so the log tells each
    else:
        state["source"] = {"training": name, "base_model": facts.base_model, "bytes": facts.bytes}
        if facts.repo:
            state["source"] |= {"repo": facts.repo, "revision": facts.revision}
        else:
            state["source"] |= {"job": facts.job, "digest": facts.result}
        if not facts.repo and state["backend"] != "local":
            told = f"{address} did not push its result, so {state['backend']} cannot read it"
            yield Wait("Invalid", "source", f"spec.source: {told}; convert with backend local where it was trained")


def trained(refs: Refs, address: Address) -> TrainingFacts | None:
    """What a training says: what is observed while it runs, what the log keeps when it has ended; None while that is nothing."""
    state = refs.get(address) or refs.past(address).after
    if not state:
        return None
    return TrainingFacts.model_validate({key: state.get(key) for key in TrainingFacts.model_fields if state.get(key)})


# -- what stands in the way ------------------------------------------------------------------------------------------


def _obstacles(spec: ConversionSpec, state: State) -> Iterable[Wait]:
    if "{org}" in state["repo"]:
        yield Wait("Invalid", "org", "spec.repository: {org} is not known; write training.org in the environment, or a whole name")
    elif "{" in state["repo"]:
        allowed = "{org} {prefix} {agent} {version} {date}"
        yield Wait("Invalid", "repository", f"spec.repository: {state['repo']!r} has an unknown part; allowed: {allowed}")
    if state["backend"] != "local" and not state["repo"]:
        yield Wait("Invalid", "push", f"spec.push: a job of {state['backend']} keeps nothing; its files have to be pushed")
    if state["repo"] and state["repo"] == state["source"].get("repo"):
        yield Wait(
            "Invalid", "repository", f"spec.repository: {state['repo']!r} is the source; GGUF files get a repository of their own"
        )


def _price_waits(state: dict[str, Any], signals: Mapping[str, Any]) -> Iterable[Wait]:
    """Chooses the hardware, where the spec does not, and says what is wrong with the choice."""
    prices = signals.get("prices", {})
    hardware = prices.get("hardware", {})
    if "unknown" in prices or not hardware:
        yield Wait("Blind", "prices", f"what hardware costs cannot be read: {prices.get('unknown', 'nobody has looked yet')}")
        return
    size = _gigabytes(state)
    if not state["hardware"]:
        state["hardware"] = next(iter(hardware)) if len(hardware) == 1 else estimates.chosen(size, state["quantizations"], hardware)
    if state["hardware"] not in hardware:
        said = state["hardware"] or f"nothing with {estimates.disk_gb(size or 0.0, state['quantizations']):.0f} GB of disk"
        hint = nearest(state["hardware"], hardware)
        yield Wait("Invalid", "hardware", f"spec.hardware: {said!r} is not listed{hint}; there are {listed(hardware, 30)}")


def _gigabytes(state: State) -> float | None:
    size = state["source"].get("bytes")
    return size / 1e9 if size else None


# -- money -----------------------------------------------------------------------------------------------------------


def _estimate(situation: Situated, state: State) -> estimates.Estimate:
    size, setup = _gigabytes(state), situation.refs.environment["training"]["setup"]
    alike = ("hardware", "backend")
    others = [
        other
        for other in situation.refs.all("Conversion").values()
        if other.get("phase") == "succeeded" and all(other.get(key) == state[key] for key in alike)
    ]
    return estimates.estimate(
        amount=None if size is None else estimates.work(size, state["quantizations"]),
        usd_per_hour=state["usd_per_hour"],
        setup=setup,
        timeout=state["timeout"],
        speeds=[speed for speed in (estimates.speed_of(other, setup) for other in others) if speed is not None],
    )


def _too_little(state: State, found: estimates.Estimate) -> bool:
    return state["timeout"] <= 0 or (found.known and found.usd[1] > state["budget_usd"])


def _named(spec: ConversionSpec) -> str:
    return f"TrainingRequest/{spec.source.training}" if spec.source.training else str(spec.source.repo)


def _told_start(spec: ConversionSpec, state: State, found: estimates.Estimate, most: float) -> str:
    at = f"@{state['source']['revision'][:10]}" if state["source"].get("revision") else ""
    what = f"converts {_named(spec)}{at} to {', '.join(state['quantizations'])}"
    where = f"on {state['hardware'] or 'hardware'} of {state['backend']}"
    if not state["usd_per_hour"]:
        return f"{what} {where}: costs nothing, at most {spoken(state['timeout'])} an attempt"
    times = f"{spoken(state['timeout'])} x {state['usd_per_hour']:.2f} USD/h x {state['attempts']}"
    capped = ", capped by spec.budgetUsd" if state["budget_usd"] is not None else ""
    return f"{what} {where}: {found.told()} {found.basis}; at most {most:.2f} USD ({times}{capped})"
