"""Where the files of a tree come from: a commit's objects, the files of a work tree, or a tree with edits not written yet.

`tree.py` reads specs through a source; the objects that specs name (`Kind.paths`) are found through it too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from controller.clients.git import Entry as Blob
from controller.clients.git import Repository
from controller.resource import digest

FOLDER, SYMLINK, SUBMODULE = 0o040000, 0o120000, 0o160000


class Source(Protocol):
    """Where blobs come from: a commit, or the files of a work tree (a preview)."""

    def entries(self, folder: str) -> list[Blob]: ...

    def read(self, blob: str) -> bytes: ...

    def size(self, blob: str) -> int: ...

    def at(self, path: str) -> Blob | None:
        """The one object at a path, a folder too; None when there is none."""
        ...


@dataclass(frozen=True)
class CommitSource:
    """Tree objects at a commit."""

    repository: Repository
    commit: str

    def entries(self, folder: str) -> list[Blob]:
        return self.repository.entries(self.commit, folder)

    def read(self, blob: str) -> bytes:
        return self.repository.read(blob)

    def size(self, blob: str) -> int:
        return self.repository.size(blob)

    def at(self, path: str) -> Blob | None:
        return self.repository.entry_at(self.commit, path)


@dataclass
class FilesSource:
    """Files instead of objects: a work tree for a preview, or a tree with edits that is not written yet."""

    files: Mapping[str, bytes]
    root: Path | None = None  # where other files that specs name are
    _ids: dict[str, bytes] = field(default_factory=dict)

    def entries(self, folder: str) -> list[Blob]:
        out = []
        for path in sorted(self.files):
            if path.startswith(f"{folder}/"):
                blob = digest(self.files[path].hex())
                self._ids[blob] = self.files[path]
                out.append(Blob(path, blob, 0o100644))
        return out

    def read(self, blob: str) -> bytes:
        return self._ids[blob]

    def size(self, blob: str) -> int:
        return len(self._ids[blob])

    def at(self, path: str) -> Blob | None:
        """A plain file under the id that git would give it, so that one which is committed as it is here is known."""
        place = self.root / path if self.root else None
        if place is not None and place.is_symlink():
            return Blob(path, "", SYMLINK)
        data = place.read_bytes() if place is not None and place.is_file() else self.files.get(path)
        if data is None:
            return None
        return Blob(path, hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest(), 0o100644)

    @staticmethod
    def of_work_tree(root: Path, folders: tuple[str, ...]) -> FilesSource:
        """Plain files below some folders; links are not followed."""
        found = {}
        for folder in folders:
            for path in sorted((root / folder).rglob("*")):
                if path.is_file() and not path.is_symlink():
                    found[path.relative_to(root).as_posix()] = path.read_bytes()
        return FilesSource(found, root)


@dataclass(frozen=True)
class EditedSource:
    """Another source with some files written or (None) removed: a tree that is not written yet."""

    base: Source
    files: Mapping[str, bytes | None]

    def entries(self, folder: str) -> list[Blob]:
        kept = [blob for blob in self.base.entries(folder) if blob.path not in self.files]
        new = [
            Blob(path, f"edit:{path}", 0o100644)
            for path, data in self.files.items()
            if data is not None and path.startswith(f"{folder}/")
        ]
        return sorted([*kept, *new])

    def read(self, blob: str) -> bytes:
        data = self.files[blob[5:]] if blob.startswith("edit:") else self.base.read(blob)
        assert data is not None
        return data

    def size(self, blob: str) -> int:
        return len(self.read(blob)) if blob.startswith("edit:") else self.base.size(blob)

    def at(self, path: str) -> Blob | None:
        if path in self.files:
            return Blob(path, f"edit:{path}", 0o100644) if self.files[path] is not None else None
        return self.base.at(path)
