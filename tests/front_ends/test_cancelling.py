"""`turnout cancel`: a commit that takes the file of a run away, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

Place = Trainings = Any  # of conftest.py
CANARY = "{canary: [{weight: 20, hold: 1h}]}"


def started(trainings: Trainings, how_far: str = "30") -> Any:
    trainings.go(how_far)
    trainings.declare()
    assert trainings.place("apply", "--no-wait").code == 0
    trainings.until(how_far)
    return trainings.place


def test_a_training_is_stopped_by_a_commit(trainings: Trainings) -> None:
    place = started(trainings)
    before = place.git("rev-parse", "HEAD")
    result = place("cancel", "docs-v1", "-m", "The data set was the wrong one")
    assert result.code == 0
    head = place.git("rev-parse", "HEAD")
    assert place.git("rev-parse", "HEAD~1") == before
    assert place.git("diff", "--name-status", "HEAD~1", "HEAD") == "D\tstate/trainings/docs-v1.yaml"
    assert place.git("log", "-1", "--format=%s (%an)") == "The data set was the wrong one (Turnout)"
    assert place.git("status", "--porcelain") == ""
    assert f"{head[:7]} takes state/trainings/docs-v1.yaml away" in result.out
    assert "TrainingRequest/docs-v1 was running, attempt 1 of 3, step 30 of 100 (30 %)" in result.out
    assert "nothing was spent" in result.out
    assert "its checkpoints, and what a job was given, stay where they are" in result.out
    assert trainings.alive()  # the commit alone stops nothing
    assert place("apply", "--no-wait").code == 0
    assert trainings.gone()
    ended = place("watch", "docs-v1", "--timeout", "20")
    assert ended.code == 1
    assert "docs-v1 was cancelled: cancelled: its file is gone" in ended.err
    again = place("cancel", "docs-v1")
    assert again.code == 1
    assert "has ended (cancelled); there is nothing left to stop" in again.err


def test_as_json_by_a_person(trainings: Trainings) -> None:
    place = started(trainings)
    place.git("config", "user.name", "Grace")
    place.git("config", "user.email", "grace@example.org")
    found = place("cancel", "TrainingRequest/docs-v1", "--json").json
    assert found == {
        "address": "TrainingRequest/docs-v1",
        "commit": place.git("rev-parse", "HEAD"),
        "files": ["state/trainings/docs-v1.yaml"],
        "started": True,
        "cost_usd": 0.0,
        "ceiling_usd": None,
        "waiting": [],
    }
    assert place.git("log", "-1", "--format=%s %an <%ae>") == "Cancel TrainingRequest/docs-v1 Grace <grace@example.org>"
    twice = place("cancel", "docs-v1")
    assert twice.code == 1
    assert "is gone already; the controller ends it" in twice.err


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_followed_to_its_end(trainings: Trainings, running: Any, more: tuple[str, ...]) -> None:
    place = started(trainings)
    with running(place):
        result = place("cancel", "docs-v1", "--follow", "--timeout", "60", *more)
    assert result.code == 0, result.err
    if more:
        assert result.lines[0]["address"] == "TrainingRequest/docs-v1"
        assert "cancelled" in {each.get("data", {}).get("ends") for each in result.lines[1:]}
    else:
        assert "cancelled: its file is gone" in result.out
        assert "trains tiny" not in result.out.partition("apply")[2]  # what was before is not told again
    assert trainings.gone()


def test_following_without_a_controller_gives_up(trainings: Trainings) -> None:
    place = started(trainings)
    result = place("cancel", "docs-v1", "--follow", "--timeout", "0.1")
    assert result.code == 1
    assert "has not ended after 0.1 s" in result.err


def test_one_that_has_not_started(trainings: Trainings) -> None:
    place = trainings.place
    rule = "  branch: main\n  rules: {deny: [{match: TrainingRequest/*, reason: frozen}]}"
    place.replace("environments/local/environment.yaml", "  branch: main", rule)
    trainings.declare()
    assert place("apply", "--no-wait").code == 3
    result = place("cancel", "docs-v1", "--follow")
    assert result.code == 0
    assert "TrainingRequest/docs-v1 had not started; nothing was spent" in result.out
    assert place("apply", "--no-wait").code == 0  # nobody has to do anything any more
    assert "docs-v1" not in place("status").out
    assert trainings.pids() == []


def test_a_rollout_goes_back(applied: Place) -> None:
    applied.rollout(strategy=CANARY)
    applied("apply", "--no-wait")
    assert applied("cancel", "docs").code == 1  # a binding is no run
    result = applied("cancel", "docs-v2")
    assert result.code == 0
    assert "all sessions go back to the stable version" in result.out
    assert applied("apply", "--no-wait").code == 0
    assert "cancelled" in applied("watch", "docs-v2", "--timeout", "20").err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("docs", "ModelBinding/docs is no run"),
        ("dosc", 'did you mean "docs"?'),
        ("TrainingRequest/docs-v9", "there is no TrainingRequest/docs-v9"),
    ],
)
def test_what_is_no_run_is_refused(applied: Place, name: str, said: str) -> None:
    before = applied.git("rev-parse", "HEAD")
    result = applied("cancel", name)
    assert result.code == 1
    assert said in result.err
    assert applied.git("rev-parse", "HEAD") == before


def test_a_dirty_work_tree_is_left_alone(applied: Place) -> None:
    applied.rollout(strategy=CANARY)
    applied("apply", "--no-wait")
    applied.replace("state/bindings/docs.yaml", "version:", "version: v3 #")
    result = applied("cancel", "docs-v2")
    assert result.code == 1
    assert "changes of its own" in result.err
    assert "v3" in (applied.path / "state/bindings/docs.yaml").read_text()


def test_who_waits_for_it_is_told(trainings: Trainings) -> None:
    place = trainings.place
    place.write(
        "state/evaluations/docs-v1.yaml",
        """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: docs-v1}
spec:
  agent: docs
  candidate: {training: docs-v1, endpoint: huggingface}
  baseline: {bound: true}
  dataset: {files: [data/eval.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.code}]
""",
    )
    place.write("data/eval.jsonl", '{"inputs": {"task": "ask"}, "outputs": {"code": "y"}}\n')
    trainings.go("30")
    trainings.declare()
    place("apply", "--no-wait")
    result = place("cancel", "TrainingRequest/docs-v1")
    assert result.code == 0
    assert "Evaluation/docs-v1 waits for it, and will wait on" in result.out
    place("apply", "--no-wait")
    assert trainings.gone()


def test_only_with_follow_there_is_a_time_out(applied: Place) -> None:
    result = applied("cancel", "docs-v2", "--timeout", "3")
    assert result.code == 64
    assert "--follow" in result.err


# -- more than one environment ---------------------------------------------------------------------------------------


def staging(place: Place) -> None:
    """Another environment that reads the same files."""
    text = (place.path / "environments/local/environment.yaml").read_text()
    place.write("environments/staging/environment.yaml", text.replace("name: local", "name: staging"))
    place.commit("Another environment")


def test_a_file_of_this_environment_alone(applied: Place) -> None:
    staging(applied)
    applied.rollout(strategy=CANARY)
    own = "environments/local/state/rollouts/docs-v2.yaml"
    (applied.path / own).parent.mkdir(parents=True)
    (applied.path / "state/rollouts/docs-v2.yaml").rename(applied.path / own)
    applied.commit("Only here")
    applied("apply", "--no-wait")
    assert applied("cancel", "docs-v2", "--json").json["files"] == [own]


def test_a_shared_file_that_says_whose_it_is(applied: Place) -> None:
    staging(applied)
    applied.rollout(strategy=CANARY)
    applied.replace("state/rollouts/docs-v2.yaml", "{name: docs-v2}", "{name: docs-v2, environment: local}")
    applied.commit("Ours")
    assert applied("apply", "--no-wait").code == 0
    assert "did you mean" in applied("cancel", "docs-v3", "--env", "local").err
    assert applied("cancel", "docs-v2", "--env", "staging").code == 1
    own = "environments/local/state/rollouts/docs-v2.yaml"
    applied.write(own, "apiVersion: turnout/v1\nkind: Rollout\nmetadata: {name: docs-v2}\nspec: {}\n")
    applied.commit("A patch of it")
    assert applied("cancel", "docs-v2", "--json").json["files"] == ["state/rollouts/docs-v2.yaml", own]


def test_a_shared_file_that_does_not_say_it(applied: Place) -> None:
    applied.rollout(strategy=CANARY)
    assert applied("apply", "--no-wait").code == 0
    staging(applied)  # it ran before the other environment came
    before = applied.git("rev-parse", "HEAD")
    result = applied("cancel", "docs-v2")
    assert result.code == 1
    assert "state/rollouts/docs-v2.yaml is read by staging too, so it would end there as well" in result.err
    assert "--everywhere" in result.err
    assert "environments/local/state" in result.err
    assert applied.git("rev-parse", "HEAD") == before
    assert applied("cancel", "docs-v2", "--everywhere").code == 0
    assert applied("apply", "--no-wait").code == 0
    assert "cancelled" in applied("watch", "docs-v2", "--timeout", "20").err
