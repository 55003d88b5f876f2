"""The door to rows: LangSmith, the Hub and files of the repository, read at one revision and kept as JSON lines by their digest.

What was checked and priced is what is trained on: the file that `read` keeps is what a backend gets, and where it is gone it is
read again at its revision and has to be the same.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.clients.huggingface import Hub
from controller.clients.langsmith import LangSmith
from controller.errors import Permanent
from controller.settings import Settings

FRESH_SECONDS = 60.0
"""A source is not asked again for so long."""
LFS = b"version https://git-lfs.github.com/spec/"
Objects = Callable[[str, str], bytes]
"""(path, object id) -> the content. Raises Permanent for one that is not there."""


@dataclass(frozen=True)
class Read:
    """Rows at one revision; `digest` covers their content and order, `path` is the JSON-lines file of them."""

    name: str
    revision: str
    digest: str
    rows: tuple[dict[str, Any], ...]
    path: Path


class Datasets:
    """Raises Temporary (ask again later), Permanent (it is not there, or no data set)."""

    def __init__(self, folder: Path, langsmith: Callable[[], LangSmith], hub: Callable[[], Hub], objects: Objects) -> None:
        self.folder, self._langsmith, self._hub, self._objects = folder, langsmith, hub, objects
        self.fresh_seconds = FRESH_SECONDS
        self._kept: dict[tuple[Any, ...], tuple[float, Read]] = {}

    def read(
        self, source: str | None, files: Mapping[str, str] | None = None, split: str | None = None, revision: str = ""
    ) -> Read:
        """`source` is ls://NAME or hf://ORG/NAME, each perhaps with @REVISION; or `files` of the repository with their objects."""
        files = files or {}
        key = (source, tuple(files.items()), split, revision)
        kept = self._kept.get(key)
        if kept is None or time.monotonic() - kept[0] > self.fresh_seconds:
            kept = (time.monotonic(), self._read(source, files, split, revision))
            self._kept[key] = kept
        return kept[1]

    def path(self, source: str | None, files: Sequence[str], split: str | None, revision: str, digest: str) -> Path:
        """The file of rows that were read before, on a fresh machine too. Raises Permanent when they are not the same any more."""
        path = self._path(digest)
        if path.is_file():
            return path
        found = self._read(source, dict(zip(files, revision.split(), strict=False)), split, revision)
        if found.digest != digest:
            raise Permanent(f"{found.name} at {revision} is not what it was when it was checked; use a new name for another try")
        return found.path

    def _read(self, source: str | None, files: Mapping[str, str], split: str | None, revision: str) -> Read:
        if source is None:
            rows = [row for path, found in files.items() for row in rows_of(path, self._objects(path, found))]
            return self._keep(", ".join(files), " ".join(files.values()), rows)
        scheme, _, rest = source.partition("://")
        name, _, named = rest.partition("@")
        at = revision or named
        if scheme == "ls":
            found = self._langsmith().dataset(name, at or "latest", split)
            return self._keep(found.name, found.revision, found.rows())
        there = self._hub().repositories.rows(name, revision=at or "main", split=split)
        return self._keep(name, there.revision, list(there.rows))

    def _keep(self, name: str, revision: str, rows: list[dict[str, Any]]) -> Read:
        content = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = path.with_suffix(".draft")
            draft.write_bytes(content)
            draft.replace(path)
        return Read(name, revision, digest, tuple(rows), path)

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.jsonl"


def rows_of(name: str, content: bytes) -> list[dict[str, Any]]:
    """Of one JSON-lines file. Raises Permanent with the line.

    Lines end where JSON lines end: text in a row may hold U+2028 and its like, at which `str.splitlines` would cut.
    """
    if content.startswith(LFS):
        raise Permanent(f"{name} is a pointer of Git LFS, not the rows; commit the rows themselves, or put them on the Hub")
    found = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if line.strip():
            try:
                found.append(json.loads(line.decode()))
            except UnicodeDecodeError as error:
                told = f"byte {error.object[error.start]:#04x} at column {error.start + 1}"
                raise Permanent(f"{name}:{number}: is not UTF-8 ({told}); save the file as UTF-8") from None
            except ValueError as error:
                raise Permanent(f"{name}:{number}: is not JSON ({error}); allowed is one object a line") from None
    return found


def objects_of(settings: Settings) -> Objects:
    """Content of files of the repository, by the objects that a commit named: what was planned, whatever came after."""

    def read(path: str, found: str) -> bytes:
        from controller.clients.git import Repository

        try:
            return Repository(settings.data).read(found)
        except (KeyError, ValueError):
            told = "is not in this clone as it is named; commit it, or fetch the commit that has it"
            raise Permanent(f"{path} ({found[:10]}) {told}") from None

    return read


def connect(settings: Settings) -> Datasets:
    """Calls nobody yet."""
    from controller.clients import langsmith
    from controller.clients.training import hub_of

    return Datasets(
        settings.data / "training" / "datasets",
        functools.cache(lambda: langsmith.connect(settings)),
        functools.cache(lambda: hub_of(settings)),
        objects_of(settings),
    )
