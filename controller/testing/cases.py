"""The case runner: what a kind's `plan` makes of some facts, told as YAML that anyone can read and add; for authors of kinds.

It stands beside the flow and walks one resource through it: facts -> Situation -> KIND.plan -> completed as `plan.py` does ->
carried out by the real executor with a pen that writes to nowhere -> the real fold of the log -> the past of the next step.

    story: One sentence.            # what the case shows
    follows: starts                 # optional: the case of this folder that comes before; its facts and its past go on
    given:                          # facts; maps merge over those before, `<absent>` takes a key away
      name: feature_dev-v2          # of the resource; another name is another resource, without a past
      spec: {...}                   # as a user writes it; the word `removed` = not in git
      observed: {...}               # state; `{unknown: why}`; left out = not there, or what the last step left
      signals: {...}                # figures of now, never taken over from the step before
      past: {...}                   # fields of Past, over what the log tells by now
      refs: {Kind/name: {...}}      # states of other resources; the kind sees those that it references
      environment: {...}            # as in environment.yaml, over the one below
      now: 2026-01-05T09:00:00Z
    expect: {...}                   # what `EXPECTED` lists; no waits, edits, end, urgency, badness unless they are named
    steps: [{when: a sentence, given: ..., expect: ...}]        # in place of `given` and `expect`

Text like `<past.after.step_id>` stands for what the facts have there.
"""

from __future__ import annotations

import copy
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError

from controller.address import Address
from controller.apply import Executor
from controller.change import Change, Plan
from controller.document import Document, parse, plain
from controller.document_edit import dump
from controller.environment import EnvironmentSpec
from controller.errors import listed, nearest
from controller.events import MAX_EVENT_BYTES, Event, encode
from controller.kind import Kind, Observed, Outcome, Past, Reference, Refs, Situation, Unknown
from controller.log import MemoryLog
from controller.plan import intent_key
from controller.pool import SerialPool
from controller.projections.past import PAST, to_past
from controller.resource import Resource, digest
from controller.settings import spec_problems
from controller.writer import Identification, Lease, Writer

ENVIRONMENT = """\
name: example
endpoints:
  openrouter: {url: "https://openrouter.example/v1", apiKey: "env:OPENROUTER_API_KEY"}
  huggingface: {url: "https://huggingface.example/v1"}
proxies: {main: {url: "http://127.0.0.1:5800"}}
prices: {anthropic/claude-3.5-sonnet: {input: 3.0, output: 15.0, asOf: 2026-01-01}}
"""
"""What a case has where it says nothing about the environment."""

FACTS = ("name", "spec", "observed", "signals", "past", "refs", "environment", "now")
FRESH = ("observed", "signals", "past")
EXPECTED = (
    "action",
    "reason",
    "before",
    "after",
    "waits",
    "conditions",
    "edits",
    "message",
    "ends",
    "running",
    "urgent",
    "healthy",
    "bad",
    "again_within_seconds",
    "evidence",
    "payload",
    "refused",
)
NOW = "2026-01-05T09:00:00Z"
ABSENT, REMOVED = "<absent>", "removed"
_PLACE = re.compile(r"<past\.([\w.]+)>")


class Mismatch(AssertionError):
    """A case that did not come out as it says; the text has the whole change beside the expectation."""


@dataclass(frozen=True)
class Step:
    """Facts and what is expected of them. `given` has everything but observed, signals and past from the steps before."""

    when: str
    given: Mapping[str, Any]
    expect: Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One file. `steps` begin with those of the case that it follows."""

    path: Path
    story: str
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Ran:
    """What one step came to: the facts as `plan` saw them, the change (None = the spec was refused), the past it leads to."""

    step: Step
    situation: Situation[Any, Any] | None
    change: Change | None
    refused: tuple[str, ...]
    history: Mapping[str, Any]  # state of the `past` projection before
    later: Mapping[str, Any]  # and after


# -- reading ---------------------------------------------------------------------------------------------------------


def load_cases(folder: Path) -> list[Case]:
    """Every case of a folder, by name. Raises ValueError for a file that is no case."""
    files = {path.stem: (path, parse(path.read_bytes()).data) for path in sorted(folder.glob("*.yaml"))}
    return [_case(name, files, ()) for name in files]


def _case(name: str, files: Mapping[str, tuple[Path, Any]], followers: tuple[str, ...]) -> Case:
    path, data = files[name]
    _known(path, data, ("story", "follows", "given", "expect", "steps"))
    other, steps = data.get("follows"), list[Step]()
    if other is not None:
        if other not in files or other in (name, *followers):
            raise ValueError(f"{path}: follows {other!r}, which is no case before it{nearest(str(other), files)}")
        steps += _case(other, files, (*followers, name)).steps
    story = data.get("story", "")
    if not isinstance(story, str) or not story.strip().endswith("."):
        raise ValueError(f"{path}: story: is a sentence that ends with a full stop, found {story!r}")
    for each in data.get("steps", [{key: data[key] for key in ("given", "expect") if key in data}]):
        _known(path, each, ("when", "given", "expect"))
        _known(path, each.get("given", {}), FACTS)
        _known(path, each.get("expect", {}), EXPECTED)
        before = steps[-1].given if steps else {"environment": plain(parse(ENVIRONMENT.encode()).data)}
        kept = {key: value for key, value in before.items() if key not in FRESH}
        given = {key: value if key == "spec" else plain(value) for key, value in each.get("given", {}).items()}
        expect = plain(each.get("expect", {}))
        if "refused" not in expect and not {"action", "reason"} <= set(expect):
            raise ValueError(f"{path}: expect: says the action and (some words of) its reason, found {listed(expect)}")
        steps.append(Step(each.get("when", ""), _merged(kept, given), expect))
    return Case(path, story.strip(), tuple(steps))


def _known(path: Path | str, found: Any, allowed: Sequence[str]) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: a mapping of {listed(allowed, 20)} is expected, found {found!r}")
    for key in found:
        if key not in allowed:
            raise ValueError(f"{path}: unknown key {key!r}{nearest(key, allowed)}; allowed: {listed(allowed, 40)}")


def _merged(base: Any, over: Any) -> Any:
    """Maps merge, `<absent>` takes away, everything else replaces."""
    if not isinstance(over, Mapping):
        return over
    base = base if isinstance(base, Mapping) else {}
    both = {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return {key: value for key, value in both.items() if value != ABSENT}


# -- facts -> Situation ----------------------------------------------------------------------------------------------


def walk(kind: Kind[Any, Any], case: Case) -> Iterator[Ran]:
    """Every step of a case, each with the past that the ones before it led to."""
    last: Ran | None = None
    for step in case.steps:
        same = last is not None and last.step.given.get("name") == step.given.get("name")
        last = _ran(kind, step, last.later if last and same else {})
        yield last


def _ran(kind: Kind[Any, Any], step: Step, before: Mapping[str, Any]) -> Ran:
    given, address = step.given, Address.of(kind.name, step.given.get("name", "example"))
    written = given.get("spec", REMOVED)
    try:
        spec = None if written == REMOVED else kind.spec.model_validate(written)
    except ValidationError as error:
        found = spec_problems("", Document({"spec": written}, {}), error, kind.spec, ("spec",))
        return Ran(step, None, None, tuple(f"{each.field}: {each.message}" for each in found), before, before)
    history = _history(given.get("past", {}), before)
    past = to_past(copy.deepcopy(history))
    desired = Resource(address, spec, spec.written(), digest(spec.written())) if spec is not None else None
    if desired is not None and kind.paths is not None and not (past.running or past.ended):
        desired = replace(desired, paths={path: digest(path) for path in kind.paths(spec)})  # all are there
    if kind.once and past.running and desired is not None:
        desired = replace(desired, why="frozen", spec_digest=past.spec_digest)
    observed = _observed(kind, given.get("observed", before.get("after")), _filled(given.get("signals"), history), past)
    moment = datetime.fromisoformat(given.get("now", NOW))
    situation = Situation(desired, observed, past, _refs(kind, given, spec, past), moment)
    change = completed(kind, address, situation)
    states: dict[str, dict[str, Any]] = defaultdict(dict, {str(address): copy.deepcopy(history)})
    for event in carried_out(change, past, moment) if change.may_go else ():
        PAST.folds[event.type](states, event)
    return Ran(step, situation, change, (), history, states[address])


def _history(given: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What the log tells by now, and what the case adds to it."""
    _known("given.past", given, [each.name for each in fields(Past)])
    return {**copy.deepcopy(dict(before)), **_filled(given, before)}


def _observed(kind: Kind[Any, Any], given: Any, signals: Any, past: Past) -> Observed[Any] | Unknown | None:
    """Of a declared kind what was last allowed is what is there; blind, it has no signals."""
    unknown = isinstance(given, Mapping) and "unknown" in given
    if kind.declared:
        signals = None if unknown else signals
        return Observed(past.after, signals) if past.after is not None or signals else None
    if unknown:
        return Unknown(given["unknown"])
    if given is None:
        return Observed(None, signals) if signals else None
    return Observed(kind.state.model_validate(given, strict=False), signals)


def _refs(of: Kind[Any, Any], given: Mapping[str, Any], spec: Any, past: Past) -> Refs:
    """The references of the spec decide what of the given states is seen, as in the planner."""
    there = {Address(key): state for key, state in sorted(given.get("refs", {}).items()) if state is not None}
    if spec is None and past.spec is not None:
        spec = of.spec.model_validate(past.spec, strict=False)
    references: list[Reference] = list(of.references(spec)) if spec is not None else []
    whole = {ref.to.kind for ref in references if ref.to.is_wildcard}
    kinds = {kind: {address: state for address, state in there.items() if address.kind == kind} for kind in whole}
    states = {ref.to: there.get(ref.to) for ref in references if ref.orders and not ref.to.is_wildcard}
    named = frozenset(ref.to for ref in references if not ref.orders and ref.to in there)
    settings = {key: value for key, value in given["environment"].items() if key != "name"}
    environment = {"name": given["environment"]["name"], **EnvironmentSpec.model_validate(settings, strict=False).full()}
    return Refs(states, environment, named, kinds)


# -- Situation -> Change -> past -------------------------------------------------------------------------------------


def completed(kind: Kind[Any, Any], address: Address, situation: Situation[Any, Any]) -> Change:
    """The kind's change with what the planner fills in; policy and graph have no say here."""
    change, desired = kind.plan(situation), situation.desired
    spec_digest = desired.spec_digest if desired else ""
    intent = intent_key("example", address, situation.past.generation, spec_digest)
    return replace(
        change,
        address=address,
        declared=kind.declared,
        spec_digest=spec_digest,
        generation=situation.past.generation,
        written=desired.written if desired else None,
        intent=f"{intent}/{change.part}" if change.part else intent,
    )


def carried_out(change: Change, past: Past, now: datetime) -> list[Event]:
    """The events of a change that may go and succeeds, as the executor writes them."""
    log, willing = MemoryLog(), SimpleNamespace(apply=lambda change, report: Outcome())
    writer = Writer(log, Identification("example", "m", "1", "nobody"), lambda: now, bytes, Lease(), 0)
    executor = Executor(
        writer=writer,
        provider=lambda name: willing,
        past=lambda address: past,
        frozen=lambda address: change.written,
        pool=SerialPool(),
        report=lambda text: None,
        stop=lambda: False,
    )
    executor.run(Plan("example", "", (change,)))
    return [event for event in log.events if event.subject == change.address]


# -- comparing -------------------------------------------------------------------------------------------------------


def run_case(kind: Kind[Any, Any], case: Case) -> list[Ran]:
    """Walks a case; raises Mismatch at the first step that does not come out as it says."""
    out = []
    for number, ran in enumerate(walk(kind, case)):
        faults = compare(ran)
        if faults:
            where = f"{case.path.name}, step {number + 1}" + (f" ({ran.step.when})" if ran.step.when else "")
            found = told(ran.change, ran.situation.now) if ran.change and ran.situation else {"refused": list(ran.refused)}
            expected, shown = (dump(each).decode() for each in (ran.step.expect, found))
            raise Mismatch("\n  ".join([f"{where}: {case.story}", *faults]) + f"\n-- expected\n{expected}-- found\n{shown}")
        out.append(ran)
    return out


def compare(ran: Ran) -> list[str]:
    """What of a step's expectation is not so, as sentences."""
    expect = _filled(ran.step.expect, ran.history)
    if ran.change is None or ran.situation is None or "refused" in expect:
        wanted = [expect["refused"]] if isinstance(expect.get("refused"), str) else expect.get("refused", ["nothing"])
        missing = [text for text in wanted if not any(text in said for said in ran.refused)]
        return [f"refused: {text!r} is not in {listed(ran.refused, 20)}" for text in missing]
    found = told(ran.change, ran.situation.now)
    unless_named = {"waits": [], "conditions": [], "edits": {}, "ends": "", "urgent": False, "bad": False}
    return [fault for key, want in {**unless_named, **expect}.items() for fault in _differs(key, want, found[key])]


def _differs(place: str, want: Any, found: Any) -> Iterator[str]:
    """Maps may have more than is expected (but `edits`); lists have to be as long; a reason has to contain the words."""
    if place == "reason":
        if want not in found:
            yield f"reason: {want!r} is not in {found!r}"
    elif place == "again_within_seconds" and None not in (want, found):
        if found > want:
            yield f"{place}: expected {want}, found {found}"
    elif place in ("waits", "conditions"):
        said = [f"{each['code']} {each['on']}: {each['reason']}" for each in found]
        if len(said) != len(want) or not all(one.startswith(text) for one, text in zip(said, want, strict=True)):
            yield f"{place}: expected {want}, found {said}"
    elif isinstance(want, Mapping) and isinstance(found, Mapping) and place != "edits":
        for key, value in want.items():
            yield from _differs(f"{place}.{key}", value, found.get(key, ABSENT))
    elif isinstance(want, list) and isinstance(found, list) and len(want) == len(found):
        for index, (one, other) in enumerate(zip(want, found, strict=True)):
            yield from _differs(f"{place}.{index}", one, other)
    elif want != found:
        yield f"{place}: expected {want!r}, found {found!r}"


def told(change: Change, now: datetime) -> dict[str, Any]:
    """A change as plain data, with everything that a case may expect."""
    found: dict[str, Any] = json.loads(
        json.dumps(
            {
                "action": change.action.value,
                "reason": change.reason,
                "before": change.before,
                "after": change.after,
                "waits": [{"code": wait.code, "on": str(wait.on), "reason": wait.reason} for wait in change.waits],
                "conditions": [{"code": each.code, "on": str(each.on), "reason": each.reason} for each in change.conditions],
                "edits": change.edits,
                "message": change.message,
                "ends": change.ends,
                "running": change.running,
                "urgent": change.urgent,
                "healthy": change.healthy,
                "bad": bool(change.bad),
                "evidence": change.evidence,
                "payload": change.payload,
                "again_within_seconds": (change.again - now).total_seconds() if change.again else None,
            }
        )
    )
    return found


def _filled(value: Any, past: Mapping[str, Any]) -> Any:
    """With `<past.after.x>` replaced by what is there."""
    if isinstance(value, Mapping):
        return {key: _filled(each, past) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, past) for each in value]
    place = _PLACE.fullmatch(value) if isinstance(value, str) else None
    return reduce(getitem, place[1].split("."), past) if place else value


# -- laws ------------------------------------------------------------------------------------------------------------


def contract(kind: Kind[Any, Any], cases: Iterable[Case] = ()) -> list[str]:
    """Every law of kinds that this one breaks, with where; an empty list is what a test asserts."""
    faults = [f"{kind.name}: schema: {fault}" for fault in _undocumented(kind.spec.model_json_schema(by_alias=True))]
    for case in cases:
        for number, ran in enumerate(walk(kind, case), start=1):
            found = _unjust(kind, ran.situation, ran.change) if ran.situation and ran.change else ()
            faults += [f"{kind.name}: {case.path.name}, step {number}: {fault}" for fault in found]
    return faults


def _unjust(kind: Kind[Any, Any], situation: Situation[Any, Any], change: Change) -> Iterator[str]:
    before = _spread(situation)
    once, again = (completed(kind, change.address, situation) for _ in range(2))
    if not change == once == again:
        yield "plan is not pure: the same situation gave another change"
    if _spread(situation) != before:
        yield "plan is not pure: it changed the situation that it was given"
    if change.is_noop and not change.reason.strip():
        yield "a noop has to say why"
    if change.ends and not kind.once:
        yield f"ends as {change.ends}, but only a run ends"
    if situation.desired is not None:
        spec = situation.desired.spec
        if kind.spec.model_validate(json.loads(json.dumps(spec.written())), strict=False) != spec:
            yield "spec.written() does not read back as the same spec"
    yield from _blind_removal(kind, change.address, situation)
    if not change.is_noop:
        yield from _untellable(change, situation)


def _spread(situation: Situation[Any, Any]) -> str:
    """All that plan could have changed, as text."""
    return repr((situation.desired, situation.observed, situation.past, vars(situation.refs)))


def _blind_removal(kind: Kind[Any, Any], address: Address, situation: Situation[Any, Any]) -> Iterator[str]:
    """Removed from git, it goes with signals, without them, and when nothing can be seen."""
    seen = situation.observed
    without = Observed(seen.state) if isinstance(seen, Observed) else seen
    blind = without if kind.declared else Unknown("nobody answers")
    changes = [completed(kind, address, replace(situation, desired=None, observed=each)) for each in (seen, without, blind)]
    if len({(each.action, each.ends, not each.waits, str(each.edits)) for each in changes}) > 1:
        yield "removal needs signals: blind it comes out as " + " / ".join(f"{each.action}: {each.reason}" for each in changes)
    if situation.past.exists and any(each.is_noop or each.waits for each in changes):
        yield f"what is removed from git stays: {changes[0].reason}"


def _untellable(change: Change, situation: Situation[Any, Any]) -> Iterator[str]:
    """Its events are JSON, without help, and small enough for the log."""
    for event in carried_out(replace(change, waits=()), replace(situation.past, intents=()), situation.now):
        try:
            json.dumps(event.data, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"{event.type} is not JSON: {error}"
        if len(encode(event)) > MAX_EVENT_BYTES:
            yield f"{event.type} has {len(encode(event))} bytes; at most {MAX_EVENT_BYTES} fit the log"


def _undocumented(schema: Mapping[str, Any]) -> Iterator[str]:
    """Fields without title, description or examples, of this model and all models in it; a title may be that of its model."""
    models = schema.get("$defs", {})
    for name, model in {"spec": schema, **models}.items():
        for field, about in model.get("properties", {}).items():
            titled = {**models.get(about.get("$ref", "").rpartition("/")[2], {}), **about}
            missing = [key for key, there in (("title", titled), ("description", about), ("examples", about)) if not there.get(key)]
            if missing:
                yield f"{name}.{field} has no {', '.join(missing)}"
