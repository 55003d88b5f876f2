"""What every route of the double takes and gives: a request whose body has arrived, an answer, or a refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from controller.testing.hugging_face.accounts import Account
    from controller.testing.hugging_face.world import World


class Refused(Exception):
    """The vendor says no. `code` and `message` travel in its own headers, X-Error-Code and X-Error-Message."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers or {})

    def answer(self) -> Answer:
        told = {"X-Error-Message": self.message.encode("ascii", "replace").decode().replace("\n", " ")}
        if self.code:
            told["X-Error-Code"] = self.code
        return Answer(self.status, {"error": self.message}, headers={**told, **self.headers})


@dataclass
class Answer:
    """One of `content` (JSON), `text`, `file` (path, first byte, number of bytes) or `stream`; nothing = an empty body."""

    status: int = 200
    content: Any = None
    text: bytes | None = None
    file: tuple[Path, int, int] | None = None
    stream: Iterator[bytes] | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """`body` is at its beginning and complete; `hidden_after` is set by a lag: what is younger is not listed (Unix seconds)."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: IO[bytes]
    size: int
    account: Account | None = None
    hidden_after: float | None = None

    def first(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.first(name).lower() in ("1", "true")

    def json(self) -> dict[str, Any]:
        """Raises Refused (400) when the body is not a JSON object."""
        try:
            found = json.loads(self.body.read() or b"{}")
        except ValueError as error:
            raise Refused(400, f"Invalid JSON: {error}") from None
        if not isinstance(found, dict):
            raise Refused(400, f"Expected an object, received {type(found).__name__}")
        return found


Handle = Callable[..., Answer]
Table = list[tuple[str, str, Handle]]
"""Method, path pattern, function."""


class Routes:
    """Method and path pattern -> function. `{name}` is one segment; `{name:rest}` the rest of the path, slashes included."""

    def __init__(self, *tables: Table) -> None:
        self._routes = [(method, _pattern(path), handle) for table in tables for method, path, handle in table]

    def answer(self, world: World, request: Request) -> Answer:
        """Raises Refused: 404 where nothing is, 405 where only other methods are."""
        other = []
        for method, pattern, handle in self._routes:
            if match := pattern.fullmatch(request.path):
                if method == request.method:
                    return handle(world, request, **{name: unquote(value or "") for name, value in match.groupdict().items()})
                other.append(method)
        if other:
            raise Refused(405, f"{request.method} is not allowed here, only {', '.join(sorted(other))}")
        raise Refused(404, f"Sorry, we can't find the page you are looking for: {request.method} {request.path}")


def _pattern(path: str) -> re.Pattern[str]:
    out = ""
    for part in re.split(r"(\{[^}]+\})", path):
        if part.startswith("{"):
            name, _, form = part[1:-1].partition(":")
            out += f"(?P<{name}>{'.+' if form == 'rest' else '[^/]+'})"
        else:
            out += re.escape(part)
    return re.compile(out)
