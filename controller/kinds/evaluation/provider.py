"""Reality of evaluations: local work, a child process of this machine under a handle (`clients/evaluations.py`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from controller.address import Address
from controller.change import Action, Change
from controller.errors import Permanent, Temporary
from controller.kind import Clients, Intent, Known, Observed, Outcome, Report, Unknown
from controller.kinds.evaluation.spec import EvaluationSpec, EvaluationState


class EvaluationProvider:
    """Starts the work, looks at it, ends it. One call takes seconds."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients

    def observe(self, known: Sequence[Known[EvaluationSpec]]) -> Mapping[Address, Observed[EvaluationState] | Unknown]:
        seen: dict[Address, Observed[EvaluationState] | Unknown] = {}
        waiting = {one.address: one.resource.spec for one in known if one.resource is not None and _is_new(one)}
        if len(waiting) > 1:  # side by side; each then finds its own among what is kept
            self._lists(waiting.values())
        for one in known:
            if one.address in waiting:
                signals = self._lists([waiting[one.address]])
                if signals:
                    seen[one.address] = Observed(None, signals)
                continue
            if one.past.after is None:
                continue
            state = EvaluationState.model_validate(one.past.after, strict=False)
            if not one.past.running:
                seen[one.address] = Observed(state)
                continue
            try:
                seen[one.address] = Observed(state, self.clients.open("evaluations").look(one.past.handle))
            except (Temporary, Permanent) as error:
                seen[one.address] = Unknown(str(error))
        return seen

    def _lists(self, specs: Iterable[EvaluationSpec]) -> Mapping[str, Any]:
        """Lists of models and prices that a start depends on. What is bound is not known here: then every endpoint may count."""
        asked: list[tuple[str, str | None]] = []
        bound = False
        for spec in specs:
            asked += [(side.endpoint or "", side.model) for side in (spec.candidate, spec.baseline) if not side.bound]
            asked += [(spec.judge.endpoint, spec.judge.model)] if spec.judge else []
            bound = bound or bool(spec.candidate.bound or spec.baseline.bound)
        found: Mapping[str, Any] = self.clients.open("evaluations").lists(asked, bound)
        return found

    def apply(self, change: Change, report: Report) -> Outcome:
        door, given = self.clients.open("evaluations"), change.payload or {}
        if change.action is Action.RUN:
            return Outcome(handle=door.start(change.intent, given["order"]))
        if given.get("cancel") and given["handle"]:
            spent = door.cancel(given["handle"], given.get("serving", ()))
            return Outcome(said=spent["said"], notes={"cost_usd": spent["cost_usd"]})
        if "order" in given:
            door.resume(given["handle"], given["order"])
        elif change.ends and change.after:
            said = door.release(given["handle"], given["serving"]) if given.get("serving") else ""
            return Outcome(said=said, notes={"cost_usd": change.after.get("cost")})
        return Outcome()

    def working(self) -> Collection[str]:
        found: list[str] = self.clients.open("evaluations").working()
        return found

    def stop_all(self) -> None:
        self.clients.open("evaluations").stop_all()

    def find(self, intent: Intent) -> Outcome | Unknown | None:
        """Only a start is paid; its folder on this machine is the proof that it was made."""
        try:
            found = self.clients.open("evaluations").find(intent.key)
        except (Temporary, Permanent) as error:
            return Unknown(str(error))
        return Outcome(after=found["state"], handle=found["handle"]) if found else None


def _is_new(one: Known[EvaluationSpec]) -> bool:
    return not one.past.exists and not one.past.ended
