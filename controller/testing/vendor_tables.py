"""The state of a vendor's double: tables of JSON objects in memory, every change a line of one file, replayed at start."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO


class Tables:
    """Values are replaced, never changed in place: `freeze` can then keep an old world for the price of a copy of keys."""

    def __init__(self, path: Path | None) -> None:
        self._tables: dict[str, dict[str, Any]] = {}
        self._frozen: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._replay(path)
            self._compact(path)
            self._file = path.open("a", encoding="utf-8")

    def put(self, table: str, key: str, value: Mapping[str, Any]) -> None:
        with self._lock:
            self._tables.setdefault(table, {})[key] = dict(value)
            self._write(table, key, value)

    def drop(self, table: str, key: str) -> None:
        with self._lock:
            self._tables.get(table, {}).pop(key, None)
            self._write(table, key, None)

    def get(self, table: str, key: str) -> dict[str, Any] | None:
        return self._tables.get(table, {}).get(key)

    def all(self, table: str) -> list[dict[str, Any]]:
        """In the order in which they were first put."""
        with self._lock:
            return list(self._tables.get(table, {}).values())

    def freeze(self) -> None:
        """Keeps the world as it is now for `as_frozen`."""
        with self._lock:
            self._frozen = {name: dict(rows) for name, rows in self._tables.items()}

    @contextlib.contextmanager
    def as_frozen(self) -> Iterator[None]:
        """Reads within see the frozen world; what is written within is written to the real one."""
        with self._lock:
            real, self._tables = self._tables, {name: dict(rows) for name, rows in self._frozen.items()}
            before = {name: dict(rows) for name, rows in self._tables.items()}
            try:
                yield
            finally:
                for name, rows in self._tables.items():
                    changed = {key: row for key, row in rows.items() if before.get(name, {}).get(key) is not row}
                    real.setdefault(name, {}).update(changed)
                self._tables = real

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, table: str, key: str, value: Any) -> None:
        if self._file is not None:
            self._file.write(json.dumps([table, key, value], ensure_ascii=False) + "\n")
            self._file.flush()

    def _replay(self, path: Path) -> None:
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                table, key, value = json.loads(line)
            except ValueError:
                continue  # the last line of a process that was killed
            rows = self._tables.setdefault(table, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value

    def _compact(self, path: Path) -> None:
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for table, rows in self._tables.items():
                for key, value in rows.items():
                    file.write(json.dumps([table, key, value], ensure_ascii=False) + "\n")
        os.replace(temporary, path)
