"""A request as it goes on to a target: the client's own bytes, with another model, another key and another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .body import with_model

if TYPE_CHECKING:
    from .live import Target
    from .outbound import Headers

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# The answer must stay readable for the usage, so no encoding is asked for; the client's keys are not the vendor's.
_DROPPED = HOP_BY_HOP | {
    b"accept-encoding",
    b"api-key",
    b"authorization",
    b"content-length",
    b"expect",
    b"host",
    b"x-api-key",
    b"x-turnout-variant",
}


class Forward:
    """What of a request is the same for every target; a fallback or a shadow is asked from the same object."""

    __slots__ = ("_body", "_lines", "_path", "_spans", "_with")

    def __init__(self, path: bytes, headers: Headers, body: bytes, spans: list[tuple[int, int]]) -> None:
        self._path = path  # after the /v1 that the endpoint's URL ends with
        named = named_by_connection(headers)
        self._lines = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] not in _DROPPED and header[0] not in named)
        self._body = body
        self._spans = spans
        self._with: tuple[str, bytes] | None = None

    def body(self, target: Target) -> bytes:
        if self._with is None or self._with[0] != target.model:
            self._with = (target.model, with_model(self._body, self._spans, target.model))
        return self._with[1]

    def head(self, target: Target) -> bytes:
        """Raises KeyMissing."""
        upstream = target.upstream
        return b"POST %b%b HTTP/1.1\r\n%b%b%baccept-encoding: identity\r\ncontent-length: %d\r\n\r\n" % (
            upstream.prefix,
            self._path,
            upstream.host_line,
            upstream.authorization(),
            self._lines,
            len(self.body(target)),
        )


def named_by_connection(headers: Headers) -> set[bytes]:
    """Headers that a `Connection` header declares to be for this hop only."""
    return {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
