"""A request as it goes on to a target: the client's own bytes, with another model, another key and another host."""

from __future__ import annotations

from .body import with_model
from .replica import Replica
from .strategies import prefix_key


class Forward:
    """What of a request is the same for every target; a fallback or a shadow is asked from the same object.

    `repeatable` = a try that brought no byte of an answer may be made again elsewhere. Asking a model for a text changes
    nothing but the bill; of any other POST nobody knows. `judged` = it counts for the variant that answers.
    """

    __slots__ = ("_body", "_lines", "_method", "_path", "_spans", "_with", "judged", "repeatable")

    def __init__(
        self,
        method: bytes,
        onward: bytes,
        lines: bytes,
        body: bytes,
        spans: list[tuple[int, int]],
        *,
        repeatable: bool = True,
        judged: bool = True,
    ) -> None:
        self._method = method
        self._path = onward  # after the /v1 that the endpoint's URL ends with, with the query
        self._lines = lines
        self._body = body
        self._spans = spans
        self._with: tuple[str, bytes] | None = None
        self.repeatable = repeatable
        self.judged = judged

    @property
    def size(self) -> int:
        """Of the client's body, in bytes."""
        return len(self._body)

    def affinity(self, kind: str, session: str | None) -> bytes | None:
        """What requests that should meet the same KV cache have in common. Without a session it is how they begin."""
        if not kind:
            return None
        if kind == "session" and session is not None:
            return session.encode("utf-8", "surrogateescape")
        return prefix_key(self._body)

    def body(self, model: str) -> bytes:
        if not self._spans:
            return self._body
        if self._with is None or self._with[0] != model:
            self._with = (model, with_model(self._body, self._spans, model))
        return self._with[1]

    def written(self, model: str, authorization: bytes, replica: Replica) -> tuple[bytes, bytes]:
        """Head and body, as they go to this replica."""
        body = self.body(model)
        length = b"content-length: %d\r\n" % len(body) if body or self._method not in (b"GET", b"HEAD") else b""
        head = b"%b %b%b HTTP/1.1\r\n%b%b%baccept-encoding: identity\r\n%b\r\n" % (
            self._method,
            replica.prefix,
            self._path,
            replica.host_line,
            authorization,
            self._lines,
            length,
        )
        return head, body
