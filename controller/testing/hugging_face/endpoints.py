"""Inference Endpoints of the double: one name per namespace, states that follow the clock, and minutes that are billed.

What they serve is not the double's business: `Options.serving_url` is the address that a running endpoint tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.testing.hugging_face.disk import Shelf
from controller.testing.hugging_face.exchange import Refused
from controller.testing.hugging_face.prices import endpoint_hourly, minutes
from controller.testing.hugging_face.repositories import time_of

NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_TYPES = ("public", "authenticated", "private")


class Endpoints:
    """All endpoints, deleted ones too (for the bill). `periods` are those in which one was initializing or running."""

    def __init__(self, folder: Path) -> None:
        self._shelf = Shelf(folder / "endpoints")

    def all(self) -> list[dict[str, Any]]:
        return self._shelf.values()

    def find(self, namespace: str, name: str) -> dict[str, Any] | None:
        found = [each for each in self.all() if each["namespace"] == namespace and each["name"] == name and each["deleted"] is None]
        return found[0] if found else None

    def get(self, namespace: str, name: str) -> dict[str, Any]:
        """Raises Refused (404)."""
        found = self.find(namespace, name)
        if found is None:
            raise Refused(404, f"Endpoint {name} not found")
        return found

    def save(self, endpoint: dict[str, Any]) -> None:
        self._shelf.put(f"{endpoint['namespace']}/{endpoint['name']}/{endpoint['number']}", endpoint)


def state(endpoint: Mapping[str, Any], now: float) -> str:
    if endpoint["state"] == "on":
        return "initializing" if now < endpoint["ready"] else "running"
    return str(endpoint["state"])


def bill(endpoint: Mapping[str, Any], now: float) -> tuple[int, float]:
    """Billed minutes, and USD: each period from its start, every started minute, times the replicas that are kept."""
    billed = sum(minutes((now if end is None else end) - start) for start, end in endpoint["periods"])
    return billed, billed * endpoint["hourly"] / 60 * replicas(endpoint)


def shown(endpoint: Mapping[str, Any], now: float, serving_url: str) -> dict[str, Any]:
    current, wanted = state(endpoint, now), endpoint["payload"]
    told = {"url": serving_url.replace("{name}", endpoint["name"])} if current in ("running", "scaledToZero") else {}
    ready = replicas(endpoint) if current == "running" else 0
    return {
        "name": endpoint["name"],
        "type": wanted["type"],
        "accountId": None,
        "provider": wanted["provider"],
        "compute": wanted["compute"],
        "model": {**wanted["model"], "task": wanted["model"].get("task"), "secrets": {}},
        "healthRoute": "/health",
        "tags": wanted.get("tags") or [],
        "status": {
            "createdAt": time_of(endpoint["created"]),
            "updatedAt": time_of(endpoint["updated"]),
            "createdBy": endpoint["by"],
            "updatedBy": endpoint["by"],
            "state": current,
            "message": f"Endpoint is {current}",
            "readyReplica": ready,
            "targetReplica": replicas(endpoint) if endpoint["state"] == "on" else 0,
            **told,
        },
    }


def replicas(endpoint: Mapping[str, Any]) -> int:
    return max(1, int(endpoint["payload"]["compute"]["scaling"].get("minReplica") or 0))


def accepted(wanted: Mapping[str, Any]) -> float:
    """USD per hour and replica. Raises Refused (400)."""
    name = wanted.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused(400, f"Invalid name {name!r}: 1 to 32 lower-case letters, digits and '-', which cannot start or end it")
    try:
        compute, provider, model = wanted["compute"], wanted["provider"], wanted["model"]
        hourly = endpoint_hourly(
            provider["vendor"], provider["region"], compute["accelerator"], compute["instanceType"], compute["instanceSize"]
        )
        repository, framework, image = model["repository"], model["framework"], model["image"]
        scaling = compute["scaling"]
        least, most = scaling.get("minReplica", 1), scaling.get("maxReplica", 1)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(400, f"missing field {error}") from None
    if hourly is None:
        where = f"{provider['vendor']!r} - {provider['region']!r}"
        what = f"{compute['accelerator']!r} - {compute['instanceType']!r} - {compute['instanceSize']!r}"
        raise Refused(400, f"Instance compute {what} in {where} not found")
    if (
        not isinstance(repository, str)
        or repository.count("/") > 1
        or not isinstance(framework, str)
        or not isinstance(image, dict)
    ):
        raise Refused(400, "model needs repository, framework and image")
    if wanted.get("type", "authenticated") not in _TYPES:
        raise Refused(400, f"type is one of {', '.join(_TYPES)}")
    if not isinstance(least, int) or not isinstance(most, int) or not 0 <= least <= most or most < 1:
        raise Refused(400, f"minReplica {least!r} and maxReplica {most!r} are not 0 <= minReplica <= maxReplica")
    return hourly
