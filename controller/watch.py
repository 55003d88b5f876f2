"""Tells the loop that a ref moved, by the operating system's own file events; nothing is polled."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

LOOK_SECONDS = 1.0


class RefWatch:
    """Watches the refs of a repository in a thread."""

    def __init__(self, common_dir: Path) -> None:
        self.common_dir = common_dir
        self._moved = threading.Event()
        self._end = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True, name="turnout-refs")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join(timeout=2)

    def _watch(self) -> None:
        from watchfiles import watch

        paths = [self.common_dir / "refs" / "heads", *(path for path in (self.common_dir / "packed-refs",) if path.exists())]
        # The default filter of watchfiles leaves out everything below `.git`.
        for changes in watch(
            *paths, watch_filter=None, debounce=50, step=10, stop_event=self._end, raise_interrupt=False, rust_timeout=5000
        ):
            if any(not path.endswith(".lock") for _, path in changes):
                self._moved.set()

    def wait(self, seconds: float | None) -> None:
        """Until a ref moves or `seconds` are over, and never longer than LOOK_SECONDS.

        The caller compares the refs each time: an event that came before the watch was set up, or that the system dropped, is
        noticed then. That costs microseconds.
        """
        self._moved.wait(LOOK_SECONDS if seconds is None else min(seconds, LOOK_SECONDS))
        self._moved.clear()
