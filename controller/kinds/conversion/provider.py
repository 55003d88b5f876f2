"""Reality of conversions: source and prices before they start, jobs while they run, and the files when they have finished."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from controller.address import Address
from controller.change import Change
from controller.clients.conversions.backend import Order, Sight
from controller.errors import Permanent, Temporary
from controller.kind import Clients, Intent, Known, Observed, Outcome, Unknown
from controller.kind import Report as Tell
from controller.kinds.conversion.spec import ConversionSpec, ConversionState

Seen = Observed[ConversionState] | Unknown
VERIFY_SECONDS = 6.0
"""So long may one look at all conversions spend on the files of those that have finished; the others come the next time."""
LONGEST_NAME = 96
"""Of what a file name begins with, by the program."""


class ConversionProvider:
    """`apply` starts and cancels; everything else is looked at."""

    def __init__(self, clients: Clients) -> None:
        self.conversions = clients.open("conversions")
        self._verified: dict[str, Mapping[str, Any]] = {}
        self._until = 0.0  # monotonic

    # -- observe -----------------------------------------------------------------------------------------------------

    def observe(self, known: Sequence[Known[ConversionSpec]]) -> Mapping[Address, Seen]:
        seen: dict[Address, Seen] = {}
        self._until = time.monotonic() + VERIFY_SECONDS
        running = [one for one in known if one.past.exists and one.past.after is not None and not one.past.ended]
        sights = self._look(running)
        for one in known:
            if one in running:
                seen[one.address] = self._followed(one, sights)
            elif one.resource is not None and not one.past.ended:
                seen[one.address] = Observed(None, self._before(one.resource.spec))
        return seen

    def _look(self, running: Sequence[Known[ConversionSpec]]) -> dict[tuple[str, str], Sight | Exception]:
        """One question a backend."""
        asked: dict[str, list[str]] = {}
        for one in running:
            asked.setdefault((one.past.after or {})["backend"], []).append(_handle(one))
        found: dict[tuple[str, str], Sight | Exception] = {}
        for name, handles in asked.items():
            try:
                answers: Mapping[str, Sight | Exception] = self.conversions.of(name).look(handles)
            except (Temporary, Permanent) as error:
                answers = dict.fromkeys(handles, error)
            found.update({(name, handle): answer for handle, answer in answers.items()})
        return found

    def _followed(self, one: Known[ConversionSpec], sights: Mapping[tuple[str, str], Sight | Exception]) -> Seen:
        after = one.past.after or {}
        sight = sights.get((after["backend"], _handle(one)), Temporary("its backend did not tell"))
        signals: dict[str, Any] = {"sight": {"unknown": str(sight)}}
        if isinstance(sight, Sight):
            about = asdict(sight)
            signals = {"progress": about.pop("progress"), "sight": about}
            if sight.stage == "succeeded" and after["phase"] == "verifying":
                signals["verified"] = self._verify(after, _handle(one))
        return Observed(ConversionState.model_validate(after, strict=False), signals)

    def _verify(self, after: Mapping[str, Any], handle: str) -> Mapping[str, Any]:
        """Kept once it could be looked at: nothing but this run writes there."""
        if handle not in self._verified:
            if time.monotonic() > self._until:
                return {"unknown": "the files of another one are being looked at"}
            try:
                backend = self.conversions.of(after["backend"])
                found = backend.verify(handle, after["repo"], after["intent"], after["quantizations"])
            except (Temporary, Permanent) as error:
                return {"unknown": str(error)}
            lists = {"problems": list(found.problems), "files": [dict(each) for each in found.files]}
            self._verified[handle] = {**asdict(found), **lists, "ok": not found.problems}
        return self._verified[handle]

    def _before(self, spec: ConversionSpec) -> dict[str, Any]:
        found: dict[str, Any] = {"prices": self._prices(spec)}
        if spec.source.repo is not None:
            try:
                found["source"] = self.conversions.source(spec.source.repo, spec.source.revision or "main")
            except Temporary as error:
                found["source"] = {"unknown": str(error)}
            except Permanent as error:
                found["source"] = {"invalid": str(error)}
        return found

    def _prices(self, spec: ConversionSpec) -> dict[str, Any]:
        try:
            return asdict(self.conversions.of(spec.backend or self.conversions.default).prices())
        except (Temporary, Permanent) as error:
            return {"unknown": str(error)}

    # -- apply -------------------------------------------------------------------------------------------------------

    def apply(self, change: Change, report: Tell) -> Outcome:
        """Starts an attempt, or ends one; the other steps only say what has been seen."""
        if change.action == "run" or change.part.startswith("attempt-"):
            return self._start(change, report)
        before = change.before or {}
        if change.ends and change.ends != "completed" and before.get("job"):
            return self._stop(before, (change.payload or {}).get("gone", False))
        return Outcome()

    def _start(self, change: Change, report: Tell) -> Outcome:
        assert change.after is not None
        state = {**change.after, "intent": change.after["intent"] or change.intent}
        report(f"{state['agent']}: converts on {state['hardware']} of {state['backend']}")
        handle = self.conversions.of(state["backend"]).start(order_of(state, change.intent))
        return Outcome(after={**state, "job": handle}, handle=handle, said=f"started {handle} on {state['hardware']}")

    def _stop(self, state: Mapping[str, Any], gone: bool) -> Outcome:
        try:
            self.conversions.of(state["backend"]).cancel(state["job"])
        except Permanent as error:  # it is not there any more, which is what is wanted
            return Outcome(said=str(error))
        except Temporary as error:
            if not gone:
                raise
            return Outcome(said=f"{error}; its time-out is over, so it has ended by itself")
        return Outcome(said=f"stopped {state['job']}")

    # -- work of this machine ----------------------------------------------------------------------------------------

    def working(self) -> Collection[str]:
        found: list[str] = self.conversions.working()
        return found

    def stop_all(self) -> None:
        self.conversions.stop_all()

    # -- find --------------------------------------------------------------------------------------------------------

    def find(self, intent: Intent) -> Outcome | Unknown | None:
        """The job of an attempt. Other steps leave nothing outside."""
        part = intent.key.partition("/")[2]
        if intent.action != "run" and not part.startswith("attempt-"):
            return None
        name = str((intent.after or {}).get("backend") or self.conversions.default)  # where it was to be, whatever git says now
        try:
            found = self.conversions.of(name).find(intent.key)
        except (Temporary, Permanent) as error:
            return Unknown(f"{name} cannot be asked: {error}")
        if found is None:
            return None
        return Outcome(after={**found.record, "job": found.handle}, handle=found.handle)


def order_of(state: Mapping[str, Any], intent: str) -> Order:
    """What a backend is asked for: the program's request out of the state, which has all of it."""
    request: dict[str, Any] = {
        "name": f"{state['agent']}-{state['version'].replace('+', '-')}"[:LONGEST_NAME],
        "quantizations": list(state["quantizations"]),
        "prompt": state["prompt"],
        "max_tokens": state["tokens"],
    }
    if state["repo"]:
        request["upload"] = {"repo": state["repo"], "private": True}
    source = {key: str(value) for key, value in state["source"].items() if key in ("repo", "revision", "job", "digest")}
    return Order(intent, state["intent"], state["attempt"], request, source, state["hardware"], state["timeout"], dict(state))


def _handle(one: Known[ConversionSpec]) -> str:
    return str((one.past.after or {}).get("job") or one.past.handle)
