"""The door to Hugging Face: Jobs, repositories of the Hub, Inference Endpoints. The only place with the vendor's SDK is behind it.

`connect(spec, data)` gives a `Hub` with three parts: `jobs`, `repositories`, `endpoints`. What all of them promise:
one request a call that acts, never repeated by itself (the flow retries); an explicit time-out; Temporary, Permanent or
`OutcomeUnknown` with what, where and what to do; no token, secret or signed address in any text.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from controller.clients.hugging_face_endpoints import Endpoints
from controller.clients.hugging_face_jobs import Jobs
from controller.clients.hugging_face_repositories import Repositories
from controller.clients.hugging_face_session import OutcomeUnknown, Session
from controller.vendors import HuggingFace

__all__ = ["Hub", "OutcomeUnknown", "connect"]


class Hub:
    """The open door. `session.namespace()` says who pays; `session.reference` which reference the token comes from."""

    def __init__(self, spec: HuggingFace, data: Path, now: Callable[[], datetime]) -> None:
        self.session = Session(spec.url, spec.inference_endpoints_url, spec.namespace, spec.token, data)
        self.jobs = Jobs(self.session, now)
        self.repositories = Repositories(self.session, data / "hugging_face")
        self.endpoints = Endpoints(self.session)


def connect(spec: HuggingFace, data: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Hub:
    """Calls nobody yet. `data` is the environment's data folder (secret files, kept downloads); `now` dates price lists."""
    return Hub(spec, data, now)
