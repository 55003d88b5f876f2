"""Tells the loop that a ref moved, by the operating system's own file events; nothing is polled."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class RefWatch:
    """Watches the refs of a repository in a thread. `wait` returns True when something moved."""

    def __init__(self, common_dir: Path, stopping: threading.Event) -> None:
        self.common_dir, self.stopping = common_dir, stopping
        self._moved = threading.Event()
        self._end = threading.Event()
        self._deadline: float | None = None

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
            *paths, watch_filter=None, debounce=50, step=1, stop_event=self._end, raise_interrupt=False, rust_timeout=5000
        ):
            if any(not path.endswith(".lock") for _, path in changes):
                self._moved.set()

    def wait(self, seconds: float | None) -> bool:
        """Until a ref moves, `seconds` are over (False), or the process is stopping."""
        end = time.monotonic() + seconds if seconds is not None else None
        while not self.stopping.is_set():
            left = 1.0 if end is None else min(1.0, end - time.monotonic())
            if left <= 0:
                return False
            if self._moved.wait(left):
                self._moved.clear()
                return True
        return False
