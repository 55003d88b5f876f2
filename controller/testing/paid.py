"""A paid kind and its vendor, for tests of what must never happen twice. The vendor has no idempotency keys, only labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.address import Address
from controller.change import Action, Change, Cost
from controller.errors import Temporary
from controller.kind import Intent, Known, Observed, Outcome, Situation, Unknown
from controller.model import Spec, Text
from controller.testing.doubles import Killed


class JobSpec(Spec):
    """A paid thing, up to `ceiling` US dollars."""

    image: Text
    ceiling: float = 2.0


class JobState(Spec):
    """What is there."""

    image: str
    key: str


class Vendor:
    """Every call makes a job. It can lose its answer, refuse, lag in its list, and see the caller die."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.calls = 0
        self.lose_answer = self.die_after = self.hide = False
        self.refuse = 0

    def create(self, image: str, key: str) -> None:
        if self.refuse:
            self.refuse -= 1
            raise Temporary("503, nothing was made")
        self.calls += 1
        self.jobs.append({"image": image, "key": key})
        if self.die_after:
            self.die_after = False
            raise Killed("after the call")
        if self.lose_answer:
            self.lose_answer = False
            raise TimeoutError("no answer")


class Jobs:
    """Provider of the paid kind."""

    def __init__(self, vendor: Vendor) -> None:
        self.vendor = vendor

    def observe(self, known: Sequence[Known[JobSpec]]) -> Mapping[Address, Observed[JobState] | Unknown]:
        live = {job["key"]: job for job in self.vendor.jobs}
        return {
            one.address: Observed(JobState(image=live[one.past.handle]["image"], key=one.past.handle))
            for one in known
            if one.past.handle in live
        }

    def apply(self, change: Change, report: Any) -> Outcome:
        assert change.after is not None
        self.vendor.create(change.after["image"], change.intent)
        return Outcome(after={"image": change.after["image"], "key": change.intent}, handle=change.intent)

    def find(self, intent: Intent) -> Outcome | None:
        for job in [] if self.vendor.hide else self.vendor.jobs:
            if job["key"] == intent.key:
                return Outcome(after={"image": job["image"], "key": intent.key}, handle=intent.key)
        return None


def plan_job(situation: Situation[JobSpec, JobState]) -> Change:
    observed = situation.observed
    before = observed.state.full() if isinstance(observed, Observed) and observed.state else None
    if situation.desired is None:
        return Change(Action.NOOP, "stays", before=before, after=before)
    spec = situation.desired.spec
    image = spec.image
    if before and before["image"] == image:
        return Change(Action.NOOP, "is there", before=before, after=before)
    return Change(Action.CREATE, f"makes {image}", before=before, after={"image": image, "key": ""}, cost=Cost(1.0, spec.ceiling))


def job(image: str, name: str = "a", ceiling: float | None = None) -> dict[str, str]:
    """A file of desired state."""
    more = "" if ceiling is None else f", ceiling: {ceiling}"
    text = f"apiVersion: turnout/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{image: {image}{more}}}\n"
    return {f"state/jobs/{name}.yaml": text}
