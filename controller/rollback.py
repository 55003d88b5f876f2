"""`turnout rollback` and `turnout cancel`: the way back as a commit. Nothing here touches reality; the next pass does.

Of a resource: its file becomes what it was before the last commit that changed it, so no conflict is possible. Of a commit:
`git revert` of the whole commit, conflicts told and never guessed. Both are written as git writes a revert.
Of a run that goes on: its file is taken away, and the controller ends it.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.address import Address
from controller.clients.git import CommitInfo, Identity
from controller.document import DocumentError, parse, plain
from controller.errors import Conflict, NotFound
from controller.kind import Past
from controller.tree import Tree
from controller.writeback import Branch


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The revert commit, what it reverts, and the files that it changes."""

    commit: str
    reverted: CommitInfo
    files: tuple[str, ...]


@dataclass(frozen=True)
class Rollback:
    """Makes revert commits on the branch of the desired state by compare-and-swap. Raises LostRace, DirtyCheckout."""

    branch: Branch
    tree: Tree
    head: str
    author: Identity
    when: float

    def of_resource(self, address: Address) -> RolledBack:
        """Restores the files of one address, also one whose file was removed."""
        paths = tuple(dict.fromkeys((*self.tree.files.get(address, ()), *self._places(address))))
        found = self._last_change(address, paths)
        repository = self.branch.repository
        parent = found.parents[0] if found.parents else None
        files: dict[str, bytes | None] = {}
        for path in paths:
            now = repository.blob_at(self.head, path)
            before = repository.blob_at(parent, path) if parent else None
            if now != before:
                files[path] = repository.read(before) if before else None
        if not files:
            raise NotFound(f"{address} has no earlier state to go back to")
        return self._commit(repository.write_tree(self.head, files), found, tuple(sorted(files)))

    def of_commit(self, commit: str) -> RolledBack:
        """`git revert`, merges against their first parent."""
        repository = self.branch.repository
        if not repository.is_ancestor(commit, self.head):
            raise NotFound(f"commit {commit[:7]} is not on {self.branch.name}")
        tree = repository.revert(commit, self.head)
        made = self._commit(tree, repository.info(commit), ())
        changed = repository.changed_paths(self.head, made.commit)
        return RolledBack(made.commit, made.reverted, changed)

    def _places(self, address: Address) -> tuple[str, ...]:
        """Where files of an address may be: the shared folder and this environment's own."""
        settings = self.tree.settings
        plural = self.tree.plurals.get(address.kind, "")
        places = (
            f"{settings.spec.state}/{plural}/{address.name}.yaml",
            f"environments/{settings.environment}/state/{plural}/{address.name}.yaml",
        )
        return places if plural else ()

    def _last_change(self, address: Address, paths: tuple[str, ...]) -> CommitInfo:
        """The newest commit of the branch itself that changed any of them: along first parents, so that a merge is one change."""
        repository = self.branch.repository
        commit: str | None = self.head
        while commit:
            info = repository.info(commit)
            parent = info.parents[0] if info.parents else None
            before = [repository.blob_at(parent, path) if parent else None for path in paths]
            if [repository.blob_at(commit, path) for path in paths] != before:
                return info
            commit = parent
        raise NotFound(f"no commit has ever changed {address}")

    def _commit(self, tree: str, found: CommitInfo, files: tuple[str, ...]) -> RolledBack:
        repository = self.branch.repository
        if tree == str(repository.git[self.head].tree_id):
            raise Conflict(f"reverting {found.id[:7]} changes nothing any more", "its changes are gone already")
        merge = f", reversing\nchanges made to {found.parents[0]}" if len(found.parents) > 1 else ""
        message = f'Revert "{found.subject}"\n\nThis reverts commit {found.id}{merge}.\n'
        commit = repository.write_commit(tree, [self.head], message, self.author, self.when)
        self.branch.land(commit, self.head)
        return RolledBack(commit, found, files)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The commit that takes the files of a run away. `started` False = it only waited, so nothing has to be stopped."""

    commit: str
    address: Address
    files: tuple[str, ...]
    started: bool


@dataclass(frozen=True)
class Cancellation:
    """Takes runs off the branch by compare-and-swap. `shared_with` = environments that read the same folder.

    Raises LostRace, DirtyCheckout, and where nothing may be done Conflict or NotFound.
    """

    branch: Branch
    tree: Tree
    head: str
    author: Identity
    when: float
    shared_with: tuple[str, ...] = ()

    def of_run(self, address: Address, past: Past, message: str = "", *, everywhere: bool = False) -> Cancelled:
        """`everywhere`: also where other environments run it from the same file."""
        if past.ended:
            raise Conflict(f"{address} has ended ({past.ended}); there is nothing left to stop", f"turnout why {address}")
        if address not in self.tree.entries:
            if past.running or past.intents:
                raise Conflict(f"the file of {address} is gone already; the controller ends it", f"turnout watch {address}")
            raise NotFound(f"{address} is not there", "`turnout status` shows what is")
        files = self._files(address, everywhere=everywhere)
        repository = self.branch.repository
        tree = repository.write_tree(self.head, dict.fromkeys(files))
        text = f"{message.strip() or f'Cancel {address}'}\n\nWithout {' and '.join(files)} the controller ends {address}.\n"
        commit = repository.write_commit(tree, [self.head], text, self.author, self.when)
        self.branch.land(commit, self.head)
        return Cancelled(commit, address, files, past.running or past.exists or bool(past.intents))

    def _files(self, address: Address, *, everywhere: bool) -> tuple[str, ...]:
        """Those that make it a run of this environment."""
        own = f"environments/{self.tree.settings.environment}/"
        out = []
        for path in self.tree.files.get(address):
            whose = "" if path.startswith(own) else self._environment_of(path)
            if whose not in ("", self.tree.settings.environment):
                continue  # without the overlay it is another environment's
            if self.shared_with and not whose and not path.startswith(own) and not everywhere:
                others = ", ".join(self.shared_with)
                raise Conflict(
                    f"{path} is read by {others} too, so it would end there as well",
                    "--everywhere if that is meant; else write metadata.environment into the file, or move it to "
                    f"{own}state, and commit",
                )
            out.append(path)
        return tuple(out)

    def _environment_of(self, path: str) -> str:
        """`metadata.environment` of a shared file."""
        blob = self.branch.repository.blob_at(self.head, path)
        try:
            data = plain(parse(self.branch.repository.read(blob)).data) if blob else None
        except DocumentError:
            return ""
        found = data.get("metadata") if isinstance(data, dict) else None
        return str(found.get("environment") or "") if isinstance(found, dict) else ""
