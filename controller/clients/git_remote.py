"""The door to other repositories: fetch, push by compare-and-swap, and moving a branch under somebody's work tree.

The git program does the transport: it knows the user's credentials, proxies and ssh settings, a push with a lease is a true
compare-and-swap on every protocol, and a work tree follows a branch exactly as git's own `updateInstead` does it.
"""

from __future__ import annotations

import subprocess

from controller.clients.git import Repository
from controller.errors import LostRace, RemoteDown, RemoteRefused, TurnoutError

CALL_SECONDS = 20.0
"""No call may take longer: the lease is 30 s."""
IMPATIENT_SECONDS = 2.0
"""After this the way back to a healthy version goes without the remote."""

_UPDATE_INSTEAD = "git -c receive.denyCurrentBranch=updateInstead -c receive.advertisePushOptions=false receive-pack"


class DirtyCheckout(TurnoutError):
    """A work tree that has the branch checked out has changes of its own."""


class Remote:
    """One named remote (or URL) of a repository."""

    def __init__(self, repository: Repository, name: str, timeout: float = CALL_SECONDS) -> None:
        self.repository, self.name, self.timeout = repository, name, timeout

    def fetch(self, branch: str, *, depth: int = 0) -> str | None:
        """Newest commit of a branch there, its objects here; None when the branch does not exist. Raises RemoteDown."""
        tracking = self.tracking(branch)
        shallow = [f"--depth={depth}"] if depth else []
        run = self._git("fetch", "--quiet", "--no-tags", *shallow, self.name, f"+refs/heads/{branch}:{tracking}")
        if run.returncode == 0:
            return self.repository.tip(tracking)
        if "couldn't find remote ref" in run.stderr:
            return None
        raise RemoteDown(f"cannot fetch {branch} from {self.name}: {_cause(run.stderr)}", "it is tried again")

    def tracking(self, branch: str) -> str:
        return f"refs/turnout/remote/{branch}"

    def push(self, commit: str, branch: str, expected: str | None) -> None:
        """Moves a branch there from `expected` to `commit`. Raises LostRace, RemoteRefused or RemoteDown."""
        ref = f"refs/heads/{branch}"
        run = self._git("push", "--porcelain", f"--force-with-lease={ref}:{expected or ''}", self.name, f"{commit}:{ref}")
        if run.returncode == 0:
            self.repository.run("update-ref", self.tracking(branch), commit)
            return
        text = f"{run.stdout}\n{run.stderr}"
        if "stale info" in text or "fetch first" in text or "non-fast-forward" in text or "failed to update ref" in text:
            raise LostRace(f"{branch} on {self.name} was written by somebody else")
        if "cannot lock ref" in text:
            raise LostRace(f"{branch} on {self.name} is being written by somebody else")
        if "remote rejected" in text or "[rejected]" in text:
            raise RemoteRefused(f"{self.name} refuses {branch}: {_reason(text)}")
        raise RemoteDown(f"cannot push {branch} to {self.name}: {_cause(run.stderr)}", "it is tried again")

    def _git(self, *args: str) -> subprocess.CompletedProcess[str]:
        try:
            return self.repository.run(*args, timeout=self.timeout)
        except subprocess.TimeoutExpired as error:
            raise RemoteDown(f"{self.name} did not answer within {self.timeout:.0f} s") from error


def follow(repository: Repository, branch: str, commit: str, expected: str) -> None:
    """Moves a local branch; a clean work tree that has it checked out follows (git's updateInstead).

    Raises DirtyCheckout when one is not clean, LostRace when the branch is not at `expected`.
    """
    ref = f"refs/heads/{branch}"
    checkouts = repository.checkouts(branch)
    if not checkouts:
        repository.move(ref, commit, expected)
        return
    target = str(repository.common_dir)
    run = repository.run(
        "push",
        "--porcelain",
        "--no-verify",
        f"--receive-pack={_UPDATE_INSTEAD}",
        f"--force-with-lease={ref}:{expected}",
        target,
        f"{commit}:{ref}",
    )
    if run.returncode == 0:
        return
    text = f"{run.stdout}\n{run.stderr}"
    if "unstaged changes" in text or "staged changes" in text or "Working directory" in text or "would be overwritten" in text:
        raise DirtyCheckout(
            f"{checkouts[0]} has changes of its own on {branch}",
            "commit or stash them: the controller then moves the branch by itself",
        )
    if "stale info" in text or "failed to update ref" in text or "cannot lock ref" in text or "fetch first" in text:
        raise LostRace(f"{branch} moved while it was being written")
    if "could not update" in text.lower() or "unable to" in text:
        raise DirtyCheckout(f"{checkouts[0]} cannot follow {branch}: {_reason(text)}", "look at `git status` there")
    raise RemoteRefused(f"git refuses to move {branch}: {_reason(text)}")


def _reason(text: str) -> str:
    told = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("remote:") and line[7:].strip()]
    rejected = [line for line in text.splitlines() if "[remote rejected]" in line or "[rejected]" in line]
    why = rejected[0].rpartition("(")[2].rstrip(")") if rejected else "no reason given"
    return f"{why}: {told[0]}" if told else why


def _cause(text: str) -> str:
    """What went wrong comes first; what git advises in general ("and the repository exists.") comes after it."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lower().startswith(("warning:", "hint:"))]
    return lines[0].removeprefix("fatal: ") if lines else "git said nothing"
