"""A person's yes as a commit: the line `Turnout-Approve: ADDRESS DIGEST up to N USD` in a message.

Whoever wrote the commit approves. It does not count where that is who wrote the file: two people have to agree. What makes
the author of a commit believable is the repository's business (protected branches, signed commits).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from controller.address import Address
from controller.change import Change
from controller.clients.git import CommitInfo, Repository

_LINE = re.compile(r"^Turnout-Approve: (\S+/\S+) ([0-9a-f]{8,64}) up to ([0-9]{1,9}(?:\.[0-9]{1,4})?) USD$", re.MULTILINE)
MOST_COMMITS = 1000
"""So far back a controller looks that has never seen this branch."""


@dataclass(frozen=True, slots=True)
class Found:
    """An approval in a commit; `refused` says why it does not count."""

    address: Address
    digest: str
    ceiling: float
    commit: CommitInfo
    refused: str = ""

    def as_data(self) -> dict[str, Any]:
        """The event's data."""
        data: dict[str, Any] = {
            "digest": self.digest,
            "ceiling": self.ceiling,
            "by": f"{self.commit.author} <{self.commit.email}>",
            "commit": self.commit.id,
        }
        return {**data, "reason": self.refused} if self.refused else data


def line(change: Change) -> str:
    """What approves this change, as planned now, rounded up to a cent. A commit message that holds it is the approval."""
    cents = math.ceil(round(change.cost.ceiling * 100, 6))
    return f"Turnout-Approve: {change.address} {change.digest} up to {cents / 100:.2f} USD"


def in_commits(
    repository: Repository, newest: str, oldest: str | None, files: Callable[[Address], Iterable[str]]
) -> Iterator[Found]:
    """Approvals between two commits, oldest first. `files` = where each resource is written."""
    commits = []
    for number, info in enumerate(repository.commits(newest, oldest)):
        if number >= MOST_COMMITS:
            break
        commits.append(info)
    for info in reversed(commits):
        for name, digest, ceiling in _LINE.findall(info.message):
            address = Address(name)
            author = author_of(repository, info.id, files(address))
            refused = ""
            if author is None:
                refused = f"{address} has no file at {info.id[:7]}"
            elif author.email.lower() == info.email.lower():
                refused = f"{info.email} wrote {address} in {author.id[:7]}; somebody else has to approve it"
            yield Found(address, digest, float(ceiling), info, refused)


def author_of(repository: Repository, commit: str, paths: Iterable[str]) -> CommitInfo | None:
    """Who asks for it: the newest commit up to this one that changed one of the files."""
    found = [info for path in paths for info in _first(repository, commit, path)]
    return max(found, key=lambda info: info.time) if found else None


def _first(repository: Repository, commit: str, path: str) -> Iterator[CommitInfo]:
    if repository.blob_at(commit, path):
        for info in repository.history(commit, path):
            yield info
            return
