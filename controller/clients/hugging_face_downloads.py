"""Downloads from the Hugging Face Hub that go on where they were cut off, and the rows of dataset repositories.

The SDK starts every download anew; here a part is kept beside its target, under the hash of what it will be, and the whole is
verified by that hash before it gets its name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller.clients.hugging_face_session import Session
from controller.errors import Permanent, Temporary, listed

Progress = Callable[[int, int], None]
"""Bytes that are there, and bytes in all."""
CHUNK = 1 << 20
_ENDINGS = (".jsonl", ".json", ".parquet")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NOT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a dataset at one commit, and the files that they are from, in order."""

    revision: str
    files: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Target:
    """What the Hub says of a file before it is fetched."""

    commit: str
    etag: str
    size: int
    location: str


class Downloads:
    """`folder` keeps the files of datasets by commit; nothing in it is needed for longer than one wants to save a download."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder

    def file(self, repo: str, name: str, to: Path, revision: str, kind: str, progress: Progress | None) -> str:
        """Raises Temporary (what has arrived is kept, the next call goes on), Permanent."""
        told = progress or (lambda done, total: None)
        doing = f"download {name} of {kind} {repo} at {revision}"
        with self._session.call(doing, anonymous=True, transfer=True) as api:
            target = self._target(api, repo, name, revision, kind)
            part = to.with_name(f".{to.name}.{target.etag[:16]}.part")
            to.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(target, part, told)
        _verify(part, target, doing)
        os.replace(part, to)
        return target.commit

    def _target(self, api: Any, repo: str, name: str, revision: str, kind: str) -> _Target:
        from huggingface_hub import hf_hub_url

        address = hf_hub_url(repo, name, repo_type=kind, revision=revision, endpoint=self._session.url)
        found = api.get_hf_file_metadata(url=address, token=self._session.token() if self._session.reference else False)
        if not found.commit_hash or not found.etag or found.size is None:
            raise Temporary(
                f"Hugging Face: {name} of {repo} is described without commit, hash or size; is there a proxy in between?"
            )
        return _Target(found.commit_hash, found.etag, found.size, found.location)

    def _fetch(self, target: _Target, part: Path, told: Progress) -> None:
        """Appends what is missing."""
        from huggingface_hub import get_session, hf_raise_for_status

        done = part.stat().st_size if part.exists() else 0
        if done > target.size:
            part.unlink()
            done = 0
        told(done, target.size)
        if done == target.size and part.exists():
            return
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {}), **self._authorization(target)}
        with get_session().stream("GET", target.location, headers=headers) as answer, part.open("ab") as out:
            hf_raise_for_status(answer)
            if answer.status_code != 206:
                out.truncate(0)  # the whole comes, although only the rest was asked for
                done = 0
            for chunk in answer.iter_bytes(CHUNK):
                out.write(chunk)
                done += len(chunk)
                told(done, target.size)

    def _authorization(self, target: _Target) -> dict[str, str]:
        """Only for the Hub itself: the storage behind it is somebody else."""
        if self._session.reference is None or urlsplit(target.location).netloc != urlsplit(self._session.url).netloc:
            return {}
        return {"Authorization": f"Bearer {self._session.token()}"}

    def rows(self, repo: str, commit: str, split: str | None, names: Sequence[str]) -> Rows:
        """All rows of a split (None: of every data file). Raises Temporary, Permanent with file and line."""
        data = [name for name in names if name.endswith(_ENDINGS) and name.rpartition("/")[2] not in _NOT_DATA]
        if not data:
            raise Permanent(f"dataset {repo} has no {', '.join(_ENDINGS)} file at {commit[:10]}; found {listed(names)}")
        chosen = [name for name in data if split is None or split in _words(name)]
        if not chosen:
            raise Permanent(f"dataset {repo} has no file of the split {split!r} at {commit[:10]}; data files are {listed(data)}")
        if any(name.endswith(".parquet") for name in chosen):
            _require_parquet(repo)
        rows: list[dict[str, Any]] = []
        for name in chosen:
            path = self._folder / "datasets" / repo / commit / name
            if not path.exists():
                self.file(repo, name, path, commit, "dataset", None)
            rows += _READERS[name[name.rindex(".") :]](path, f"{repo}: {name}")
        return Rows(commit, tuple(chosen), tuple(rows))


def _verify(part: Path, target: _Target, doing: str) -> None:
    """By the hash that the Hub names: sha256 of large files, git's blob id of the others (a mirror may have neither)."""
    large = len(target.etag) == 64
    found = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % target.size, usedforsecurity=False)
    size = 0
    with part.open("rb") as source:
        while chunk := source.read(CHUNK):
            found.update(chunk)
            size += len(chunk)
    if size < target.size:
        raise Temporary(f"Hugging Face: {doing}: {size} of {target.size} bytes arrived; they are kept, the next attempt goes on")
    if _HASH.fullmatch(target.etag) and found.hexdigest() != target.etag:
        part.unlink()
        raise Temporary(f"Hugging Face: {doing}: what arrived has another hash than the Hub says; it was thrown away")


def _words(name: str) -> list[str]:
    """Of a path, without its ending: `data/train-00000-of-00001.parquet` has the words data, train, 00000, ..."""
    return re.split(r"[/._-]+", name.rpartition(".")[0])


def _require_parquet(repo: str) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise Permanent(
            f"dataset {repo} is in Parquet files and pyarrow is not installed; pip install pyarrow, or store the rows as JSON lines"
        )


def _jsonl(path: Path, name: str) -> list[dict[str, Any]]:
    out = []
    with path.open(encoding="utf-8", errors="strict") as source:
        try:
            for number, line in enumerate(source, 1):
                if line.strip():
                    out.append(_row(_parsed(line, f"{name}:{number}"), f"{name}:{number}"))
        except UnicodeDecodeError as error:
            raise Permanent(f"{name} is not UTF-8 text: {error.reason}") from None
    return out


def _json(path: Path, name: str) -> list[dict[str, Any]]:
    """A list of rows, or an object with them under `data` or `rows`."""
    try:
        found = _parsed(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        raise Permanent(f"{name} is not UTF-8 text: {error.reason}") from None
    if isinstance(found, dict):
        found = found.get("data", found.get("rows"))
    if not isinstance(found, list):
        raise Permanent(f"{name} is neither a list of rows nor an object with them under `data` or `rows`")
    return [_row(each, f"{name}[{index}]") for index, each in enumerate(found)]


def _parquet(path: Path, name: str) -> list[dict[str, Any]]:
    arrow: Any = importlib.import_module("pyarrow")
    try:
        rows: list[dict[str, Any]] = importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
    except arrow.ArrowException as error:
        raise Permanent(f"{name} is not a Parquet file that can be read: {error}") from None
    return rows


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Permanent(f"{where} is not JSON: {error}") from None


def _row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Permanent(f"{where} is not an object but {type(value).__name__}; a row is an object")
    return value


_READERS: dict[str, Callable[[Path, str], list[dict[str, Any]]]] = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
