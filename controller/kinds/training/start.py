"""The start of a training: what it would be, what is wrong with it, and what it would cost. Pure; a part of `plan.py`.

Everything that a run needs later is settled here, from the spec, the environment of that day and what the data set and the price
list say, and goes into its state. A start without them waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from controller import attempts
from controller.change import Action, Change, Cost, Wait
from controller.errors import listed, nearest
from controller.kind import Observed, Situation
from controller.kinds.training import estimate as estimates
from controller.kinds.training.spec import TrainingSpec, TrainingState
from controller.model import spoken

Situated = Situation[TrainingSpec, TrainingState]
State = Mapping[str, Any]
BLIND_SECONDS = 10.0


def start(situation: Situated) -> Change:
    assert situation.desired is not None
    spec, seen = situation.desired.spec, situation.observed
    signals = seen.signals if isinstance(seen, Observed) else None
    state = resolved(situation, spec)
    if not signals:
        why = seen.reason if seen is not None and not isinstance(seen, Observed) else "nobody has looked yet"
        wait = Wait("Blind", "dataset", f"what it would cost cannot be known: {why}")
        told = f"trains {state['base_model']}: {wait.reason}"
        return Change(Action.RUN, told, after=state, waits=(wait,), running=True, again=_soon(situation, (wait,)))
    waits = [*_obstacles(spec, state), *_dataset_waits(signals.get("dataset", {})), *_price_waits(situation, spec, state, signals)]
    dataset, price = signals.get("dataset", {}), _price(state, signals)
    state["dataset"] = {key: dataset.get(key) for key in ("name", "source", "revision", "digest", "rows", "split")}
    state["usd_per_hour"] = price.get("usd_per_hour", 0.0)
    state["timeout"] = attempts.affordable(state["usd_per_hour"], state["timeout"], state["budget_usd"], 0.0)
    found = _estimate(situation, spec, state, dataset, price)
    most = attempts.ceiling(state["usd_per_hour"], state["timeout"], state["attempts"], state["budget_usd"])
    if not waits and state["budget_usd"] is not None and found.known and found.usd[1] > state["budget_usd"]:
        told = f"spec.budgetUsd: {state['budget_usd']:.2f} USD are too little, {found.told()} is likely ({found.basis})"
        waits.append(Wait("Invalid", "budgetUsd", f"{told}; raise it, take fewer rows or epochs, or a smaller model"))
    return Change(
        Action.RUN,
        _told_start(spec, state, found, most),
        after=state,
        cost=Cost(round(min(found.usd[1], most), 4), most),
        waits=tuple(waits),
        conditions=_warnings(signals),
        again=_soon(situation, waits),
        running=True,
        evidence={"usd": list(found.usd), "hours": list(found.hours), "basis": found.basis},
    )


def _soon(situation: Situated, waits: Iterable[Wait]) -> datetime | None:
    """What could not be seen is looked at again soon, and not only when everything is."""
    blind = any(wait.code == "Blind" for wait in waits)
    return situation.now + timedelta(seconds=BLIND_SECONDS) if blind else None


def resolved(situation: Situated, spec: TrainingSpec) -> dict[str, Any]:
    """The state that a run starts with: spec over mode over the environment's defaults. Later it is read from the log only."""
    defaults = situation.refs.environment["training"]
    mode = defaults[spec.mode]
    parameters = {**defaults["hyperparameters"], **{key: mode[key] for key in ("loraRank", "loraAlpha") if mode[key] is not None}}
    parameters |= {key: value for key, value in spec.overrides.full().items() if value is not None}
    parameters |= {"examples": mode["examples"], "heldOut": spec.held_out / 100}
    backend = spec.backend or defaults["backend"]
    push = spec.push if spec.push is not None else backend != "local"
    retries = spec.retries if spec.retries is not None else defaults["retries"]
    state = TrainingState(
        phase="queued",
        agent=spec.agent,
        version=spec.version,
        method=spec.method,
        base_model=spec.base_model or defaults["baseModel"] or "",
        base_revision=spec.base_revision,
        parameters=parameters,
        backend=backend,
        hardware=spec.hardware or "",
        timeout=spec.timeout or mode["timeout"],
        deadline=spec.deadline,
        budget_usd=spec.budget_usd,
        attempts=1 + retries,
        batch=parameters["batch"],
        accumulation=parameters["accumulation"],
        repo=_repository(situation, spec, defaults) if push else "",
    )
    return state.full()


def _repository(situation: Situated, spec: TrainingSpec, defaults: Mapping[str, Any]) -> str:
    """Braces that are unknown stay and are an obstacle. Dots and hyphens of versions may stand in names on the Hub; `+` may not."""
    name = str(spec.repository or defaults["repository"])
    parts = {"prefix": defaults["prefix"], "agent": spec.agent, "version": spec.version.replace("+", "-")}
    parts |= {"date": f"{situation.now:%Y%m%d}", "org": defaults["org"] or "{org}"}
    for key, value in parts.items():
        name = name.replace(f"{{{key}}}", str(value))
    return name


def _obstacles(spec: TrainingSpec, state: State) -> Iterable[Wait]:
    if not state["base_model"]:
        yield Wait("Invalid", "baseModel", "spec.baseModel: is missing, and the environment's training.baseModel names none")
    if "{org}" in state["repo"]:
        yield Wait("Invalid", "org", "spec.repository: {org} is not known; write training.org in the environment, or a whole name")
    elif "{" in state["repo"]:
        allowed = "{org} {prefix} {agent} {version} {date}"
        yield Wait("Invalid", "repository", f"spec.repository: {state['repo']!r} has an unknown part; allowed: {allowed}")
    if state["backend"] != "local" and not state["repo"]:
        yield Wait("Invalid", "push", f"spec.push: a job of {state['backend']} keeps nothing; its result has to be pushed")
    if state["backend"] != "local" and state["base_model"].startswith(("/", "./")):
        yield Wait("Invalid", "baseModel", f"spec.baseModel: a folder of this machine is not there on {state['backend']}")


def _dataset_waits(dataset: Mapping[str, Any]) -> Iterable[Wait]:
    if "unknown" in dataset or not dataset:
        yield Wait("Blind", "dataset", f"its data set cannot be read: {dataset.get('unknown', 'nobody has looked yet')}")
        return
    if "invalid" in dataset:
        yield Wait("Invalid", "dataset", f"spec.dataset: {dataset['invalid']}")
        return
    stops = [each for each in dataset.get("findings", ()) if each["severity"] == "stop"]
    if stops:
        told = "; ".join(f"{each['message']}: {each['advice']}" for each in stops)
        yield Wait("Invalid", "dataset " + ",".join(sorted({each["code"] for each in stops})), f"spec.dataset: {told}")


def _price_waits(situation: Situated, spec: TrainingSpec, state: dict[str, Any], signals: Mapping[str, Any]) -> Iterable[Wait]:
    """Chooses the hardware, where the spec does not, and says what is wrong with the choice."""
    prices = signals.get("prices", {})
    hardware = prices.get("hardware", {})
    if "unknown" in prices or not hardware:
        yield Wait("Blind", "prices", f"what hardware costs cannot be read: {prices.get('unknown', 'nobody has looked yet')}")
        return
    if not state["hardware"]:
        size = estimates.billions(state["base_model"], spec.parameters)
        choices = situation.refs.environment["training"]["hardware"]
        state["hardware"] = next(iter(hardware)) if len(hardware) == 1 else estimates.chosen(choices, size, hardware)
        if not state["hardware"] and size is None:
            told = f"how large {state['base_model']!r} is cannot be told from its name; write spec.parameters (billions)"
            yield Wait("Invalid", "parameters", f"{told} or spec.hardware")
            return
    if state["hardware"] not in hardware:
        said = state["hardware"] or "nothing for a model of this size"
        hint = nearest(state["hardware"], hardware)
        yield Wait("Invalid", "hardware", f"spec.hardware: {said!r} is not listed{hint}; there are {listed(hardware, 30)}")


def _price(state: State, signals: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = signals.get("prices", {}).get("hardware", {}).get(state["hardware"], {})
    return found


def _estimate(
    situation: Situated, spec: TrainingSpec, state: State, dataset: Mapping[str, Any], price: Mapping[str, Any]
) -> estimates.Estimate:
    rows, parameters = dataset.get("rows") or 1, state["parameters"]
    share = min(1.0, (parameters["examples"] or rows) / rows) * (1 - parameters["heldOut"])
    alike = ("base_model", "method", "hardware", "backend")
    others = situation.refs.all("TrainingRequest").values()
    speeds = [
        other["metrics"]["tokens_per_second"]
        for other in others
        if other.get("phase") == "succeeded"
        and all(other.get(key) == state[key] for key in alike)
        and other.get("metrics", {}).get("tokens_per_second")
    ]
    return estimates.estimate(
        method=state["method"],
        size=estimates.billions(state["base_model"], spec.parameters),
        tokens=(dataset.get("tokens") or 0) * share,
        epochs=parameters["epochs"],
        gpu=price.get("gpu", ""),
        usd_per_hour=state["usd_per_hour"],
        setup=situation.refs.environment["training"]["setup"],
        timeout=state["timeout"],
        speeds=speeds,
    )


def _told_start(spec: TrainingSpec, state: State, found: estimates.Estimate, most: float) -> str:
    what = f"trains {state['base_model']} ({state['method']}) on {state['dataset']['rows'] or 'the'} rows of {spec.dataset.shown}"
    where = f"on {state['hardware'] or 'hardware'} of {state['backend']}"
    if not state["usd_per_hour"]:
        return f"{what} {where}: costs nothing, at most {spoken(state['timeout'])} an attempt"
    times = f"{spoken(state['timeout'])} x {state['usd_per_hour']:.2f} USD/h x {state['attempts']}"
    capped = ", capped by spec.budgetUsd" if state["budget_usd"] is not None else ""
    return f"{what} {where}: {found.told()} {found.basis}; at most {most:.2f} USD ({times}{capped})"


def _warnings(signals: Mapping[str, Any]) -> tuple[Wait, ...]:
    """Worth knowing; they hold nothing up."""
    found = [each for each in signals.get("dataset", {}).get("findings", ()) if each["severity"] != "stop"]
    out = []
    if found:
        codes = ",".join(sorted({each["code"] for each in found}))
        out.append(Wait("DatasetWarning", codes, "; ".join(f"{each['message']}: {each['advice']}" for each in found)))
    prices = signals.get("prices", {})
    if prices.get("hardware") and not prices.get("live", True):
        out.append(Wait("OldPrices", prices["as_of"], f"the price list cannot be read; those of {prices['as_of']} count"))
    return tuple(out)
