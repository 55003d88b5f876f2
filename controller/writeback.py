"""Edits of desired state as commits: a promotion, or the revert of what an aborted rollout brought; or held for a person.

An action like any other: started event, one commit made from the tree at HEAD by compare-and-swap, outcome event. The commit
carries an `Intent:` trailer, so that after a crash it is found and never made twice. The edited tree is planned in memory
first and written only if no provider would be called because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.address import Address
from controller.change import Change, Edits, Wait
from controller.clients.git import CommitInfo, Identity, Repository
from controller.clients.git_remote import DirtyCheckout, Remote, follow
from controller.document import DocumentError, parse, plain
from controller.document_edit import DELETE, CannotEdit, dump, edit
from controller.errors import LostRace, RemoteDown, RemoteRefused, TurnoutError
from controller.kind import Past
from controller.resource import digest
from controller.source import Source
from controller.tree import Tree
from controller.writer import Writer

Files = Mapping[str, bytes | None]


class CannotWrite(TurnoutError):
    """The edits have no safe form as a commit; a person has to write them."""


@dataclass(frozen=True)
class Branch:
    """The branch of the desired state, here and (when there is one) on the remote."""

    repository: Repository
    name: str
    remote: Remote | None
    detached: str = ""  # HEAD of a clone that has no such branch: good for looking, never for acting

    def tip(self) -> str | None:
        if self.remote:
            return self.repository.tip(self.remote.tracking(self.name))
        return self.repository.tip(f"refs/heads/{self.name}") or self.detached or None

    def land(self, commit: str, expected: str) -> None:
        """Raises LostRace, DirtyCheckout, RemoteRefused or RemoteDown."""
        if self.remote:
            self.remote.push(commit, self.name, expected)
        else:
            follow(self.repository, self.name, commit, expected)

    def dirty(self) -> str:
        """A checkout with changes of its own, or nothing. With a remote nobody's checkout is touched."""
        if self.remote:
            return ""
        for checkout in self.repository.checkouts(self.name):
            status = self.repository.run("-C", str(checkout), "status", "--porcelain", "--untracked-files=no")
            if status.stdout.strip():
                return str(checkout)
        return ""


@dataclass
class WriteBack:
    """Writes the edits of ended runs. `preview` tells which calls a tree would lead to."""

    branch: Branch
    source: Source
    tree: Tree
    commit: str
    mode: str
    shared_with: tuple[str, ...]
    author: Identity
    writer: Writer
    past: Callable[[Address], Past]
    preview: Callable[[Files], frozenset[str]]
    calls_now: Callable[[], frozenset[str]]
    key: Callable[[Change], str]

    def write(self, change: Change) -> Wait | None:
        """None = written, or in git already. Raises LostRace; the next pass tries again."""
        key = self.key(change)
        if self.satisfied(change.edits):
            self._record(change, key, self.commit, "a person", "what it had to write is in git already")
            return None
        if self.mode == "hold":
            return self._held(change, "writeBack: hold", "this environment holds write-backs for a person")
        try:
            return self._commit(change, key)
        except (CannotEdit, CannotWrite) as error:
            return self._held(change, f"cannot edit: {error.message}", error.message)

    def _commit(self, change: Change, key: str) -> Wait | None:
        files = self.files(change.edits)
        more = self.preview(files) - self.calls_now()
        if more:
            return self._held(change, "side effects", f"the edited state would also do this: {'; '.join(sorted(more))}")
        dirty = self.branch.dirty()
        if dirty:
            return Wait(
                "Held",
                f"dirty {dirty}",
                f"{dirty} has uncommitted changes on {self.branch.name}: commit or stash "
                "them, then the controller writes its commit",
            )
        past = self.past(change.address)
        if past.conditions.get("Held", "").startswith(f"refused {self.commit}"):
            return Wait("Held", past.conditions["Held"], "the branch is protected")
        title, body = self._words(change)
        if past.writing != key:
            self.writer.act(
                [
                    self.writer.event(
                        "edits.started",
                        change.address,
                        {
                            "intent": key,
                            "edits": dict(change.edits),
                            "reason": title,
                        },
                    )
                ]
            )
        repository = self.branch.repository
        tree = repository.write_tree(self.commit, files)
        message = f"{title}\n\n{body}\n\nIntent: {key}\nEvent: {past.event}\nEnvironment: {self.tree.settings.environment}\n"
        commit = repository.write_commit(tree, [self.commit], message, self.author, self.writer.now().timestamp())
        try:
            self.branch.land(commit, self.commit)
        except DirtyCheckout as error:
            return Wait("Held", "dirty", f"{error.message}; {error.hint}")
        except RemoteRefused as error:
            return self._held(change, f"refused {self.commit}: {error.message}", error.message)
        except RemoteDown as error:
            raise LostRace(error.message) from error
        self._record(change, key, commit, "the controller", f"{title.partition(chr(10))[0]} ({commit[:7]})")
        return None

    def _record(self, change: Change, key: str, commit: str, by: str, said: str) -> None:
        self.writer.outcomes(
            [
                self.writer.event(
                    "edits.written",
                    change.address,
                    {
                        "intent": key,
                        "commit": commit,
                        "by": by,
                        "said": said,
                    },
                )
            ],
            last=True,
        )

    def _held(self, change: Change, cause: str, why: str) -> Wait:
        return Wait("Held", cause, f"{change.reason}. Not written ({why}). To merge:\n{describe(change.edits, self.tree)}")

    # -- what is in git ------------------------------------------------------------------------------------------

    def satisfied(self, edits: Edits) -> bool:
        """Whether the tree says already what the edits want."""
        for address, fields in edits.items():
            if fields is None:
                if address in self.tree.entries:
                    return False
                continue
            entry = self.tree.entries.get(address)
            resource = entry.load(self.past(address)).resource if entry else None
            if resource is None or any(_at(resource.written, field) != value for field, value in fields.items()):
                return False
        return True

    def _words(self, change: Change) -> tuple[str, str]:
        """The commit message: the kind's own, or as git writes a revert of the commit that brought the resource."""
        if change.message:
            return change.message, change.reason
        brought = self._brought(change.address)
        if brought is None:
            return f"Remove {change.address}", change.reason
        return f'Revert "{brought.subject}"', f"This reverts commit {brought.id}.\n\n{change.reason}"

    def _brought(self, address: Address) -> CommitInfo | None:
        """The newest commit that added the file of an address."""
        repository = self.branch.repository
        for path in self.tree.files.get(address, ()):
            for info in repository.history(self.commit, path):
                if not info.parents or repository.blob_at(info.parents[0], path) is None:
                    return info
        return None

    # -- edits as files ------------------------------------------------------------------------------------------

    def files(self, edits: Edits) -> dict[str, bytes | None]:
        """The narrowest file that decides each value here; an overlay where another environment reads the file too."""
        out: dict[str, bytes | None] = {}
        for address, fields in sorted(edits.items()):
            paths = self.tree.files.get(address, ())
            if fields is None:
                out.update(self._removal(address, paths))
            else:
                out.update(self._edited(address, paths, fields))
        return out

    def _removal(self, address: Address, paths: tuple[str, ...]) -> Iterator[tuple[str, bytes | None]]:
        for path in paths:
            if self._is_shared(path):
                others = ", ".join(self.shared_with)
                raise CannotWrite(f"{path} is read by {others} too; set metadata.environment in it or move it to the overlay")
            yield path, None

    def _edited(self, address: Address, paths: tuple[str, ...], fields: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        if not paths:
            raise CannotWrite(f"{address} has no file any more")
        contents = {path: self._content(path) for path in paths}
        for path, content in contents.items():
            try:
                parse(content)
            except DocumentError as error:
                raise CannotWrite(f"{path} cannot be edited: {error.message}") from error
        wanted: dict[str, dict[tuple[str | int, ...], Any]] = {}
        for field, value in fields.items():
            place = ("spec", *field.split("."))
            narrow = [path for path in reversed(paths) if place in parse(contents[path]).lines]
            target = narrow[0] if narrow else paths[-1]
            if self._is_shared(target):
                target = self._overlay_path(address)
            wanted.setdefault(target, {})[place] = DELETE if value is None else value
        for path, places in wanted.items():
            if path in contents:
                yield path, edit(contents[path], places)
            else:
                yield path, self._new_overlay(address, places)

    def _new_overlay(self, address: Address, places: Mapping[tuple[str | int, ...], Any]) -> bytes:
        spec: dict[str, Any] = {}
        for place, value in places.items():
            spot = spec
            for part in place[1:-1]:
                spot = spot.setdefault(str(part), {})
            spot[str(place[-1])] = None if value is DELETE else value
        return dump({"apiVersion": "turnout/v1", "kind": address.kind, "metadata": {"name": address.name}, "spec": spec})

    def _overlay_path(self, address: Address) -> str:
        shared = self.tree.files.get(address)[0]
        plural, file = shared.split("/")[-2:]
        return f"environments/{self.tree.settings.environment}/state/{plural}/{file}"

    def _is_shared(self, path: str) -> bool:
        if not self.shared_with or path.startswith(f"environments/{self.tree.settings.environment}/"):
            return False
        data = plain(parse(self._content(path)).data)
        return not (isinstance(data, dict) and (data.get("metadata") or {}).get("environment"))

    def _content(self, path: str) -> bytes:
        folder = path.rpartition("/")[0]
        return next(self.source.read(blob.id) for blob in self.source.entries(folder) if blob.path == path)


def find_intent(repository: Repository, head: str, key: str, most: int = 2000) -> CommitInfo | None:
    """The commit that carries an intent, among the newest ones."""
    for count, info in enumerate(repository.commits(head)):
        if f"\nIntent: {key}\n" in info.message:
            return info
        if count >= most:
            return None
    return None


def edits_key(log_id: str, change: Change) -> str:
    """One write-back an end of a run: never random, the same in every attempt."""
    return digest([log_id, change.address, change.generation, "edits"])


def describe(edits: Edits, tree: Tree) -> str:
    """The lines that a person would merge."""
    lines = []
    for address, fields in sorted(edits.items()):
        path = (tree.files.get(address) or (str(address),))[-1]
        if fields is None:
            lines.append(f"  remove {path}")
        else:
            lines += [
                f"  {path}: spec.{field}: {'(remove)' if value is None else value}" for field, value in sorted(fields.items())
            ]
    return "\n".join(lines)


def _at(value: Any, field: str) -> Any:
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
