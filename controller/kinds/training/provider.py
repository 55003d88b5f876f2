"""Reality of trainings: data sets and prices before they start, jobs while they run, and what they left when they have finished."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from controller.address import Address
from controller.change import Change
from controller.clients.training.backend import Order, Sight
from controller.datasets.validate import Needs, Report, validate
from controller.errors import Permanent, Temporary
from controller.kind import Clients, Intent, Known, Observed, Outcome, Unknown
from controller.kind import Report as Tell
from controller.kinds.training.spec import TINY, Dataset, TrainingSpec, TrainingState

Seen = Observed[TrainingState] | Unknown
AT_ONCE_BYTES = 8_000_000
COUNTED_BYTES = 16_000_000
"""Of larger data sets tokens are estimated: a look may take seconds, not minutes."""
_NAMES = {
    "learningRate": "learning_rate", "epochs": "epochs", "batch": "batch", "accumulation": "accumulation",
    "warmupRatio": "warmup_ratio", "maxLength": "max_length", "loraRank": "lora_rank", "loraAlpha": "lora_alpha",
    "loraDropout": "lora_dropout", "loraTargets": "lora_targets", "beta": "beta", "seed": "seed", "examples": "dataset_limit",
    "heldOut": "held_out_fraction",
}  # fmt: skip
"""Hyperparameters of the state -> fields of the program's request."""


class TrainingProvider:
    """`apply` starts and cancels; everything else is looked at."""

    def __init__(self, clients: Clients) -> None:
        self.backends, self.datasets = clients.open("training"), clients.open("datasets")
        self._reports: dict[tuple[Any, ...], Report] = {}
        self._checks: dict[tuple[Any, ...], Future[Report]] = {}
        self._verified: dict[str, Mapping[str, Any]] = {}

    # -- observe -----------------------------------------------------------------------------------------------------

    def observe(self, known: Sequence[Known[TrainingSpec]]) -> Mapping[Address, Seen]:
        seen: dict[Address, Seen] = {}
        running = [one for one in known if one.past.exists and one.past.after is not None and not one.past.ended]
        sights = self._look(running)
        for one in known:
            if one in running:
                seen[one.address] = self._followed(one, sights)
            elif one.resource is not None and not one.past.ended:
                seen[one.address] = Observed(None, self._before(one.resource.spec, one.resource.paths))
        return seen

    def _look(self, running: Sequence[Known[TrainingSpec]]) -> dict[tuple[str, str], Sight | Exception]:
        """One question a backend."""
        asked: dict[str, list[str]] = {}
        for one in running:
            after = one.past.after or {}
            asked.setdefault(after["backend"], []).append(_handle(one))
        found: dict[tuple[str, str], Sight | Exception] = {}
        for name, handles in asked.items():
            try:
                answers: Mapping[str, Sight | Exception] = self.backends.of(name).look(handles)
            except (Temporary, Permanent) as error:
                answers = dict.fromkeys(handles, error)
            found.update({(name, handle): answer for handle, answer in answers.items()})
        return found

    def _followed(self, one: Known[TrainingSpec], sights: Mapping[tuple[str, str], Sight | Exception]) -> Seen:
        after = one.past.after or {}
        sight = sights.get((after["backend"], _handle(one)), Temporary("its backend did not tell"))
        signals: dict[str, Any] = {"sight": {"unknown": str(sight)} if isinstance(sight, Exception) else asdict(sight)}
        if isinstance(sight, Sight) and sight.stage == "succeeded" and after["phase"] == "verifying":
            signals["verified"] = self._verify(after, _handle(one))
        return Observed(TrainingState.model_validate(after, strict=False), signals)

    def _verify(self, after: Mapping[str, Any], handle: str) -> Mapping[str, Any]:
        """Kept once it could be looked at: nothing but this run writes there."""
        if handle not in self._verified:
            try:
                found = self.backends.of(after["backend"]).verify(handle, after["repo"], after["intent"])
            except (Temporary, Permanent) as error:
                return {"unknown": str(error)}
            self._verified[handle] = {**asdict(found), "problems": list(found.problems), "ok": not found.problems}
        return self._verified[handle]

    def _before(self, spec: TrainingSpec, paths: Mapping[str, str]) -> dict[str, Any]:
        return {"dataset": self._dataset(spec, paths), "prices": self._prices(spec)}

    def _prices(self, spec: TrainingSpec) -> dict[str, Any]:
        try:
            return asdict(self.backends.of(spec.backend or self.backends.default).prices())
        except (Temporary, Permanent) as error:
            return {"unknown": str(error)}

    def _dataset(self, spec: TrainingSpec, paths: Mapping[str, str]) -> dict[str, Any]:
        """What is in it, and whether it is fit, by content: read often, judged once."""
        try:
            found = _read(self.datasets, spec.dataset, paths)
            against = _read(self.datasets, spec.evaluation, paths) if spec.evaluation else None
        except Temporary as error:
            return {"unknown": str(error)}
        except Permanent as error:
            return {"invalid": str(error)}
        length = spec.overrides.max_length or self.backends.max_length
        needs = Needs(method=spec.method, sequence_length=length, minimum=self.backends.minimum[spec.mode])
        count = self.backends.counter(spec.base_model, spec.base_revision) if found.path.stat().st_size <= COUNTED_BYTES else None
        key = (found.digest, against.digest if against else "", needs, count)
        check = partial(validate, found.rows, needs, evaluation=against.rows if against else (), count_tokens=count)
        report = self._report(key, check, found.path.stat().st_size)
        if report is None:
            return {"unknown": f"the rows of {found.name} are being checked"}
        return {
            "name": found.name,
            "source": spec.dataset.source or list(spec.dataset.files),
            "split": spec.dataset.split,
            "revision": found.revision,
            "digest": found.digest,
            "rows": report.rows,
            "tokens": report.lengths.total if report.lengths else 0,
            "estimated": report.lengths.estimated if report.lengths else True,
            "stops": report.stops,
            "findings": [
                {"code": each.code, "severity": each.severity, "message": each.message, "advice": each.advice}
                for each in report.findings
            ],
        }

    def _report(self, key: tuple[Any, ...], check: Callable[[], Report], size: int) -> Report | None:
        """Kept by content. That of many rows is made beside the passes, which must stay short; None until it is there."""
        if key not in self._reports and size <= AT_ONCE_BYTES:
            self._reports[key] = check()
        elif key not in self._reports:
            if key not in self._checks:
                self._checks[key] = Future()
                Thread(target=_carried_out, args=(self._checks[key], check), daemon=True).start()
            if not self._checks[key].done():
                return None
            self._reports[key] = self._checks.pop(key).result()
        return self._reports[key]

    # -- apply -------------------------------------------------------------------------------------------------------

    def apply(self, change: Change, report: Tell) -> Outcome:
        """Starts an attempt, or ends one; the other steps only say what has been seen."""
        if change.action == "run" or change.part.startswith("attempt-"):
            return self._start(change, report)
        before = change.before or {}
        if change.ends and change.ends != "completed" and before.get("job"):
            return self._stop(before, report, (change.payload or {}).get("gone", False))
        return Outcome()

    def _start(self, change: Change, report: Tell) -> Outcome:
        assert change.after is not None
        state = {**change.after, "intent": change.after["intent"] or change.intent}
        dataset = state["dataset"]
        source, files = (dataset["source"], ()) if isinstance(dataset["source"], str) else (None, dataset["source"])
        rows = self.datasets.path(source, files, dataset["split"], dataset["revision"], dataset["digest"])
        report(f"{state['agent']}: starts on {state['hardware']} of {state['backend']}")
        handle = self.backends.of(state["backend"]).start(order_of(state, change.intent, rows, change.commit))
        return Outcome(after={**state, "job": handle}, handle=handle, said=f"started {handle} on {state['hardware']}")

    def _stop(self, state: Mapping[str, Any], report: Tell, gone: bool) -> Outcome:
        try:
            self.backends.of(state["backend"]).cancel(state["job"])
        except Permanent as error:  # it is not there any more, which is what is wanted
            return Outcome(said=str(error))
        except Temporary as error:
            if not gone:
                raise
            return Outcome(said=f"{error}; its time-out is over, so it has ended by itself")
        return Outcome(said=f"stopped {state['job']}")

    # -- work of this machine ----------------------------------------------------------------------------------------

    def working(self) -> Collection[str]:
        found: list[str] = self.backends.working()
        return [*found, *(f"check of {key[0]}" for key, check in self._checks.items() if not check.done())]

    def stop_all(self) -> None:
        self.backends.stop_all()

    # -- find --------------------------------------------------------------------------------------------------------

    def find(self, intent: Intent) -> Outcome | Unknown | None:
        """The job of an attempt. Other steps leave nothing outside."""
        part = intent.key.partition("/")[2]
        if intent.action != "run" and not part.startswith("attempt-"):
            return None
        name = str((intent.after or {}).get("backend") or self.backends.default)  # where it was to be, whatever git says now
        try:
            found = self.backends.of(name).find(intent.key)
        except (Temporary, Permanent) as error:
            return Unknown(f"{name} cannot be asked: {error}")
        if found is None:
            return None
        state = {**found.record, "job": found.handle}
        return Outcome(after=state, handle=found.handle)


def order_of(state: Mapping[str, Any], intent: str, rows: Path, commit: str = "") -> Order:
    """What a backend is asked for: the program's request out of the state, which has all of it."""
    parameters = {_NAMES[key]: value for key, value in state["parameters"].items()}
    request = {
        **parameters,
        "agent": state["agent"],
        "model_version": state["version"],
        "method": state["method"],
        "base_model": {"tiny": {}} if state["base_model"] == TINY else state["base_model"],
        "base_revision": state["base_revision"],
        "batch": state["batch"],
        "accumulation": state["accumulation"],
        "out_of_memory_retries": state["attempts"] - 1,
        "push": bool(state["repo"]),
        "hub_repository": state["repo"] or None,
        "commit": commit,
    }
    request = {**request, "epochs": float(request["epochs"]), "lora_targets": list(request["lora_targets"])}
    return Order(intent, state["intent"], state["attempt"], request, rows, state["hardware"], state["timeout"], dict(state))


def _carried_out(promised: Future[Report], check: Callable[[], Report]) -> None:
    try:
        promised.set_result(check())
    except Exception as error:  # told by whoever asks for the result
        promised.set_exception(error)


def _read(datasets: Any, named: Dataset, paths: Mapping[str, str]) -> Any:
    """Files as they are at the commit that is planned."""
    return datasets.read(named.source, {path: paths[path] for path in named.files if path in paths}, named.split)


def _handle(one: Known[TrainingSpec]) -> str:
    return str((one.past.after or {}).get("job") or one.past.handle)
