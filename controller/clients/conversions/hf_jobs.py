"""Converts as a job of Hugging Face (`hub_runs.py`): program and neighbours travel as one script, files go to the Hub.

The intent is the job's label, and the claim in the repository of the result (conversion-*.json, by the program).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from controller.clients.conversions import progress
from controller.clients.conversions.backend import Order, Sight, Verified
from controller.clients.hub_runs import HubRuns, ending
from controller.clients.hugging_face_jobs import Job
from controller.clients.huggingface import Hub
from controller.clients.runs import Found, Prices, Stage
from controller.clients.training.progress import events_of
from controller.errors import Permanent


class HubConversions:
    """`program` is the text of the whole program; `fallback` are dated prices, for where the list cannot be read."""

    def __init__(self, hub: Callable[[], Hub], program: Callable[[], str], fallback: Prices, *, token: str | None = None) -> None:
        self.hub, self.runs = hub, HubRuns(hub, program, fallback, token)

    def start(self, order: Order) -> str:
        """One POST. Raises Temporary, Permanent, OutcomeUnknown."""
        if not order.source.get("repo"):
            raise Permanent(
                "a job of Hugging Face cannot read a training of another machine; push it, or convert with backend local"
            )
        request = {**order.request, "intent": order.run, "attempt": order.attempt, "output": "conversion"}
        request["source"] = {"repo": order.source["repo"], "revision": order.source["revision"]}
        return self.runs.start(order.intent, order.attempt, request, order.record, order.hardware, order.timeout)

    def find(self, intent: str) -> Found | None:
        return self.runs.find(intent)

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        return self.runs.look(handles, _sight)

    def verify(self, handle: str, repo: str, intent: str, quantizations: Sequence[str]) -> Verified:
        hub = self.hub()
        with tempfile.TemporaryDirectory(prefix="turnout-") as folder:
            kept = Path(folder) / "result.json"
            try:
                revision = progress.head_of(hub, repo)
                hub.repositories.download(repo, progress.record_name(intent), kept, revision=revision)
            except Permanent as error:
                return Verified((str(error),))
            result = json.loads(kept.read_text())
        return progress.verified(result, progress.check_hub(hub, repo, revision, result), intent, quantizations, revision)

    def cancel(self, handle: str) -> None:
        self.runs.cancel(handle)

    def prices(self) -> Prices:
        return self.runs.prices()


def _sight(job: Job, stage: Stage, said: Sequence[str]) -> Sight:
    code, message = ending(job, progress.CODES) if stage == "failed" else ("", "")
    since = (datetime.now(UTC) - job.finished).total_seconds() if job.finished else 0.0
    return progress.sight_of(
        events_of(said),
        stage,
        code=code,
        message=message,
        seconds=job.running_seconds,
        since_end=max(0.0, since),
        cost_usd=job.cost_usd,
    )
