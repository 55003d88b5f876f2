"""Random lives: commits, reverts, faults, crashes and restarts in any order; then the world settles and git is reality."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.errors import Conflict
from controller.testing.doubles import Killed
from controller.testing.simulation import Simulation, binding, incremental, rollout

AGENTS = ("docs", "cicd")
VERSIONS = ("v1", "v2", "v3")

act = st.one_of(
    st.tuples(st.just("bind"), st.sampled_from(AGENTS), st.sampled_from(VERSIONS)),
    st.tuples(st.just("unbind"), st.sampled_from(AGENTS)),
    st.tuples(st.just("rollout"), st.sampled_from(AGENTS), st.sampled_from(VERSIONS), st.integers(0, 3)),
    st.tuples(st.just("unrollout"), st.sampled_from(AGENTS), st.integers(0, 3)),
    st.tuples(st.just("break"), st.sampled_from(AGENTS)),
    st.tuples(st.just("revert"), st.integers(0, 4)),
    st.tuples(st.just("traffic"), st.sampled_from(AGENTS), st.sampled_from((0.0, 0.3))),
    st.tuples(st.just("down"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from((5, 90))),
    st.tuples(st.just("kill"), st.integers(1, 6)),
    st.tuples(st.just("move"), st.sampled_from(("m1", "m2"))),
)


class Life:
    """Plays acts; a controller passes after each."""

    def __init__(self, folder: Path) -> None:
        self.sim = Simulation(folder)
        self.machine = "m1"
        self.sim.commit({**binding("docs", "v1"), **binding("cicd", "v1")}, "Bind")
        self.passes()

    def passes(self) -> None:
        flow = self.sim.controller(self.machine)
        try:
            self.sim.settle(flow)
        except Killed:
            self.sim.faults.kill_at = -1
        finally:
            flow.cache.close()

    def play(self, step: tuple[Any, ...]) -> None:
        name, *args = step
        getattr(self, name)(*args)
        self.passes()

    def bind(self, agent: str, version: str) -> None:
        self.sim.commit(binding(agent, version), f"{agent} {version}")

    def unbind(self, agent: str) -> None:
        self.sim.commit({f"state/bindings/{agent}.yaml": None}, f"Remove {agent}")

    def rollout(self, agent: str, version: str, number: int) -> None:
        self.sim.commit(rollout(f"{agent}-{number}", agent, version), f"Roll {agent} to {version}")

    def unrollout(self, agent: str, number: int) -> None:
        self.sim.commit({f"state/rollouts/{agent}-{number}.yaml": None}, "Stop it")

    def break_(self, agent: str) -> None:
        self.sim.commit({f"state/bindings/{agent}.yaml": "spec: [oops"}, f"Break {agent}")

    def revert(self, back: int) -> None:
        tip = self.sim.tip()
        assert tip
        commits = list(self.sim.repository.commits(tip))
        if back < len(commits) - 1:
            try:
                self.sim.revert(commits[back].id)
            except Conflict:
                return

    def traffic(self, agent: str, errors: float) -> None:
        self.sim.gateway.traffic(agent, 100, dict.fromkeys(VERSIONS, errors) | {"v1": 0.0})

    def down(self, down: bool) -> None:
        self.sim.gateway.down = down

    def wait(self, seconds: int) -> None:
        self.sim.advance(seconds)

    def kill(self, after: int) -> None:
        self.sim.faults.kill_at = self.sim.faults.count + after

    def move(self, machine: str) -> None:
        self.machine = machine
        self.sim.advance(40)  # a lease of the other machine runs out


setattr(Life, "break", Life.break_)


def desired_versions(life: Life) -> dict[str, str | None]:
    out: dict[str, str | None] = {}
    for agent in AGENTS:
        text = life.sim.read(f"state/bindings/{agent}.yaml")
        broken = text is not None and "oops" in text
        out[agent] = "?" if broken else (text.split("version: ")[1].split()[0] if text else None)
    return out


@settings(
    max_examples=int(os.environ.get("TURNOUT_LIVES", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(act, min_size=1, max_size=14))
def test_any_life_settles_with_git_as_reality(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder))
        for step in steps:
            life.play(step)
        sim = life.sim
        sim.faults.kill_at, sim.gateway.down = -1, False
        for _ in range(4):  # every wait, lease and backoff runs out; running rollouts get no traffic and stay
            sim.advance(120)
            flow = sim.survive(life.machine)
        events = sim.check_log()
        assert incremental(flow) == sim.folded()
        quiet = len(events)
        sim.settle(flow)
        assert len(sim.check_log()) == quiet, "an idle pass appended something"

        plan = flow_plan(flow)
        running = {state["binding"]: state for key, state in rollouts(flow).items() if state["phase"] == "progressing"}
        for agent, version in desired_versions(life).items():
            served = sim.gateway.versions(agent)
            if version == "?":
                continue
            if version is None:
                named = any(line.startswith(f"delete ModelBinding/{agent}") and "'Named'" in line for line in plan)
                assert not served or named, f"{agent} is gone from git and still served: {plan}"
            elif agent in running and running[agent]["stable"]["version"] == version:
                assert set(served) <= {version, running[agent]["candidate"]["version"]}
            else:
                assert served == {version: 100.0}, f"{agent}: git says {version}: {plan}"


def rollouts(flow: Any) -> dict[str, Any]:
    states = {key: flow.folds.state("past", key).get("after") for key in flow.folds.keys("past") if key.startswith("Rollout/")}
    return {key: state for key, state in states.items() if state}


def flow_plan(flow: Any) -> list[str]:
    from controller import loading, plan, reconcile

    loaded = loading.load(flow)
    planned = plan.plan(reconcile.observed_world(flow, loaded), reconcile.checker(flow, loaded.settings))
    return [f"{c.action} {c.address}: {c.reason} {[w.code for w in c.waits]}" for c in planned.plan.changes]
