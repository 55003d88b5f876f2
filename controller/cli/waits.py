"""What waits mean to a person: which ones need somebody, and what that somebody does about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controller.app import Controller
    from controller.change import Plan, Wait

ADVICE = {
    "Approval": "somebody who did not write the file: `turnout approve NAME`, or a commit with the line that it prints",
    "Blind": "nothing: it goes on when the figures are known again",
    "Brake": "if the removals are meant, add the line `Turnout-Allow: prune` to the message of the newest commit",
    "Budget": "raise the budget in the environment, wait for the next month, or have somebody else run `turnout approve NAME`",
    "DatasetWarning": "nothing, if that is how the data set is meant",
    "Denied": "change the rule in the environment, or take the change back",
    "Exclusive": "nothing: it starts when the other one has ended",
    "Failed": "change the resource, or `turnout retry NAME`",
    "FrozenEdit": "take the edit back, or give the new run a new name",
    "Held": "commit the lines that the condition shows; `turnout status NAME` shows them again",
    "Inconclusive": "send traffic, or lower minimumSamples in a new run; nothing moves meanwhile",
    "Invalid": "correct the field and commit",
    "JudgedBad": "nothing, if the second try is meant",
    "Named": "remove its name from the files that still have it",
    "OldPrices": "nothing: the ceiling counts with them",
    "Quarantined": "correct the file and commit; until then its last good form counts",
    "Reference": "commit what it names, or correct the name",
    "Refused": "see the status of the HTTPRoute; its Gateway or its Services have to change",
    "Retry": "nothing: it is tried again by itself",
    "Unknown": "look for what the reason names; it goes on when it can be found",
    "Unserved": "do what the reason says, or take that target out of the gateway",
    "Unsupported": "nothing, if that target may do without",
}
BY_ITSELF = frozenset({"Blind", "DatasetWarning", "Exclusive", "Inconclusive", "JudgedBad", "OldPrices", "Retry", "Unsupported"})
"""Waits that end without a person, and notes that hold nothing up."""


def advice(wait: Wait, address: str) -> str:
    return ADVICE.get(wait.code, "").replace("NAME", address)


def needs_person(wait: Wait, plan: Plan) -> bool:
    if wait.code == "Reference":  # something that is on its way comes by itself
        return not any(change.address == wait.on and not change.is_noop for change in plan.changes)
    return wait.code not in BY_ITSELF


@dataclass(frozen=True)
class Open:
    """Something that is not settled after a pass: for a person, or (not `person`) an action that failed and comes again."""

    address: str
    code: str
    reason: str
    person: bool

    def as_json(self) -> dict[str, object]:
        return {"address": self.address, "code": self.code, "reason": self.reason, "person": self.person}


def still_open(controller: Controller, plan: Plan) -> list[Open]:
    """What the plan and the log say is not done: waits, conditions, failures."""
    found: dict[tuple[str, str], Open] = {}
    for change in plan.changes:
        for wait in (*change.waits, *change.conditions):
            if needs_person(wait, plan):
                found[change.address, wait.code] = Open(change.address, wait.code, wait.reason, True)
            elif wait.code == "Retry":
                found[change.address, wait.code] = Open(change.address, "Retry", wait.reason, False)
    for problem in plan.problems:
        found[problem.path, "Quarantined"] = Open(problem.path, "Quarantined", str(problem), True)
    for status in controller.status(live=False):
        past, address = status.past, str(status.address)
        for code in past.conditions:
            if code not in BY_ITSELF and code != "Reference":
                found.setdefault((address, code), Open(address, code, status.told.get(code, code), True))
        if past.failed:
            found.setdefault((address, "Failed"), Open(address, "Failed", past.failed, True))
        elif past.attempts:
            after = f", next after {past.retry_at:%H:%M:%S} UTC" if past.retry_at else ""
            found.setdefault((address, "Retry"), Open(address, "Retry", f"tried {past.attempts} times{after}", False))
    return [found[key] for key in sorted(found)]


def exit_code(left: Iterable[Open]) -> int:
    """3: a person is needed. 1: something failed and is tried again. 0: all is done."""
    needs = {each.person for each in left}
    return 3 if True in needs else 1 if needs else 0
