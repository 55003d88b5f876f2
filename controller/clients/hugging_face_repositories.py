"""Repositories of the Hugging Face Hub: made once, read by commit, and written by one commit that can be tried again.

An upload sends large files first and one by one, then makes a single commit on top of the head that it saw. What is there already,
by hash, is never sent again, so an upload that was cut off goes on, and one whose answer was lost makes no second commit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from controller.clients.hugging_face_downloads import Downloads, Progress, Rows
from controller.clients.hugging_face_session import Session
from controller.errors import Permanent, listed

Kind = Literal["model", "dataset"]
CHUNK = 1 << 20
_LEFT_OUT = (".git", ".cache")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a revision. `sha256` is known of large files only; `git_id` is the id of its blob (of the pointer, if large)."""

    name: str
    size: int
    sha256: str
    git_id: str

    def same_as(self, path: Path) -> bool:
        """Whether a local file has this very content."""
        if path.stat().st_size != self.size:
            return False
        return sha256_of(path) == self.sha256 if self.sha256 else git_id_of(path) == self.git_id


@dataclass(frozen=True, slots=True)
class Commit:
    """The head after an upload; `new` False = everything was there already."""

    id: str
    new: bool


class Repositories:
    """Model and dataset repositories. A name is `namespace/name`; without a slash it is in the session's namespace."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session = session
        self._downloads = Downloads(session, folder)

    def full_name(self, repo: str) -> str:
        return repo if "/" in repo else f"{self._session.namespace()}/{repo}"

    def ensure(self, repo: str, *, kind: Kind = "model", private: bool = True) -> str:
        """Makes it unless it is there (then its visibility stays); returns its full name. Raises Temporary, Permanent."""
        name = self.full_name(repo)
        with self._session.call(f"make the {kind} repository {name}") as api:
            api.create_repo(name, private=private, repo_type=kind, exist_ok=True)
        return name

    def revision(self, repo: str, revision: str = "main", *, kind: Kind = "model") -> str | None:
        """The commit that a branch, a tag or an id names; None when there is no such repository or revision (that one may see)."""
        name = self.full_name(repo)
        with self._session.call(f"look at {kind} {name}", anonymous=True) as api:
            from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

            try:
                return api.repo_info(name, revision=revision, repo_type=kind).sha
            except GatedRepoError:
                raise
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None

    def files(self, repo: str, revision: str = "main", *, kind: Kind = "model") -> list[RemoteFile]:
        """Sorted by name. Raises Temporary; Permanent when there is no such repository or revision."""
        name = self.full_name(repo)
        with self._session.call(f"list the files of {kind} {name} at {revision}", anonymous=True) as api:
            found = list(api.list_repo_tree(name, recursive=True, revision=revision, repo_type=kind))
        # Folders come along; only files have a size.
        rows = [_remote_file(each) for each in found if hasattr(each, "size")]
        return sorted(rows, key=lambda each: each.name)

    def upload_folder(
        self,
        repo: str,
        folder: Path,
        message: str,
        *,
        kind: Kind = "model",
        parent: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Commit:
        """Every file of a folder in one commit on main; no file is removed. `progress(sent, total)` is in bytes.

        `parent` is the head that this upload was made for. Raises Temporary (do it again, it goes on), Permanent (the
        repository is not there, or has moved on from `parent`).
        """
        name, local = self.full_name(repo), _local_files(folder)
        head = self.revision(name, kind=kind)
        if head is None:
            raise Permanent(f"Hugging Face: {kind} {name} is not there (or hidden from this token); make it before uploading to it")
        there = {each.name: each for each in self.files(name, head, kind=kind)}
        missing = {file: path for file, path in local.items() if file not in there or not there[file].same_as(path)}
        if not missing:
            return Commit(head, new=False)
        if parent is not None and parent != head:
            raise Permanent(
                f"Hugging Face: {kind} {name} has moved on from {parent[:10]} to {head[:10]}, which lacks {listed(missing)};"
                " look at what was committed, then upload for the new head"
            )
        return self._send(name, kind, missing, message, head, progress or (lambda sent, total: None))

    def _send(
        self, name: str, kind: Kind, missing: Mapping[str, Path], message: str, head: str, progress: Callable[[int, int], None]
    ) -> Commit:
        from huggingface_hub import CommitOperationAdd

        sizes = {file: path.stat().st_size for file, path in missing.items()}
        additions, sent, total = [], 0, sum(sizes.values())
        for file, path in sorted(missing.items()):
            addition = CommitOperationAdd(path_in_repo=file, path_or_fileobj=str(path))
            # One at a time: the SDK sends several in threads of its own, out of reach of the terms of this call.
            with self._session.call(f"send {file} to {kind} {name}", transfer=True) as api:
                api.preupload_lfs_files(name, [addition], repo_type=kind, free_memory=False)
            additions.append(addition)
            sent += sizes[file]
            progress(sent, total)
        with self._session.call(f"commit to {kind} {name}", transfer=True) as api:
            made = api.create_commit(name, additions, commit_message=message, repo_type=kind, parent_commit=head)
        return Commit(made.oid, new=made.oid != head)

    def download(
        self, repo: str, file: str, to: Path, *, revision: str = "main", kind: Kind = "model", progress: Progress | None = None
    ) -> str:
        """One file, whole and verified, or nothing; returns the commit that it is from. See `Downloads.file`."""
        return self._downloads.file(self.full_name(repo), file, to, revision, kind, progress)

    def rows(self, repo: str, *, revision: str = "main", split: str | None = None) -> Rows:
        """The rows of a dataset repository. See `Downloads.rows`."""
        name = self.full_name(repo)
        commit = self.revision(name, revision, kind="dataset")
        if commit is None:
            raise Permanent(f"Hugging Face: dataset {name} at {revision} is not there, or hidden from this token")
        return self._downloads.rows(name, commit, split, [each.name for each in self.files(name, commit, kind="dataset")])


def sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def git_id_of(path: Path) -> str:
    """The id that git gives the content as a blob."""
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _local_files(folder: Path) -> dict[str, Path]:
    """Name in the repository -> path. Raises Permanent when there is nothing to send, or a link leads out of the folder."""
    root = folder.resolve()
    found: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if not path.is_file() or any(part in _LEFT_OUT for part in name.parts):
            continue
        if not path.resolve().is_relative_to(root):
            raise Permanent(f"{path} leads out of {folder}; only what is inside is uploaded")
        found[name.as_posix()] = path
    if not found:
        raise Permanent(f"{folder} has no file to upload")
    return found


def _remote_file(entry: Any) -> RemoteFile:
    return RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
