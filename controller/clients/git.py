"""The door to git objects and refs (pygit2). Reads trees at commits, writes commits by compare-and-swap, fsyncs everything.

Transport to other repositories is `git_remote.py`: the git program, because it knows everybody's credentials and proxies.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pygit2
from pygit2.enums import FileMode, SortMode

from controller.errors import Conflict, LostRace, NotFound, TurnoutError

pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, True)

STALE_LOCK_SECONDS = 10.0
"""libgit2 holds a ref lock for milliseconds; one that is older belongs to a process that was killed."""


class Entry(NamedTuple):
    """One blob of a tree. `mode` is git's (0o120000 symlink, 0o160000 submodule)."""

    path: str
    id: str
    mode: int


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit as people see it; `time` is Unix seconds (UTC)."""

    id: str
    message: str
    author: str
    email: str
    time: int
    parents: tuple[str, ...]

    @property
    def subject(self) -> str:
        return self.message.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who writes a commit."""

    name: str
    email: str


class Repository:
    """One git repository on this machine. Raises TurnoutError when `path` is not inside one."""

    def __init__(self, path: Path | str) -> None:
        found = pygit2.discover_repository(str(path))
        if not found:
            raise TurnoutError(f"{path} is not inside a git repository", "run `git init` there, or pass --repo")
        self.git: Any = pygit2.Repository(found)
        self.git_dir = Path(self.git.path)
        common = self.git_dir / "commondir"
        self.common_dir = (self.git_dir / common.read_text().strip()).resolve() if common.exists() else self.git_dir
        self.work_dir = Path(self.git.workdir) if self.git.workdir else None

    # -- reading -------------------------------------------------------------------------------------------------

    def head_branch(self) -> str:
        """Short name of the branch that HEAD names (also when it has no commit yet)."""
        target = self.git.lookup_reference("HEAD").target
        return str(target).removeprefix("refs/heads/") if isinstance(target, str) else ""

    def tip(self, ref: str) -> str | None:
        """Commit id of a full ref name, or None."""
        try:
            return str(self.git.lookup_reference(ref).resolve().target)
        except (KeyError, pygit2.GitError):
            return None

    def resolve(self, name: str) -> str:
        """Commit id of anything that `git rev-parse` takes."""
        try:
            return str(self.git.revparse_single(name).peel(pygit2.Commit).id)
        except (KeyError, pygit2.GitError, ValueError) as error:
            raise NotFound(f"no commit is called {name!r}") from error

    def info(self, commit: str) -> CommitInfo:
        found = self._commit(commit)
        return CommitInfo(
            commit,
            found.message,
            found.author.name,
            found.author.email,
            found.commit_time,
            tuple(str(parent) for parent in found.parent_ids),
        )

    def entries(self, commit: str, folder: str = "") -> list[Entry]:
        """Every non-tree entry below `folder` at a commit, in git's order; empty when the folder is not there."""
        tree: Any = self._commit(commit).tree
        if folder:
            try:
                tree = tree[folder]
            except KeyError:
                return []
        out: list[Entry] = []
        if tree.type_str == "tree":
            self._walk(tree, f"{folder}/" if folder else "", out)
        return out

    def _walk(self, tree: Any, prefix: str, out: list[Entry]) -> None:
        for item in tree:
            if item.type_str == "tree":
                self._walk(item, f"{prefix}{_readable(item.name)}/", out)
            else:
                out.append(Entry(prefix + _readable(item.name), str(item.id), int(item.filemode)))

    def blob_at(self, commit: str, path: str) -> str | None:
        """Object id at a path, or None."""
        try:
            return str(self._commit(commit).tree[path].id)
        except KeyError:
            return None

    def entry_at(self, commit: str, path: str) -> Entry | None:
        """Object and mode at a path, a folder too; None when there is none."""
        try:
            found = self._commit(commit).tree[path]
        except KeyError:
            return None
        return Entry(path, str(found.id), int(found.filemode))

    def read(self, blob: str) -> bytes:
        data = self.git[blob].read_raw()
        return bytes(data)

    def size(self, blob: str) -> int:
        """Bytes of a blob, without reading it."""
        return int(self.git.odb.read_header(pygit2.Oid(hex=blob))[1])

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `newer` contains `older` (a commit contains itself). Unknown commits are not contained."""
        try:
            return older == newer or bool(self.git.descendant_of(newer, older))
        except (KeyError, ValueError, pygit2.GitError):
            return False

    def history(self, commit: str, path: str) -> Iterator[CommitInfo]:
        """Commits that changed a file or folder, newest first; merges only where they differ from every parent."""
        for found in self.git.walk(commit, SortMode.TOPOLOGICAL):
            mine = self._id_in(found, path)
            parents = [self._id_in(parent, path) for parent in self._parents(found)]
            if (mine is not None and not parents) or (parents and all(mine != theirs for theirs in parents)):
                yield self.info(str(found.id))

    def changed_paths(self, old: str, new: str) -> tuple[str, ...]:
        """Paths that differ between two commits."""
        delta = self._commit(old).tree.diff_to_tree(self._commit(new).tree)
        return tuple(sorted({each.new_file.path for each in delta.deltas}))

    def commits(self, newest: str, oldest: str | None = None) -> Iterator[CommitInfo]:
        """From newest back to (not including) oldest."""
        walker = self.git.walk(newest, SortMode.TOPOLOGICAL)
        if oldest:
            walker.hide(oldest)
        for found in walker:
            yield self.info(str(found.id))

    def _parents(self, commit: Any) -> list[Any]:
        return [self.git[parent] for parent in commit.parent_ids if parent in self.git]

    def _id_in(self, commit: Any, path: str) -> str | None:
        try:
            return str(commit.tree[path].id)
        except KeyError:
            return None

    def _commit(self, commit: str) -> Any:
        found = self.git.get(commit)
        if found is None or found.type_str != "commit":
            raise NotFound(f"commit {commit} is not in {self.git_dir}", "fetch it, or unshallow the clone")
        return found

    # -- writing -------------------------------------------------------------------------------------------------

    def write_tree(self, base: str | None, files: Mapping[str, bytes | None]) -> str:
        """Tree id of `base` (a commit) with files written or, where None, removed. Empty folders go."""
        tree = self._commit(base).tree if base else None
        return str(self._write_tree(tree, {tuple(path.split("/")): data for path, data in files.items()}))

    def _write_tree(self, tree: Any, files: Mapping[tuple[str, ...], bytes | None]) -> Any:
        builder = self.git.TreeBuilder(tree) if tree is not None else self.git.TreeBuilder()
        below: dict[str, dict[tuple[str, ...], bytes | None]] = {}
        for path, data in files.items():
            if len(path) > 1:
                below.setdefault(path[0], {})[path[1:]] = data
            elif data is None:
                if builder.get(path[0]) is not None:
                    builder.remove(path[0])
            else:
                old = builder.get(path[0])
                mode = old.filemode if old is not None and old.type_str == "blob" else FileMode.BLOB
                builder.insert(path[0], self.git.create_blob(data), mode)
        for name, inner in below.items():
            old = builder.get(name)
            made = self._write_tree(old if old is not None and old.type_str == "tree" else None, inner)
            if len(self.git[made]):
                builder.insert(name, made, FileMode.TREE)
            elif old is not None:
                builder.remove(name)
        return builder.write()

    def write_commit(self, tree: str, parents: list[str], message: str, who: Identity, when: float, ref: str | None = None) -> str:
        """A commit object; with `ref` also the compare-and-swap that moves it there. Raises LostRace."""
        signature = pygit2.Signature(who.name, who.email, int(when), 0)

        def create() -> str:
            return str(self.git.create_commit(ref, signature, signature, message, tree, parents))

        return self._swap(ref, create) if ref else create()

    def move(self, ref: str, new: str, old: str | None) -> None:
        """Compare-and-swap of a ref that no work tree has checked out. Raises LostRace."""

        def update() -> None:
            run = self.run("update-ref", ref, new, old or "0" * 40)
            if run.returncode:
                raise LostRace(f"{ref} is not at {old or 'nothing'} any more: {run.stderr.strip()}")

        self._swap(ref, update)

    def _swap(self, ref: str, write: Callable[[], Any]) -> Any:
        """Runs a ref write; clears a lock that a killed process left; tells a lost race from other faults."""
        for attempt in range(2):
            try:
                return write()
            except (pygit2.GitError, OSError, LostRace) as error:
                text = str(error)
                if "lock" in text and attempt == 0 and self.clear_stale_lock(ref):
                    continue
                if isinstance(error, LostRace):
                    raise
                if "lock" in text:
                    raise LostRace(
                        f"{ref}.lock is there: somebody writes, or was killed (then it counts as left over after 10 s)"
                    ) from error
                if "old reference" in text or "first parent" in text:
                    raise LostRace(f"{ref} was written by somebody else: {text}") from error
                raise
        raise AssertionError("unreachable")

    def clear_stale_lock(self, ref: str, now: float | None = None) -> bool:
        """Removes `<ref>.lock` when it is older than any living writer would keep it."""
        lock = self.common_dir / f"{ref}.lock"
        try:
            age = (time.time() if now is None else now) - lock.stat().st_mtime
        except FileNotFoundError:
            return True
        if age < STALE_LOCK_SECONDS:
            return False
        lock.unlink(missing_ok=True)
        return True

    def drop_damaged(self) -> None:
        """Removes loose objects that cannot be read (a power cut), so that they can be written again."""
        for path in (self.common_dir / "objects").glob("[0-9a-f][0-9a-f]/*"):
            try:
                self.git.odb.read(f"{path.parent.name}{path.name}")
            except (KeyError, ValueError, pygit2.GitError):
                path.unlink(missing_ok=True)
        self.git = pygit2.Repository(str(self.git_dir))

    def last_known(self, ref: str) -> list[str]:
        """Commit ids that the reflog remembers for a ref, newest first."""
        try:
            lines = (self.common_dir / "logs" / ref).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line.split(" ", 2)[i] for line in reversed(lines) for i in (1, 0)]

    def revert(self, commit: str, onto: str) -> str:
        """Tree id of `git revert <commit>` on `onto` (merges against their first parent). Raises Conflict."""
        target = self._commit(commit)
        options = {"mainline": 1} if len(target.parent_ids) > 1 else {}
        index = self.git.revert_commit(target, self._commit(onto), **options)
        if index.conflicts is not None:
            paths = sorted({side.path for sides in index.conflicts for side in sides if side is not None})
            raise Conflict(
                f"reverting {commit[:7]} conflicts in {', '.join(paths)}; nothing was changed",
                "revert by hand with `git revert`, or take back one resource with `turnout rollback NAME`",
            )
        return str(index.write_tree(self.git))

    # -- the program ---------------------------------------------------------------------------------------------

    def run(self, *args: str, timeout: float = 20.0, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs git here, without prompts. Never raises for a non-zero exit."""
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(env or {})}
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            environment.pop(name, None)
        return subprocess.run(
            ["git", "-C", str(self.work_dir or self.git_dir), *args],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def checkouts(self, branch: str) -> list[Path]:
        """Work trees that have this branch checked out."""
        out: list[Path] = []
        current: Path | None = None
        for line in self.run("worktree", "list", "--porcelain").stdout.splitlines():
            if line.startswith("worktree "):
                current = Path(line[9:])
            elif line == "bare":
                current = None
            elif line == f"branch refs/heads/{branch}" and current is not None and current.exists():
                out.append(current)
        return out


def _readable(name: str) -> str:
    """A file name that is not UTF-8 as text that can be written down."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
