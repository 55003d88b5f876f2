"""What was found by trying to break it; each test is one way in which it once did break."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from controller import loading, reconcile
from controller.address import Address
from controller.clients.git import Identity
from controller.kind import Kind
from controller.rollback import Rollback
from controller.testing.doubles import Killed
from controller.testing.simulation import ENVIRONMENT, Simulation, binding, rollout


@pytest.fixture
def sim(tmp_path: Path) -> Simulation:
    return Simulation(tmp_path)


BINDING = binding("docs", "v1")["state/bindings/docs.yaml"]


def bound(sim: Simulation, *names: str) -> Any:
    files: dict[str, str | None] = {}
    for name in names or ("docs",):
        files.update(binding(name, "v1"))
    sim.commit(files, "Bind")
    return sim.survive()


# -- paid actions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("findable", [True, False])
def test_a_paid_call_that_died_is_never_repeated_blindly(tmp_path: Path, findable: bool) -> None:
    from controller.testing.paid import Jobs, JobSpec, JobState, Vendor, job, plan_job

    class Blind(Jobs):
        find = None  # type: ignore[assignment]

    vendor = Vendor()
    kind: Kind[Any, Any] = Kind(
        "Job", "jobs", JobSpec, JobState, plan_job, lambda spec: (), lambda clients: Jobs(vendor) if findable else Blind(vendor)
    )
    sim = Simulation(tmp_path, kinds={"Job": kind})
    vendor.die_after = True
    sim.commit(job("one"), "Pay")
    with pytest.raises(Killed):
        sim.settle(sim.controller("m"))
    vendor.hide = True  # the vendor's list lags
    for _ in range(3):
        sim.settle(sim.controller("m"))
        assert vendor.calls == 1
    vendor.hide = False
    sim.advance(300)
    sim.settle(sim.controller("m"), horizon=300)
    assert vendor.calls == 1
    raised = [e.data["code"] for e in sim.check_log() if e.type == "turnout.condition.raised.v1"]
    assert "Unknown" in raised
    said = [e.data.get("said", "") for e in sim.check_log()]
    assert ("found done after an interruption" in said) is findable


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["state/bindings/docs.yml", "state/binding/docs.yaml", "state/bindings/Docs.yaml", "state/bindings/deep/docs.yaml"]
)
def test_a_file_renamed_by_mistake_removes_nothing(sim: Simulation, path: str) -> None:
    flow = bound(sim)
    sim.commit({"state/bindings/docs.yaml": None, path: BINDING}, "Rename")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    sim.commit({"state/bindings/docs.yaml": BINDING.replace("v1", "v2", 2).replace("turnout/v2", "turnout/v1"), path: None}, "Back")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v2": 100.0}


def _git(sim: Simulation, command: list[str], given: bytes = b"") -> bytes:
    run = subprocess.run(["git", "-C", str(sim.folder / "repo.git"), *command], input=given, capture_output=True, check=True)
    return run.stdout


def test_a_file_name_that_is_not_utf8_stops_nothing(sim: Simulation) -> None:
    flow = bound(sim)
    tip = str(sim.tip())
    blob = str(sim.repository.git.create_blob(b"x")).encode()
    state = _git(sim, ["mktree", "-z"], _git(sim, ["ls-tree", "-z", f"{tip}:state"]) + b"100644 blob " + blob + b"\tgr\xfcn.txt\0")
    old = str(sim.repository.git[tip].tree["state"].id).encode()
    root = _git(sim, ["mktree", "-z"], _git(sim, ["ls-tree", "-z", tip]).replace(old, state.strip())).decode().strip()
    sim.repository.write_commit(root, [tip], "A strange name\n", Identity("a", "a@b"), 0.0, "refs/heads/main")
    sim.commit(binding("docs", "v2"), "v2")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v2": 100.0}


def test_a_spec_that_a_newer_release_cannot_read_deletes_nothing(sim: Simulation) -> None:
    from controller.kinds.binding.spec import BindingSpec

    bound(sim)

    class Stricter(BindingSpec):
        owner: str

    from dataclasses import replace

    sim.kinds = {**sim.kinds, "ModelBinding": replace(sim.kinds["ModelBinding"], spec=Stricter)}
    flow = sim.controller("m")
    flow.release = "newer"
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}


def test_a_long_error_is_told_once(sim: Simulation) -> None:
    flow = bound(sim)
    wrong = BINDING + "".join(f"  wrong{number}: 1\n" for number in range(1500))
    sim.commit({"state/bindings/docs.yaml": wrong}, "Many mistakes")
    for _ in range(5):
        sim.settle(flow)
    assert len([e for e in sim.check_log() if e.type == "turnout.condition.raised.v1"]) == 1


def test_a_paused_rollout_whose_file_breaks_does_not_go_on(sim: Simulation) -> None:
    flow = bound(sim)
    sim.commit(rollout("docs-v2", "docs", "v2"), "Try")
    sim.settle(flow)
    text = rollout("docs-v2", "docs", "v2")["state/rollouts/docs-v2.yaml"]
    sim.commit({"state/rollouts/docs-v2.yaml": text + "  paused: true\n"}, "Pause it")
    sim.settle(flow)
    sim.commit({"state/rollouts/docs-v2.yaml": text + "  paused: [oops\n"}, "Break it")
    sim.gateway.traffic("docs", 400)
    sim.settle(flow, horizon=300)
    assert set(sim.gateway.versions("docs")) == {"v1", "v2"}


def test_an_abort_reverts_the_commit_that_brought_the_rollout(sim: Simulation) -> None:
    flow = bound(sim)
    text = rollout("docs-v2", "docs", "v2", "{canary: [{weight: 50, hold: 24h}]}")["state/rollouts/docs-v2.yaml"]
    sim.commit({"state/rollouts/docs-v2.yaml": text}, "Try v2")
    sim.settle(flow)
    sim.commit({"state/rollouts/docs-v2.yaml": text + "  paused: true\n"}, "Pause it")
    sim.settle(flow)
    sim.gateway.traffic("docs", 1000, {"v2": 0.3})
    sim.settle(flow, horizon=30)
    assert sim.subjects()[0] == 'Revert "Try v2"'


# -- who may go ------------------------------------------------------------------------------------------------------


def test_an_invalid_rollout_does_not_keep_a_good_one_waiting(sim: Simulation) -> None:
    flow = bound(sim)
    bad = rollout("a-bad", "docs", "v9")["state/rollouts/a-bad.yaml"].replace("huggingface", "nowhere")
    sim.commit({"state/rollouts/a-bad.yaml": bad, **rollout("b-good", "docs", "v2")}, "Two")
    sim.settle(flow)
    assert set(sim.gateway.versions("docs")) == {"v1", "v2"}


def test_a_deny_rule_on_the_gateway_holds(sim: Simulation) -> None:
    rules = ENVIRONMENT + "  rules: {deny: [{match: 'Gateway/*', actions: [update], reason: frozen}]}\n"
    flow = bound(sim)
    sim.commit({"environments/local/environment.yaml": rules, **binding("docs", "v2")}, "Freeze, and a new version")
    for _ in range(3):
        sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}


def test_while_another_holds_the_lease_an_abort_goes_and_the_rest_waits(sim: Simulation) -> None:
    bound(sim, "docs", "cicd")
    flow = sim.controller("two")
    sim.commit(rollout("docs-v2", "docs", "v2", "{canary: [{weight: 50, hold: 24h}]}"), "Try")
    sim.settle(flow)
    sim.commit(binding("other", "v1"), "A change")
    sim.faults.kill_at = sim.faults.count + 3
    with pytest.raises(Killed):
        sim.settle(sim.controller("one"))
    sim.faults.kill_at = -1
    sim.commit(binding("cicd", "v2"), "A pending change")
    sim.gateway.traffic("docs", 1000, {"v2": 0.3})
    reconcile.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert sim.gateway.versions("cicd") == {"v1": 100.0}
    sim.settle(flow, horizon=90)
    assert sim.gateway.versions("cicd") == {"v2": 100.0}
    sim.check_log()


def test_a_lease_of_a_fast_clock_runs_out(sim: Simulation) -> None:
    bound(sim)
    sim.commit(binding("docs", "v2"), "v2")
    sim.advance(3600)
    sim.faults.kill_at = sim.faults.count + 3
    with pytest.raises(Killed):
        sim.settle(sim.controller("fast"))
    sim.faults.kill_at = -1
    sim.advance(-3600)
    flow = sim.controller("two")
    sim.settle(flow)
    sim.advance(40)
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v2": 100.0}


# -- rollback --------------------------------------------------------------------------------------------------------


def roll_back(sim: Simulation, flow: Any, address: str) -> None:
    loaded = loading.load(flow)
    Rollback(loaded.branch, loaded.tree, loaded.commit, Identity("a", "a@b"), 0.0).of_resource(Address(address))
    sim.settle(flow)


def merge(sim: Simulation, side: str, files: dict[str, str | None]) -> None:
    """A merge commit on main with the files of a side branch."""
    tip = sim.tip()
    tree = sim.repository.write_tree(tip, {path: None if text is None else text.encode() for path, text in files.items()})
    sim.repository.write_commit(tree, [str(tip), side], "Merge the pull request\n", Identity("a", "a@b"), 0.0, "refs/heads/main")


def side_commit(sim: Simulation, base: str, files: dict[str, str], message: str) -> str:
    tree = sim.repository.write_tree(base, {path: text.encode() for path, text in files.items()})
    return sim.repository.write_commit(tree, [base], message + "\n", Identity("a", "a@b"), 0.0)


def test_a_merge_is_one_change(sim: Simulation) -> None:
    flow = bound(sim)
    base = str(sim.tip())
    wip = side_commit(sim, base, binding("docs", "v2-wip"), "wip")
    done = side_commit(sim, wip, binding("docs", "v2"), "v2")
    merge(sim, done, dict(binding("docs", "v2")))
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v2": 100.0}
    roll_back(sim, flow, "ModelBinding/docs")
    assert sim.gateway.versions("docs") == {"v1": 100.0}


def test_moving_to_an_overlay_and_back(sim: Simulation) -> None:
    flow = bound(sim)
    overlay = "environments/local/state/bindings/docs.yaml"
    sim.commit({"state/bindings/docs.yaml": None, overlay: binding("docs", "v2")["state/bindings/docs.yaml"]}, "Move it")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v2": 100.0}
    roll_back(sim, flow, "ModelBinding/docs")
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert sim.read(overlay) is None


# -- the cache -------------------------------------------------------------------------------------------------------


def test_a_damaged_cache_costs_time_only(sim: Simulation) -> None:
    bound(sim).cache.close()
    path = sim.folder / "m/cache.sqlite"
    data = bytearray(path.read_bytes())
    data[100:] = b"\xff" * (len(data) - 100)
    path.write_bytes(bytes(data))
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)
    sim.commit(binding("docs", "v2"), "v2")
    sim.settle(sim.controller("m"))
    assert sim.gateway.versions("docs") == {"v2": 100.0}


def test_the_data_folder_may_go_while_a_controller_runs(sim: Simulation) -> None:
    import shutil

    flow = bound(sim)
    shutil.rmtree(sim.folder / "m")
    sim.commit(binding("docs", "v2"), "v2")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v2": 100.0}


def test_a_backoff_holds_only_for_what_failed(sim: Simulation) -> None:
    flow = bound(sim)
    sim.gateway.down = True
    sim.commit(binding("docs", "v2"), "v2")
    for _ in range(6):
        sim.settle(flow, horizon=30)
    sim.gateway.down = False
    sim.commit(binding("docs", "v3"), "v3")
    before = sim.time
    sim.settle(flow)
    assert sim.time == before
    assert sim.gateway.versions("docs") == {"v3": 100.0}
