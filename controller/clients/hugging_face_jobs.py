"""Hugging Face Jobs: prices, one start per intent, finding it again by its label, progress, and cancelling.

A job has no idempotency key. The intent is its label `turnout-intent`, which the vendor stores and filters by; starting is
exactly one POST, and after a lost answer `find` tells. Prices and billing: huggingface.co/docs/hub/jobs-pricing.
"""

from __future__ import annotations

import base64
import gzip
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller.clients.hugging_face_session import Session
from controller.errors import Permanent, listed, nearest
from controller.resource import digest

INTENT = "turnout-intent"
UV_IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
LONGEST_SCRIPT = 120_000
"""Bytes of a packed script: one environment variable of Linux holds 128 KiB."""
PRICES_SECONDS = 3600.0

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,100}")
_SCRIPT = "TURNOUT_SCRIPT"
_UNPACK = (
    f'folder=$(mktemp -d) && printf %s "${_SCRIPT}" | base64 -d | gunzip > "$folder/job.py" '
    f'&& unset {_SCRIPT} && exec uv run --script "$folder/job.py" "$@"'
)
_PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}


@dataclass(frozen=True, slots=True)
class Flavor:
    """Hardware that can be had: US dollars per hour, what it has."""

    name: str
    usd_per_hour: float
    cpu: str
    memory: str
    gpu: str = ""
    gpus: int = 0
    gpu_memory: str = ""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The vendor's price list, and when it was read."""

    as_of: datetime
    flavors: Mapping[str, Flavor]


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What to run. `secrets` are references (env:, file:), resolved at the call; `timeout_seconds` bounds the cost."""

    command: tuple[str, ...]
    flavor: str
    timeout_seconds: float
    image: str = UV_IMAGE
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is. `cost_usd` is what it has cost so far, every started minute at today's list price; None = no price known."""

    id: str
    labels: Mapping[str, str]
    flavor: str
    stage: str
    message: str
    created: datetime | None
    started: datetime | None
    finished: datetime | None
    running_seconds: float
    cost_usd: float | None
    url: str

    @property
    def ended(self) -> bool:
        return self.stage in ENDED


@dataclass(frozen=True, slots=True)
class Lines:
    """Log lines from the one that was asked for; `next` is where to go on."""

    lines: tuple[str, ...]
    next: int


def script_order(script: str, arguments: Sequence[str] = (), *, env: Mapping[str, str] | None = None, **order: Any) -> JobOrder:
    """A self-contained Python script with inline dependencies, run by uv. The other arguments are those of JobOrder.

    It travels packed in an environment variable. Raises Permanent when it is too long for one.
    """
    packed = base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
    if len(packed) > LONGEST_SCRIPT:
        raise Permanent(f"the script is {len(packed)} bytes packed, {LONGEST_SCRIPT} at most go along with a job; shorten it")
    return JobOrder(command=("bash", "-c", _UNPACK, "job", *arguments), env={**(env or {}), _SCRIPT: packed}, **order)


def label_of(intent: str) -> str:
    """The intent as a label: itself where the vendor takes it, else readable and unique."""
    if _LABEL.fullmatch(intent):
        return intent
    return f"{re.sub('[^A-Za-z0-9_-]', '-', intent)[:67]}-{digest(intent)}"


def cost_usd(running_seconds: float, usd_per_hour: float) -> float:
    """Jobs bill every started minute of running; scheduling is free."""
    return math.ceil(round(running_seconds, 3) / 60) * usd_per_hour / 60


class Jobs:
    """Jobs of the session's namespace."""

    def __init__(self, session: Session, now: Callable[[], datetime]) -> None:
        self._session, self._now = session, now
        self._prices: tuple[float, Hardware] | None = None
        self.quiet_seconds = 1.0
        """Silence after which a running job's log counts as read."""

    def hardware(self, *, fresh: bool = False) -> Hardware:
        """The price list, kept for an hour unless it has to be `fresh`. Raises Temporary, Permanent."""
        if self._prices is None or fresh or time.monotonic() - self._prices[0] > PRICES_SECONDS:
            with self._session.call("read the price list of Jobs") as api:
                flavors = {each.name: _flavor(each) for each in api.list_jobs_hardware()}
            self._prices = (time.monotonic(), Hardware(self._now(), flavors))
        return self._prices[1]

    def start(self, intent: str, order: JobOrder) -> str:
        """The id of the new job. One POST, 20 s at most.

        Raises Temporary or Permanent where nothing was started for certain, OutcomeUnknown where `find` has to tell.
        """
        labels = {**order.labels, INTENT: label_of(intent)}
        self._check(order, labels)
        secrets = {name: self._session.secret(reference) for name, reference in order.secrets.items()}
        namespace = self._session.namespace()
        with self._session.call(f"start a job on {order.flavor} in {namespace}", pays=True, hide=secrets.values()) as api:
            info = api.run_job(
                image=order.image,
                command=list(order.command),
                env=dict(order.env),
                secrets=secrets or None,
                flavor=order.flavor,
                timeout=math.ceil(order.timeout_seconds),
                name=labels.get("name") or f"turnout-{labels[INTENT]}"[:100],
                labels={name: value for name, value in labels.items() if name != "name"},
                namespace=namespace,
            )
        return info.id

    def find(self, intent: str) -> Job | None:
        """The job of an intent, the oldest if there are several (`list` shows all). None = not there, or not listed yet."""
        found = self.list(labels={INTENT: label_of(intent)})
        return found[0] if found else None

    def list(self, *, labels: Mapping[str, str] | None = None, stages: Sequence[str] = ()) -> list[Job]:
        """Oldest first. Raises Temporary, Permanent."""
        namespace = self._session.namespace()
        prices = self.hardware()
        with self._session.call(f"list the jobs of {namespace}") as api:
            # Without a namespace the SDK would ask another Hub with another token.
            found = list(api.list_jobs(namespace=namespace, labels=dict(labels or {}), status=list(stages) or None))
        return sorted((_job(info, prices) for info in found), key=lambda job: (str(job.created), job.id))

    def get(self, job_id: str) -> Job:
        """Raises Temporary; Permanent when there is no such job."""
        namespace = self._session.namespace()
        prices = self.hardware()
        with self._session.call(f"look at job {job_id} of {namespace}") as api:
            return _job(api.inspect_job(job_id=job_id, namespace=namespace), prices)

    def lines(self, job_id: str, since: int = 0) -> Lines:
        """What a job has said from line `since` (from 0) on, without waiting for more. Raises Temporary, Permanent."""
        namespace, until = self._session.namespace(), time.monotonic() + self._session.call_seconds
        found: list[str] = []
        with self._session.call(f"read the log of job {job_id} of {namespace}", quiet=self.quiet_seconds) as api:
            for line in api.fetch_job_logs(job_id=job_id, namespace=namespace, follow=False):
                found.append(line)
                if time.monotonic() > until:
                    break
        return Lines(tuple(found[since:]), max(since, len(found)))

    def cancel(self, job_id: str) -> None:
        """Also when it has ended already. Raises Temporary; Permanent when there is no such job."""
        namespace = self._session.namespace()
        try:
            with self._session.call(f"cancel job {job_id} of {namespace}") as api:
                api.cancel_job(job_id=job_id, namespace=namespace)
        except Permanent:
            if not self.get(job_id).ended:
                raise

    def _check(self, order: JobOrder, labels: Mapping[str, str]) -> None:
        """What would be refused is said before anything is sent."""
        flavors = self.hardware().flavors
        if order.flavor not in flavors:
            close = nearest(order.flavor, flavors)
            raise Permanent(f"{order.flavor!r} is not hardware of Hugging Face Jobs{close}; there are {listed(flavors, 30)}")
        if order.timeout_seconds <= 0:
            raise Permanent(f"a job needs a time-out of more than 0 s, found {order.timeout_seconds:g}")
        for part in (each for pair in labels.items() for each in pair):
            if not _LABEL.fullmatch(part):
                raise Permanent(f"{part!r} cannot be (part of) a label: 1 to 100 letters, digits, '-' and '_'")


def _flavor(info: Any) -> Flavor:
    if info.unit_label not in _PER_HOUR:
        raise Permanent(f"Hugging Face prices {info.name} per {info.unit_label!r}; known are {listed(_PER_HOUR)}")
    hourly = info.unit_cost_micro_usd * _PER_HOUR[info.unit_label] / 1e6
    gpu = info.accelerator
    if gpu is None:
        return Flavor(info.name, hourly, info.cpu, info.ram)
    return Flavor(info.name, hourly, info.cpu, info.ram, gpu.model, int(gpu.quantity), gpu.vram)


def _job(info: Any, prices: Hardware) -> Job:
    seconds = _running_seconds(info)
    flavor = prices.flavors.get(str(getattr(info.flavor, "value", info.flavor)))
    return Job(
        id=info.id,
        labels=dict(info.labels or {}),
        flavor=str(getattr(info.flavor, "value", info.flavor)),
        stage=str(getattr(info.status.stage, "value", info.status.stage)),
        message=info.status.message or "",
        created=info.created_at,
        started=info.started_at,
        finished=info.finished_at,
        running_seconds=seconds,
        # Of a job that runs only whole seconds are known: the one that has begun counts, so a started minute is never missed.
        cost_usd=cost_usd(seconds + (info.status.stage == "RUNNING"), flavor.usd_per_hour) if flavor else None,
        url=info.url,
    )


def _running_seconds(info: Any) -> float:
    """Its times are finer than its durations, which are whole seconds."""
    if info.started_at is not None and info.finished_at is not None:
        return float((info.finished_at - info.started_at).total_seconds())
    return float((info.durations.running_secs if info.durations else 0) or 0)
