"""The last good route table on disk, so that the proxy serves it whatever happens to the control plane."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

from .checks import problems
from .files import write_durably
from .table import RouteTable, decode


class RouteFile:
    """`routes.json` of a data directory, and `routes.json.previous` in case it cannot be read."""

    def __init__(self, data: Path) -> None:
        self._path = data / "routes.json"
        self._previous = data / "routes.json.previous"

    def load(self) -> tuple[RouteTable, bytes] | None:
        """The newest table that is whole. What had to be passed over is said."""
        for path in (self._path, self._previous):
            try:
                return read_table(path)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                print(f"proxy: {path} is passed over: {error}", file=sys.stderr, flush=True)
        return None

    def lock(self) -> int:
        """Wait until no other worker replaces the table; closing the descriptor ends it."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def store(self, raw: bytes, replaced: bytes | None) -> None:
        """Durable when this returns. The replaced table is written from memory: its file may be the torn one."""
        if replaced is not None:
            write_durably(self._previous, replaced)
        write_durably(self._path, raw)


def read_table(path: Path) -> tuple[RouteTable, bytes]:
    """A table from a file; ValueError says everything that is wrong with it."""
    raw = path.read_bytes()
    table = decode(raw)
    found = problems(table)
    if found:
        raise ValueError("; ".join(found))
    return table, raw
