"""Several whole controllers, a real git repository and doubles of everything else in one process under a virtual clock.

Same seed, same run: randomness, time and concurrency are parameters of the flow. Crashes are `Killed` at a numbered border
crossing; a new controller then starts from the repository alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pygit2

from controller import reconcile
from controller.address import Address
from controller.clients import Clients
from controller.clients.cache import Cache
from controller.clients.git import Identity, Repository
from controller.clients.git_remote import follow
from controller.kind import Kind
from controller.kinds import find
from controller.loading import PROJECTIONS, Flow
from controller.log import GitLog
from controller.pool import SerialPool
from controller.projections import Folds
from controller.reconcile import PassResult
from controller.testing.doubles import Faults, FaultyLog, FilesDouble, GatewayDouble, Killed, ReloadDouble
from controller.writer import Identification

ENVIRONMENT = """\
apiVersion: turnout/v1
kind: Environment
metadata: {name: local}
spec:
  branch: main
  proxies: {main: {url: "http://127.0.0.1:1"}}
  endpoints:
    openrouter: {url: "http://127.0.0.1:2/v1"}
    huggingface: {url: "http://127.0.0.1:3/v1"}
"""
GATEWAY = """\
apiVersion: turnout/v1
kind: Gateway
metadata: {name: main}
spec: {proxies: [main]}
"""


ADA = Identity("Ada", "ada@example.org")
BOB = Identity("Bob", "bob@example.org")


class Simulation:
    """`folder` gets a bare repository. `kinds` adds kinds to the built-in ones; `doors` doubles for their clients."""

    def __init__(
        self,
        folder: Path,
        seed: int = 0,
        *,
        kinds: Mapping[str, Kind[Any, Any]] | None = None,
        doors: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        pygit2.init_repository(str(folder / "repo.git"), bare=True, initial_head="main")
        self.repository = Repository(folder / "repo.git")
        self.time = datetime(2026, 11, 1, tzinfo=UTC)
        self.random = random.Random(seed)
        self.faults = Faults()
        self.gateway = GatewayDouble(lambda: self.time.timestamp(), self.faults)
        self.files, self.reload = FilesDouble(), ReloadDouble()
        self.doors = {"gateway": self.gateway, "files": self.files, "reload": self.reload, **(doors or {})}
        self.kinds = {**find(), **(kinds or {})}
        self.made = 0
        self.commit({"environments/local/environment.yaml": ENVIRONMENT, "state/gateways/main.yaml": GATEWAY}, "Begin")

    # -- people --------------------------------------------------------------------------------------------------

    def commit(self, files: Mapping[str, str | None], message: str = "Change", *, trailer: str = "", by: Identity = ADA) -> str:
        """A person's commit on main."""
        tip = self.tip()
        tree = self.repository.write_tree(tip, {path: None if text is None else text.encode() for path, text in files.items()})
        text = f"{message}\n\n{trailer}\n" if trailer else f"{message}\n"
        return self.repository.write_commit(tree, [tip] if tip else [], text, by, self.time.timestamp(), "refs/heads/main")

    def revert(self, commit: str) -> str:
        """A person's `git revert`. Raises Conflict."""
        tip = self.tip()
        assert tip
        tree = self.repository.revert(commit, tip)
        message = f'Revert "{self.repository.info(commit).subject}"\n\nThis reverts commit {commit}.\n'
        return self.repository.write_commit(
            tree, [tip], message, Identity("Ada", "a@b.c"), self.time.timestamp(), "refs/heads/main"
        )

    def tip(self) -> str | None:
        return self.repository.tip("refs/heads/main")

    def subjects(self) -> list[str]:
        """Subjects of main, newest first."""
        tip = self.tip()
        return [info.subject for info in self.repository.commits(tip)] if tip else []

    def read(self, path: str) -> str | None:
        tip = self.tip()
        blob = self.repository.blob_at(tip, path) if tip else None
        return self.repository.read(blob).decode() if blob else None

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    # -- controllers ---------------------------------------------------------------------------------------------

    def controller(self, machine: str = "") -> Flow:
        """A fresh controller; without `machine` on a machine of its own with an empty disk."""
        self.made += 1
        name = machine or f"m{self.made}"
        data = self.folder / name
        repository = Repository(self.folder / "repo.git")
        who = Identity("Turnout", "turnout@localhost")
        log = FaultyLog(GitLog(repository, "local", data, who, lambda: self.time.timestamp()), self.faults)
        cache = Cache(data / "cache.sqlite")
        tip = cache.meta("tip")
        if tip:
            log.continue_from(tip)
        return Flow(
            repository=repository,
            environment="local",
            kinds=self.kinds,
            log=log,
            cache=cache,
            folds=Folds(log, cache, PROJECTIONS),
            data=data,
            who=Identification("local", name, str(self.made), "turnout"),
            now=lambda: self.time,
            random=self.random.randbytes,
            pool=SerialPool(),
            clients=lambda settings: Clients(settings, self.doors),
            release="test",
        )

    def settle(self, flow: Flow, *, horizon: float = 0.0) -> PassResult:
        """Passes until nothing changes; with a horizon (seconds) also whatever becomes due until then."""
        end = self.time + timedelta(seconds=horizon)
        while True:
            result = reconcile.settle(flow)
            if result.again is None or result.again > end:
                return result
            self.time = max(result.again, self.time + timedelta(milliseconds=50))

    def survive(self, machine: str = "m", *, horizon: float = 0.0, tries: int = 20) -> Flow:
        """Settles; a process that is killed on the way is started again on the same machine."""
        for _ in range(tries):
            flow = self.controller(machine)
            try:
                self.settle(flow, horizon=horizon)
                return flow
            except Killed:
                flow.cache.close()
        raise AssertionError("killed again and again")

    # -- what must always hold -----------------------------------------------------------------------------------

    def check_log(self) -> list[Any]:
        """The log is whole, every outcome has its started event before it, and it folds the same from zero. Returns events."""
        log = GitLog(Repository(self.folder / "repo.git"), "local", self.folder / "check", Identity("x", "x@x"), lambda: 0.0)
        count = log.verify()
        events = list(log.read())
        assert [event.sequence for event in events] == list(range(1, count + 1))
        started: set[str] = set()
        for event in events:
            name = event.type.removeprefix("turnout.").rpartition(".v")[0]
            key = f"{event.subject} {event.data.get('intent')}"
            if name in ("action.started", "edits.started"):
                started.add(key)
            elif name in ("action.succeeded", "action.failed"):
                assert key in started, f"{event.subject}: outcome {event.sequence} without a started event"
        return events

    def folded(self) -> dict[str, Any]:
        """Every state folded from zero."""
        log = GitLog(Repository(self.folder / "repo.git"), "local", self.folder / "check", Identity("x", "x@x"), lambda: 0.0)
        log.refresh()
        folds = Folds(log, Cache(None), PROJECTIONS)
        folds.catch_up()
        return {f"{p.name}/{key}": folds.state(p.name, key) for p in PROJECTIONS for key in folds.keys(p.name)}


def incremental(flow: Flow) -> dict[str, Any]:
    """Every state as this controller folded it step by step."""
    return {f"{p.name}/{key}": flow.folds.state(p.name, key) for p in PROJECTIONS for key in flow.folds.keys(p.name)}


def binding(name: str, version: str, model: str = "acme/model", endpoint: str = "openrouter", comment: str = "") -> dict[str, str]:
    """A file of desired state."""
    return {
        f"state/bindings/{name}.yaml": f"""\
apiVersion: turnout/v1
kind: ModelBinding
metadata: {{name: {name}}}
spec:
  model: {model}{f"  # {comment}" if comment else ""}
  endpoint: {endpoint}
  version: {version}
"""
    }


def rollout(
    name: str, of: str, version: str, strategy: str = "{canary: [{weight: 50, hold: 60s}]}", samples: int = 20
) -> dict[str, str]:
    """A file of desired state."""
    return {
        f"state/rollouts/{name}.yaml": f"""\
apiVersion: turnout/v1
kind: Rollout
metadata: {{name: {name}}}
spec:
  binding: {of}
  candidate: {{model: acme/next, endpoint: huggingface, version: {version}}}
  strategy: {strategy}
  analysis: {{errorRate: {{worseBy: 1%}}, minimumSamples: {samples}}}
"""
    }


__all__ = ["Address", "Killed", "Simulation", "binding", "follow", "incremental", "rollout"]
