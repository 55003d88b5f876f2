"""Base URLs of endpoints, taken apart for the renderers. Pure: `plan.py` and what it imports see no library that opens URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[^/:?#@\s\[\]]+)(?::(\d{1,5}))?(/[^?#\s]*)?", re.IGNORECASE)
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/:@=,")


@dataclass(frozen=True)
class Base:
    """`host` without brackets, in lower case; `netloc` as it was written; `path` without a slash at its end."""

    url: str
    tls: bool
    host: str
    port: int
    netloc: str
    path: str


def base(url: str) -> Base | None:
    """None for what is no plain http(s) URL."""
    found = _URL.fullmatch(url)
    if found is None or not 0 < int(found[3] or 80) < 65536:
        return None
    tls = found[1].lower() == "https"
    netloc = found[2] + (f":{found[3]}" if found[3] else "")
    port = int(found[3]) if found[3] else 443 if tls else 80
    return Base(url, tls, found[2].strip("[]").lower(), port, netloc, (found[4] or "").rstrip("/"))


def bases(endpoint: Mapping[str, Any]) -> list[Base | None]:
    """Those of an endpoint's replicas, or the one of its own URL."""
    return [base(url) for url in endpoint.get("replicas") or [endpoint["url"]]]


def encoded(text: str) -> str:
    """Percent-encoded, so that it is one word without separators wherever it stands."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode())
