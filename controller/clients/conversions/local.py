"""Converts on this machine: a process group an attempt (`local_process.py`), that survives the controller.

Everything of a run lies in `<data>/conversions/<intent>/`:

    order-N.json        what was ordered as attempt N (`record` goes back to the flow after a crash)
    request-N.json      what attempt N of the program was told
    process-N, exit-N, said-N       who attempt N is, and how it ended: of `local_process.py`
    out/                the program's own folder: claim, progress.jsonl, GGUF files, result.json. Attempts go on in it

The source is a repository of the Hub, or what a training left on this machine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller.clients.conversions import progress
from controller.clients.conversions.backend import Order, Sight, Verified
from controller.clients.hugging_face_session import VENDOR_HOSTS
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
from controller.clients.training.progress import events_of
from controller.errors import Permanent, Temporary

Artefact = Callable[[str, str], Path]
"""(handle of a training's attempt, digest of its result) -> the folder of its model on this machine."""


class LocalConversions:
    """`folder` is private to this environment; `program` is the conversion program, `python` its interpreter."""

    def __init__(
        self,
        folder: Path,
        program: Path,
        *,
        python: str = "",
        token: str | None = None,
        hub: Callable[[], Hub],
        artefact: Artefact,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.program, self.token, self.hub, self.artefact = folder, program, token, hub, artefact
        self.python = python or os.environ.get("TURNOUT_TRAINING_PYTHON") or sys.executable
        self.environment = dict(environment or {})
        self.processes = LocalProcesses(folder, "conversion", "converts")
        self.digests = progress.Digests()

    # -- the protocol ------------------------------------------------------------------------------------------------

    def start(self, order: Order) -> str:
        """Idempotent: an attempt that has been there, in whatever state, is not started again. Raises Temporary, Permanent."""
        place, number = self.processes.place(order.run), order.attempt
        if not self.processes.begun(place, number):
            environment = self._environment(order)
            self._prepare(place, order)
            command = [self.python, str(self.program), "--request", str(place / f"request-{number}.json")]
            self.processes.launch(place, number, command, environment)
        return self.processes.handle(place, number)

    def find(self, intent: str) -> Found | None:
        for path in sorted(self.folder.glob("*/order-*.json")):
            order = read_json(path)
            if order is not None and order["intent"] == intent and self.processes.begun(path.parent, order["attempt"]):
                return Found(self.processes.handle(path.parent, order["attempt"]), order["record"])
        return None

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        self.processes.reap()
        return {handle: self._guarded(handle) for handle in handles}

    def verify(self, handle: str, repo: str, intent: str, quantizations: Sequence[str]) -> Verified:
        out = self.output(handle)
        result = read_json(out / "result.json")
        if result is None:
            return Verified(("result.json is not there",))
        try:
            problems = progress.check_folder(out, result, self.digests)
        except OSError as error:
            raise Temporary(f"{out}: {error.strerror or error}") from error
        revision = ""
        if repo:
            revision = progress.head_of(self.hub(), repo)
            problems += progress.check_hub(self.hub(), repo, revision, result)
        return progress.verified(result, problems, intent, quantizations, revision)

    def cancel(self, handle: str) -> None:
        """SIGTERM: what is whole stays. A later look tells; one that is not ours is left alone."""
        self.processes.stop([handle])

    def prices(self) -> Prices:
        return free_of_charge()

    # -- parts -------------------------------------------------------------------------------------------------------

    def output(self, handle: str) -> Path:
        """Where an attempt's files are. Raises Temporary for one of another machine."""
        return self.processes.taken_apart(handle)[0] / "out"

    def _prepare(self, place: Path, order: Order) -> None:
        """The order is on disk before anything runs; what a killed controller left half written is written again."""
        interpreter_there(self.python, "conversion", self.program)
        request = {**order.request, "intent": order.run, "attempt": order.attempt, "output": str(place / "out")}
        request["source"] = self._source(order.source)
        kept = {"intent": order.intent, "attempt": order.attempt, "record": dict(order.record)}
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            write(place / f"request-{order.attempt}.json", json.dumps(request).encode())
            write(place / f"order-{order.attempt}.json", json.dumps(kept).encode())
        except OSError as error:
            raise Temporary(f"{place}: {error.strerror or error}") from error

    def _source(self, source: Mapping[str, str]) -> dict[str, Any]:
        if source.get("repo"):
            return {"repo": source["repo"], "revision": source["revision"]}
        return {"path": str(self.artefact(source["job"], source["digest"]))}

    def _environment(self, order: Order) -> dict[str, str]:
        """Where it needs the Hub: its address, and the token that the environment names."""
        if not order.source.get("repo") and "upload" not in order.request:
            return environment_of(self.folder.parent, None, self.environment)
        session = self.hub().session
        if "upload" in order.request and not (self.token or session.reference):
            session.token()  # says what is missing, before hours of work
        more = {"HF_ENDPOINT": session.url, **self.environment}
        if not (urlsplit(session.url).hostname or "").endswith(VENDOR_HOSTS):
            more["HF_HUB_DISABLE_XET"] = "1"  # the vendor's own storage; a mirror has none
        return environment_of(self.folder.parent, self.token or session.reference, more)

    def _guarded(self, handle: str) -> Sight | Exception:
        try:
            return self._sight(handle)
        except (Temporary, Permanent, OSError) as error:
            return error

    def _sight(self, handle: str) -> Sight:
        place, number = self.processes.taken_apart(handle)
        events = events_of(lines(place / "out" / "progress.jsonl"))
        stage, code, message = self.processes.stage(place, number, progress.CODES)
        seconds, since = self.processes.seconds(place, number), self.processes.since_end(place, number)
        return progress.sight_of(events, stage, code=code, message=message, seconds=seconds, since_end=since, cost_usd=0.0)
