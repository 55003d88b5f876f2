"""What everything at the double has cost: the vendor's own books, with which a test proves that one paid exactly once."""

from __future__ import annotations

from typing import Any

from controller.testing.hugging_face import endpoints, jobs
from controller.testing.hugging_face.world import World


def ledger(world: World) -> dict[str, Any]:
    """Every job and endpoint ever made, oldest first, with billed minutes and USD; and how often each route was asked."""
    now = world.clock.now()
    job_rows = [_job(job, now) for job in reversed(world.jobs.all())]
    endpoint_rows = [_endpoint(each, now) for each in sorted(world.endpoints.all(), key=lambda each: each["number"])]
    return {
        "jobs": job_rows,
        "endpoints": endpoint_rows,
        "usd": round(sum(row["usd"] for row in [*job_rows, *endpoint_rows]), 6),
        "requests": dict(sorted(world.requests.items())),
    }


def _job(job: dict[str, Any], now: float) -> dict[str, Any]:
    billed, micro = jobs.bill(job, now)
    return {
        "id": job["id"],
        "namespace": job["namespace"],
        "labels": job["spec"]["labels"],
        "flavor": job["spec"]["flavor"],
        "stage": jobs.life(job, now).stage,
        "minutes": billed,
        "usd": micro / 1e6,
    }


def _endpoint(endpoint: dict[str, Any], now: float) -> dict[str, Any]:
    billed, usd = endpoints.bill(endpoint, now)
    return {
        "name": endpoint["name"],
        "namespace": endpoint["namespace"],
        "state": "deleted" if endpoint["deleted"] is not None else endpoints.state(endpoint, now),
        "minutes": billed,
        "usd": round(usd, 6),
    }
