"""Repositories of the double: commits whose trees name contents by sha256, contents once each in one folder.

A file is regular (its git blob id is that of its content) or large (its blob is a Git LFS pointer, its content is known by sha256).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from controller.testing.hugging_face.accounts import object_id
from controller.testing.hugging_face.disk import Shelf
from controller.testing.hugging_face.exchange import Refused

KINDS = ("model", "dataset", "space")
PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
CHUNK = 1 << 20
_LARGE = "7z arrow bin ckpt gguf gz h5 msgpack npy npz onnx parquet pickle pkl pt pth safetensors zip"
GIT_ATTRIBUTES = "".join(f"*.{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in _LARGE.split())

_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_OID = re.compile(r"[0-9a-f]{7,40}")


class Contents:
    """Every content there is, by sha256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        try:
            return self.path(sha256).stat().st_size
        except OSError:
            return None

    def keep(self, source: IO[bytes], sha256: str | None = None) -> tuple[str, int]:
        """Stores what is read; with `sha256`, only if that is what it is. Raises ValueError otherwise."""
        found, size = hashlib.sha256(), 0
        temporary = self.folder / f"incoming-{os.urandom(8).hex()}"
        try:
            with temporary.open("wb") as out:
                while chunk := source.read(CHUNK):
                    found.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
            name = found.hexdigest()
            if sha256 is not None and name != sha256:
                raise ValueError(f"the content has sha256 {name}, {sha256} was announced")
            self.path(name).parent.mkdir(exist_ok=True)
            os.replace(temporary, self.path(name))
        finally:
            temporary.unlink(missing_ok=True)
        return name, size


class Repositories:
    """All repositories; a record is `{kind, id, private, gated, created, branches, tags, commits}`."""

    def __init__(self, folder: Path) -> None:
        self._shelf = Shelf(folder / "repositories")
        self.contents = Contents(folder / "contents")

    def get(self, kind: str, repo: str) -> dict[str, Any] | None:
        return self._shelf.get(f"{kind}/{repo}")

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self._shelf.values() if each["kind"] == kind]

    def create(self, kind: str, repo: str, *, private: bool, author: str, now: float, gated: bool = False) -> dict[str, Any]:
        """Raises Refused for a kind or a name that the vendor does not take. The caller has checked that it is not there."""
        if kind not in KINDS:
            raise Refused(400, f"Invalid repo type {kind!r}, expected one of {', '.join(KINDS)}")
        name = repo.partition("/")[2]
        if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
            raise Refused(
                400,
                "Only regular characters and '-', '_', '.' are accepted. '--' and '..' are forbidden. '-' and '.' cannot start or "
                'end the name. The name cannot end with ".git". Max length is 96.',
            )
        record: dict[str, Any] = {
            "kind": kind, "id": repo, "private": private, "gated": gated, "created": now, "branches": {}, "tags": {}, "commits": {}
        }  # fmt: skip
        attributes = self.regular(GIT_ATTRIBUTES.encode())
        self.commit(record, "main", {".gitattributes": attributes}, "initial commit", "", author, now)
        return record

    def remove(self, record: Mapping[str, Any]) -> None:
        self._shelf.remove(f"{record['kind']}/{record['id']}")

    def save(self, record: dict[str, Any]) -> None:
        self._shelf.put(f"{record['kind']}/{record['id']}", record)

    def regular(self, content: bytes) -> dict[str, Any]:
        """The tree entry of a regular file; its content is stored."""
        sha256, size = self.contents.keep(BytesIO(content))
        return {"oid": git_oid(content), "size": size, "sha256": sha256, "lfs": False}

    def large(self, sha256: str) -> dict[str, Any]:
        """The tree entry of a large file whose content is stored already."""
        size = self.contents.size(sha256)
        if size is None:
            raise Refused(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        return {"oid": git_oid(lfs_pointer(sha256, size)), "size": size, "sha256": sha256, "lfs": True}

    def commit(
        self, record: dict[str, Any], branch: str, tree: Mapping[str, Any], title: str, message: str, author: str, now: float
    ) -> str:
        """Moves the branch; returns the id of the new commit."""
        body = {
            "parent": record["branches"].get(branch),
            "title": title,
            "message": message,
            "author": author,
            "date": now,
            "number": len(record["commits"]),
            "tree": dict(sorted(tree.items())),
        }
        oid = hashlib.sha1(json.dumps(body, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        record["commits"][oid] = body
        record["branches"][branch] = oid
        self.save(record)
        return oid


def find_commit(record: Mapping[str, Any], revision: str) -> str:
    """The id of the commit that a branch, a tag or a (shortened) id names. Raises Refused (404, RevisionNotFound)."""
    for refs in (record["branches"], record["tags"]):
        if revision in refs:
            return str(refs[revision])
    if _OID.fullmatch(revision):
        found = [oid for oid in record["commits"] if oid.startswith(revision)]
        if len(found) == 1:
            return str(found[0])
    raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def history(record: Mapping[str, Any], oid: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """A commit and its ancestors, newest first."""
    while oid:
        body = record["commits"][oid]
        yield oid, body
        oid = body["parent"]


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_info(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    if not entry["lfs"]:
        return None
    return {"oid": entry["sha256"], "size": entry["size"], "pointerSize": len(lfs_pointer(entry["sha256"], entry["size"]))}


def time_of(seconds: float) -> str:
    """As the vendor writes times: 2026-11-21T06:10:00.123Z"""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def repo_object_id(record: Mapping[str, Any]) -> str:
    return object_id(f"{record['kind']}/{record['id']}")
