"""Jobs of the double over HTTP: start, list by stage and label, inspect, cancel, labels, prices, and two event streams."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from controller.testing.hugging_face import accounts
from controller.testing.hugging_face.exchange import Answer, Refused, Request, Table
from controller.testing.hugging_face.hub_routes import page
from controller.testing.hugging_face.jobs import ENDED, LABEL, STAGES, accepted, life, scripted_lines, shown
from controller.testing.hugging_face.prices import job_hardware
from controller.testing.hugging_face.repositories import time_of
from controller.testing.hugging_face.world import World

POLL_SECONDS = 0.05
KEEP_ALIVE_SECONDS = 30.0


def hardware(world: World, request: Request) -> Answer:
    return Answer(content=job_hardware())


def start(world: World, request: Request, ns: str) -> Answer:
    who = accounts.may_write(request.account, ns, "run a job")
    if not who.credit:
        raise Refused(402, "Pre-paid credit balance is insufficient - add more credits to your account to use Jobs.")
    spec = accepted(request.json())
    script = world.script if world.options.run_jobs == "scripted" else None
    job = world.jobs.create(ns, accounts.owner_of(who, ns), spec, script, world.clock.now())
    if script is None:
        world.processes.start(job, spec["secrets"], world.url)
    return Answer(content=shown(job, world.clock.now()))


def listed(world: World, request: Request, ns: str) -> Answer:
    _reader(request, ns)
    now = world.clock.now()
    stages = request.query.get("stage", [])
    if unknown := set(stages) - set(STAGES):
        raise Refused(400, f"Unknown stage {', '.join(sorted(unknown))}, expected one of {', '.join(STAGES)}")
    labels = [tuple(each.partition("=")[::2]) for each in request.query.get("label", [])]
    young = request.hidden_after
    found = [
        shown(job, now)
        for job in world.jobs.all()
        if job["namespace"] == ns
        and (young is None or job["created"] <= young)
        and (not stages or life(job, now).stage in stages)
        and all(job["spec"]["labels"].get(key) == value for key, value in labels)
    ]
    return page(world, request, found, size=100)


def inspect(world: World, request: Request, ns: str, job_id: str) -> Answer:
    _reader(request, ns)
    return Answer(content=shown(world.jobs.get(ns, job_id), world.clock.now()))


def cancel(world: World, request: Request, ns: str, job_id: str) -> Answer:
    accounts.may_write(request.account, ns, "cancel a job")
    job, now = world.jobs.get(ns, job_id), world.clock.now()
    if life(job, now).stage in ENDED:
        raise Refused(400, f"Job {job_id} is not running")
    job["canceled"] = now
    world.jobs.save(job)
    if job["script"] is None:
        world.processes.cancel(job_id)
    return Answer(content=shown(job, now))


def labels(world: World, request: Request, ns: str, job_id: str) -> Answer:
    accounts.may_write(request.account, ns, "label a job")
    job, wanted = world.jobs.get(ns, job_id), request.json().get("labels")
    if not isinstance(wanted, dict) or not all(LABEL.fullmatch(str(each)) for pair in wanted.items() for each in pair):
        raise Refused(400, "Labels have at most 100 characters, only letters, digits, '-' and '_'")
    job["spec"]["labels"] = dict(wanted)
    world.jobs.save(job)
    return Answer(content=shown(job, world.clock.now()))


def logs(world: World, request: Request, ns: str, job_id: str) -> Answer:
    _reader(request, ns)
    world.jobs.get(ns, job_id)
    tail = int(request.first("tail") or 0)
    return Answer(stream=_log_events(world, ns, job_id, tail), headers={"Content-Type": "text/event-stream"})


def metrics(world: World, request: Request, ns: str, job_id: str) -> Answer:
    _reader(request, ns)
    if life(world.jobs.get(ns, job_id), world.clock.now()).stage in ENDED:
        raise Refused(406, "The job is not running")
    return Answer(stream=_metric_events(world, ns, job_id), headers={"Content-Type": "text/event-stream"})


def _log_events(world: World, ns: str, job_id: str, tail: int) -> Iterator[bytes]:
    """Everything so far, then what comes, until the job has ended; a comment keeps a silent connection open."""
    sent, quiet = 0, time.monotonic()
    first = True
    while not world.closing.is_set():
        with world.lock:
            job, now = world.jobs.get(ns, job_id), world.clock.now()
            state = life(job, now)
            lines = scripted_lines(job, now) if job["script"] else world.processes.lines(job_id)
        if state.started is not None:
            lines = [(state.started, f"===== Job started at {time_of(state.started)} ====="), *lines]
        if first and tail:
            sent = max(0, len(lines) - tail)
        first = False
        for at, line in lines[sent:]:
            yield b"data: " + json.dumps({"timestamp": time_of(at), "data": line}, ensure_ascii=False).encode() + b"\n\n"
            quiet = time.monotonic()
        sent = max(sent, len(lines))
        if state.stage in ENDED:
            return
        if time.monotonic() - quiet > KEEP_ALIVE_SECONDS:
            yield b": keep-alive\n\n"
            quiet = time.monotonic()
        world.closing.wait(POLL_SECONDS)


def _metric_events(world: World, ns: str, job_id: str) -> Iterator[bytes]:
    """One sample a second while the job runs. As at the vendor, the stream says nothing of its end."""
    while not world.closing.is_set():
        with world.lock:
            state = life(world.jobs.get(ns, job_id), world.clock.now())
        if state.stage in ENDED:
            return
        if state.stage == "RUNNING":
            sample: dict[str, Any] = {
                "cpu_usage_pct": 50, "cpu_millicores": 2000, "memory_used_bytes": 1 << 30, "memory_total_bytes": 16 << 30,
                "rx_bps": 0, "tx_bps": 0, "gpus": {}, "replica": job_id[-5:],
            }  # fmt: skip
            yield b"event: metric\ndata: " + json.dumps(sample).encode() + b"\n\n"
        world.closing.wait(1.0)


def _reader(request: Request, ns: str) -> None:
    if not accounts.required(request.account).belongs_to(ns):
        raise Refused(403, f"You don't have access to the jobs of {ns}")


ROUTES: Table = [
    ("GET", "/api/jobs/hardware", hardware),
    ("POST", "/api/jobs/{ns}", start),
    ("GET", "/api/jobs/{ns}", listed),
    ("GET", "/api/jobs/{ns}/{job_id}", inspect),
    ("POST", "/api/jobs/{ns}/{job_id}/cancel", cancel),
    ("PUT", "/api/jobs/{ns}/{job_id}/labels", labels),
    ("GET", "/api/jobs/{ns}/{job_id}/logs", logs),
    ("GET", "/api/jobs/{ns}/{job_id}/metrics", metrics),
]
