"""The first step of a pass: the newest commit and the newest log, read and folded. `Flow` is what every step works with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from controller import plan as planning
from controller import tree
from controller.address import Address
from controller.clients.cache import Cache
from controller.clients.git import Repository
from controller.clients.git_remote import CALL_SECONDS, IMPATIENT_SECONDS, Remote
from controller.environment import EnvironmentSpec
from controller.errors import NotFound, Problem, RemoteDown, SettingsError
from controller.events import Event
from controller.kind import Clients, Kind, Provider
from controller.log import EventLog
from controller.pool import Pool
from controller.projections import Folds
from controller.projections.approvals import APPROVALS
from controller.projections.lease import LEASE
from controller.projections.money import MONEY
from controller.projections.past import PAST
from controller.projections.registry import REGISTRY
from controller.settings import Settings
from controller.source import CommitSource, Source
from controller.writeback import Branch
from controller.writer import Identification, Lease

PROJECTIONS = (PAST, LEASE, REGISTRY, APPROVALS, MONEY)


@dataclass
class Flow:
    """Everything a pass works with; made by `app.py`, or by a test with a virtual clock and doubles."""

    repository: Repository
    environment: str
    kinds: Mapping[str, Kind[Any, Any]]
    log: EventLog
    cache: Cache
    folds: Folds
    data: Path
    who: Identification
    now: Callable[[], datetime]
    random: Callable[[int], bytes]
    pool: Pool
    clients: Callable[[Settings], Clients]
    release: str
    report: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False
    tell: Callable[[Event], None] = lambda event: None  # each event as it is appended
    branch: str = ""
    providers: dict[tuple[str, str], Provider[Any, Any]] = field(default_factory=dict)
    rows: dict[Address, planning.Row] | None = None
    lease_seen: tuple[Lease, datetime] | None = None
    approved_until: str = ""  # up to this commit approvals were looked for
    patient: bool = False  # the remote gets its full time: the last pass did not wait for it


@dataclass(frozen=True)
class Loaded:
    """The desired state of a commit, and the settings that it says."""

    commit: str
    source: Source
    tree: tree.Tree
    shared_with: tuple[str, ...]
    branch: Branch
    problems: tuple[Problem, ...] = ()
    broken_settings: bool = False
    offline: str = ""  # why the remote could not be asked

    @property
    def settings(self) -> Settings:
        return self.tree.settings


def load(flow: Flow, *, offline: str = "") -> Loaded:
    """The newest commit and the newest log, folded; without the remote what is here."""
    branch = branch_of(flow)
    flow.log.follow(branch.remote)
    if branch.remote and not offline:
        offline = fetch(flow, branch)
    flow.log.refresh(remote=not offline)
    flow.folds.catch_up()
    commit = branch.tip()
    if commit is None:
        if offline:
            raise NotFound(f"branch {branch.name} of the remote is not known here: {offline}", "it is tried again")
        raise NotFound(f"branch {branch.name} has no commit yet", "commit state/ and environments/ first")
    return replace(load_commit(flow, commit, branch), offline=offline)


def fetch(flow: Flow, branch: Branch) -> str:
    """Asks the remote, first impatiently; why it could not be asked, or nothing."""
    assert branch.remote
    branch.remote.timeout = CALL_SECONDS if flow.patient else IMPATIENT_SECONDS
    try:
        branch.remote.fetch(branch.name)
    except RemoteDown as error:
        flow.patient = True
        return error.message
    finally:
        branch.remote.timeout = CALL_SECONDS
    flow.patient = False
    return ""


def branch_of(flow: Flow) -> Branch:
    """Which branch of which repository says what is desired: environment.yaml at HEAD, or the caller."""
    head = flow.branch or flow.repository.head_branch()
    tip = flow.repository.tip(f"refs/heads/{head}") if head else flow.repository.tip("HEAD")
    if tip is None:
        raise NotFound(f"branch {head or 'HEAD'} has no commit", "commit state/ and environments/ first")
    spec = settings_at(flow, tip)[0].spec
    remote = Remote(flow.repository, spec.remote) if spec.remote else None
    return Branch(flow.repository, flow.branch or spec.branch or head or "HEAD", remote, "" if head else tip)


def load_commit(flow: Flow, commit: str, branch: Branch, source: Source | None = None) -> Loaded:
    """The tree of a commit, or of `source` in its place (a preview)."""
    settings, shared, problems = settings_at(flow, commit, source)
    rows = cached_rows(flow)
    at = source or CommitSource(flow.repository, commit)
    found = tree.read(at, settings, flow.kinds, rows.get, flow.release, shared)
    return Loaded(commit, at, found, shared, branch, (*problems, *found.problems), bool(problems))


def settings_at(flow: Flow, commit: str, source: Source | None = None) -> tuple[Settings, tuple[str, ...], tuple[Problem, ...]]:
    """Settings of a commit; when they are broken there, those of the newest commit where they are not."""
    if source is None:
        cached = _cached_settings(flow, commit)
        if cached:
            return cached
    at = source or CommitSource(flow.repository, commit)
    try:
        settings = tree.read_settings(at, flow.environment, flow.data)
    except SettingsError as error:
        return _last_good_settings(flow, commit, error)
    shared = tree.readers_of_state(at, settings)
    if source is None:
        _keep_settings(flow, commit, settings, shared)
    return settings, shared, ()


def _last_good_settings(flow: Flow, commit: str, error: SettingsError) -> tuple[Settings, tuple[str, ...], tuple[Problem, ...]]:
    for info in flow.repository.history(commit, f"environments/{flow.environment}"):
        at = CommitSource(flow.repository, info.id)
        with contextlib.suppress(SettingsError):
            settings = tree.read_settings(at, flow.environment, flow.data)
            return settings, tree.readers_of_state(at, settings), error.problems
    raise error


def _cached_settings(flow: Flow, commit: str) -> tuple[Settings, tuple[str, ...], tuple[Problem, ...]] | None:
    kept = flow.cache.meta("settings")
    if not kept:
        return None
    found = msgspec.json.decode(kept)
    if found["tree"] != flow.repository.blob_at(commit, "environments") or found["release"] != flow.release:
        return None
    spec = EnvironmentSpec.model_validate(found["spec"], strict=False)
    return Settings(flow.environment, spec, flow.data), tuple(found["shared"]), ()


def _keep_settings(flow: Flow, commit: str, settings: Settings, shared: tuple[str, ...]) -> None:
    kept = {
        "tree": flow.repository.blob_at(commit, "environments"),
        "release": flow.release,
        "spec": settings.spec.written(),
        "shared": shared,
    }
    flow.cache.set_meta(settings=msgspec.json.encode(kept).decode())


def cached_rows(flow: Flow) -> dict[Address, planning.Row]:
    if flow.rows is None:
        flow.rows = {row[0]: planning.Row(Address(row[0]), *row[1:]) for row in flow.cache.rows()}
    return flow.rows
