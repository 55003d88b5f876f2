"""Jobs of the double: what is accepted, how a job lives, and what it costs.

A job is scripted (lines at given times of the double's clock, then an end; nothing runs) or a real process of this machine
(`job_processes.py`). Billed are the minutes from its start to its end.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from controller.testing.hugging_face.disk import Shelf
from controller.testing.hugging_face.exchange import Refused
from controller.testing.hugging_face.prices import JOB_MICRO_USD_PER_MINUTE, minutes
from controller.testing.hugging_face.repositories import time_of

STAGES = ("SCHEDULING", "RUNNING", "COMPLETED", "CANCELED", "ERROR", "DELETED")
ENDED = frozenset({"COMPLETED", "CANCELED", "ERROR", "DELETED"})
DEFAULT_TIMEOUT = 30 * 60
LABEL = re.compile(r"[A-Za-z0-9_-]{1,100}")
TIMED_OUT = "Job timeout"


@dataclass(frozen=True)
class Script:
    """What the next jobs do, in seconds: `lines` are spread over `running`. `end` NEVER runs into the time-out."""

    lines: tuple[str, ...] = ()
    end: str = "COMPLETED"
    message: str | None = None
    scheduling: float = 0.0
    running: float = 0.0

    @classmethod
    def parse(cls, wanted: Mapping[str, Any]) -> Script:
        """Raises ValueError with what is wrong."""
        unknown = set(wanted) - {each.name for each in fields(cls)}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} is not known; there are {', '.join(f.name for f in fields(cls))}")
        if wanted.get("end", "COMPLETED") not in ("COMPLETED", "ERROR", "NEVER"):
            raise ValueError("end is COMPLETED, ERROR or NEVER")
        return cls(**{**wanted, "lines": tuple(map(str, wanted.get("lines", ())))})


@dataclass(frozen=True)
class Life:
    """Where a job is now; times in Unix seconds."""

    stage: str
    message: str | None
    started: float | None
    finished: float | None

    def running_seconds(self, now: float) -> float:
        if self.started is None:
            return 0.0
        return max(0.0, (now if self.finished is None else self.finished) - self.started)


class Jobs:
    """All jobs. A record is `{id, namespace, owner, created, spec, secrets (names), script | None, life..., canceled}`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self._shelf = Shelf(self.folder)

    def create(
        self, namespace: str, owner: Mapping[str, str], spec: Mapping[str, Any], script: Script | None, now: float
    ) -> dict[str, Any]:
        job = {
            "id": f"{int(now):08x}{os.urandom(8).hex()}",
            "namespace": namespace,
            "owner": dict(owner),
            "created": now,
            "spec": {key: value for key, value in spec.items() if key != "secrets"},
            "secrets": sorted(spec["secrets"]),
            "script": asdict(script) if script else None,
            "stage": "SCHEDULING",
            "message": None,
            "started": None,
            "finished": None,
            "canceled": None,
        }
        self.save(job)
        return job

    def save(self, job: dict[str, Any]) -> None:
        self._shelf.put(job["id"], job)

    def get(self, namespace: str, job_id: str) -> dict[str, Any]:
        """Raises Refused (404)."""
        job = self._shelf.get(job_id)
        if job is None or job["namespace"] != namespace:
            raise Refused(404, f"Job {job_id} not found")
        return job

    def all(self) -> list[dict[str, Any]]:
        """Newest first."""
        return sorted(self._shelf.values(), key=lambda job: (job["created"], job["id"]), reverse=True)


def life(job: Mapping[str, Any], now: float) -> Life:
    """Of a scripted job it is computed, of a process it is on record."""
    script = job["script"]
    if script is None:
        return Life(job["stage"], job["message"], job["started"], job["finished"])
    starts = job["created"] + script["scheduling"]
    limit = starts + job["spec"]["timeoutSeconds"]
    ends = math.inf if script["end"] == "NEVER" else starts + script["running"]
    canceled = math.inf if job["canceled"] is None else job["canceled"]
    started = starts if min(now, canceled) >= starts else None
    if canceled <= now and canceled < min(ends, limit):
        return Life("CANCELED", None, started, canceled)
    if now < starts:
        return Life("SCHEDULING", None, None, None)
    if now < min(ends, limit):
        return Life("RUNNING", None, started, None)
    if limit < ends:
        return Life("ERROR", TIMED_OUT, started, limit)
    message = script["message"] or ("Job failed with exit code: 1. Reason: Error" if script["end"] == "ERROR" else None)
    return Life(script["end"], message, started, ends)


def scripted_lines(job: Mapping[str, Any], now: float) -> list[tuple[float, str]]:
    """What a scripted job has said so far: (Unix seconds, text)."""
    found = life(job, now)
    if found.started is None:
        return []
    script, until = job["script"], now if found.finished is None else found.finished
    step = script["running"] / (len(script["lines"]) or 1)
    spread = [(found.started + step * number, line) for number, line in enumerate(script["lines"])]
    return [(at, line) for at, line in spread if at <= until]


def accepted(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The specification of a job, complete. Raises Refused (400) for what the vendor does not take."""
    image, space = wanted.get("dockerImage"), wanted.get("spaceId")
    command = wanted.get("command")
    flavor = wanted.get("flavor", "cpu-basic")
    timeout = wanted.get("timeoutSeconds", DEFAULT_TIMEOUT)
    _require(bool(image) != bool(space), "Exactly one of dockerImage and spaceId is required")
    _require(_texts(command) and bool(command), '"command" must be an array of strings that is not empty')
    _require(_texts(wanted.get("arguments", [])), '"arguments" must be an array of strings')
    flavors = JOB_MICRO_USD_PER_MINUTE
    _require(isinstance(flavor, str) and flavor in flavors, f"Invalid flavor {flavor!r}, expected one of {', '.join(flavors)}")
    _require(_number(timeout) and timeout > 0, f'"timeoutSeconds" must be a positive number, not {timeout!r}')
    attempts = wanted.get("attempts", 1)
    _require(_number(attempts) and 1 <= attempts <= 10, f'"attempts" must be from 1 to 10, not {attempts!r}')
    for field in ("environment", "secrets", "labels"):
        value = wanted.get(field) or {}
        _require(
            isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair),
            f'"{field}" must be an object of strings',
        )
    for key, value in (wanted.get("labels") or {}).items():
        for part in (key, value):
            _require(
                bool(LABEL.fullmatch(part)),
                f"Invalid label {part!r}: at most 100 characters, only letters, digits, '-' and '_'",
            )
    return {
        "dockerImage": image,
        "spaceId": space,
        "command": command,
        "arguments": wanted.get("arguments", []),
        "environment": wanted.get("environment") or {},
        "secrets": wanted.get("secrets") or {},
        "flavor": flavor,
        "timeoutSeconds": timeout,
        "attempts": attempts,
        "labels": wanted.get("labels") or {},
    }


def shown(job: Mapping[str, Any], now: float) -> dict[str, Any]:
    """As the vendor answers. The values of secrets are never told."""
    found, spec = life(job, now), job["spec"]
    running = found.running_seconds(now) if found.started is not None else None
    scheduling = None if found.started is None else found.started - job["created"]
    total = (now if found.finished is None else found.finished) - job["created"]
    return {
        "id": job["id"],
        "createdAt": time_of(job["created"]),
        "startedAt": None if found.started is None else time_of(found.started),
        "finishedAt": None if found.finished is None else time_of(found.finished),
        **{key: value for key, value in spec.items() if key not in ("attempts", "timeoutSeconds") and value is not None},
        "timeout": spec["timeoutSeconds"],
        "retry": spec["attempts"] - 1,
        "secrets": dict.fromkeys(job["secrets"], ""),
        "status": {"stage": found.stage, "message": found.message},
        "durations": {
            "schedulingSecs": None if scheduling is None else int(scheduling),
            "runningSecs": None if running is None else int(running),
            "totalSecs": int(total),
        },
        "owner": job["owner"],
        "initiator": {"type": "user", "id": job["owner"]["id"], "name": job["owner"]["name"]},
    }


def bill(job: Mapping[str, Any], now: float) -> tuple[int, int]:
    """Minutes, and millionths of a dollar."""
    billed = minutes(life(job, now).running_seconds(now))
    return billed, billed * JOB_MICRO_USD_PER_MINUTE[job["spec"]["flavor"]]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Refused(400, message)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
