"""Answers that were paid for, one file each: an evaluation that is resumed pays nothing twice, also within one process.

A file is whole or not there. What could not be written (a full disk) is kept in memory, and nothing more is paid until it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from controller.clients.model_records import Reply
from controller.errors import Temporary

_FIELDS = {one.name for one in dataclasses.fields(Reply)}


class ReplyCache:
    """Replies by key. Safe for threads; processes may share a folder, and then at worst both pay for a key at the same moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self._unsaved: dict[str, Reply] = {}

    def get(self, key: str) -> Reply | None:
        """None also for a file that is damaged: it is paid again and replaced."""
        if key in self._unsaved:
            return self._unsaved[key]
        try:
            found = json.loads(self._path(key).read_text(encoding="utf-8"))
            return Reply(**{name: value for name, value in found.items() if name in _FIELDS})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Never raises: the answer is there, and losing it because of a disk would cost more."""
        try:
            self._write(key, reply)
        except OSError:
            with self._guard:
                self._unsaved[key] = reply

    def ready(self) -> None:
        """Raises Temporary while answers wait that cannot be written."""
        with self._guard:
            waiting = list(self._unsaved.items())
        for key, reply in waiting:
            try:
                self._write(key, reply)
            except OSError as error:
                where = f"{self._folder} cannot be written ({error.strerror or error})"
                raise Temporary(f"{where}: no further model is called until the answers that were paid can be kept") from error
            with self._guard:
                self._unsaved.pop(key, None)

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Who asks for a key while another thread does waits for that answer."""
        with self._guard:
            lock, users = self._busy.get(key, (threading.Lock(), 0))
            self._busy[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._busy.pop(key)
                if users > 1:
                    self._busy[key] = (lock, users - 1)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key[2:]}.json"

    def _write(self, key: str, reply: Reply) -> None:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dataclasses.asdict(reply), file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
