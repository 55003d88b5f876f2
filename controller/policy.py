"""May this change go? Rules, money and approvals of one environment against one change. Pure.

Approvals name the change's digest and a ceiling in US dollars; they hold while the digest is equal and the ceiling is no
higher. Nothing here knows the clock except through `now`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from controller.change import Action, Approval, Budget, Change, Verdict, Wait

APPROVAL_ABOVE_USD = 10.0


def check(
    change: Change,
    rules: Mapping[str, Any],
    budgets: Iterable[Budget],
    approvals: Iterable[Approval],
    now: datetime,
) -> Verdict:
    """All reasons why a change has to wait, not only the first. Going back to what was healthy never waits for policy.

    An approval also covers money over a budget: who approves sees the plan, and the plan has the arithmetic.
    """
    if change.is_noop or change.urgent:
        return Verdict()
    waits = list(_denied(change, rules.get("deny", ())))
    if change.action is Action.STEP:  # of a run whose start was approved and reserved
        return Verdict(tuple(waits))
    approved = any(_covers(approval, change) for approval in approvals)
    needed = [*change.approvals, *_approval_reasons(change, rules)]
    if needed and not approved:
        waits.append(Wait("Approval", change.digest, f"needs an approval: {'; '.join(needed)}"))
    if not approved:
        waits += [wait for budget in budgets for wait in _over(change, budget)]
    return Verdict(tuple(waits))


def _over(change: Change, budget: Budget) -> Iterable[Wait]:
    if budget.limit is None or not change.cost.ceiling:
        return
    total = budget.spent + budget.reserved + change.cost.ceiling
    if total > budget.limit:
        yield Wait(
            "Budget",
            budget.name,
            f"budget of {budget.name}: {budget.spent:.2f} spent + {budget.reserved:.2f} reserved + "
            f"{change.cost.ceiling:.2f} at most = {total:.2f} USD, the limit is {budget.limit:.2f}",
        )


def _denied(change: Change, rules: Iterable[Mapping[str, Any]]) -> Iterable[Wait]:
    for rule in rules:
        if _matches(change, rule):
            yield Wait("Denied", rule.get("reason", "policy"), f"policy denies it: {rule.get('reason', 'no reason given')}")


def _approval_reasons(change: Change, rules: Mapping[str, Any]) -> Iterable[str]:
    above = float(rules.get("approvalAboveUsd", APPROVAL_ABOVE_USD))
    if change.cost.ceiling > above:
        yield f"it may cost {change.cost.ceiling:.2f} USD, more than {above:.2f}"
    if change.irreversible:
        yield f"it cannot be undone: {change.irreversible}"
    for rule in rules.get("approve", ()):
        if _matches(change, rule):
            yield str(rule.get("reason", "policy"))


def _matches(change: Change, rule: Mapping[str, Any]) -> bool:
    actions = rule.get("actions") or [action.value for action in Action]
    return change.action.value in actions and fnmatch.fnmatchcase(change.address, rule.get("match", "*"))


def _covers(approval: Approval, change: Change) -> bool:
    same = approval.address == change.address and approval.digest == change.digest
    return same and change.cost.ceiling <= approval.ceiling


def brake(removals: int, population: int, rules: Mapping[str, Any], *, empty: bool, allowed: bool) -> Wait | None:
    """The brake on mass removal: over a fraction of a population of some size, or everything at once."""
    if allowed or not removals:
        return None
    settings = rules.get("brake", {})
    fraction, least = float(settings.get("fraction", 30.0)), int(settings.get("population", 10))
    how = "add the line `Turnout-Allow: prune` to the message of the newest commit if that is meant"
    if empty:
        return Wait("Brake", "empty", f"the desired state is empty and {removals} resources exist; {how}")
    if population >= least and removals * 100 > fraction * population:
        return Wait("Brake", "removals", f"{removals} of {population} resources would be removed; {how}")
    return None
