"""The two sides of an evaluation: what each is, which endpoint answers for it, and what is created to serve it.

Place in the flow: `plan.py` asks here before it counts money. Lists of models and hardware come as signals (`provider.py`); where
they cannot be read, a side stays where it was written to be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from controller.address import Address
from controller.change import Wait
from controller.errors import listed, nearest
from controller.kind import Refs
from controller.kinds.evaluation.spec import EvaluationSpec, Side, TrainingFacts
from controller.vendors import InferenceSpec

TARGET = ("model", "endpoint", "version")
TRAINED = "succeeded"
PLACE = ("vendor", "region", "accelerator", "instanceType", "instanceSize")
SERVED = (*PLACE, "framework", "task", "image", "env", "secrets", "scaleToZero", "boot")
"""Fields of an environment's `inferenceEndpoint` that are fixed when an evaluation starts."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

Target = Mapping[str, str]
Lists = Mapping[str, Mapping[str, Any]]


def resolved(side: Side, agent: str, refs: Refs) -> dict[str, str] | None:
    """Model, endpoint and version of a side; None while that is not known."""
    if side.model is not None:
        return {"model": side.model, "endpoint": side.endpoint or "", "version": side.version or ""}
    if side.bound:
        bound = refs.get(Address.of("ModelBinding", agent))
        return {key: str(bound[key]) for key in TARGET} if bound else None
    facts = trained(refs, side)
    if facts is None or facts.phase != TRAINED or not facts.repo:
        return None
    return {"model": facts.repo, "endpoint": side.endpoint or "", "version": facts.version}


def trained(refs: Refs, side: Side) -> TrainingFacts | None:
    """What the training of a side says, or None while it says nothing."""
    state = of_run(refs, Address.of("TrainingRequest", side.training)) if side.training else None
    if not state:
        return None
    return TrainingFacts.model_validate({key: state.get(key) for key in TrainingFacts.model_fields if state.get(key)})


def of_run(refs: Refs, address: Address) -> Mapping[str, Any] | None:
    """The last state of a run: what is observed while it runs, what the log keeps when it has ended."""
    return refs.get(address) or refs.past(address).after


# -- where it is asked -----------------------------------------------------------------------------------------------


def asked(spec: EvaluationSpec, candidate: Target | None, baseline: Target | None) -> dict[str, dict[str, str]]:
    """Everything that is asked, by `candidate`, `baseline` and `judge`; a side only when it is known."""
    judge = {"model": spec.judge.model, "endpoint": spec.judge.endpoint} if spec.judge else None
    known = {"candidate": candidate, "baseline": baseline, "judge": judge}
    return {name: dict(target) for name, target in known.items() if target}


def answering(target: Target, endpoints: Mapping[str, Any], lists: Lists) -> str:
    """The endpoint that is asked: the one that is written, or down its fallbacks while a list that can be read lacks the model."""
    name = target["endpoint"]
    seen = {name}
    while lacks(lists, name, target["model"]):
        following = str(endpoints.get(name, {}).get("fallback"))
        if following not in endpoints or following in seen:
            break
        name = following
        seen.add(name)
    return name


def lacks(lists: Lists, endpoint: str, model: str) -> bool:
    """Whether an endpoint provably does not list a model. What follows a colon chooses among its providers."""
    known: Mapping[str, Any] = lists.get(endpoint, {}).get("models") or {}
    return bool(known) and model not in known and model.partition(":")[0] not in known


def listed_prices(
    targets: Mapping[str, Target], answers: Mapping[str, str], prices: Mapping[str, Any], lists: Lists
) -> dict[str, dict[str, Any]]:
    """By what is asked: USD per million tokens as its endpoint lists them, dated; only where environment.yaml has no price."""
    found = {}
    for name, target in targets.items():
        listing = lists.get(answers[name], {})
        known = listing.get("models") or {}
        price = known.get(target["model"]) or known.get(target["model"].partition(":")[0])
        if price and target["model"] not in prices:
            found[name] = {**price, "asOf": listing["asOf"]}
    return found


# -- what is created -------------------------------------------------------------------------------------------------


def created(
    spec: EvaluationSpec, refs: Refs, targets: Mapping[str, Target], answers: Mapping[str, str], hardware: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The Inference Endpoint of each side that needs one: what it serves, on what, at which price, for how long at most.

    `minutes` are those to the deadline, and `ending` seconds more: a call under way then has all its attempts, and a minute is
    for ending the endpoint. The work asks nothing more that could take longer.
    """
    how = refs.environment.get("inference") or InferenceSpec().full()
    ending = how["attempts"] * how["timeout"] + (how["attempts"] - 1) * how["patience"] + 60.0
    out = {}
    for name, side in (("candidate", spec.candidate), ("baseline", spec.baseline)):
        wanted = _creates(refs, answers.get(name))
        if wanted is None or name not in targets:
            continue
        facts = trained(refs, side)
        usd, as_of = _hourly(wanted, hardware)
        out[name] = {
            "repository": targets[name]["model"],
            "revision": wanted.get("revision") or (facts.revision if facts and facts.revision else None),
            **{key: wanted[key] for key in SERVED},
            "usdPerHour": usd,
            "asOf": as_of,
            "ending": ending,
            "minutes": math.ceil((spec.deadline + ending) / 60),
        }
    return out


def _creates(refs: Refs, endpoint: str | None) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = refs.environment.get("endpoints", {}).get(endpoint or "", {}).get("inferenceEndpoint")
    return found


def place(wanted: Mapping[str, Any]) -> str:
    """Hardware as price lists name it."""
    return "/".join(wanted[key] for key in PLACE)


def _hourly(wanted: Mapping[str, Any], hardware: Mapping[str, Any]) -> tuple[float | None, str]:
    """The vendor's price of today, else the one that is written."""
    known = hardware.get("usdPerHour", {})
    if place(wanted) in known:
        return known[place(wanted)], hardware["asOf"]
    return wanted.get("usdPerHour"), wanted.get("asOf") or ""


def unservable(
    spec: EvaluationSpec,
    refs: Refs,
    targets: Mapping[str, Target],
    answers: Mapping[str, str],
    hardware: Mapping[str, Any],
) -> Iterable[Wait]:
    """Why what has to be created cannot be."""
    for name, target in targets.items():
        wanted = _creates(refs, answers[name])
        if wanted is None:
            continue
        field, where = f"spec.{name}.endpoint", f"endpoint {answers[name]}"
        if name == "judge" or getattr(spec, name).bound:
            who = "a judge" if name == "judge" else "what is bound"
            yield Wait("Invalid", where, f"{field}: {answers[name]!r} is created for a model or an artefact, not for {who}")
        elif not _REPOSITORY.fullmatch(target["model"]):
            told = f"{answers[name]!r} serves models of the Hub, and {target['model']!r} is none; write organisation/name"
            yield Wait("Invalid", f"{where} model", f"{field}: {told}")
        known = hardware.get("usdPerHour", {})
        if known and place(wanted) not in known:
            told = f"the vendor has no {place(wanted)}{nearest(place(wanted), known)}; there are {listed(known)}"
            yield Wait("Invalid", f"{where} hardware", f"{field}: {answers[name]!r}: {told}")
        elif not known and wanted.get("usdPerHour") is None:
            why = hardware.get("unknown", "nobody has looked yet")
            told = f"what {place(wanted)} costs cannot be read ({why}); write usdPerHour and asOf in environment.yaml"
            yield Wait("Blind", f"{where} price", f"{field}: {answers[name]!r}: {told}")
