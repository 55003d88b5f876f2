"""The door to evaluations that run: local work, a child process of its own session that outlives the controller.

An intent is claimed by its folder (`evaluation_work.py`): starting twice under one intent starts once, a resumed one goes on
from its answers. A handle names machine and intent; on another machine the work cannot be seen, and nothing is paid there again.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.clients import huggingface, models
from controller.clients.datasets import objects_of
from controller.clients.evaluation_serving import delete_all, end_all, spent
from controller.clients.evaluation_work import Order, Work
from controller.clients.model_lists import ModelLists
from controller.environment import EnvironmentSpec, with_fallbacks
from controller.errors import Permanent, Temporary
from controller.settings import Settings

CANCEL_SECONDS = 3.0
MOST_BYTES = 256 * 1024 * 1024


class Evaluations:
    """All evaluations of an environment on this machine. Raises Temporary, Permanent."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.data = settings, settings.data
        self._children: list[subprocess.Popen[bytes]] = []
        self._hub = functools.cache(lambda: huggingface.connect(settings.spec.huggingface, settings.data))
        self._lists = functools.cache(lambda: ModelLists(models.connect(settings), self._hub))

    # -- before it starts --------------------------------------------------------------------------------------------

    def lists(self, asked: Sequence[tuple[str, str | None]], bound: bool) -> dict[str, Any]:
        """What its start depends on besides git, as `ModelLists.of` gives it: (endpoint, model) that it asks, None = not known yet.

        An endpoint is asked for its list only where a price is missing or it has a fallback. `bound`: some other endpoint is
        asked too. Never raises: what cannot be read is told as unknown.
        """
        known, prices = self.settings.spec.endpoints, self.settings.spec.prices
        wanted = {name for name, each in known.items() if bound and each.addresses}
        hardware = False
        for first, model in asked:
            for name in with_fallbacks(known, first):
                if known[name].inference_endpoint:
                    hardware = True
                elif known[name].fallback or model is None or model not in prices:
                    wanted.add(name)
        return self._lists().of(wanted, hardware) if wanted or hardware else {}

    # -- claims and processes ----------------------------------------------------------------------------------------

    def start(self, intent: str, order: Mapping[str, Any]) -> str:
        """Claims the intent and starts its child, unless that was done before. Returns the handle."""
        work = Work(self.data / "evaluations" / intent)
        handle = f"{self._machine()}/{intent}"
        if work.order() is None:
            self._rows(work, order["dataset"])
            full = {**order, "intent": intent, "data": str(self.data), "environment": environment_of(self.settings.spec)}
            work.write("order.json", msgspec.json.encode(msgspec.convert(full, Order)), once=True)
        self._spawn(work)
        return handle

    def resume(self, handle: str, order: Mapping[str, Any]) -> None:
        """Starts the child again, with what environment.yaml says now. Raises Permanent, once, for what it stopped at for good."""
        work = self._work(handle)
        known = work.order()
        if known is None:
            raise Permanent(f"{work.folder} is gone, and with it the answers that were paid; remove the file and use another name")
        progress = work.read("progress.json") or {}
        if progress.get("phase") == "failed" and not progress.get("told") and not work.alive():
            work.write("progress.json", json.dumps({**progress, "told": True}).encode())
            raise Permanent(str(progress.get("reason")))
        fresh = msgspec.structs.replace(known, environment=environment_of(self.settings.spec), data=str(self.data))
        if not work.alive():
            work.write("order.json", msgspec.json.encode(fresh))
        self._spawn(work)

    def find(self, intent: str) -> dict[str, Any] | None:
        """Handle and first state of what was started under an intent; None = provably nothing. Raises Temporary."""
        order = Work(self.data / "evaluations" / intent).order() if "/" not in intent else None
        if order is not None:
            return {"handle": f"{self._machine()}/{intent}", "state": order.state}
        if self.settings.spec.remote and "/" not in intent:
            raise Temporary(
                f"it may have been started on another machine: this one has no {self.data / 'evaluations' / intent}; "
                "if no other has it either, remove the file and use another name"
            )
        return None

    def look(self, handle: str) -> dict[str, Any]:
        """Phase (running, stopped, failed, ended), calls done and in all, USD so far, why it stopped, result. Raises Temporary."""
        work = self._work(handle)
        self._reap()
        alive = work.alive()  # before the files: what ends between is seen the next time
        result = work.read("result.json")
        progress = {key: value for key, value in (work.read("progress.json") or {}).items() if key != "told"}
        if result is not None:
            return {**progress, "phase": "ended", "result": result}
        if alive:
            return {**progress, "phase": "running"}
        return {**progress, "phase": "failed" if progress.get("phase") == "failed" else "stopped"}

    def cancel(self, handle: str, serving: Sequence[str] = ()) -> dict[str, Any]:
        """Ends the work: calls under way finish, because they are paid; no other is made. What it spent, and a sentence.

        `serving` are the sides for which it created endpoints: its child deletes them, and where it is dead they are deleted
        here. Raises Temporary while that cannot be done.
        """
        try:
            work = self._work(handle)
        except Temporary as error:
            said = f"its process could not be reached ({error}); it ends by itself at its ceiling"
            return {"cost_usd": None, "said": f"{said}{self._deleted_unseen(handle, serving)}"}
        work.write("cancelled", b"{}")
        if work.alive():
            self._signal(work)
        found = self.look(handle)
        usd, left = found.get("cost_usd"), ""
        if serving and not work.alive():
            left = self._ended_endpoints(work, handle, serving)
            usd = spent(work) if work.order() else None
        cost = "what it cost is not known" if usd is None else f"{usd:.2f} USD were spent"
        said = f"stopped after {found.get('done', 0)} of {found.get('total', 0)} calls; {cost}{left}"
        return {"cost_usd": usd, "said": said}

    def release(self, handle: str, serving: Sequence[str]) -> str:
        """Deletes what an ended evaluation created, should it still be there. Raises Temporary while that cannot be done."""
        try:
            work = self._work(handle)
        except Temporary:
            return self._deleted_unseen(handle, serving).removeprefix("; ")
        return self._ended_endpoints(work, handle, serving).removeprefix("; ")

    def _ended_endpoints(self, work: Work, handle: str, serving: Sequence[str]) -> str:
        """What is to be said of ending them, or nothing. Raises Temporary while that cannot be done, or a child does it."""
        order = work.order()
        if order is None:
            return self._deleted_unseen(handle, serving)
        held = work.lock()
        if held is None:
            raise Temporary(f"the process of {work.folder} is ending; what it created is looked at again then")
        try:
            end_all(work, order, self._hub(), datetime.now(UTC))
            return ""
        except Permanent as error:
            return f"; its endpoints could not be deleted, and stop by themselves: {error}"
        finally:
            os.close(held)

    def _deleted_unseen(self, handle: str, serving: Sequence[str]) -> str:
        """Without its folder: the names follow from the intent."""
        if not serving:
            return ""
        try:
            delete_all(handle.rpartition("/")[2], serving, self._hub())
        except Permanent as error:
            return f"; its endpoints could not be deleted, and stop by themselves: {error}"
        return f"; what was created for the {' and the '.join(serving)} is deleted"

    def working(self) -> list[str]:
        """Handles of those whose process lives here."""
        self._reap()
        return [f"{self._machine()}/{path.name}" for path in sorted((self.data / "evaluations").glob("*")) if Work(path).alive()]

    def stop_all(self) -> None:
        """Calls under way finish; started again, they go on."""
        for handle in self.working():
            self._signal(self._work(handle))

    # -- parts -------------------------------------------------------------------------------------------------------

    def _spawn(self, work: Work) -> None:
        """The child inherits the lock, so there is no moment at which a second one could start."""
        if work.path("result.json").exists() or work.path("cancelled").exists():
            return
        held = work.lock()
        if held is None:
            return
        try:
            work.path("pid").unlink(missing_ok=True)  # of the child before
            with work.path("log").open("ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "controller.evaluating", "--order", str(work.path("order.json")), "--lock", str(held)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(held,),
                    start_new_session=True,
                )
        except OSError as error:
            raise Temporary(f"the evaluation's process cannot be started: {error}") from error
        finally:
            os.close(held)
        self._children.append(child)

    def _signal(self, work: Work) -> None:
        deadline = time.monotonic() + CANCEL_SECONDS
        told = False
        while work.alive() and time.monotonic() < deadline:
            if not told and work.path("pid").exists():
                os.kill(int(work.path("pid").read_text()), signal.SIGTERM)
                told = True
            time.sleep(0.05)
            self._reap()

    def _reap(self) -> None:
        """A child that has ended must not stay a zombie."""
        self._children = [child for child in self._children if child.poll() is None]

    def _work(self, handle: str) -> Work:
        machine, _, intent = handle.rpartition("/")
        if machine != self._machine():
            raise Temporary(f"it is local work of another machine or data folder ({machine}); only there can it be seen")
        return Work(self.data / "evaluations" / intent)

    def _machine(self) -> str:
        return f"{socket.gethostname()}:{self.data.resolve()}"

    # -- rows --------------------------------------------------------------------------------------------------------

    def _rows(self, work: Work, dataset: Mapping[str, Any]) -> None:
        """Files as they are at the commit; what LangSmith or the Hub has is read by the child, because that takes long."""
        work.path("dataset.jsonl").unlink(missing_ok=True)
        if not dataset.get("files"):
            return
        free = shutil.disk_usage(self.data).free
        read = objects_of(self.settings)
        content = b"\n".join(read(path, dataset["objects"][path]) for path in dataset["files"])
        if len(content) > min(MOST_BYTES, free // 2):
            raise Permanent(
                f"the data set has {len(content)} bytes; allowed are {MOST_BYTES} and half of the free disk ({free // 2})"
            )
        work.write("dataset.jsonl", content)


def environment_of(spec: EnvironmentSpec) -> dict[str, Any]:
    """What the child needs of environment.yaml; keys only as references."""
    full = spec.full()
    return {key: full[key] for key in ("endpoints", "prices", "inference", "langsmith", "huggingface") if full.get(key)}


def connect(settings: Settings) -> Evaluations:
    """The door of an environment."""
    return Evaluations(settings)
