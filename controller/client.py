"""For agents: the headers that let the proxy see a request as a turn of a session. Imports nothing of ours, and little else.

from openai import OpenAI
from controller.client import SessionContext

session = SessionContext("chat-42", task_id="fix-the-build")
client = OpenAI(base_url="http://127.0.0.1:5800/v1", api_key="tk-...")
session.set_timing(pre_ms=120)  # the agent's own work before this request
client.chat.completions.create(model="feature_dev", messages=[...], extra_headers=session.get_headers())
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

DEFAULT_HEADERS: Mapping[str, str] = {
    "session_id": "X-Session-ID",
    "task_id": "X-Task-ID",
    "client_id": "X-Client-ID",
    "timing_pre_ms": "X-Timing-Pre-Ms",
    "timing_post_ms": "X-Timing-Post-Ms",
}


class SessionContext:
    """One conversation. The proxy keeps it on one model version and, with affinity, on one replica.

    `headers_config` renames headers: it maps keys of `DEFAULT_HEADERS` to the names that the proxy was told.
    Raises ValueError for an unknown key, and for an id with characters that a header cannot hold.
    """

    def __init__(
        self,
        session_id: str | None = None,
        task_id: str | None = None,
        *,
        client_id: str | None = None,
        headers_config: Mapping[str, str] | None = None,
    ) -> None:
        unknown = sorted(set(headers_config or {}) - set(DEFAULT_HEADERS))
        if unknown:
            raise ValueError(f"headers_config: {', '.join(unknown)} is not known; there are {', '.join(DEFAULT_HEADERS)}")
        self.session_id = session_id if session_id is not None else uuid.uuid4().hex
        self.task_id = task_id
        self.client_id = client_id
        self._names = {**DEFAULT_HEADERS, **(headers_config or {})}
        self._timing: dict[str, float] = {}
        for name, value in (("session_id", self.session_id), ("task_id", task_id), ("client_id", client_id)):
            if value is not None and not (value and value.isascii() and value.isprintable() and len(value) <= 256):
                raise ValueError(f"{name} is 1 to 256 printable ASCII characters, not {value!r}")

    def set_timing(self, pre_ms: float | None = None, post_ms: float | None = None) -> None:
        """Milliseconds of the agent's own work: before the next request, and after the answer to the last one.

        They go with the next request and no further. Raises ValueError for what is not a time.
        """
        for name, value in (("timing_pre_ms", pre_ms), ("timing_post_ms", post_ms)):
            if value is None:
                continue
            if not 0 <= value < 86_400_000:
                raise ValueError(f"{name} is a number of milliseconds below a day, not {value!r}")
            self._timing[name] = value

    def get_headers(self) -> dict[str, str]:
        """For `extra_headers` of the OpenAI and Anthropic clients, or of any other HTTP client."""
        timing, self._timing = self._timing, {}
        values = {"session_id": self.session_id, "task_id": self.task_id, "client_id": self.client_id}
        headers = {self._names[name]: value for name, value in values.items() if value is not None}
        return {**headers, **{self._names[name]: f"{value:g}" for name, value in timing.items()}}
