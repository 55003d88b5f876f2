"""Trains as a job of Hugging Face: the program travels with the job, the rows lie in a private data set, the result on the Hub.

The intent is the job's label, and the claim in the result's repository (claim.json, by the program). One POST starts it; after a
lost answer the label tells. What the flow needs after a crash on a fresh machine (`record`) travels in the job's environment.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from controller.clients.hugging_face_jobs import Job, script_order
from controller.clients.huggingface import Hub
from controller.clients.training import progress
from controller.clients.training.backend import Found, Hardware, Order, Prices, Sight, Stage, Verified
from controller.errors import Permanent, Temporary
from controller.pool import side_by_side

RECORD = "TURNOUT_RECORD"
REQUEST = "TURNOUT_REQUEST"
LOOK_SECONDS = 18.0
STOP_SECONDS = 120.0
"""So long before the vendor would kill it the program stops by itself, with what it has."""
_STAGES: Mapping[str, Stage] = {
    "SCHEDULING": "queued",
    "RUNNING": "running",
    "COMPLETED": "succeeded",
    "CANCELED": "cancelled",
    "ERROR": "failed",
    "DELETED": "lost",
}


class HubTraining:
    """`program` is the text of the training program; `fallback` are dated prices, for where the list cannot be read."""

    def __init__(self, hub: Callable[[], Hub], program: Callable[[], str], fallback: Prices, *, token: str | None = None) -> None:
        self.hub, self.program, self.fallback, self.token = hub, program, fallback, token

    def start(self, order: Order) -> str:
        """One POST. Everything before it costs nothing and may be done again. Raises Temporary, Permanent, OutcomeUnknown."""
        hub = self.hub()
        before = [str(number) for number in range(1, order.attempt)]
        request = {**order.request, "intent": order.run, "attempt": str(order.attempt), "takes_over": before, "output": "training"}
        request |= self._rows(hub, order.rows)
        request["deadline_seconds"] = max(order.timeout - STOP_SECONDS, order.timeout / 2)
        reference = self.token or hub.session.reference
        job = script_order(
            self.program(),
            env={REQUEST: json.dumps(request), RECORD: json.dumps(dict(order.record))},
            flavor=order.hardware,
            timeout_seconds=order.timeout,
            secrets={"HF_TOKEN": reference} if reference else {},
            labels={"turnout-attempt": str(order.attempt)},
        )
        return hub.jobs.start(order.intent, job)

    def find(self, intent: str) -> Found | None:
        hub = self.hub()
        job = hub.jobs.find(intent)
        if job is None:
            return None
        namespace = hub.session.namespace()
        with hub.session.call(f"read what job {job.id} of {namespace} was started with") as api:
            environment = api.inspect_job(job_id=job.id, namespace=namespace).environment or {}
        return Found(job.id, json.loads(environment.get(RECORD, "{}")))

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        found = side_by_side([partial(self._sight, handle) for handle in handles], LOOK_SECONDS)
        return dict(zip(handles, found, strict=True))

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        hub = self.hub()
        with tempfile.TemporaryDirectory(prefix="turnout-") as folder:
            try:
                revision, result = progress.result_on_hub(hub, repo, Path(folder) / "result.json")
            except Permanent as error:
                return Verified((str(error),))
        return progress.verified(result, progress.check_hub(hub, repo, revision, result), intent, revision)

    def cancel(self, handle: str) -> None:
        self.hub().jobs.cancel(handle)

    def prices(self) -> Prices:
        """The vendor's list, else the dated one."""
        try:
            found = self.hub().jobs.hardware()
        except (Temporary, Permanent):
            return self.fallback
        rows = {name: Hardware(each.usd_per_hour, each.gpu, each.gpus) for name, each in found.flavors.items()}
        return Prices(found.as_of.isoformat(), True, rows)

    def _rows(self, hub: Hub, rows: Path) -> dict[str, Any]:
        """A private data set that is named by its content: made once, however often this is called."""
        name = hub.repositories.ensure(f"turnout-data-{rows.stem[:32]}", kind="dataset")
        with tempfile.TemporaryDirectory(prefix="turnout-") as folder:
            (Path(folder) / "train.jsonl").write_bytes(rows.read_bytes())
            commit = hub.repositories.upload_folder(name, Path(folder), "Rows of a training", kind="dataset")
        return {"dataset_repository": name, "dataset_revision": commit.id, "dataset_split": "train"}

    def _sight(self, handle: str) -> Sight:
        hub = self.hub()
        job = hub.jobs.get(handle)
        stage = _STAGES.get(job.stage, "running")
        lines = hub.jobs.lines(handle).lines if stage in ("running", "failed") else ()
        code, message = _ending(job) if stage == "failed" else ("", "")
        events = progress.events_of(lines)
        return progress.sight_of(events, stage, code=code, message=message, seconds=job.running_seconds, cost_usd=job.cost_usd)


def _ending(job: Job) -> tuple[str, str]:
    """What the vendor says about how it ended; the program's own words, where there are some, count more."""
    message = job.message
    if "timeout" in message.lower():
        return "timeout", message
    if "OOMKilled" in message:
        return "out_of_memory", message
    number = message.partition("exit code: ")[2].split(".")[0]
    return progress.CODES.get(int(number), "unexpected") if number.isdigit() else "unexpected", message
