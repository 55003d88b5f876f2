"""The life of a rollout on the real thing: promoted, aborted, inconclusive, reverted, cancelled, superseded, one at a time."""

from __future__ import annotations

from typing import Any

World = Any


def test_promote(world: World) -> None:
    world.settle()
    assert world.ask()[:2] == (200, "v1.4.0")
    world.rollout(strategy="{canary: [{weight: 20, hold: 0s}, {weight: 50, hold: 0s}]}")
    world.settle_until(lambda: world.git("log", "-1", "--format=%s") == "Promote feature_dev to v2.0.0", traffic=60)
    world.settle()
    assert world.versions() == {"v2.0.0": 40}
    assert world.git("status", "--porcelain") == ""
    text = (world.repo / "state/bindings/feature_dev.yaml").read_text()
    assert "version: v2.0.0" in text
    assert "# answers when the model above cannot" in text
    assert not (world.repo / "state/rollouts/feature_dev-v2.yaml").exists()
    message = world.git("log", "-1", "--format=%B")
    assert "Intent: " in message
    assert "error rate 0 %" in message
    assert world.git("log", "-1", "--format=%an") == "Turnout"
    assert world.settle().events == ()


def test_a_person_reverts_the_promotion_and_is_not_fought(world: World) -> None:
    world.settle()
    world.rollout()
    world.settle_until(lambda: "Promote" in world.git("log", "-1", "--format=%s"), traffic=30)
    world.settle()
    world.git("revert", "--no-edit", "HEAD")
    for _ in range(100):
        world.settle()
    assert world.git("rev-list", "--count", "HEAD") == "4"  # begin, rollout, promotion, revert
    assert world.versions() == {"v1.4.0": 40}
    (status,) = [s for s in world.first.plan()[0].changes if s.address == "Rollout/feature_dev-v2"] or [None]
    assert status is None or "never starts again" in status.reason


def test_abort_reverts_the_commit_and_switches_back(world: World) -> None:
    world.settle()
    brought = world.rollout(samples=20)
    world.behave(1, {"acme/feature-dev-v2": {"error_rate": 0.5}})
    world.settle_until(lambda: world.git("log", "-1", "--format=%s").startswith("Revert"), traffic=60)
    world.settle()
    assert world.git("log", "-1", "--format=%s") == 'Revert "Try v2.0.0 for feature_dev"'
    assert f"This reverts commit {brought}." in world.git("log", "-1", "--format=%B")
    assert world.git("diff", f"{brought}~1", "HEAD", "--stat") == ""
    assert world.versions() == {"v1.4.0": 40}
    assert "aborted" in world.story()


def test_abort_keeps_the_rest_of_a_squashed_pull_request(world: World) -> None:
    world.settle()
    path = world.repo / "state/bindings/docs.yaml"
    path.write_text(path.read_text().replace("v1.0.0", "v1.1.0"))
    world.rollout(samples=20)
    world.behave(1, {"acme/feature-dev-v2": {"error_rate": 1.0}})
    world.settle_until(lambda: world.git("log", "-1", "--format=%s").startswith("Revert"), traffic=60)
    world.settle()
    assert "v1.1.0" in path.read_text()
    assert world.ask("docs")[1] == "v1.1.0"
    assert not (world.repo / "state/rollouts/feature_dev-v2.yaml").exists()


def test_the_proxy_guard_goes_back_alone_and_the_next_pass_records_it(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}", samples=100_000)
    world.settle()
    world.behave(1, {"acme/feature-dev-v2": {"error_rate": 1.0}})
    world.send(120)
    assert world.versions() == {"v1.4.0": 40}  # no controller has looked since
    world.settle_until(lambda: world.git("log", "-1", "--format=%s").startswith("Revert"))
    assert "guard tripped" in world.story()


def test_too_little_traffic_is_inconclusive_and_is_told_once(world: World) -> None:
    world.settle()
    world.rollout(samples=500)
    world.settle()
    for _ in range(30):
        world.send(1)
        world.settle()
    assert world.types("Rollout/feature_dev-v2")["condition.raised"] == 1
    assert set(world.versions()) == {"v1.4.0", "v2.0.0"}


def test_revert_during_a_step(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    assert set(world.versions()) == {"v1.4.0", "v2.0.0"}
    world.git("revert", "--no-edit", "HEAD")
    world.settle()
    assert world.versions() == {"v1.4.0": 40}
    assert "cancelled" in world.story()


def test_deleting_the_file_cancels_and_a_new_name_may_start(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    world.git("rm", "-q", "state/rollouts/feature_dev-v2.yaml")
    world.commit("Stop it")
    world.settle()
    assert world.versions() == {"v1.4.0": 40}
    world.rollout("feature_dev-v2-again", strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    assert set(world.versions()) == {"v1.4.0", "v2.0.0"}


def test_a_second_rollout_waits_for_the_first(world: World) -> None:
    world.settle()
    world.rollout("b-first", strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    world.rollout("a-second", version="v3.0.0", model="acme/feature-dev-v3")
    world.settle()
    assert set(world.versions()) == {"v1.4.0", "v2.0.0"}
    assert world.types("Rollout/a-second") == {"condition.raised": 1}
    world.git("rm", "-q", "state/rollouts/b-first.yaml")
    world.commit("Stop the first")
    world.settle()
    assert set(world.versions()) == {"v1.4.0", "v3.0.0"}


def test_editing_the_binding_supersedes_the_rollout(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    world.bind("feature_dev", "v1.5.0")
    world.settle()
    assert world.versions() == {"v1.5.0": 40}
    assert "superseded" in world.story()
    assert not (world.repo / "state/rollouts/feature_dev-v2.yaml").exists()


def test_an_edit_of_a_running_rollout_is_refused_by_name(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    world.rollout(strategy="{canary: [{weight: 90, hold: 24h}]}")
    world.settle()
    counts = world.versions(count=200)
    assert counts["v2.0.0"] < 140
    assert "spec.strategy does not count" in world.story()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}", extra="  paused: true\n")
    world.settle()
    assert any("FrozenEdit is over" in line for line in world.story().splitlines())


def test_immediate_blue_green_shadow_and_split(world: World) -> None:
    world.settle()
    world.rollout("at-once", strategy="immediate", version="v2.0.0")
    world.settle_until(lambda: "Promote feature_dev to v2.0.0" in world.git("log", "-1", "--format=%s"))
    assert world.versions() == {"v2.0.0": 40}
    world.rollout("beside", strategy="{blueGreen: {preview: 24h}}", version="v3.0.0", model="acme/feature-dev-v3")
    world.settle()
    assert world.versions() == {"v2.0.0": 40}
    assert world.ask(variant="candidate")[1] == "v3.0.0"
    world.git("rm", "-q", "state/rollouts/beside.yaml")
    world.commit("No")
    world.rollout("copies", strategy="{shadow: {percent: 100, hold: 0s, then: end}}", version="v4.0.0", model="acme/feature-dev-v4")
    world.settle()
    assert world.versions(count=20) == {"v2.0.0": 20}
    world.settle_until(lambda: "completed" in world.story(), traffic=20)
    world.settle()
    world.rollout("ab", strategy="{split: {weight: 50}}", version="v5.0.0", model="acme/feature-dev-v5")
    world.settle()
    assert set(world.versions()) == {"v2.0.0", "v5.0.0"}


def test_one_session_stays_on_one_variant(world: World) -> None:
    world.settle()
    world.rollout(strategy="{canary: [{weight: 50, hold: 24h}]}")
    world.settle()
    for number in range(10):
        assert len({world.ask(session=f"same-{number}")[1] for _ in range(5)}) == 1


def test_a_new_rollout_to_what_is_bound_already_says_so(world: World) -> None:
    world.settle()
    world.rollout(model="anthropic/claude-3.5-sonnet", version="v1.4.0")
    path = world.repo / "state/rollouts/feature_dev-v2.yaml"
    path.write_text(path.read_text().replace("huggingface", "openrouter"))
    world.commit("Same")
    world.settle()
    assert "is what feature_dev uses already" in world.story()
