"""Resolves an endpoint's key reference at the moment it is used; the value goes into one header and nowhere else."""

from __future__ import annotations

import os
import time
from pathlib import Path

_SECONDS = 1.0  # a reference is resolved at most this often, so a rotated key is picked up without a reload


class KeyMissing(Exception):
    """The reference leads nowhere. Its text names the reference, never a value."""


class Credential:
    """The header line that an endpoint wants its key in."""

    __slots__ = ("_line", "_reference", "_scheme", "_until")

    def __init__(self, reference: str, auth: str) -> None:
        self._reference = reference
        self._scheme = b"x-api-key: " if auth == "x-api-key" else b"authorization: Bearer "
        self._line = b""
        self._until = 0.0 if reference else float("inf")

    def line(self) -> bytes:
        """Raises KeyMissing."""
        now = time.monotonic()
        if now >= self._until:
            self._line = self._scheme + resolve(self._reference).encode("ascii") + b"\r\n"
            self._until = now + _SECONDS
        return self._line


def resolve(reference: str) -> str:
    """The key behind `env:NAME` or `file:PATH`; raises KeyMissing."""
    source, _, name = reference.partition(":")
    value = os.environ.get(name, "") if source == "env" else _from_file(name)
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable():
        raise KeyMissing(f"the key {reference} is not set or not usable")
    return value


def _from_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
