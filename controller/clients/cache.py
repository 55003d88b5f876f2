"""The door to the cache on disk (SQLite): folds by log position and plan rows. Losing it costs time, never truth.

A file of another format, or one that is damaged, is thrown away. One writer at a time: a pass holds `lock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

FORMAT = "3"


class Damaged(Exception):
    """The file is not a database any more."""


class Cache:
    """Tables `meta`, `folds` (projection, key -> JSON and digest) and `rows`. `path=None` keeps it in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock_file = path.with_suffix(".lock") if path else None
        self._locked = 0
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connect()
        except (sqlite3.DatabaseError, Damaged):
            self.discard()

    def discard(self) -> None:
        """Throws everything away and begins anew."""
        if self.path:
            for ending in ("", "-wal", "-shm"):
                Path(f"{self.path}{ending}").unlink(missing_ok=True)
        self._connect()

    def _connect(self) -> None:
        self.db = sqlite3.connect(str(self.path) if self.path else ":memory:", isolation_level=None, timeout=30)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=OFF")  # a cache: what a power cut takes is folded again
        self.db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT)")
        if self.meta("format") != FORMAT:
            for table in ("folds", "rows"):
                self.db.execute(f"DROP TABLE IF EXISTS {table}")
            self.db.execute("DELETE FROM meta")
            self.set_meta(format=FORMAT)
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS folds (name TEXT, key TEXT, value BLOB, digest TEXT, PRIMARY KEY (name, key)) WITHOUT ROWID"
        )
        self.db.execute("CREATE TABLE IF NOT EXISTS rows (address TEXT PRIMARY KEY, cells BLOB) WITHOUT ROWID")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Passes over the same data folder one after the other, whatever process they run in. May be nested."""
        if not self._lock_file or self._locked:
            yield
            return
        assert self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._lock_file, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._locked += 1
            try:
                if not self.path.exists():  # somebody removed the data folder: it only costs time
                    self._connect()
                yield
            finally:
                self._locked -= 1

    def _all(self, query: str, *values: str) -> list[Any]:
        """Rows of a query. Raises Damaged."""
        try:
            return self.db.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise Damaged(str(error)) from error

    # -- meta ----------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str:
        found = self._all("SELECT value FROM meta WHERE key = ?", key)
        return str(found[0][0]) if found else ""

    def set_meta(self, **values: str) -> None:
        self.db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(values.items()))

    # -- folds ---------------------------------------------------------------------------------------------------

    def fold(self, name: str, key: str) -> dict[str, Any] | None:
        found = self._all("SELECT value FROM folds WHERE name = ? AND key = ?", name, key)
        return msgspec.json.decode(found[0][0]) if found else None

    def fold_keys(self, name: str) -> list[str]:
        return [key for (key,) in self._all("SELECT key FROM folds WHERE name = ? ORDER BY key", name)]

    def fold_digests(self, name: str) -> dict[str, str]:
        return dict(self._all("SELECT key, digest FROM folds WHERE name = ?", name))

    def keep_folds(self, changed: Iterable[tuple[str, str, bytes, str]], **meta: str) -> None:
        """(name, key, JSON, digest) of everything that changed, and the position, in one transaction."""
        with self._transaction():
            self.db.executemany("INSERT OR REPLACE INTO folds VALUES (?, ?, ?, ?)", changed)
            self.set_meta(**meta)

    def forget_folds(self) -> None:
        with self._transaction():
            self.db.execute("DELETE FROM folds")
            self.db.execute("DELETE FROM meta WHERE key IN ('position', 'tip')")

    # -- rows ----------------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[Any, ...]]:
        for (cells,) in self._all("SELECT cells FROM rows"):
            yield _decode_row(cells)

    def keep_rows(self, changed: Sequence[tuple[str, Sequence[Any]]], gone: Iterable[str]) -> None:
        with self._transaction():
            encoded = [(address, _encode_row(cells)) for address, cells in changed]
            self.db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", encoded)
            self.db.executemany("DELETE FROM rows WHERE address = ?", [(address,) for address in gone])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise Damaged(str(error)) from error

    def close(self) -> None:
        self.db.close()


_encode_row = msgspec.msgpack.Encoder(enc_hook=str).encode
_decode_row = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
