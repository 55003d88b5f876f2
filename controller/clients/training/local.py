"""Trains on this machine: a process group an attempt (`local_process.py`), that survives the controller.

Everything of a run lies in `<data>/training/<intent>/`, so a fresh process finds it by its intent alone:

    order-N.json        what was ordered as attempt N (`record` goes back to the flow after a crash)
    rows.jsonl          the data, as it was checked
    request-N.json      what attempt N of the program was told
    process-N, exit-N, said-N       who attempt N is, and how it ended: of `local_process.py`
    out/                the program's own folder: claim, progress.jsonl, checkpoints, result.json

SIGTERM goes to the whole group: the program then writes a checkpoint and ends; another attempt goes on from there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controller.clients.huggingface import Hub
from controller.clients.local_process import (
    LocalProcesses,
    environment_of,
    free_of_charge,
    interpreter_there,
    lines,
    read_json,
    write,
)
from controller.clients.runs import Found, Prices
from controller.clients.training import progress
from controller.clients.training.backend import Order, Sight, Verified
from controller.errors import Permanent, Temporary


class LocalTraining:
    """`folder` is private to this environment; `program` is the training program, `python` its interpreter.

    `environment` is what the process gets beside PATH, HOME and the like; `token` a reference that becomes HF_TOKEN.
    """

    def __init__(
        self,
        folder: Path,
        program: Path,
        *,
        python: str = "",
        token: str | None = None,
        hub: Callable[[], Hub],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.program, self.token, self.hub = folder, program, token, hub
        self.python = python or os.environ.get("TURNOUT_TRAINING_PYTHON") or sys.executable
        self.environment = dict(environment or {})
        self.processes = LocalProcesses(folder, "training", "trains")

    # -- the protocol ------------------------------------------------------------------------------------------------

    def start(self, order: Order) -> str:
        """Idempotent: an attempt that has been there, in whatever state, is not started again. Raises Temporary, Permanent."""
        place, number = self.processes.place(order.run), order.attempt
        if not self.processes.begun(place, number):
            self._prepare(place, order)
            command = [self.python, str(self.program), "--request", str(place / f"request-{number}.json")]
            self.processes.launch(place, number, command, self._environment(order))
        return self.processes.handle(place, number)

    def _environment(self, order: Order) -> dict[str, str]:
        """The Hub's address and a token, where the base model is fetched there or the result goes there."""
        base, push = order.request.get("base_model"), order.request.get("push")
        fetched = isinstance(base, str) and not base.startswith(("/", "."))
        if not (fetched or push):
            return environment_of(self.folder.parent, self.token, self.environment)
        session = self.hub().session
        if push and not (self.token or session.reference):
            session.token()  # says what is missing, before hours of work
        more = {"HF_ENDPOINT": session.url, **self.environment}
        return environment_of(self.folder.parent, self.token or session.reference, more)

    def find(self, intent: str) -> Found | None:
        for path in sorted(self.folder.glob("*/order-*.json")):
            order = read_json(path)
            if order is not None and order["intent"] == intent and self.processes.begun(path.parent, order["attempt"]):
                return Found(self.processes.handle(path.parent, order["attempt"]), order["record"])
        return None

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        self.processes.reap()
        return {handle: self._guarded(handle) for handle in handles}

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        place, _ = self.processes.taken_apart(handle)
        result = read_json(place / "out" / "result.json")
        if result is None:
            return Verified(("result.json is not there",))
        problems = progress.check_folder(place / "out", result)
        revision = ""
        if repo:
            revision, _ = progress.result_on_hub(self.hub(), repo, place / "result-on-hub.json")
            problems += progress.check_hub(self.hub(), repo, revision, result)
        return progress.verified(result, problems, intent, revision)

    def cancel(self, handle: str) -> None:
        """SIGTERM: it writes a checkpoint and ends by itself. A later look tells; one that is not ours is left alone."""
        self.processes.stop([handle])

    def prices(self) -> Prices:
        return free_of_charge()

    # -- for others --------------------------------------------------------------------------------------------------

    def artefact(self, handle: str, result: str) -> Path:
        """The folder of the merged model that a finished attempt left here; `result` is the digest that the run was verified by.

        Raises Temporary when it is on another machine, Permanent when it is not there any more or another than that.
        """
        place, _ = self.processes.taken_apart(handle)
        listed = read_json(place / "out" / "result.json")
        if listed is None:
            raise Permanent(f"{place} has no result any more; train again under a new name, or push what is trained to the Hub")
        found = progress.digest_of(listed)
        if found != result:
            raise Permanent(f"{place}: its result is {found}, the run was verified with {result}; somebody changed it")
        return place / "out" / "merged"

    # -- parts -------------------------------------------------------------------------------------------------------

    def _prepare(self, place: Path, order: Order) -> None:
        """The order is on disk before anything runs; what a killed controller left half written is written again."""
        interpreter_there(self.python, "training", self.program)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            rows = place / "rows.jsonl"
            if not rows.exists():
                write(rows, order.rows.read_bytes())
            before = [str(number) for number in range(1, order.attempt)]
            request = {**order.request, "intent": order.run, "attempt": str(order.attempt), "takes_over": before}
            request |= {"output": str(place / "out"), "dataset_files": [str(rows)], "deadline_seconds": order.timeout}
            write(place / f"request-{order.attempt}.json", json.dumps(request).encode())
            kept = {"intent": order.intent, "attempt": order.attempt, "record": dict(order.record)}
            write(place / f"order-{order.attempt}.json", json.dumps(kept).encode())
        except OSError as error:
            raise Temporary(f"{place}: {error.strerror or error}") from error

    def _guarded(self, handle: str) -> Sight | Exception:
        try:
            return self._sight(handle)
        except (Temporary, Permanent, OSError) as error:
            return error

    def _sight(self, handle: str) -> Sight:
        place, number = self.processes.taken_apart(handle)
        events = progress.events_of(lines(place / "out" / "progress.jsonl"))
        stage, code, message = self.processes.stage(place, number, progress.CODES)
        seconds = self.processes.seconds(place, number)
        return progress.sight_of(events, stage, code=code, message=message, seconds=seconds, cost_usd=0.0)
