"""Programs as jobs of Hugging Face: the program travels with the job, its intent is the job's label, its result goes to the Hub.

One POST starts a job; after a lost answer the label tells. What the flow needs after a crash on a fresh machine (`record`) travels
in the job's environment. Used by `training/hf_jobs.py` and `conversions/hf_jobs.py`, which say what the program is told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from controller.clients.hugging_face_jobs import Job, script_order
from controller.clients.huggingface import Hub
from controller.clients.runs import Found, Hardware, Prices, Stage
from controller.errors import Permanent, Temporary
from controller.pool import side_by_side

S = TypeVar("S")
RECORD = "TURNOUT_RECORD"
REQUEST = "TURNOUT_REQUEST"
LOOK_SECONDS = 18.0
_STAGES: Mapping[str, Stage] = {
    "SCHEDULING": "queued",
    "RUNNING": "running",
    "COMPLETED": "succeeded",
    "CANCELED": "cancelled",
    "ERROR": "failed",
    "DELETED": "lost",
}


class HubRuns:
    """`program` is the text of the program; `fallback` are dated prices, for where the list cannot be read; `token` a reference."""

    def __init__(self, hub: Callable[[], Hub], program: Callable[[], str], fallback: Prices, token: str | None) -> None:
        self.hub, self.program, self.fallback, self.token = hub, program, fallback, token

    def start(
        self, intent: str, attempt: int, request: Mapping[str, Any], record: Mapping[str, Any], hardware: str, timeout: float
    ) -> str:
        """One POST. Raises Temporary, Permanent, OutcomeUnknown."""
        hub = self.hub()
        reference = self.token or hub.session.reference
        job = script_order(
            self.program(),
            env={REQUEST: json.dumps(request), RECORD: json.dumps(dict(record))},
            flavor=hardware,
            timeout_seconds=timeout,
            secrets={"HF_TOKEN": reference} if reference else {},
            labels={"turnout-attempt": str(attempt)},
        )
        return hub.jobs.start(intent, job)

    def find(self, intent: str) -> Found | None:
        hub = self.hub()
        job = hub.jobs.find(intent)
        if job is None:
            return None
        namespace = hub.session.namespace()
        with hub.session.call(f"read what job {job.id} of {namespace} was started with") as api:
            environment = api.inspect_job(job_id=job.id, namespace=namespace).environment or {}
        return Found(job.id, json.loads(environment.get(RECORD, "{}")))

    def look(self, handles: Sequence[str], sight: Callable[[Job, Stage, Sequence[str]], S]) -> Mapping[str, S | Exception]:
        """Of every handle what `sight` makes of the job, its stage and what it has said; or why it cannot be seen."""
        found = side_by_side([partial(self._seen, handle, sight) for handle in handles], LOOK_SECONDS)
        return dict(zip(handles, found, strict=True))

    def _seen(self, handle: str, sight: Callable[[Job, Stage, Sequence[str]], S]) -> S:
        hub = self.hub()
        job = hub.jobs.get(handle)
        stage = _STAGES.get(job.stage, "running")
        return sight(job, stage, hub.jobs.lines(handle).lines if stage in ("running", "failed") else ())

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


def ending(job: Job, codes: Mapping[int, str]) -> tuple[str, str]:
    """What the vendor says about how a job failed, by the program's exit codes; the program's own words count more."""
    message = job.message
    if "timeout" in message.lower():
        return "timeout", message
    if "OOMKilled" in message:
        return "out_of_memory", message
    number = message.partition("exit code: ")[2].split(".")[0]
    return codes.get(int(number), "unexpected") if number.isdigit() else "unexpected", message
