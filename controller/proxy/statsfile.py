"""Keeps the figures on disk: at most every second while they change, at once when a guard trips, and on stop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from .accounts import Accounts
from .files import write_durably
from .stats import Kept, Stats

_SECONDS = 1.0


class StatsFile:
    """`stats.json` of a data directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._taken = 0  # snapshots are numbered, so that a slow write never replaces a newer one
        self._written = 0

    def load(self, clock: Callable[[], float]) -> Stats:
        """The figures of the last run. An unreadable file is put aside and said, and counting begins anew."""
        try:
            return Stats(clock, msgspec.json.decode(self._path.read_bytes(), type=Kept))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            print(f"proxy: {self._path} is not readable and was put aside: {error}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                self._path.replace(self._path.with_name(self._path.name + ".unreadable"))
        return Stats(clock)

    @staticmethod
    def read(path: Path) -> Kept | None:
        """The figures that another worker left; None where they cannot be read, which is said."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=Kept)
        except (OSError, ValueError) as error:
            print(f"proxy: {path} is passed over: {error}", file=sys.stderr, flush=True)
            return None

    def write(self, stats: Stats, accounts: Accounts) -> None:
        """Write now and wait for the disk."""
        self._write(*self._snapshot(stats, accounts))

    async def keep(self, stats: Stats, accounts: Accounts) -> None:
        """Write whenever something changed, off the event loop, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SECONDS)
            if stats.changed:
                await loop.run_in_executor(None, self._write, *self._snapshot(stats, accounts))

    def _snapshot(self, stats: Stats, accounts: Accounts) -> tuple[int, bytes]:
        stats.changed = False
        self._taken += 1
        return self._taken, stats.kept(accounts.kept())

    def _write(self, number: int, content: bytes) -> None:
        with self._lock:
            if number <= self._written:
                return
            try:
                write_durably(self._path, content)
            except OSError as error:
                print(f"proxy: {self._path} cannot be written: {error}", file=sys.stderr, flush=True)
                return
            self._written = number
