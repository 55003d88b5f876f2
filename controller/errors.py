"""What can go wrong, as types: the ground floor of the flow. Nothing here imports anything of ours.

TurnoutError                    shown to a person as one line and a hint; exit code 1
|-- InvalidState                files of the desired state that cannot be used (carries every Problem)
|-- SettingsError               environment.yaml or the process environment lack something (names all of it)
|-- NotFound                    a name that nothing answers to (offers the nearest)
|-- Conflict                    git would not do it either
|-- LostRace                    somebody wrote first: read again and plan again
|-- LogRewritten                the log is not a continuation of what was read before
|-- LogDamaged                  the log breaks its own rules (sequence, chain)
`-- RemoteDown                  the git remote did not answer, or said no for now
    `-- RemoteRefused           the git remote answered, and refuses (hook, protected branch)

Temporary, Permanent            raised by clients and providers; the executor turns them into outcomes
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TurnoutError(Exception):
    """An error that a person can act on: `message` says what and where, `hint` what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in one file: `path:line: field: message`. `code` is stable, for scripts."""

    path: str
    message: str
    line: int = 0
    field: str = ""
    code: str = "Invalid"

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"


class InvalidState(TurnoutError):
    """The desired state has problems; all of them are listed, sorted by place."""

    def __init__(self, problems: Sequence[Problem], hint: str = "") -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.path, p.line, p.field)))
        super().__init__("\n".join(str(problem) for problem in self.problems), hint)


class SettingsError(InvalidState):
    """Settings are incomplete or wrong; every missing key is named at once."""


class NotFound(TurnoutError):
    """A name that nothing answers to."""


class Conflict(TurnoutError):
    """A git operation that has no single right result; nothing was changed."""


class LostRace(TurnoutError):
    """A compare-and-swap lost: the world that was looked at is old."""


class LogRewritten(TurnoutError):
    """The event branch does not contain what was read from it before."""


class LogDamaged(TurnoutError):
    """The event log breaks one of its own rules; the message says which commit."""


class RemoteDown(TurnoutError):
    """The git remote did not do it this time; trying again may help."""


class RemoteRefused(RemoteDown):
    """The git remote answered and refuses (a hook, a protected branch); trying again alone will not help."""


class Temporary(Exception):
    """A call failed in a way that may pass: it is retried with backoff."""


class Permanent(Exception):
    """A call failed in a way that will not pass by itself: the resource stops until something changes."""


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest of `names`, or nothing."""
    close = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for an error text: sorted, the first few, and how many more."""
    ordered = sorted(names)
    head = ", ".join(ordered[:most]) or "none"
    return f"{head} and {len(ordered) - most} more" if len(ordered) > most else head
