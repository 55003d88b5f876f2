"""One pass: load -> observe -> plan and check -> apply -> write back -> record. Each step is one call.

A pass reconciles the newest commit, never "its" event. It knows nothing that is not in git, in the log or in front of a
provider: killed anywhere, the next pass goes on. `settle` repeats passes while something changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from controller import approval, policy
from controller import plan as planning
from controller.address import Address
from controller.apply import Applied, Executor
from controller.change import Budget, Change, Plan, Verdict, Wait
from controller.clients.cache import Damaged
from controller.clients.git import Identity
from controller.errors import LostRace, NotFound, RemoteDown
from controller.events import Event
from controller.kind import Kind, Known, LocalWork, Past, Provider
from controller.loading import PROJECTIONS, Flow, Loaded, cached_rows, load, load_commit
from controller.observe import observe
from controller.projections import Folds
from controller.projections.approvals import APPROVALS, approvals, seen
from controller.projections.lease import KEY, LEASE
from controller.projections.money import MONEY, budget
from controller.projections.past import PAST, to_past
from controller.resource import digest
from controller.settings import Settings
from controller.source import EditedSource
from controller.writeback import Files, WriteBack, edits_key, find_intent
from controller.writer import LEASE_SECONDS, SKEW_SECONDS, Lease, Writer

QUIET = frozenset({"Retry", "Failed", "Lease"})
"""Waits that an action's own events tell already."""
MAX_CAUSE = 500
HELD_AGAIN_SECONDS = 5.0
UNKNOWN_AGAIN_SECONDS = 20.0
"""How often it is asked what became of a paid call whose answer was lost; a vendor's list lags by seconds to minutes."""
MAX_PASSES = 50


@dataclass(frozen=True)
class PassResult:
    """What one pass came to. `changed`: look again at once. `again`: look again then."""

    plan: Plan
    applied: Applied
    changed: bool
    again: datetime | None
    commit: str
    position: int
    events: tuple[Event, ...] = ()
    offline: str = ""
    waits: Mapping[Address, Wait] = field(default_factory=dict)  # of write-backs
    poll: float = 30.0  # seconds between questions to the remote
    resync: float = 60.0  # seconds after which reality is looked at although nothing moved


def settle(flow: Flow, most: int = MAX_PASSES) -> PassResult:
    """Passes until everything is done or waits. A lost race is simply another pass.

    Raises RemoteDown when the remote did not answer, after the way back to healthy versions went without it.
    """
    result: PassResult | None = None
    events: list[Event] = []
    offline = lost = ""
    for _ in range(most):
        try:
            result = once(flow, offline=offline)
        except LostRace as error:
            flow.rows, lost = None, error.message
            continue
        except Damaged:
            flow.cache.discard()  # it is folded again from the log
            flow.folds, flow.rows = Folds(flow.log, flow.cache, PROJECTIONS), None
            continue
        except RemoteDown as error:
            if offline:
                raise
            offline = error.message
            continue
        events += result.events
        if result.offline:
            raise RemoteDown(result.offline, "only the way back to healthy versions goes on without it; it is tried again")
        if not result.changed or flow.stop():
            break
    if result is None:
        raise LostRace(f"nothing was done: {lost}", "it is tried again")
    return replace(result, events=tuple(events))


def once(flow: Flow, *, offline: str = "") -> PassResult:
    """One pass. Raises LostRace, RemoteDown, SettingsError (no environment has ever been readable).

    `offline` = why the remote is not to be asked.
    """
    with flow.cache.lock():
        loaded = load(flow, offline=offline)
        if loaded.branch.detached == loaded.commit and not loaded.branch.remote:
            raise NotFound(f"HEAD is detached and branch {loaded.branch.name} is not here", f"git checkout {loaded.branch.name}")
        writer = open_writer(flow, loaded.commit, offline=bool(loaded.offline))
        find_written(flow, loaded, writer)
        find_approvals(flow, loaded, writer)
        world = observed_world(flow, loaded)
        holder = "" if writer.may_act() else writer.lease.holder or "the remote"
        planned = planning.plan(world, checker(flow, loaded.settings, held_by=holder))
        applied = apply(flow, writer, planned, loaded)
        waits = write_back(flow, writer, planned, loaded, world)
        record(flow, writer, planned, applied, waits, loaded)
        return finish(flow, writer, planned, applied, waits, loaded)


# -- observe ---------------------------------------------------------------------------------------------------------


def observed_world(flow: Flow, loaded: Loaded) -> planning.World:
    """The world that is planned: git, the log, and what providers say is there."""
    world = world_of(flow, loaded)
    asked: dict[str, list[Known[Any]]] = {}
    for name, kind in flow.kinds.items():
        if kind.provider is not None:
            asked[name] = [
                Known(address, _resource(world, address), world.past(address))
                for address in sorted({*world.entries, *world.inventory})
                if address.kind == name and _is_looked_at(kind, world.past(address))
            ]
    seen = observe(asked, lambda name: provider_of(flow, loaded.settings, name), flow.pool)
    return replace(world, observed=seen)


def _is_looked_at(kind: Kind[Any, Any], past: Past) -> bool:
    """A run that has ended is not; one that has not begun only where its start depends on what is there."""
    return not kind.once or past.running or (not kind.declared and not past.ended)


def world_of(flow: Flow, loaded: Loaded) -> planning.World:
    """Git and the log, without a look at reality."""
    marks = flow.folds.digests(PAST.name)
    facts = flow.folds.state(LEASE.name, KEY)
    message = flow.repository.info(loaded.commit).message
    rules = loaded.settings.as_refs["rules"]
    allowed = "Turnout-Allow: prune" in message.splitlines()
    return planning.World(
        environment=flow.environment,
        commit=loaded.commit,
        settings=loaded.settings.as_refs,
        settings_digest=loaded.settings.digest,
        kinds=flow.kinds,
        entries=loaded.tree.entries,
        inventory=frozenset(Address(key) for key, mark in marks.items() if mark[:1] == "1"),
        past=lambda address: past_of(flow, address),
        past_digests=marks,
        now=flow.now(),
        log_id=facts.get("log_id", ""),
        release=flow.release,
        rows=cached_rows(flow),
        problems=loaded.problems,
        brake=lambda removals, population, empty: policy.brake(removals, population, rules, empty=empty, allowed=allowed),
    )


def past_of(flow: Flow, address: Address) -> Past:
    return to_past(flow.folds.state(PAST.name, address))


def provider_of(flow: Flow, settings: Settings, name: str) -> Provider[Any, Any]:
    key = (name, settings.digest)
    if key not in flow.providers:
        factory = flow.kinds[name].provider
        assert factory is not None
        flow.providers[key] = factory(flow.clients(settings))
    return flow.providers[key]


def local_work(flow: Flow, settings: Settings | None = None) -> list[LocalWork]:
    """Providers whose runs are processes of this machine: those that passes have used, or (with settings) all."""
    if settings is not None:
        for name, kind in flow.kinds.items():
            if kind.once and kind.provider is not None:
                provider_of(flow, settings, name)
    return [provider for provider in flow.providers.values() if isinstance(provider, LocalWork)]


def _resource(world: planning.World, address: Address) -> Any:
    entry = world.entries.get(address)
    return entry.load(world.past(address)).resource if entry else None


# -- plan and check --------------------------------------------------------------------------------------------------


def _with(budget: Budget, promised: float) -> Budget:
    return replace(budget, reserved=budget.reserved + promised)


def checker(flow: Flow, settings: Settings, *, held_by: str = "") -> planning.Check:
    """Policy with everything but the change already given. While somebody else holds the lease only the way back goes."""
    now, rules = flow.now(), settings.as_refs["rules"]
    month, limits = flow.folds.state(MONEY.name, f"{now:%Y-%m}"), settings.spec.budget
    promised: list[tuple[str, float]] = []  # in this plan, so that two halves of a budget are not given twice

    def budgets(change: Change) -> list[Budget]:
        agent = (change.after or {}).get("agent", "")
        found = [budget(month, "the month", limits.monthly_usd)]
        if agent in limits.agents:
            found.append(budget(month, f"agent {agent}", limits.agents[agent], agent))
        return [_with(each, sum(usd for whose, usd in promised if each is found[0] or whose == agent)) for each in found]

    def check(change: Change) -> Verdict:
        given = approvals(change.address, flow.folds.state(APPROVALS.name, change.address))
        verdict = policy.check(change, rules, budgets(change), given, now)
        if change.cost.ceiling and not (change.waits or verdict.waits or change.is_noop):
            promised.append(((change.after or {}).get("agent", ""), change.cost.ceiling))
        if held_by and not change.is_noop and not change.urgent:
            return Verdict((*verdict.waits, Wait("Lease", held_by, f"{held_by} is acting; this goes after it")))
        return verdict

    return check


# -- apply -----------------------------------------------------------------------------------------------------------


def open_writer(flow: Flow, commit: str, *, offline: bool = False) -> Writer:
    """The pen of one pass; what earlier passes could not append goes first."""
    lease = Lease.of(flow.folds.state(LEASE.name, KEY))
    if flow.lease_seen is None or flow.lease_seen[0] != lease:
        flow.lease_seen = (lease, flow.now())
    elif (flow.now() - flow.lease_seen[1]).total_seconds() > LEASE_SECONDS + SKEW_SECONDS:
        lease = replace(lease, expires=None)  # by our own clock it is over, whatever clock its holder has
    writer = Writer(flow.log, flow.who, flow.now, flow.random, lease, flow.folds.position, commit, offline=offline, tell=flow.tell)
    if not offline and writer.flush():
        flow.folds.catch_up()
    return writer


def apply(flow: Flow, writer: Writer, planned: planning.Planned, loaded: Loaded) -> Applied:
    plan = planned.plan

    def frozen(address: Address) -> Mapping[str, Any] | None:
        effective = planned.effective.get(address)
        return effective.resource.spec.full() if effective and effective.resource else None

    executor = Executor(
        writer=writer,
        provider=lambda name: provider_of(flow, loaded.settings, name),
        past=lambda a: past_of(flow, a),
        frozen=frozen,
        pool=flow.pool,
        report=flow.report,
        stop=flow.stop,
    )
    if writer.position == 0 and plan.active and not writer.offline:
        open_log(writer)
    applied = executor.run(plan, opening(flow, writer, plan))
    flow.folds.catch_up()
    return applied


def open_log(writer: Writer) -> None:
    """The id of the first event is part of every intent key, so an empty log is opened first and the pass starts again."""
    writer.facts([writer.event("log.opened", data={"environment": writer.who.environment})])
    raise LostRace("the log was just opened")


def opening(flow: Flow, writer: Writer, plan: Plan) -> list[Event]:
    """The first events of the first segment about a commit."""
    if writer.offline or flow.folds.state(LEASE.name, KEY).get("planned") == plan.commit or not (plan.active or plan.pending):
        return []
    return [
        writer.event(
            "plan.made",
            "",
            {
                "summary": summary(plan),
                "digest": plan.digest,
                "counts": plan.counts(),
                "problems": [str(problem) for problem in plan.problems],
            },
        )
    ]


def summary(plan: Plan) -> str:
    """`1 run, 2 update: 20 % of sessions to v2.0.0 (was v1.4.0)`."""
    counts = ", ".join(f"{count} to {action}" for action, count in sorted(plan.counts().items())) or "nothing to do"
    leading = next((change for change in plan.changes if not change.is_noop), None)
    return f"{counts} ({leading.address}: {leading.reason})" if leading else counts


# -- write back ------------------------------------------------------------------------------------------------------


def find_written(flow: Flow, loaded: Loaded, writer: Writer) -> None:
    """A write-back whose commit landed and whose outcome was lost counts as written before anything is planned."""
    if writer.offline:
        return
    found = []
    for key, mark in flow.folds.digests(PAST.name).items():
        if mark[1:2] != "w":
            continue
        intent = flow.folds.state(PAST.name, key).get("writing")
        commit = find_intent(flow.repository, loaded.commit, intent) if intent else None
        if commit:
            found.append(
                writer.event(
                    "edits.written",
                    key,
                    {
                        "intent": intent,
                        "commit": commit.id,
                        "by": "the controller",
                        "said": f"{commit.subject} ({commit.id[:7]}), found after an interruption",
                    },
                )
            )
    if found:
        writer.facts(found)
        flow.folds.catch_up()


def find_approvals(flow: Flow, loaded: Loaded, writer: Writer) -> None:
    """Approvals in commits that were not looked at yet become events: facts, which need no lease."""
    if writer.offline or flow.approved_until == loaded.commit:
        return
    seen_until = flow.approved_until or flow.folds.state(LEASE.name, KEY).get("planned")
    known = seen_until if seen_until and flow.repository.is_ancestor(seen_until, loaded.commit) else None

    def written(address: Address) -> tuple[str, ...]:
        """Who changed the data that a request names asks for it too."""
        entry = loaded.tree.entries.get(address)
        resource = entry.load(past_of(flow, address)).resource if entry else None
        return (*loaded.tree.files.get(address), *(resource.paths if resource else ()))

    found = []
    for each in approval.in_commits(flow.repository, loaded.commit, known, written):
        if each.commit.id not in seen(flow.folds.state(APPROVALS.name, each.address)):
            name = "approval.refused" if each.refused else "approval.granted"
            found.append(writer.event(name, each.address, each.as_data()))
    if found:
        writer.facts(found)
        flow.folds.catch_up()
    flow.approved_until = loaded.commit


def write_back(flow: Flow, writer: Writer, planned: planning.Planned, loaded: Loaded, world: planning.World) -> dict[Address, Wait]:
    """Edits of runs that have ended. A run that ended in this very pass waits for the next: its traffic goes first."""
    due = [
        change for change in planned.plan.changes if change.edits and change.is_noop and not past_of(flow, change.address).written
    ]
    if not due or flow.stop() or loaded.branch.tip() != loaded.commit or loaded.broken_settings or not writer.may_act():
        return {}
    author = loaded.settings.spec.author
    work = WriteBack(
        branch=loaded.branch,
        source=loaded.source,
        tree=loaded.tree,
        commit=loaded.commit,
        mode=loaded.settings.spec.write_back,
        shared_with=loaded.shared_with,
        author=Identity(author.name, author.email),
        writer=writer,
        past=lambda address: past_of(flow, address),
        preview=lambda files: calls_of(flow, loaded, world, files),
        calls_now=lambda: calls_of(flow, loaded, world, {}),
        key=lambda change: edits_key(world.log_id, change),
    )
    waits: dict[Address, Wait] = {}
    for change in due:
        wait = work.write(change)
        if wait is None:
            break  # HEAD moved: the next pass plans the new commit
        waits[change.address] = wait
    return waits


def calls_of(flow: Flow, loaded: Loaded, world: planning.World, files: Files) -> frozenset[str]:
    """What a tree with these files changed would make providers do."""
    edited = load_commit(flow, loaded.commit, loaded.branch, EditedSource(loaded.source, files))
    there = replace(world, entries=edited.tree.entries, problems=edited.problems, past=lambda address: past_of(flow, address))
    planned = planning.plan(there, checker(flow, edited.settings))
    return frozenset(
        f"{change.address}: {change.reason}" for change in planned.plan.changes if change.may_go and not change.declared
    )


# -- record ----------------------------------------------------------------------------------------------------------


def record(
    flow: Flow, writer: Writer, planned: planning.Planned, applied: Applied, waits: Mapping[Address, Wait], loaded: Loaded
) -> None:
    """Conditions: an event only when (subject, code, cause) changes. And the rows for the next pass."""
    if writer.offline:
        return
    flow.folds.catch_up()
    events: list[Event] = []
    for change in planned.plan.changes:
        found = [*change.waits, *change.conditions, *filter(None, (waits.get(change.address), applied.waits.get(change.address)))]
        past = past_of(flow, change.address)
        before = {**past.conditions, **({"Failed": past.failed} if past.failed and change.is_noop else {})}
        events += _condition_events(writer, change.address, before, found)
    events += _file_conditions(flow, writer, loaded)
    if events:
        writer.facts([*opening(flow, writer, planned.plan), *events])
    if writer.holding:
        writer.outcomes([], last=True)
    flow.folds.catch_up()
    keep_rows(flow, planned, loaded)


def _condition_events(writer: Writer, subject: str, before: Mapping[str, str], waits: Iterable[Wait]) -> list[Event]:
    now: dict[str, tuple[str, str]] = {}
    for wait in waits:
        if wait.code not in QUIET:
            cause, reason = now.get(wait.code, ("", ""))
            on = wait.on if len(wait.on) <= MAX_CAUSE else digest(wait.on)
            now[wait.code] = (f"{cause}|{on}".strip("|"), f"{reason}; {wait.reason}".strip("; "))
    events = [
        writer.event("condition.raised", subject, {"code": code, "cause": cause, "reason": reason})
        for code, (cause, reason) in sorted(now.items())
        if before.get(code) != cause
    ]
    gone = sorted(set(before) - set(now))
    return events + [writer.event("condition.cleared", subject, {"code": code, "reason": f"{code} is over"}) for code in gone]


def _file_conditions(flow: Flow, writer: Writer, loaded: Loaded) -> list[Event]:
    """Files that give no address (unknown kind, bad name) and broken settings: the path is the subject.

    And what only ever waited or failed, and has no file any more: nobody plans it, and it waits for nothing.
    """
    by_path: dict[str, list[Wait]] = {}
    for problem in loaded.problems:
        by_path.setdefault(problem.path, []).append(Wait("Quarantined", str(problem), str(problem)))
    marks = flow.folds.digests(PAST.name)
    for key, mark in marks.items():
        if mark[:1] == "2" and (key.partition("/")[0] not in flow.kinds or Address(key) not in loaded.tree.entries):
            by_path.setdefault(key, [])
    events = []
    for path, waits in sorted(by_path.items()):
        past = past_of(flow, Address(path))
        before = {**past.conditions, **({"Failed": past.failed} if past.failed else {})}
        events += _condition_events(writer, path, before, waits)
    return events


def keep_rows(flow: Flow, planned: planning.Planned, loaded: Loaded) -> None:
    old = cached_rows(flow)
    changed = [(row.address, tuple(row)) for row in planned.rows.values() if old.get(row.address) is not row]
    gone = [address for address in old if address not in planned.rows]
    if changed or gone:
        flow.cache.keep_rows(changed, gone)
        flow.rows = dict(planned.rows)


def finish(
    flow: Flow, writer: Writer, planned: planning.Planned, applied: Applied, waits: Mapping[Address, Wait], loaded: Loaded
) -> PassResult:
    changed = bool(applied.done) or loaded.branch.tip() != loaded.commit
    moments = [planned.again] if planned.again else []
    if applied.failed or any(wait.code == "Retry" for wait in applied.waits.values()):
        retries = [past_of(flow, address).retry_at for address in applied.failed]
        moments += [moment for moment in retries if moment]
        changed = changed or any(wait.on for wait in applied.waits.values() if wait.code == "Retry")
    if any(wait.code == "Held" and wait.on.startswith("dirty") for wait in waits.values()):
        moments.append(flow.now() + timedelta(seconds=HELD_AGAIN_SECONDS))
    if any(wait.code == "Unknown" for wait in applied.waits.values()):
        moments.append(flow.now() + timedelta(seconds=UNKNOWN_AGAIN_SECONDS))
    leased = any(wait.code == "Lease" for change in planned.plan.changes for wait in change.waits)
    if leased and writer.lease.expires:
        moments.append(writer.lease.expires + timedelta(seconds=3))
    return PassResult(
        planned.plan,
        applied,
        changed,
        min(moments) if moments else None,
        loaded.commit,
        flow.folds.position,
        tuple(writer.appended),
        loaded.offline,
        waits,
        loaded.settings.spec.poll,
        loaded.settings.spec.resync,
    )
