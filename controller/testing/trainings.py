"""A double of a vendor that trains, for the simulation: jobs that take virtual time and are billed by the minute.

It has labels and no idempotency keys; answers may be lost, its list may lag, it may be down, and jobs may end badly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from controller.clients.hugging_face_session import OutcomeUnknown
from controller.clients.training.backend import Found, Hardware, Order, Prices, Sight, Verified
from controller.errors import Permanent, Temporary
from controller.testing.doubles import Faults

USD_PER_HOUR = 1.2


class TrainingJobs:
    """`outcomes` are those of the attempts, in order; a job takes `minutes` after one minute in the queue."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.now: Callable[[], datetime] = lambda: datetime.min
        self.jobs: list[dict[str, Any]] = []
        self.outcomes: list[str] = []
        self.lose_answers = self.refuse = 0
        self.lag_seconds = 0.0
        self.down = False
        self.minutes = 20.0

    def start(self, order: Order) -> str:
        self.faults.point("start")
        self._answer()
        if self.refuse:
            self.refuse -= 1
            raise Temporary("503: nothing was started")
        outcome = self.outcomes[len(self.jobs)] if len(self.jobs) < len(self.outcomes) else "succeeded"
        handle = f"job-{len(self.jobs) + 1}"
        self.jobs.append({"id": handle, "order": order, "at": self.now(), "outcome": outcome, "cancelled": None})
        self.faults.point("started")
        if self.lose_answers:
            self.lose_answers -= 1
            raise OutcomeUnknown("the answer was lost")
        return handle

    def find(self, intent: str) -> Found | None:
        self._answer()
        for job in self.jobs:
            if job["order"].intent == intent and self._age(job) >= self.lag_seconds:
                return Found(job["id"], job["order"].record)
        return None

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        self._answer()
        return {handle: self._sight(handle) for handle in handles}

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        self._answer()
        job = self._job(handle)
        whose = job["order"].run
        problems = () if whose == intent else (f"result.json is that of intent {whose!r}, expected {intent!r}",)
        return Verified(problems, 3, 1000, "d1", "c" * 40, {"before": {"loss": 2.0}, "after": {"loss": 1.0}})

    def cancel(self, handle: str) -> None:
        self.faults.point("cancel")
        self._answer()
        job = self._job(handle)
        job["cancelled"] = job["cancelled"] or self.now()
        self.faults.point("cancelled")

    def prices(self) -> Prices:
        return Prices("2026-11-01", True, {"a10g-small": Hardware(USD_PER_HOUR, "A10G", 1)})

    def spent(self) -> float:
        return sum(self._minutes(job) for job in self.jobs) * USD_PER_HOUR / 60

    def live(self) -> int:
        return sum(self._sight(job["id"]).stage in ("queued", "running") for job in self.jobs)

    def _answer(self) -> None:
        if self.down:
            raise Temporary("the vendor does not answer")

    def _job(self, handle: str) -> dict[str, Any]:
        found = next((job for job in self.jobs if job["id"] == handle), None)
        if found is None:
            raise Permanent(f"there is no job {handle!r}")
        return found

    def _age(self, job: Mapping[str, Any]) -> float:
        return float((self.now() - job["at"]).total_seconds())

    def _minutes(self, job: Mapping[str, Any]) -> float:
        limit = job["order"].timeout / 60
        end = limit if job["outcome"] == "runs" else min(self.minutes, limit)
        until = (job["cancelled"] - job["at"]).total_seconds() if job["cancelled"] else self._age(job)
        return float(min(max(until / 60 - 1, 0.0), end))

    def _sight(self, handle: str) -> Sight:
        job = self._job(handle)
        minutes = self._minutes(job)
        cost = minutes * USD_PER_HOUR / 60
        if self._age(job) < 60 and not job["cancelled"]:
            return Sight("queued", cost_usd=0.0)
        if job["cancelled"]:
            return Sight("cancelled", cost_usd=cost, seconds=minutes * 60)
        order = job["order"]
        if minutes >= order.timeout / 60:
            return Sight("failed", "timeout", "Job timeout", minutes * 60, cost)
        if minutes < self.minutes or job["outcome"] == "runs":
            return Sight("running", cost_usd=cost, seconds=minutes * 60, progress={"step": int(minutes), "steps": 20, "loss": 1.5})
        if job["outcome"] == "succeeded":
            return Sight("succeeded", cost_usd=cost, seconds=minutes * 60)
        sizes = (int(order.request["batch"]), int(order.request["accumulation"]))
        return Sight("failed", job["outcome"], "said by the job", minutes * 60, cost, {}, *sizes)
