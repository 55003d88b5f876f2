"""Controller: the facade that every front end uses, and the only place that wires the flow together."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import controller
from controller import approval, loading, reconcile, tree
from controller import plan as planning
from controller.address import Address
from controller.change import Plan
from controller.clients import Clients
from controller.clients.cache import Cache
from controller.clients.git import Identity, Repository
from controller.errors import (
    Conflict,
    LogRewritten,
    LostRace,
    NotFound,
    Permanent,
    Problem,
    Temporary,
    TurnoutError,
    listed,
    nearest,
)
from controller.events import Event
from controller.health import Status, health_of
from controller.kind import Kind, Observed, Past, Unknown
from controller.kinds import find
from controller.loading import PROJECTIONS, Flow, Loaded
from controller.log import GitLog
from controller.pool import ThreadPool
from controller.projections import Folds
from controller.projections.money import MONEY, months_until, spending
from controller.projections.past import PAST, to_past
from controller.projections.registry import REGISTRY, is_agent
from controller.reconcile import PassResult
from controller.registry_import import Imported, import_registry
from controller.rollback import Cancellation, Cancelled, Rollback, RolledBack
from controller.settings import Settings
from controller.source import CommitSource, FilesSource
from controller.tracing import Tracing, missing
from controller.writer import Identification

RELEASE = controller.__version__
LOOK_SECONDS = 0.5
STOP_SECONDS = 30.0
"""So long a run of this machine may take to write a checkpoint."""


@dataclass(frozen=True)
class Link:
    """One link of the chain that `why` walks: from what runs back to a line of YAML."""

    what: str
    text: str
    commit: str = ""
    sequence: int = 0


class Controller:
    """One environment of one repository. `settle` is the only call that changes the world; the rest look or write commits."""

    def __init__(
        self,
        repo: Path | str = ".",
        environment: str = "local",
        *,
        branch: str = "",
        actor: str = "",
        report: Callable[[str], None] = lambda text: None,
        kinds: Mapping[str, Kind[Any, Any]] | None = None,
    ) -> None:
        self.repository = Repository(repo)
        self.environment = environment
        self._must_exist()
        self.data = data_folder(self.repository, environment)
        self.stopping = threading.Event()
        self.flow = self._wire(branch, actor, report, kinds or find())
        self.tracing = Tracing(self.flow)

    def _wire(self, branch: str, actor: str, report: Callable[[str], None], kinds: Mapping[str, Kind[Any, Any]]) -> Flow:
        cache = Cache(self.data / "cache.sqlite")
        machine = machine_name(self.data)
        who = Identification(self.environment, machine, str(os.getpid()), actor or f"turnout {self.environment}")
        log = GitLog(self.repository, self.environment, self.data, Identity("Turnout", "turnout@localhost"), time.time)
        self._continue(log, cache)
        flow = Flow(
            repository=self.repository,
            environment=self.environment,
            kinds=kinds,
            log=log,
            cache=cache,
            folds=Folds(log, cache, PROJECTIONS),
            data=self.data,
            who=who,
            now=_now,
            random=os.urandom,
            pool=ThreadPool(),
            clients=Clients,
            release=RELEASE,
            report=report,
            stop=self.stopping.is_set,
            branch=branch,
        )
        self._use_remote(flow, log)
        return flow

    def _must_exist(self) -> None:
        """An environment that neither HEAD nor this clone knows is a typing error."""
        try:
            known = tree.environments_of(CommitSource(self.repository, self.repository.resolve("HEAD")))
        except NotFound:
            return  # no commit yet: said by whatever is asked first
        if self.environment not in known and not data_folder(self.repository, self.environment).exists():
            raise NotFound(
                f"there is no environment {self.environment!r}{nearest(self.environment, known)}",
                f"environments here: {listed(known)}; `turnout init` makes one",
            )

    def _continue(self, log: GitLog, cache: Cache) -> None:
        """The log must contain what the cache was folded from; a cache of unknown origin is folded again."""
        tip = cache.meta("tip")
        if not tip:
            return
        if tip in self.repository.git:
            log.continue_from(tip)
        else:
            cache.forget_folds()

    def _use_remote(self, flow: Flow, log: GitLog) -> None:
        try:
            branch = loading.branch_of(flow)
        except TurnoutError:
            return  # said again, with its text, by whatever is asked first
        log.remote = branch.remote

    # -- looking -------------------------------------------------------------------------------------------------

    def plan(self, *, worktree: bool = False, commit: str = "") -> tuple[Plan, planning.Planned]:
        """What a pass would do now: of HEAD, of another commit, or of the files of the work tree. Changes nothing."""
        flow = self.flow
        with flow.cache.lock():
            loaded = self._loaded(worktree, commit)
            world = reconcile.observed_world(flow, loaded)
            planned = planning.plan(world, reconcile.checker(flow, loaded.settings))
        return planned.plan, planned

    def _loaded(self, worktree: bool, commit: str = "") -> Loaded:
        flow = self.flow
        loaded = loading.load(flow)
        if commit:
            return loading.load_commit(flow, self.repository.resolve(commit), loaded.branch)
        if not worktree:
            return loaded
        if self.repository.work_dir is None:
            raise TurnoutError("a bare repository has no work tree to preview")
        source = FilesSource.of_work_tree(self.repository.work_dir, (loaded.settings.spec.state, "environments"))
        return loading.load_commit(flow, loaded.commit, loaded.branch, source)

    def settings(self, *, worktree: bool = False, commit: str = "") -> Settings:
        """Of the newest commit, of another, or of the files of the work tree."""
        return self._loaded(worktree, commit).settings

    def validate(self, *, worktree: bool = True, commit: str = "") -> tuple[list[Problem], int]:
        """Every problem of the files (not of reality) and how many resources were read."""
        flow = self.flow
        loaded = self._loaded(worktree, commit)
        world = reconcile.world_of(flow, loaded)
        blank = planning.World(
            **{
                **world.__dict__,
                "inventory": frozenset(),
                "rows": {},
                "past_digests": {},
                "past": lambda address: Past(),
                "brake": None,
            }
        )
        planned = planning.plan(blank, reconcile.checker(flow, loaded.settings))
        problems = list(loaded.problems)
        for change in planned.plan.changes:
            effective = planned.effective.get(change.address)
            problems += effective.problems if effective else ()
            path = (loaded.tree.files.get(change.address) or (str(change.address),))[-1]
            problems += [
                Problem(path, wait.reason, code=wait.code)
                for wait in change.waits
                if wait.code == "Invalid" or (wait.code == "Reference" and not self._comes(wait.on, loaded))
            ]
        return sorted(set(problems), key=str), len(loaded.tree.entries)

    def _comes(self, on: str, loaded: Loaded) -> bool:
        """Whether what is waited for is a run of the same files: that is how a chain is, and no problem of a file."""
        address = Address(on.split(" ")[0])
        return address in loaded.tree.entries and self.flow.kinds[address.kind].once

    def address(self, name: str, *, known: set[Address] | None = None) -> Address:
        """`feature_dev`, `ModelBinding/feature_dev` or a path -> the one address it means. Raises NotFound."""
        candidates = known if known is not None else self.addresses()
        if name.endswith(".yaml"):
            parts = name.split("/")
            kind = next((kind.name for kind in self.flow.kinds.values() if kind.plural == parts[-2]), "") if len(parts) > 1 else ""
            name = f"{kind}/{parts[-1][:-5]}"
        if "/" in name:
            if Address(name) in candidates:
                return Address(name)
            raise NotFound(f"there is no {name}{nearest(name, candidates)}", f"known: {listed(candidates)}")
        same = sorted(address for address in candidates if address.name == name)
        if len(same) == 1:
            return same[0]
        if same:
            bindings = [address for address in same if address.kind == "ModelBinding"]
            if bindings:
                return bindings[0]
            raise NotFound(f"{name} is {' and '.join(same)}", "write the kind too, as in " + same[0])
        names = {address.name for address in candidates}
        raise NotFound(f"nothing is called {name!r}{nearest(name, names)}", f"known: {listed(candidates)}")

    def addresses(self) -> set[Address]:
        """Every address that git names or the log knows."""
        loaded = loading.load(self.flow)
        known = {Address(key) for key in self.flow.folds.keys(PAST.name) if key.partition("/")[0] in self.flow.kinds}
        return {*loaded.tree.entries, *known}

    def status(self, at: str = "", *, live: bool = True) -> list[Status]:
        """Every resource that exists or has a condition; `at` a commit or a time replays the log to then."""
        folds = self.folds_at(at) if at else self._now()
        kinds = self.flow.kinds
        seen = self._observed() if live and not at else {}
        out = []
        for key in folds.keys(PAST.name):
            state = folds.state(PAST.name, key)
            past = to_past(state)
            if not (past.exists or past.conditions or past.intents or past.failed):
                continue
            address = Address(key)
            found = seen.get(address)
            declared = bool(at) or (key.partition("/")[0] in kinds and kinds[address.kind].declared)
            health, summary = health_of(past, found, declared=declared)
            signals = found.signals if isinstance(found, Observed) else None
            out.append(Status(address, past, state.get("told", {}), health, summary, signals))
        return out

    def _now(self) -> Folds:
        self.flow.log.refresh()
        self.flow.folds.catch_up()
        return self.flow.folds

    def _observed(self) -> Mapping[Address, Observed[Any] | Unknown]:
        try:
            return reconcile.observed_world(self.flow, loading.load(self.flow)).observed
        except TurnoutError:
            return {}

    def folds_at(self, at: str) -> Folds:
        """The log replayed to a position: of a sequence, a commit of the state branch, or a time."""
        log = self.flow.log
        log.refresh()
        return self._replayed(self.position_at(at))

    def _replayed(self, position: int) -> Folds:
        folds = Folds(self.flow.log, Cache(None), PROJECTIONS)
        if position:
            folds.catch_up(until=position)
        return folds

    def position_at(self, at: str) -> int:
        """For a commit: the newest event whose `statecommit` is that commit or an ancestor of it. For a time: by its clock."""
        if at.isdigit() and len(at) < 7:
            return int(at)
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            commit = self.repository.resolve(at)
            contained: dict[str, bool] = {}
            found = 0
            for event in self.flow.log.read():
                state = event.statecommit
                if state and contained.setdefault(state, self.repository.is_ancestor(state, commit)):
                    found = event.sequence
            return found
        moment = moment if moment.tzinfo else moment.astimezone()
        return max((event.sequence for event in self.flow.log.read() if event.time and event.at <= moment), default=0)

    def events(self, subject: str = "", after: int = 0) -> Iterator[Event]:
        """The log, oldest first; `subject` an address or its start."""
        self.flow.log.refresh()
        for event in self.flow.log.read(after):
            if not subject or event.subject == subject or event.subject.endswith(f"/{subject}"):
                yield event

    def registry(self) -> Mapping[str, Mapping[str, Any]]:
        """Versions by agent, from events alone (projections/registry.py)."""
        folds = self._now()
        return {key: folds.state(REGISTRY.name, key) for key in folds.keys(REGISTRY.name) if is_agent(key)}

    def import_registry(self, content: bytes, source: str, by: str) -> Imported:
        """What a registry.json of before says, as one event. Raises InvalidState with every problem."""
        return import_registry(self.flow, content, source, by)

    def verify_log(self) -> int:
        """Number of events; raises LogDamaged or LogRewritten. Trusts no cache."""
        log = self.flow.log
        assert isinstance(log, GitLog)
        return log.verify()

    def why(self, name: str) -> list[Link]:
        """From what runs now back to the line of YAML, its author and its review."""
        from controller.projections.why import chain

        address = self.address(name)
        loaded = loading.load(self.flow)
        return [
            Link(*link)
            for link in chain(address, self.events(), self.repository, loaded.tree.files.get(address, ()), loaded.commit)
        ]

    def lineage(self) -> list[dict[str, Any]]:
        """The whole log as OpenLineage run events (projections/lineage.py)."""
        from controller.projections.lineage import run_events

        return list(run_events(self.events(), self.environment))

    def send_lineage(self, lines: Sequence[bytes], url: str) -> None:
        """Run events as JSON to an OpenLineage server; `$OPENLINEAGE_API_KEY` goes along. Raises TurnoutError."""
        from controller.clients.openlineage import post

        post(url, lines, os.environ.get("OPENLINEAGE_API_KEY", ""))

    # -- changing ------------------------------------------------------------------------------------------------

    def settle(self, tell: Callable[[Event], None] = lambda event: None) -> PassResult:
        """Passes until everything is done or waits; `tell` gets each event as it is appended."""
        self.flow.tell = self.tracing.telling(tell)
        try:
            return reconcile.settle(self.flow)
        finally:
            self.tracing.follow()

    def settle_here(self, tell: Callable[[Event], None] = lambda event: None) -> PassResult:
        """`settle`, and again until the work of this machine has ended: for a controller that does not stay.

        When it is asked to stop, that work is too; it keeps what it has, and the next controller goes on with it.
        """
        events: list[Event] = []
        while True:
            before = self.working()
            result = self.settle(tell)
            events += result.events
            now = self.working()
            if self.stopping.is_set() or not (before or now):
                break
            self._await(result.again, now)
        if self.stopping.is_set():
            self.stop_work()
        return replace(result, events=tuple(events))

    def _await(self, again: datetime | None, working: frozenset[str]) -> None:
        """Until something is due, or a process has ended."""
        while not self.stopping.wait(LOOK_SECONDS) and self.working() == working:
            if again is not None and self.flow.now() >= again:
                break

    def working(self) -> frozenset[str]:
        """Processes of runs that live on this machine."""
        return frozenset(handle for each in reconcile.local_work(self.flow) for handle in each.working())

    def stop_all(self) -> int:
        """`stop_work` of whatever an earlier controller has started here."""
        reconcile.local_work(self.flow, self.settings())
        return self.stop_work()

    def stop_work(self, seconds: float = STOP_SECONDS) -> int:
        """Asks them to end and waits for it, so long at most. How many there were."""
        there = self.working()
        for each in reconcile.local_work(self.flow) if there else ():
            each.stop_all()
        end = time.monotonic() + seconds
        while there and time.monotonic() < end and self.working():
            time.sleep(LOOK_SECONDS)
        return len(there)

    def retry(self, name: str, by: str) -> Address:
        """Another try for what failed for good."""
        address = self.address(name)
        with self.flow.cache.lock():
            loaded = loading.load(self.flow)
            writer = reconcile.open_writer(self.flow, loaded.commit)
            writer.facts([writer.event("retry.requested", address, {"by": by})])
            self.flow.folds.catch_up()
        return address

    def rollback(self, name: str = "", *, commit: str = "", author: Identity | None = None) -> RolledBack:
        """A revert commit on the state branch: of one resource's last change, or of a whole commit. Raises Conflict."""
        loaded = loading.load(self.flow)
        spec = loaded.settings.spec.author
        who = author or Identity(spec.name, spec.email)
        work = Rollback(loaded.branch, loaded.tree, loaded.commit, who, self.flow.now().timestamp())
        if commit:
            return work.of_commit(self.repository.resolve(commit))
        return work.of_resource(self.address(name))

    def cancel(self, name: str, message: str = "", *, everywhere: bool = False, author: Identity | None = None) -> Cancelled:
        """A commit that takes the file of a run away; the controller ends it then. Raises NotFound, Conflict."""
        loaded, address = loading.load(self.flow), self.address(name)
        kind = self.flow.kinds.get(address.kind)
        if kind is None or not kind.once:
            raise Conflict(f"{address} is no run, so it does not end", "`turnout rollback` takes back what was changed last")
        spec = loaded.settings.spec.author
        who = author or Identity(spec.name, spec.email)
        work = Cancellation(loaded.branch, loaded.tree, loaded.commit, who, self.flow.now().timestamp(), loaded.shared_with)
        return work.of_run(address, reconcile.past_of(self.flow, address), message, everywhere=everywhere)

    def approve(self, names: Sequence[str], author: Identity) -> tuple[str, list[str]]:
        """One commit that approves what is planned for these resources (none = all that wait for it): its id and its lines.

        Raises NotFound, Conflict.
        """
        loaded, planned = loading.load(self.flow), self.plan()[0]
        asked = [each for each in planned.changes if any(wait.code in ("Approval", "Budget") for wait in each.waits)]
        wanted = [self.address(name) for name in names] or [change.address for change in asked]
        changes = [change for change in asked if change.address in wanted and not change.is_noop]
        missing = sorted(set(wanted) - {change.address for change in changes})
        if missing or not changes:
            told = f"{', '.join(missing)} waits for no approval" if missing else "nothing waits for an approval"
            raise NotFound(told, "`turnout plan` shows what waits, and for what")
        for change in changes:
            found = approval.author_of(self.repository, loaded.commit, loaded.tree.files.get(change.address, ()))
            if found is not None and found.email.lower() == author.email.lower():
                raise Conflict(f"{author.email} wrote {change.address} in {found.id[:7]}", "somebody else has to approve it")
        lines = [approval.line(change) for change in changes]
        what = ", ".join(change.address for change in changes)
        reasons = "\n".join(f"{change.address}: {change.reason}" for change in changes)
        tree, text = str(self.repository.git[loaded.commit].tree_id), "\n".join(lines)
        message = f"Approve {what}\n\n{reasons}\n\n{text}\n"
        commit = self.repository.write_commit(tree, [loaded.commit], message, author, self.flow.now().timestamp())
        loaded.branch.land(commit, loaded.commit)
        return commit, lines

    def costs(self, month: str = "") -> dict[str, Any]:
        """What paid work of a month (`YYYY-MM`, UTC; default this one) has cost and reserved, in US dollars."""
        return self.costs_of_months(month, 1)[0]

    def costs_of_months(self, month: str, months: int) -> list[dict[str, Any]]:
        """`costs` of the months that end with this one, oldest first. Raises ValueError for what is no month."""
        limits, now = loading.load(self.flow).settings.spec.budget, f"{self.flow.now():%Y-%m}"
        asked = months_until(month or now, months)
        return [spending(each, self.flow.folds.state(MONEY.name, each), limits) for each in asked]

    def dataset(self, source: str, files: Sequence[tuple[str, bytes]] = (), split: str | None = None) -> tuple[Any, ...]:
        """Rows of a data set elsewhere (ls://, hf://), read as this environment says, or of JSON-lines files. TurnoutError."""
        from controller.clients.datasets import rows_of

        try:
            if not source:
                return tuple(row for path, content in files for row in rows_of(path, content))
            read: tuple[Any, ...] = Clients(self.settings(worktree=True)).open("datasets").read(source, None, split).rows
            return read
        except Temporary as error:
            raise TurnoutError(f"{source} cannot be read now: {error}", "call it again later") from error
        except Permanent as error:
            raise TurnoutError(str(error)) from error

    def conversion(self, name: str) -> tuple[Address, Mapping[str, Any]]:
        """A finished conversion and its state, with its files. Raises NotFound."""
        known = {address for address in self.addresses() if address.kind == "Conversion"}
        if not known:
            raise NotFound("there is no conversion", "docs/kinds/conversion.md shows how to write one")
        address = self.address(name, known=known)
        past = to_past(self._now().state(PAST.name, str(address)))
        if past.after is None or past.after.get("phase") != "succeeded":
            phase = (
                "archived, its file is gone"
                if past.ended and past.after is None
                else (past.after or {}).get("phase", "not started")
            )
            raise NotFound(f"{address} has no files to fetch: it is {phase}", "`turnout status` and `turnout log` tell more")
        return address, past.after

    def download(self, name: str, quantization: str, to: Path, told: Callable[[int, int], None] = lambda done, of: None) -> Path:
        """One GGUF file of a finished conversion, checked by the sha256 in its events; `told` is bytes so far, and in all.

        What has arrived is kept, so a call after an error goes on. Raises NotFound, TurnoutError.
        """
        _, state = self.conversion(name)
        door = Clients(loading.load(self.flow).settings).open("conversions")
        try:
            path: Path = door.download(state, quantization, to, told)
        except Temporary as error:
            raise TurnoutError(str(error), "call it again: it goes on where it was") from error
        except Permanent as error:
            raise TurnoutError(str(error)) from error
        return path

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self, told: Callable[[str], None], tell: Callable[[Event], None] = lambda event: None) -> None:
        """Reconciles whenever the branch or the log moves, when something is due, and (with a remote) every poll.

        `tell` gets each event as it is appended, `told` everything else that a person should read.
        """
        from controller.watch import RefWatch

        with RefWatch(self.repository.common_dir) as refs:
            while not self.stopping.is_set():
                seen, wait = self._pass(told, tell)
                due = time.monotonic() + wait if wait is not None else None
                while not self.stopping.is_set() and self._heads() == seen:
                    left = None if due is None else due - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    refs.wait(left)

    def _heads(self) -> tuple[str | None, str | None]:
        """What the loop waits for: the branches of state and log."""
        branch = self.flow.branch or self.repository.head_branch()
        return self.repository.tip(f"refs/heads/{branch}"), self.repository.tip(f"refs/heads/events/{self.environment}")

    def _pass(
        self, told: Callable[[str], None], tell: Callable[[Event], None]
    ) -> tuple[tuple[str | None, str | None], float | None]:
        """One settle; returns what it has seen, and how long to wait at most (None = until something moves)."""
        seen = self._heads()
        try:
            result = self.settle(tell)
        except LogRewritten as error:
            told(str(error))
            return seen, 30.0
        except (TurnoutError, LostRace) as error:
            told(str(error))
            return seen, 5.0
        except Exception as error:  # a bug must not take the controller down; it is told and tried again
            import traceback

            told(f"unexpected {type(error).__name__}: {error}\n{traceback.format_exc()}")
            return seen, 5.0
        if news := self.tracing.news():
            told(news)
        log = self.flow.log
        assert isinstance(log, GitLog)
        waits = [result.resync if not log.remote else min(result.resync, result.poll)]
        if result.again:
            waits.append((result.again - self.flow.now()).total_seconds())
        return (seen if log.remote else (result.commit, log.tip or None)), max(0.05, min(waits))

    def untraced(self) -> str:
        """What a person reads about actions that LangSmith has not got, or nothing."""
        return missing(self.flow.cache)

    def close(self) -> None:
        """Gives traces that wait 2 s at most."""
        self.tracing.close()
        self.flow.cache.close()


def machine_name(data: Path) -> str:
    """This boot of this machine and this data folder: who has the same name excludes each other by the lock in that folder."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = str(uuid.getnode())
    return f"{socket.gethostname()}-{hashlib.blake2b(f'{boot} {data}'.encode(), digest_size=4).hexdigest()}"


def _now() -> datetime:
    return datetime.now(UTC)


def data_folder(repository: Repository, environment: str) -> Path:
    """Caches, outbox, proxy data: beside the objects, shared by all work trees of a clone. Deleting it loses no truth."""
    return repository.common_dir / "turnout" / environment
