"""LangSmith's double itself: its routes, its keys and its clock. What a route does stands in the other modules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid5

from ..vendor_double import Double, Route
from ..vendor_http import Answer, Asked, Refused
from . import datasets, examples, feedback, ingestion, queries, sessions
from .bodies import text
from .identity import KEY, NAMESPACE, TENANT
from .multipart import too_large

OPEN = ("/info", "/info/health", "/ok")
"""What the vendor answers without a key."""


class LangSmithApi(Double):
    """`keys`: which keys it knows. `now`: its clock; every stamp it gives is later than the one before.

    `organisation_keys`: keys that belong to no workspace, so that a request must name one. `largest`: bytes of a request, as
    they are and unpacked. The vendor speaks of 25 MB and publishes no number; a test may set less.
    """

    name = "langsmith"
    prefixes = ("/api/v1", "/api")

    def __init__(
        self,
        data: Path | None = None,
        port: int = 0,
        keys: Collection[str] = (KEY,),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        organisation_keys: Collection[str] = (),
    ) -> None:
        super().__init__(data, port)
        self.keys = frozenset(keys)
        self.organisation_keys = frozenset(organisation_keys)
        self.largest = 25 * 1024 * 1024
        self._now = now
        self._last = datetime.min.replace(tzinfo=UTC)
        self._clock = threading.Lock()

    @property
    def key(self) -> str:
        """One that it knows."""
        return min(self.keys)

    def stamp(self) -> str:
        """Now, but always later than the stamp before: versions of a dataset are told apart by their time."""
        with self._clock:
            self._last = max(self._now(), self._last + timedelta(microseconds=1))
            return str(text(self._last))

    def identify(self, kind: str, name: str) -> str:
        """A UUID for what was made without one; the stamp keeps it unique."""
        return str(uuid5(NAMESPACE, f"{kind}/{name}/{self.stamp()}"))

    def check(self, asked: Asked, route: Route) -> None:
        if route.path in OPEN:
            return
        bearer = asked.headers.get("authorization", "").removeprefix("Bearer ")
        key = asked.headers.get("x-api-key") or bearer
        if not key:
            raise Refused(Answer(401, {"detail": "Authentication required"}))
        if key not in self.keys | self.organisation_keys:
            raise Refused(Answer(401, {"detail": "Invalid token"}))
        workspace = asked.headers.get("x-tenant-id", "")
        if not workspace and key in self.organisation_keys:
            raise Refused(Answer(403, {"error": "org_scoped_key_requires_workspace"}))
        if workspace and workspace != TENANT:
            raise Refused(Answer(403, {"error": "Forbidden"}))
        if len(asked.body) > self.largest:
            raise too_large(self.largest)

    def error(self, status: int, message: str) -> Answer:
        headers = {"Retry-After": "1"} if status == 429 else {}
        return Answer(status, {"detail": message}, headers)


def _info(api: LangSmithApi, asked: Asked) -> Answer:
    """The flags make the SDK use what hosted LangSmith has: multipart ingestion with zstd, uploads of examples."""
    batch = {
        "use_multipart_endpoint": True,
        "scale_up_qsize_trigger": 1000,
        "scale_up_nthreads_limit": 16,
        "scale_down_nempty_trigger": 4,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
    }
    flags = {
        "zstd_compression_enabled": True,
        "dataset_examples_multipart_enabled": True,
        "examples_multipart_enabled": True,
        "ch_query_enabled": True,
        "sdb_query_enabled": False,
    }
    return Answer(200, {"version": "0.12.0", "batch_ingest_config": batch, "instance_flags": flags})


def _settings(api: LangSmithApi, asked: Asked) -> Answer:
    return Answer(200, {"id": TENANT, "display_name": "Double", "created_at": "2026-01-01T00:00:00+00:00", "tenant_handle": None})


def _healthy(api: LangSmithApi, asked: Asked) -> Answer:
    return Answer(200, {"ok": True})


LangSmithApi.routes = (
    Route("GET", "/info", _info),
    Route("GET", "/info/health", _healthy),
    Route("GET", "/ok", _healthy),
    Route("GET", "/settings", _settings),
    *sessions.ROUTES,
    *datasets.ROUTES,
    *examples.ROUTES,
    *ingestion.ROUTES,
    *queries.ROUTES,
    *feedback.ROUTES,
)
