"""A plan as people read it: grouped by kind, what changes and why, field by field, its cost, the way back, what it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controller.change import Action, Change, Plan
from controller.cli.text import clean, rows, short, shown, styled, write
from controller.cli.waits import advice
from controller.diff import ABSENT, FieldDiff, diff

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from controller.address import Address
    from controller.app import Controller
    from controller.plan import Planned

LOOK = {
    Action.CREATE: ("+", "green"),
    Action.UPDATE: ("~", "yellow"),
    Action.REPLACE: ("-/+", "magenta"),
    Action.DELETE: ("-", "red"),
    Action.RUN: (">", "cyan"),
    Action.STEP: ("»", "cyan"),
    Action.NOOP: ("=", "dim"),
}
WORDS = {
    Action.CREATE: "to create",
    Action.UPDATE: "to update",
    Action.REPLACE: "to replace",
    Action.RUN: "to run",
    Action.STEP: "to step",
    Action.DELETE: "to delete",
}
LOOKED_UP = 40
"""For more changes than this the commit that brought each one is not looked up: history is long."""


class Origins:
    """Which commit a revert would name for a change."""

    def __init__(self, controller: Controller, planned: Planned, worktree: bool) -> None:
        self.controller, self.repository = controller, controller.repository
        self.planned, self.worktree = planned, worktree
        self.left = LOOKED_UP

    def subject(self, commit: str) -> str:
        return self.repository.info(commit).subject

    def way_back(self, plan: Plan, change: Change) -> str:
        if change.irreversible:
            return f"not reversible: {change.irreversible}"
        if change.action is Action.RUN and not change.declared:
            spent = "; what it has cost by then stays spent" if change.cost.ceiling else ""
            return f"reversible while it runs: git revert or turnout cancel {change.address} stops it{spent}"
        follows = [str(other.address) for other in plan.changes if not other.is_noop and _needed(change, other)]
        if follows:
            return f"reversible: follows {', '.join(follows[:3])}{' and others' if len(follows) > 3 else ''}"
        if self.worktree:
            return "reversible: git revert of the commit that brings it"
        commit = self._commit(plan, change)
        return f"reversible: git revert {short(commit)}" if commit else f"reversible: turnout rollback {change.address}"

    def _commit(self, plan: Plan, change: Change) -> str:
        effective = self.planned.effective.get(change.address)
        files = effective.resource.files if effective and effective.resource else ()
        if not files or self.left <= 0:
            return ""
        self.left -= 1
        found = next(self.repository.history(plan.commit, files[-1]), None)
        return found.id if found else ""


def _needed(change: Change, other: Change) -> bool:
    return not change.declared and any(
        need == other.address or (need.is_wildcard and need.kind == other.address.kind) for need in change.needs
    )


def show(console: Console, plan: Plan, origins: Origins, kept: Sequence[tuple[str, str]] = (), *, everything: bool = False) -> None:
    """The whole plan."""
    what = "the files of the work tree on " if origins.worktree else ""
    head = styled(f"{plan.environment}: {what}{short(plan.commit)} ", "bold")
    write(console, head + styled(f'"{origins.subject(plan.commit)}"', "dim"))
    for kind in dict.fromkeys(change.address.kind for change in plan.changes if not change.is_noop):
        console.print()
        write(console, styled(kind, "bold"))
        for change in plan.changes:
            if change.address.kind == kind and not change.is_noop:
                _change(console, plan, change, origins)
    if everything:
        _unchanged(console, plan, kept)
    _conditions(console, plan)
    _problems(console, plan)
    _further(console, plan, origins)
    console.print()
    write(console, styled(summary(plan), "bold"))


def _change(console: Console, plan: Plan, change: Change, origins: Origins) -> None:
    symbol, style = LOOK[change.action]
    head = styled(f"{symbol:>3} ", style) + styled(change.address.name, f"bold {style}") + styled(f"  {change.reason}")
    write(console, head, indent=1, hang=6)
    rows(console, [_field(each) for each in fields(change)], indent=7)
    if change.cost.usd or change.cost.ceiling:
        write(console, f"cost: {estimated(change)}, at most {change.cost.ceiling:.2f} USD", indent=7, hang=6)
    if change.risk != "low":
        write(console, styled(f"risk: {change.risk}", "yellow"), indent=7, hang=6)
    back = origins.way_back(plan, change)
    write(console, styled(back, "yellow" if change.irreversible else "dim"), indent=7, hang=2)
    for wait in change.conditions:
        write(console, styled("note: ", "yellow") + styled(f"{wait.reason} ({wait.code})"), indent=7, hang=7)
    for wait in change.waits:
        write(console, styled("waits: ", "yellow") + styled(f"{wait.reason} ({wait.code})"), indent=7, hang=7)
        todo = advice(wait, change.address)
        if todo:
            write(console, styled(f"to do: {todo}", "dim"), indent=7, hang=7)
        if wait.code == "Approval":
            write(console, styled(f"digest {change.digest}, ceiling {change.cost.ceiling:.2f} USD", "dim"), indent=14)


def estimated(change: Change) -> str:
    """`0.43-0.51 USD estimated (by the throughput of one A10G)`, where its kind tells a range."""
    found = change.evidence.get("usd")
    if not isinstance(found, list | tuple) or len(found) != 3 or found[2] - found[0] < 0.005:
        return f"{change.cost.usd:.2f} USD estimated"
    basis = change.evidence.get("basis")
    return f"{found[0]:.2f}-{found[2]:.2f} USD estimated{f' ({basis})' if basis else ''}"


def _further(console: Console, plan: Plan, origins: Origins) -> None:
    """What follows what, and what the money of this plan does to the budget."""
    lines = [f"in this order: {' -> '.join(chain)}" for chain in chains(plan)]
    if any(_costs(change) for change in plan.changes):
        lines += budget_lines(plan, origins.controller.costs())
    if lines:
        console.print()
    for line in lines:
        write(console, line, hang=2)


def chains(plan: Plan) -> list[list[str]]:
    """Runs that wait for runs, each way from the first to the last: train, evaluate, roll out."""
    moving = {change.address for change in plan.changes if not change.is_noop or change.running}
    after = {
        change.address: [need for need in change.needs if need in moving]
        for change in plan.changes
        if any(wait.code == "Reference" for wait in change.waits)
    }
    after = {address: before for address, before in after.items() if before}
    named = {need for before in after.values() for need in before}

    def ways(address: Address) -> list[list[str]]:
        return [[*way, str(address)] for need in after.get(address, ()) for way in ways(need)] or [[str(address)]]

    return [way for address in sorted(after) if address not in named for way in ways(address)]


def _costs(change: Change) -> bool:
    """What a plan adds to the month; a step of a run that goes on was reserved when that began."""
    return bool(change.cost.ceiling) and not change.is_noop and change.action is not Action.STEP


def budget_lines(plan: Plan, costs: Mapping[str, Any]) -> list[str]:
    """`budget of 2026-11: 1.20 spent + 3.00 reserved + 4.50 at most of this plan = 8.70 of 20.00 USD`, and so for each agent."""
    new = [(str((change.after or {}).get("agent", "")), change.cost.ceiling) for change in plan.changes if _costs(change)]
    rows = [(f"budget of {costs['month']}", costs, sum(usd for _, usd in new))]
    for agent in sorted({agent for agent, _ in new}):
        row = costs["agents"].get(agent, {})
        if row.get("limit") is not None:
            rows.append((f"budget of agent {agent}", row, sum(usd for whose, usd in new if whose == agent)))
    out = []
    for name, row, usd in rows:
        total = row["spent"] + row["reserved"] + usd
        limit = f"of {row['limit']:.2f} USD" if row["limit"] is not None else "USD; no limit is set"
        over = f", {total - row['limit']:.2f} too much" if row["limit"] is not None and total > row["limit"] else ""
        sums = f"{row['spent']:.2f} spent + {row['reserved']:.2f} reserved + {usd:.2f} at most of this plan"
        out.append(f"{name}: {sums} = {total:.2f} {limit}{over}")
    return out


def fields(change: Change) -> list[FieldDiff]:
    """What a person wants to see of a change: of a new run what was written, otherwise the fields that differ."""
    found: Sequence[FieldDiff] = change.diffs
    if change.action is Action.RUN and change.written:
        found = diff(ABSENT, dict(change.written))
    return [each for each in found if not (each.old is ABSENT and each.new in (None, "", [], {}))]


def _field(one: FieldDiff) -> list[Text]:
    if one.old is ABSENT:
        return [styled("+", "green"), styled(one.field), styled(shown(one.new, one.field))]
    if one.new is ABSENT:
        return [styled("-", "red"), styled(one.field), styled(shown(one.old, one.field), "dim")]
    arrow = styled(shown(one.old, one.field), "red") + styled(" -> ", "dim") + styled(shown(one.new, one.field), "green")
    return [styled("~", "yellow"), styled(one.field), arrow]


def _unchanged(console: Console, plan: Plan, kept: Sequence[tuple[str, str]]) -> None:
    planned = [(str(change.address), change.reason) for change in plan.changes if change.is_noop]
    told = {change.address for change in plan.changes}
    same = sorted([*planned, *((address, reason) for address, reason in kept if address not in told)])
    if same:
        console.print()
        write(console, styled("Unchanged", "bold"))
        rows(console, [[styled("=", "dim"), styled(address, "dim"), styled(reason, "dim")] for address, reason in same], indent=3)


def _conditions(console: Console, plan: Plan) -> None:
    found = [(change, wait) for change in plan.changes if change.is_noop for wait in (*change.waits, *change.conditions)]
    if not found:
        return
    console.print()
    write(console, styled("Conditions", "bold"))
    for change, wait in found:
        write(
            console,
            styled("  ! ", "yellow") + styled(str(change.address), "bold") + styled(f"  {wait.reason} ({wait.code})"),
            indent=1,
            hang=6,
        )
        todo = advice(wait, change.address)
        if todo:
            write(console, styled(f"to do: {todo}", "dim"), indent=7, hang=7)
        for address, values in change.edits.items():
            write(console, edit_line(str(address), values), indent=7, hang=2)


def edit_line(address: str, values: Any) -> str:
    """A write-back in words."""
    if values is None:
        return f"writes to the branch: removes {address}"
    return f"writes to the branch: {address} {', '.join(f'{key} {shown(value, key)}' for key, value in values.items())}"


def _problems(console: Console, plan: Plan) -> None:
    if not plan.problems:
        return
    console.print()
    write(console, styled("Problems", "bold red"))
    for problem in plan.problems:
        write(console, styled("  ! ", "red") + styled(clean(str(problem))), indent=1, hang=4)


def summary(plan: Plan) -> str:
    """`Plan: 1 to run, 2 to update, 0 to delete; 1 waits. Estimated cost 0.00 USD (at most 0.00). Digest abc123.`"""
    counts = plan.counts()
    if not counts:
        same = f"{plan.total} resource{'' if plan.total == 1 else 's'}"
        return f"Plan: nothing to do{' for what can be read' if plan.problems else ''}; {same} as git says."
    named = {action: words for action, words in WORDS.items() if counts.get(action.value) or action is Action.DELETE}
    said = [f"{counts.get(action.value, 0)} {words}" for action, words in named.items()]
    waits = f"; {len(plan.pending)} wait{'s' if len(plan.pending) == 1 else ''}" if plan.pending else ""
    cost = sum(change.cost.usd for change in plan.changes if not change.is_noop)
    ceiling = sum(change.cost.ceiling for change in plan.changes if not change.is_noop)
    return f"Plan: {', '.join(said)}{waits}. Estimated cost {cost:.2f} USD (at most {ceiling:.2f}). Digest {plan.digest[:12]}."
