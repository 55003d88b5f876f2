"""Resolves an endpoint's key reference at the moment it is used; the value goes into one header and nowhere else."""

from __future__ import annotations

import os
import time
from pathlib import Path

_SECONDS = 1.0  # a file is read at most this often, so a rotated key is picked up without a reload
_read: dict[str, tuple[float, str]] = {}


class KeyMissing(Exception):
    """The reference leads nowhere. Its text names the reference, never a value."""


def resolve(reference: str) -> str:
    """The key behind `env:NAME` or `file:PATH`."""
    source, _, name = reference.partition(":")
    value = os.environ.get(name, "") if source == "env" else _from_file(name)
    value = value.strip()
    if not value or not value.isascii() or not value.isprintable():
        raise KeyMissing(f"the key {reference} is not set or not usable")
    return value


def _from_file(path: str) -> str:
    now = time.monotonic()
    known = _read.get(path)
    if known is not None and now - known[0] < _SECONDS:
        return known[1]
    try:
        value = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        value = ""
    _read[path] = (now, value)
    return value
