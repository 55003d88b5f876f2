"""Files become effective specs: where they may be, what they may say, and how an error reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller import loading
from controller.errors import SettingsError
from controller.testing.simulation import ENVIRONMENT, Simulation, binding, rollout


def problems(sim: Simulation) -> list[str]:
    """What a fresh controller says about the files."""
    flow = sim.controller()
    sim.settle(flow)
    return sorted(e.data["reason"] for e in sim.check_log() if e.type == "turnout.condition.raised.v1")


@pytest.fixture
def sim(tmp_path: Path) -> Simulation:
    return Simulation(tmp_path)


BINDING = binding("docs", "v1")["state/bindings/docs.yaml"]


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        (
            "state/bindings/docs.yaml",
            BINDING.replace("endpoint:", "endpont:"),
            'state/bindings/docs.yaml:6: spec.endpont: unknown field (did you mean "endpoint"?)',
        ),
        (
            "state/bindings/docs.yaml",
            BINDING.replace("endpoint: openrouter", "endpoint: openruter"),
            "there is no endpoint|has no endpoint",
        ),
        ("state/bindings/docs.yaml", BINDING.replace("  version: v1\n", ""), "spec.version: is required"),
        (
            "state/bindings/docs.yaml",
            BINDING.replace("name: docs", "name: other"),
            "metadata.name: is 'other', the file says 'docs'",
        ),
        (
            "state/bindings/docs.yaml",
            BINDING.replace("kind: ModelBinding", "kind: Rollout"),
            "kind: is 'Rollout', but bindings/ holds ModelBinding",
        ),
        ("state/bindings/docs.yaml", BINDING + "  version: v2\n", "version"),
        ("state/binding/docs.yaml", BINDING, "unknown kind 'binding' (did you mean \"bindings\"?)"),
        ("state/bindings/Docs.yaml", BINDING, "'Docs' is not a name"),
        ("state/bindings/docs.yml", BINDING, "must end in .yaml"),
        ("state/bindings/deep/docs.yaml", BINDING, "is not at state/<kind>/<name>.yaml"),
        ("state/bindings/docs.yaml", BINDING.replace("v1", "[" * 100 + "]" * 100), "64"),
        ("state/bindings/docs.yaml", "x" * (1 << 20) + "y", "at most 1048576 are read"),
        ("state/bindings/docs.yaml", BINDING + "---\n" + BINDING, "document"),
    ],
)
def test_an_error_says_what_where_and_what_next(sim: Simulation, path: str, text: str, told: str) -> None:
    sim.commit({path: text}, "Bad")
    found = problems(sim)
    assert any(part in line for line in found for part in told.split("|")), found
    assert len(found) == 1


def test_versions_stay_what_the_user_wrote(sim: Simulation) -> None:
    sim.commit(binding("docs", "3.10"), "A number that is a version")
    sim.survive()
    assert sim.gateway.versions("docs") == {"3.10": 100.0}
    sim.commit(binding("docs", "010"), "Another")
    sim.survive()
    assert sim.gateway.versions("docs") == {"010": 100.0}


def test_links_and_submodules_are_refused(sim: Simulation) -> None:
    work = sim.folder / "work"
    os.system(
        f"git clone -q {sim.folder / 'repo.git'} {work} && cd {work} && mkdir -p state/bindings"
        " && ln -s /etc/passwd state/bindings/docs.yaml"
        " && git add -A && git -c user.name=a -c user.email=a@b commit -qm link && git push -q origin main"
    )
    assert ["symbolic link" in line for line in problems(sim)] == [True]


def test_an_overlay_patches_what_it_names(sim: Simulation) -> None:
    overlay = "apiVersion: turnout/v1\nkind: ModelBinding\nmetadata: {name: docs}\nspec: {version: v9}\n"
    sim.commit({**binding("docs", "v1"), "environments/local/state/bindings/docs.yaml": overlay}, "Overlay")
    sim.survive()
    assert sim.gateway.versions("docs") == {"v9": 100.0}
    sim.commit({"environments/local/state/bindings/docs.yaml": overlay.replace("v9", "v9, endpont: x")}, "Broken overlay")
    assert any("environments/local/state/bindings/docs.yaml:4" in line for line in problems(sim))
    assert sim.gateway.versions("docs") == {"v9": 100.0}


def test_a_file_for_another_environment_is_not_there(sim: Simulation) -> None:
    text = BINDING.replace("{name: docs}", "{name: docs, environment: production}")
    other = ENVIRONMENT.replace("name: local", "name: production")
    sim.commit({"state/bindings/docs.yaml": text, "environments/production/environment.yaml": other}, "Elsewhere")
    assert problems(sim) == []
    assert sim.gateway.versions("docs") == {}


def test_broken_settings_keep_the_last_good_ones(sim: Simulation) -> None:
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit({"environments/local/environment.yaml": "spec: [", **binding("docs", "v2")}, "Break the environment")
    sim.settle(flow)
    sim.settle(sim.controller())
    assert sim.gateway.versions("docs") == {"v2": 100.0}
    raised = [e for e in sim.check_log() if e.type == "turnout.condition.raised.v1"]
    assert [e.subject for e in raised] == ["environments/local/environment.yaml"]
    sim.commit({"environments/local/environment.yaml": ENVIRONMENT}, "Mend it")
    sim.settle(flow)
    assert sim.check_log()[-1].type == "turnout.condition.cleared.v1"


def test_missing_settings_name_every_key(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({"environments/local/environment.yaml": ENVIRONMENT.replace("local", "lokal").replace("branch", "brunch")}, "Typos")
    first = Simulation(tmp_path / "other")
    first.commit({"environments/local/environment.yaml": None, "environments/lokal/environment.yaml": ENVIRONMENT}, "Gone")
    flow = sim.controller()
    loaded = loading.load(flow)
    assert {problem.field for problem in loaded.problems} == {"metadata.name", "spec.brunch"}
    fresh = Simulation(tmp_path / "fresh")
    flow = fresh.controller()
    flow.environment = "lokal"
    with pytest.raises(SettingsError, match='did you mean "local"'):
        loading.load(flow)


def test_mass_removal_waits_for_an_override(sim: Simulation) -> None:
    files: dict[str, str | None] = {}
    for number in range(12):
        files.update(binding(f"agent-{number}", "v1"))
    sim.commit(files, "Bind")
    flow = sim.survive()
    gone: dict[str, str | None] = {f"state/bindings/agent-{number}.yaml": None for number in range(6)}
    sim.commit({**gone, **binding("agent-11", "v2")}, "Remove half")
    sim.settle(flow)
    assert sim.gateway.versions("agent-0") == {"v1": 100.0}
    assert sim.gateway.versions("agent-11") == {"v2": 100.0}, "the rest of the plan does not wait"
    assert any("Turnout-Allow: prune" in line for line in problems(sim))
    sim.commit({}, "Yes, I mean it", trailer="Turnout-Allow: prune")
    sim.settle(flow)
    assert sim.gateway.versions("agent-0") == {}


def test_an_empty_state_is_refused(sim: Simulation) -> None:
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit({"state/bindings/docs.yaml": None, "state/gateways/main.yaml": None}, "Everything gone")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}


def test_a_removed_binding_that_a_fallback_names_waits_and_says_who(sim: Simulation) -> None:
    named = BINDING + "  fallbacks: [cicd]\n"
    sim.commit({"state/bindings/docs.yaml": named, **binding("cicd", "v1")}, "Bind")
    flow = sim.survive()
    sim.commit({"state/bindings/cicd.yaml": None}, "Remove a fallback")
    sim.settle(flow)
    assert sim.gateway.versions("cicd") == {"v1": 100.0}
    assert any("still named by ModelBinding/docs" in line for line in problems(sim))
    sim.commit(binding("docs", "v1"), "Not named any more")
    sim.settle(flow)
    assert sim.gateway.versions("cicd") == {}


def test_a_quarantined_run_goes_on_and_may_abort(sim: Simulation) -> None:
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit(rollout("docs-v2", "docs", "v2"), "Try")
    sim.settle(flow)
    sim.commit({"state/rollouts/docs-v2.yaml": "spec: ["}, "Break the file of a running rollout")
    sim.settle(flow)
    assert set(sim.gateway.versions("docs")) == {"v1", "v2"}
    sim.gateway.traffic("docs", 400, {"v2": 0.3})
    sim.settle(flow, horizon=5)
    assert sim.gateway.versions("docs") == {"v1": 100.0}


@pytest.mark.parametrize("value", ["null", "lokal", "productoin"])
def test_a_misspelt_environment_removes_nothing(sim: Simulation, value: str) -> None:
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit({"state/bindings/docs.yaml": BINDING.replace("{name: docs}", f"{{name: docs, environment: {value}}}")}, "A typo")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert any("metadata.environment: there is no environment" in line for line in problems(sim))


def test_a_freeze_does_not_block_the_way_back(sim: Simulation) -> None:
    frozen = ENVIRONMENT + "  rules: {deny: [{match: '*', reason: frozen}]}\n"
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit(rollout("docs-v2", "docs", "v2"), "Try")
    sim.settle(flow)
    sim.commit({"environments/local/environment.yaml": frozen, **binding("cicd", "v1")}, "Freeze")
    sim.settle(flow)
    assert set(sim.gateway.versions("docs")) == {"v1", "v2"}
    assert sim.gateway.versions("cicd") == {}
    sim.commit({"state/rollouts/docs-v2.yaml": None}, "Stop the canary")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert sim.gateway.versions("cicd") == {}


def test_a_failure_ends_when_the_change_is_taken_back(sim: Simulation) -> None:
    from controller.errors import Permanent

    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    real = sim.gateway.put

    def refuse(name: str, table: object) -> None:
        raise Permanent("proxy main refuses the routes")

    sim.gateway.put = refuse  # type: ignore[method-assign,assignment]
    changed = sim.commit(binding("docs", "v2"), "v2")
    sim.settle(flow)
    assert flow.folds.state("past", "Gateway/main")["failed"]
    sim.gateway.put = real  # type: ignore[method-assign]
    sim.revert(changed)
    sim.settle(flow)
    assert "failed" not in flow.folds.state("past", "Gateway/main")
    assert sim.gateway.versions("docs") == {"v1": 100.0}
