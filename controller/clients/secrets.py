"""The only place where a secret reference becomes a value. Values never leave the clients."""

from __future__ import annotations

import os
from pathlib import Path

from controller.errors import Permanent, Temporary


def resolve(reference: str | None, data: Path) -> str:
    """`env:NAME`, `file:PATH` (relative to the environment's data folder). Raises Temporary when it is not there (yet)."""
    if not reference:
        return ""
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(rest)
        if value is None:
            raise Temporary(f"environment variable {rest} is not set (needed by {reference})")
        return value
    if scheme == "file":
        path = data / rest
        try:
            return path.read_text().strip()
        except OSError as error:
            raise Temporary(f"{path} cannot be read ({error.strerror}; needed by {reference})") from error
    raise Permanent(f"{reference} is not a reference that can be resolved here; allowed: env:NAME, file:PATH")
