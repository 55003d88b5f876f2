"""Trains as a job of Hugging Face (`hub_runs.py`): the rows lie in a private data set, the result on the Hub.

The intent is the job's label, and the claim in the result's repository (claim.json, by the program).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.clients.hub_runs import HubRuns, ending
from controller.clients.hugging_face_jobs import Job
from controller.clients.huggingface import Hub
from controller.clients.runs import Found, Prices, Stage
from controller.clients.training import progress
from controller.clients.training.backend import Order, Sight, Verified
from controller.errors import Permanent

STOP_SECONDS = 120.0
"""So long before the vendor would kill it the program stops by itself, with what it has."""


class HubTraining:
    """`program` is the text of the training program; `fallback` are dated prices, for where the list cannot be read."""

    def __init__(self, hub: Callable[[], Hub], program: Callable[[], str], fallback: Prices, *, token: str | None = None) -> None:
        self.hub, self.runs = hub, HubRuns(hub, program, fallback, token)

    def start(self, order: Order) -> str:
        """One POST. Everything before it costs nothing and may be done again. Raises Temporary, Permanent, OutcomeUnknown."""
        before = [str(number) for number in range(1, order.attempt)]
        request = {**order.request, "intent": order.run, "attempt": str(order.attempt), "takes_over": before, "output": "training"}
        request |= self._rows(self.hub(), order.rows)
        request["deadline_seconds"] = max(order.timeout - STOP_SECONDS, order.timeout / 2)
        return self.runs.start(order.intent, order.attempt, request, order.record, order.hardware, order.timeout)

    def find(self, intent: str) -> Found | None:
        return self.runs.find(intent)

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        return self.runs.look(handles, _sight)

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        hub = self.hub()
        with tempfile.TemporaryDirectory(prefix="turnout-") as folder:
            try:
                revision, result = progress.result_on_hub(hub, repo, Path(folder) / "result.json")
            except Permanent as error:
                return Verified((str(error),))
        return progress.verified(result, progress.check_hub(hub, repo, revision, result), intent, revision)

    def cancel(self, handle: str) -> None:
        self.runs.cancel(handle)

    def prices(self) -> Prices:
        return self.runs.prices()

    def _rows(self, hub: Hub, rows: Path) -> dict[str, Any]:
        """A private data set that is named by its content: made once, however often this is called."""
        name = hub.repositories.ensure(f"turnout-data-{rows.stem[:32]}", kind="dataset")
        with tempfile.TemporaryDirectory(prefix="turnout-") as folder:
            (Path(folder) / "train.jsonl").write_bytes(rows.read_bytes())
            commit = hub.repositories.upload_folder(name, Path(folder), "Rows of a training", kind="dataset")
        return {"dataset_repository": name, "dataset_revision": commit.id, "dataset_split": "train"}


def _sight(job: Job, stage: Stage, said: Sequence[str]) -> Sight:
    code, message = ending(job, progress.CODES) if stage == "failed" else ("", "")
    events = progress.events_of(said)
    return progress.sight_of(events, stage, code=code, message=message, seconds=job.running_seconds, cost_usd=job.cost_usd)
