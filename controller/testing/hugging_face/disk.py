"""State of the double on disk, so that it survives a restart: one JSON file a thing, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote


class Shelf:
    """A mapping of names to JSON objects in one folder. Everything is read once; `put` writes through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._things: dict[str, dict[str, Any]] = {
            unquote(path.stem): json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def get(self, name: str) -> dict[str, Any] | None:
        return self._things.get(name)

    def values(self) -> list[dict[str, Any]]:
        return list(self._things.values())

    def put(self, name: str, thing: dict[str, Any]) -> None:
        self._things[name] = thing
        path = self._path(name)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(thing, ensure_ascii=False), encoding="utf-8")
        os.replace(temporary, path)

    def remove(self, name: str) -> None:
        self._things.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe='')}.json"


class Clock:
    """Unix seconds that a test can move forward; how far is kept, so that bills do not shrink at a restart."""

    def __init__(self, shelf: Shelf, base: Any) -> None:
        self._shelf, self._base = shelf, base
        self._ahead = float((shelf.get("clock") or {}).get("ahead", 0.0))

    def now(self) -> float:
        return float(self._base()) + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds
        self._shelf.put("clock", {"ahead": self._ahead})
