"""More than one place: fresh clones, two controllers, remotes, protected branches, dirty checkouts, two environments."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.app import Controller
from controller.document_edit import edit
from controller.testing.git_servers import HttpGitServer

World = Any


def use_remote(world: World, server: HttpGitServer) -> None:
    """The repository gets a remote over http that is the truth from now on."""
    server.create("state")
    world.git("remote", "add", "origin", server.url("state"))
    path = world.repo / "environments/local/environment.yaml"
    path.write_bytes(edit(path.read_bytes(), {("spec", "remote"): "origin"}))
    world.commit("Use the remote")
    world.git("push", "-q", "origin", "main")


def clone(world: World, server: HttpGitServer, name: str) -> Path:
    target = world.root / name
    subprocess.run(["git", "clone", "-q", server.url("state"), str(target)], check=True)
    return Path(target)


def test_a_fresh_controller_on_a_fresh_clone_comes_to_the_same_world(world: World) -> None:
    world.write(
        "state/gateways/main.yaml", "apiVersion: turnout/v1\nkind: Gateway\nmetadata: {name: main}\nspec: {proxies: [main]}\n"
    )
    world.commit("No file target: it would be another one on another machine")
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    before = world.versions()
    subprocess.run(["git", "clone", "-q", "--mirror", str(world.repo), str(world.root / "mirror")], check=True)
    fresh = Controller(world.root / "mirror", "local")
    result = fresh.settle()
    assert not result.plan.active
    assert result.events == ()
    assert world.versions() == before


def test_a_fresh_data_plane_gets_the_same_world(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    before = world.versions()
    world.proxy.stop()
    (world.root / "proxy").rename(world.root / "lost")
    world.proxy = world.start_proxy(world.port)
    assert world.ask()[0] == 503
    world.settle()
    assert world.versions() == before


def test_two_controllers_at_once_do_everything_once(world: World) -> None:
    world.settle()
    world.bind("docs", "v2.0.0")
    failures: list[BaseException] = []
    together = threading.Barrier(3)

    def run() -> None:
        try:
            controller = Controller(world.repo, "local")
            together.wait()
            controller.settle()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert world.ask("docs")[1] == "v2.0.0"
    assert world.first.verify_log() > 0
    updates = [e for e in world.first.events("ModelBinding/docs") if e.data.get("action") == "update"]
    assert len(updates) == 2  # started and succeeded, once


def test_two_clones_of_one_remote(world: World, tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "served") as server:
        use_remote(world, server)
        one, two = (Controller(clone(world, server, name), "local") for name in ("one", "two"))
        one.settle()
        assert not two.settle().plan.active
        world.bind("docs", "v2.0.0")
        world.git("push", "-q", "origin", "main")
        two.settle()
        one.settle()
        assert world.ask("docs")[1] == "v2.0.0"
        assert one.verify_log() == two.verify_log()


def test_promotion_on_a_remote_and_a_non_fast_forward(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpGitServer(tmp_path / "served") as server:
        use_remote(world, server)
        controller = Controller(clone(world, server, "one"), "local")
        controller.settle()
        world.rollout(samples=1)
        world.git("push", "-q", "origin", "main")
        raced = []
        from controller.writeback import Branch

        real = Branch.land

        def land(self: Branch, commit: str, expected: str) -> None:
            if not raced:  # a person pushes just before the controller does
                raced.append(1)
                world.bind("docs", "v1.0.1")
                world.git("push", "-q", "origin", "main")
            real(self, commit, expected)

        monkeypatch.setattr(Branch, "land", land)
        drive(world, controller, lambda: "Promote" in server_log(server))
        controller.settle()
        assert raced
        assert server_log(server).count("Promote feature_dev") == 1
        assert "docs to v1.0.1" in server_log(server)
        assert world.ask("docs")[1] == "v1.0.1"
        assert world.versions() == {"v2.0.0": 40}


def drive(world: World, controller: Controller, done: Callable[[], bool]) -> None:
    for _ in range(60):
        controller.settle()
        if done():
            return
        world.send(20)
    raise AssertionError("did not happen")


def server_log(server: HttpGitServer) -> str:
    return subprocess.run(
        ["git", "-C", str(server.path("state")), "log", "--format=%s", "main"], capture_output=True, text=True, check=True
    ).stdout


def test_a_protected_branch_is_held_and_a_person_merges(world: World, tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "served") as server:
        use_remote(world, server)
        controller = Controller(clone(world, server, "one"), "local")
        controller.settle()
        world.rollout(samples=1)
        world.git("push", "-q", "origin", "main")
        server.hook("state", "update", '#!/bin/sh\n[ "$1" != refs/heads/main ] || { echo "main is protected" >&2; exit 1; }\n')
        drive(world, controller, lambda: any(s.past.conditions.get("Held") for s in controller.status(live=False)))
        events = len(list(controller.events()))
        for _ in range(5):
            controller.settle()
        assert len(list(controller.events())) == events, "a held write-back is told once"
        assert world.versions() == {"v2.0.0": 40}
        (held,) = [s for s in controller.status(live=False) if "Held" in s.past.conditions]
        assert "main is protected" in held.told["Held"]
        assert "spec.version: v2.0.0" in held.told["Held"]
        server.hook("state", "update", "#!/bin/sh\nexit 0\n")
        path = world.repo / "state/bindings/feature_dev.yaml"
        path.write_bytes(
            edit(
                path.read_bytes(),
                {
                    ("spec", "version"): "v2.0.0",
                    ("spec", "model"): "acme/feature-dev-v2",
                    ("spec", "endpoint"): "huggingface",
                },
            )
        )
        world.git("rm", "-q", "state/rollouts/feature_dev-v2.yaml")
        merged = world.commit("Merge the promotion by hand")
        world.git("push", "-q", "origin", "main")
        for _ in range(3):
            controller.settle()
        assert world.versions() == {"v2.0.0": 40}
        world.git("revert", "--no-edit", merged)
        world.git("push", "-q", "origin", "main")
        for _ in range(5):
            controller.settle()
        assert world.versions() == {"v1.4.0": 40}
        assert "Promote" not in server_log(server)


def test_write_back_hold_says_what_to_merge(world: World) -> None:
    path = world.repo / "environments/local/environment.yaml"
    path.write_bytes(edit(path.read_bytes(), {("spec", "writeBack"): "hold"}))
    world.commit("Hold")
    world.settle()
    world.rollout(samples=10)
    world.behave(1, {"acme/feature-dev-v2": {"error_rate": 1.0}})
    head = world.git("rev-parse", "HEAD")
    world.settle_until(lambda: "Not written" in world.story(), traffic=40)
    assert world.git("rev-parse", "HEAD") == head
    assert world.versions() == {"v1.4.0": 40}
    assert "remove state/rollouts/feature_dev-v2.yaml" in world.story()


def test_a_dirty_work_tree_is_never_touched(world: World) -> None:
    world.settle()
    world.rollout(samples=1, strategy="{canary: [{weight: 50, hold: 1s}]}")
    path = world.repo / "state/bindings/docs.yaml"
    path.write_text(path.read_text() + "# not committed yet\n")
    world.settle_until(lambda: "Held" in str(world.types("Rollout/feature_dev-v2")) or "uncommitted" in world.story(), traffic=20)
    assert world.versions() == {"v2.0.0": 40}  # traffic never waits for git
    assert "# not committed yet" in path.read_text()
    assert world.git("log", "-1", "--format=%s") == "Try v2.0.0 for feature_dev"
    assert "commit or stash" in world.story()
    world.commit("Now it is committed")
    world.settle_until(lambda: world.git("log", "-1", "--format=%s") == "Promote feature_dev to v2.0.0")
    assert world.git("status", "--porcelain") == ""
    assert "# not committed yet" in path.read_text()


def test_another_work_tree_follows_too(world: World) -> None:
    world.settle()
    world.git("worktree", "add", "-q", "-b", "other", str(world.root / "side"))
    world.rollout(samples=1)
    side = Controller(world.root / "side", "local")
    drive(world, side, lambda: "Promote" in world.git("log", "-1", "--format=%s", "main"))
    assert "v2.0.0" in (world.repo / "state/bindings/feature_dev.yaml").read_text()


def test_a_promotion_in_one_environment_never_moves_another(world: World) -> None:
    text = (world.repo / "environments/local/environment.yaml").read_text()
    world.write("environments/production/environment.yaml", text.replace("name: local", "name: production"))
    world.write(
        "environments/production/state/bindings/docs.yaml",
        "apiVersion: turnout/v1\nkind: ModelBinding\nmetadata: {name: docs}\nspec: {version: v0.9.0}\n",
    )
    world.commit("Two environments")
    world.settle()
    world.rollout(samples=1)
    world.settle()
    assert "allowed: one of the environments" in world.story()  # a run in a shared folder has to say where
    path = world.repo / "state/rollouts/feature_dev-v2.yaml"
    path.write_text(path.read_text().replace("{name: feature_dev-v2}", "{name: feature_dev-v2, environment: local}"))
    world.commit("Only in local")
    world.settle_until(lambda: "Promote" in world.git("log", "-1", "--format=%s"), traffic=20)
    world.settle()
    assert "version: v1.4.0" in (world.repo / "state/bindings/feature_dev.yaml").read_text()
    overlay = (world.repo / "environments/local/state/bindings/feature_dev.yaml").read_text()
    assert "version: v2.0.0" in overlay
    assert world.versions() == {"v2.0.0": 40}
    production = Controller(world.repo, "production")
    bound = {c.address: c.after for c in production.plan()[0].changes}
    assert bound["ModelBinding/feature_dev"]["version"] == "v1.4.0"
    assert bound["ModelBinding/docs"]["version"] == "v0.9.0"


def test_without_the_remote_only_the_way_back_goes_and_is_reported_late(world: World, tmp_path: Path) -> None:
    from controller.errors import RemoteDown

    with HttpGitServer(tmp_path / "served") as server:
        use_remote(world, server)
        controller = Controller(clone(world, server, "one"), "local")
        controller.settle()
        world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}", samples=20)
        world.git("push", "-q", "origin", "main")
        controller.settle()
        world.behave(1, {"acme/feature-dev-v2": {"error_rate": 0.4}})
        world.bind("docs", "v9.0.0")
        world.git("push", "-q", "origin", "main")
        server.fail_next(10_000)
        world.send(300)
        for _ in range(3):
            with pytest.raises(RemoteDown):
                controller.settle()
        assert world.versions() == {"v1.4.0": 40}, "an abort does not wait for the git server"
        assert world.ask("docs")[1] == "v1.0.0", "nothing else goes without it"
        server.recover()
        for _ in range(3):
            controller.settle()
        assert server_log(server).splitlines()[0] == 'Revert "Try v2.0.0 for feature_dev"'
        late = [event for event in controller.events() if event.reportedlate]
        assert [event.type for event in late if event.subject == "Rollout/feature_dev-v2"] == [
            "turnout.action.started.v1",
            "turnout.action.succeeded.v1",
        ]
        assert world.ask("docs")[1] == "v9.0.0"
        assert controller.verify_log() > 0
