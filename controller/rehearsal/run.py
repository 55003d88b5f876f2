"""The copy of the repository on disk, what its doubles know, its processes, and its end."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from controller import loading, local
from controller.address import Address
from controller.app import Controller, data_folder
from controller.clients.git import Identity, Repository
from controller.document import parse, plain
from controller.document_edit import dump
from controller.errors import RemoteDown, TurnoutError
from controller.kind import Past
from controller.loading import Flow, Loaded
from controller.local import ANSWERS, Process, Told
from controller.log import GitLog
from controller.projections.past import PAST, to_past
from controller.rehearsal import copy, seeds
from controller.resource import Resource

AUTHOR = Identity("Rehearsal", "rehearsal@localhost")
ALONE = (
    "--template=",
    "--config=core.hooksPath=/dev/null",
    "--config=filter.lfs.required=false",
    *(f"--config=filter.lfs.{each}=" for each in ("smudge", "clean", "process")),
)
"""What a person's git does on its own in every clone (hooks, big files fetched from a server) is not done in this one."""
SECONDS = 86_400
RATE, MOST = 20.0, 100.0
"""Requests a second to each agent, and to all: without traffic no rollout goes on."""


@dataclass(frozen=True)
class Scene:
    """What is rehearsed: one environment at one commit."""

    repository: Repository
    environment: str
    loaded: Loaded
    resources: tuple[Resource[Any], ...]
    over: tuple[str, ...] = ()  # files of runs that have ended: the copy's log is empty, so they would begin again

    def specs(self, kind: str) -> list[Mapping[str, Any]]:
        return [each.written for each in self.resources if each.address.kind == kind]

    @property
    def by_kind(self) -> dict[str, list[Mapping[str, Any]]]:
        return {kind: self.specs(kind) for kind in {each.address.kind for each in self.resources}}


def place_of(repo: Path, environment: str) -> Path:
    """Where the copy is."""
    return data_folder(Repository(repo), environment) / "rehearsal"


def rehearse(repo: Path, environment: str, candidate: str, told: Told) -> Path:
    """Starts it, from HEAD, anew unless it runs. Returns the copy. Raises TurnoutError."""
    place = place_of(repo, environment)
    if place.exists() and local.runs(place, environment):
        told(f"the rehearsal in {place} runs already; `turnout down --rehearse` ends it")
        return place
    shutil.rmtree(place, ignore_errors=True)
    scene = _scene(repo, environment)
    _clone(scene, place)
    ports = Ports()
    _commit(scene, place, ports)
    ports.close()
    _seed(scene, place, candidate, told)
    local.up(place, environment, told, _traffic(place, environment))
    return place


def end(repo: Path, environment: str, told: Told) -> None:
    """Stops it. The copy stays, with its log, until the next one."""
    place = place_of(repo, environment)
    if not place.exists():
        raise TurnoutError(f"there is no rehearsal of {environment}", "`turnout up --rehearse` starts one")
    local.down(place, environment, told)


class Ports:
    """Free ports, each once."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def __call__(self) -> int:
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
        self._held.append(held)
        return int(held.getsockname()[1])

    def close(self) -> None:
        for each in self._held:
            each.close()


def _scene(repo: Path, environment: str) -> Scene:
    controller = Controller(repo, environment)
    try:
        flow = controller.flow
        head = controller.repository.resolve("HEAD")  # what is committed here, pushed or not
        loaded = loading.load_commit(flow, head, loading.branch_of(flow))
        if loaded.problems:
            raise TurnoutError(str(loaded.problems[0]), "`turnout validate` tells all; correct them and commit first")
        _read_log(flow)
        over = _over(flow, loaded)
        effective = [entry.load(Past()) for address, entry in loaded.tree.entries.items() if address not in over]
        broken = [problem for each in effective for problem in each.problems]
        if broken:
            raise TurnoutError(str(broken[0]), "`turnout validate` tells all; correct them and commit first")
        resources = tuple(each.resource for each in effective if each.resource)
        files = tuple(path for address in sorted(over) for path in loaded.tree.files.get(address))
        return Scene(controller.repository, environment, loaded, resources, files)
    finally:
        controller.close()


def _read_log(flow: Flow) -> None:
    """The newest log; without the remote, what this clone knows of it: a rehearsal needs nobody outside."""
    try:
        flow.log.refresh()
    except RemoteDown:
        assert isinstance(flow.log, GitLog)
        flow.log.remote = None
        flow.log.refresh()
    flow.folds.catch_up()


def _over(flow: Flow, loaded: Loaded) -> set[Address]:
    """Runs that have ended, unless something that has not ended needs them."""
    found: dict[Address, Resource[Any] | None] = {}
    for address, entry in loaded.tree.entries.items():
        past = to_past(flow.folds.state(PAST.name, address))
        if flow.kinds[address.kind].once and past.ended:
            found[address] = entry.load(past).resource
    open_ = [entry.load(Past()).resource for address, entry in loaded.tree.entries.items() if address not in found]
    while open_:
        resource = open_.pop()
        for reference in flow.kinds[resource.address.kind].references(resource.spec) if resource else ():
            if reference.to in found:
                open_.append(found.pop(reference.to))
    return set(found)


# -- the copy ----------------------------------------------------------------------------------------------------------


def _clone(scene: Scene, place: Path) -> None:
    """Shares the objects of the original; nothing goes back."""
    branch = scene.loaded.branch.name
    for command in (
        ("clone", "--quiet", "--shared", "--no-checkout", *ALONE, str(scene.repository.git_dir), str(place)),
        ("-C", str(place), "checkout", "--quiet", "-B", branch, scene.loaded.commit),
        ("-C", str(place), "remote", "remove", "origin"),
    ):
        run = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
        if run.returncode:
            raise TurnoutError(f"git {command[0]} for the rehearsal failed: {run.stderr.strip()}")


def _commit(scene: Scene, place: Path, ports: Callable[[], int]) -> None:
    """One commit on top, which has everything that is another in the rehearsal."""
    repository = Repository(place)
    files: dict[str, bytes | None] = {}
    folder = f"environments/{scene.environment}"
    for entry in repository.entries(scene.loaded.commit, folder):
        if entry.path.count("/") == 2 and entry.path.endswith(".yaml"):
            files[entry.path] = None
    spec = scene.loaded.settings.spec.written()
    uses = any(source.startswith("ls://") for source in copy.data_sets(scene.by_kind))
    document = {"apiVersion": "turnout/v1", "kind": "Environment", "metadata": {"name": scene.environment}}
    document["spec"] = {**copy.environment(spec, ports, uses), "branch": scene.loaded.branch.name}
    files[f"{folder}/environment.yaml"] = dump(document)
    files.update(dict.fromkeys(scene.over))
    for resource in scene.resources:
        changed = copy.CHANGED.get(resource.address.kind)
        if changed is not None:
            files.update(_rewritten(scene, resource, changed(resource.written)))
    tree = repository.write_tree(scene.loaded.commit, files)
    message = f"Rehearse {scene.loaded.commit[:7]}\n\nVendors, endpoints and proxies are on this machine; waits are short.\n"
    when = repository.info(scene.loaded.commit).time
    commit = repository.write_commit(tree, [scene.loaded.commit], message, AUTHOR, float(when))
    subprocess.run(["git", "-C", str(place), "reset", "--quiet", "--hard", commit], check=True, capture_output=True)


def _rewritten(scene: Scene, resource: Resource[Any], spec: Mapping[str, Any] | None) -> dict[str, bytes | None]:
    """Its files: the whole spec in the last of them."""
    files: dict[str, bytes | None] = dict.fromkeys(resource.files)
    if spec is not None:
        blob = scene.repository.blob_at(scene.loaded.commit, resource.files[0])
        document = plain(parse(scene.repository.read(str(blob))).data)
        files[resource.files[-1]] = dump({**document, "spec": dict(spec)})
    return files


# -- what the doubles know ---------------------------------------------------------------------------------------------


def _seed(scene: Scene, place: Path, candidate: str, told: Told) -> None:
    controller = Controller(place, scene.environment)
    settings, data = controller.settings(), controller.data
    controller.close()
    data.mkdir(parents=True, exist_ok=True)
    local.make_secrets(settings, data)
    models: dict[str, Mapping[str, bytes]] = {}
    names = copy.base_models(scene.by_kind, settings.spec.training.base_model)
    if names:
        python = settings.spec.training.python or os.environ.get("TURNOUT_TRAINING_PYTHON") or sys.executable
        told(f"making a tiny model that stands for {', '.join(sorted(names))}")
        with tempfile.TemporaryDirectory(prefix="turnout-") as folder:
            models = dict.fromkeys(sorted(names), seeds.base_model(python, Path(folder)))
    sources = copy.data_sets(scene.by_kind)
    seeds.hub(data / "huggingface", models, _of(sources, "hf://"))
    if settings.spec.langsmith is not None:
        key = (data / settings.spec.langsmith.api_key.removeprefix("file:")).read_text().strip()
        seeds.langsmith(data / "langsmith", key, _of(sources, "ls://"))
    invented = ", ".join(sorted(sources))
    if invented:
        told(f"invented rows for {invented}")
    bound = copy.baselines(scene.by_kind)
    judges = [str(spec["judge"]["model"]) for spec in scene.specs("Evaluation") if spec.get("judge")]
    fields = [
        each["field"]
        for spec in scene.specs("Evaluation")
        for each in spec.get("evaluators", ())
        if each.get("field") and each["kind"] in ("exact", "contains")
    ]
    (data / ANSWERS).write_text(seeds.answers(list(_questions(scene)), fields, bound, judges, candidate))


def _of(sources: Mapping[str, str], scheme: str) -> dict[str, str]:
    return {name.removeprefix(scheme): role for name, role in sources.items() if name.startswith(scheme)}


def _questions(scene: Scene) -> Iterable[Mapping[str, Any]]:
    """Rows of evaluation sets: those of the repository, and the invented ones."""
    for resource in scene.resources:
        if resource.address.kind == "Evaluation":
            for path, found in resource.paths.items():
                for line in scene.repository.read(found).splitlines():
                    try:
                        row = msgspec.json.decode(line) if line.strip() else None
                    except msgspec.DecodeError as error:
                        raise TurnoutError(f"{path}: is not JSON lines: {error}") from None
                    if isinstance(row, dict):
                        yield row
    yield from seeds.rows("evaluation")


def _traffic(place: Path, environment: str) -> list[Process]:
    """Pretended agents."""
    controller = Controller(place, environment)
    proxies = [proxy.url for _, proxy in sorted(controller.settings().spec.proxies.items())]
    agents = sorted(address.name for address in controller.addresses() if address.kind == "ModelBinding")
    controller.close()
    if not proxies or not agents:
        return []
    named = [part for agent in agents for part in ("--agent", agent)]
    command = (sys.executable, "-m", "controller.testing.traffic", "--url", proxies[0], *named)
    return [Process("traffic", (*command, "--seconds", str(SECONDS), "--rate", str(min(RATE, MOST / len(agents)))))]
