"""`turnout watch`, `status` and `plan` of runs: real trainings and evaluations of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

Place = Trainings = Any  # of conftest.py
SCRIPT = Path(sys.executable).with_name("turnout")
LOOK = ("--interval", "0.05")


def watching(place: Place, *args: str) -> subprocess.Popen[str]:
    command = [str(SCRIPT), "--repo", str(place.path), "watch", *args, *LOOK, "--timeout", "60"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_training_to_its_good_end(trainings: Trainings, running: Any) -> None:
    place = trainings.place
    trainings.go("20")
    trainings.declare()
    with running(place):
        child = watching(place, "docs-v1")
        try:
            assert child.stdout is not None
            told = ""
            while "running, attempt" not in told or "(20 %)" not in told:
                told = child.stdout.readline()
                assert told, child.communicate()[1]
            trainings.go("24")
            trainings.until("24")
            trainings.go("end")
            assert trainings.gone()
            place.version("cicd", "v9")  # a commit wakes the controller, which would look again in 10 s
            rest, errors = child.communicate(timeout=60)
        finally:
            child.kill()
    assert (
        "TrainingRequest/docs-v1: docs v1.0.0: sft of tiny on this-machine, running, attempt 1 of 3, step 20 of 100 (20 %)" in told
    )
    assert "loss 0.15, 1,500 tokens/s, about 8 min left" in told
    assert child.returncode == 0, errors
    assert "trained v1.0.0, held-out loss 3 -> 0.5" in rest
    own = [each for each in rest.splitlines() if each.startswith("TrainingRequest/")]
    assert not [each for each in own if "step 24" in each]  # a number that moves is no line
    again = place("watch", "docs-v1", "--timeout", "20")
    assert again.code == 0


def test_a_training_to_its_bad_end(trainings: Trainings) -> None:
    place = trainings.place
    trainings.go("10")
    trainings.declare()
    assert place("apply", "--no-wait").code == 0
    trainings.until("10")
    late = place("watch", "docs-v1", "--timeout", "0.2", *LOOK)
    assert late.code == 1
    assert "has not ended" in late.err
    assert "step 10 of 100 (10 %)" in late.out
    trainings.go("fail")
    assert trainings.gone()
    assert place("apply", "--no-wait").code == 0
    result = place("watch", "TrainingRequest/docs-v1", "--timeout", "20")
    assert result.code == 1
    assert "was failed: failed (diverged): The loss is not a number." in result.err


def test_every_run_is_watched_and_json_is_a_line_each(trainings: Trainings) -> None:
    place = trainings.place
    trainings.go("30")
    trainings.declare()
    place.rollout(strategy="{canary: [{weight: 20, hold: 1h}]}")
    assert place("apply", "--no-wait").code == 0
    trainings.until("30")
    lines = place("watch", "--json", "--timeout", "0").lines
    assert {each["address"] for each in lines} == {"TrainingRequest/docs-v1", "Rollout/docs-v2"}
    progress = next(each for each in lines if each["kind"] == "TrainingRequest")["signals"]["sight"]["progress"]
    assert (progress["step"], progress["steps"], len(progress["losses"])) == (30, 100, 30)
    text = place("watch", "--timeout", "0").out
    assert "step 30 of 100" in text
    assert "docs: v1.0.0 -> v2.0.0; step 1 of 1, 20 %" in text


def test_a_name_of_several_kinds(trainings: Trainings) -> None:
    place = trainings.place
    trainings.declare("docs-v2")
    place.rollout("docs-v2", strategy="{canary: [{weight: 20, hold: 1h}]}")
    place("apply", "--no-wait")
    both = place("watch", "docs-v2", "--timeout", "0")
    assert both.code == 1
    assert "docs-v2 is Rollout/docs-v2 and TrainingRequest/docs-v2" in both.err
    assert "write the kind too, as in Rollout/docs-v2" in both.err
    for name in ("Rollout/docs-v2", "state/rollouts/docs-v2.yaml", "docs"):
        assert "docs: v1.0.0 -> v2.0.0" in place("watch", name, "--timeout", "0").out
    assert "sft of tiny" in place("watch", "TrainingRequest/docs-v2", "--timeout", "0").out


def test_what_is_no_run_is_said(with_gateway: Place) -> None:
    result = with_gateway("watch", "main")
    assert result.code == 1
    assert "Gateway/main is no run" in result.err


def test_one_that_cannot_start_is_not_waited_for(trainings: Trainings) -> None:
    place = trainings.place
    place.replace("environments/local/environment.yaml", "/trainer,", "/nobody,")
    trainings.declare()
    place("apply", "--no-wait")
    result = place("watch", "docs-v1", "--timeout", "20", *LOOK)
    assert result.code == 1
    assert "which should run the training program, is not there" in result.err
    assert "turnout retry TrainingRequest/docs-v1" in result.err
    assert place("cancel", "docs-v1").code == 0
    assert place("apply", "--no-wait").code == 0
    assert "docs-v1" not in place("status").out
    events = len(place("log", "--json").lines)
    assert place("apply", "--no-wait").code == 0
    assert len(place("log", "--json").lines) == events


def test_status_of_a_training(trainings: Trainings) -> None:
    place = trainings.place
    trainings.go("30")
    trainings.declare()
    place("apply", "--no-wait")
    trainings.until("30")
    assert "docs v1.0.0: sft of tiny on this-machine, running, attempt 1 of 3, step 30 of 100 (30 %)" in place("status").out
    assert "step 30 of 100" in place("status", "docs-v1").out
    trainings.go("end")
    assert trainings.gone()
    place("apply", "--no-wait")
    assert "completed: trained v1.0.0, held-out loss 3 -> 0.5" in place("status").out


EVALUATION = """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: docs-v2}
spec:
  agent: docs
  candidate: {training: docs-v2, endpoint: huggingface}
  baseline: {bound: true}
  dataset: {files: [data/eval.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.code}]
"""


def chain(trainings: Trainings, evaluation: str = EVALUATION) -> None:
    place = trainings.place
    place.write("state/evaluations/docs-v2.yaml", evaluation)
    rows = [json.dumps({"inputs": {"task": f"ask {n}"}, "outputs": {"code": f"y = {n}"}}) for n in range(40)]
    place.write("data/eval.jsonl", "\n".join(rows) + "\n")
    trainings.declare("docs-v2")
    place.rollout("docs-v2", strategy="{canary: [{weight: 20, hold: 1h}]}")
    place.replace("state/rollouts/docs-v2.yaml", "  strategy:", "  evaluation: docs-v2\n  strategy:")
    place.commit("Train, evaluate, roll out")


def test_a_plan_of_a_chain_can_be_read(trainings: Trainings) -> None:
    place = trainings.place
    chain(trainings)
    result = place("plan")
    assert result.code == 2
    assert "in this order: TrainingRequest/docs-v2 -> Evaluation/docs-v2 -> Rollout/docs-v2" in result.out
    assert "turnout cancel TrainingRequest/docs-v2 stops it" in result.out
    assert "waits: spec.candidate: " in result.out
    assert "cost: 5.00 USD estimated, at most 10.00 USD" in result.out
    assert re.search(
        r"budget of \d{4}-\d\d: 0.00 spent \+ 0.00 reserved \+ 10.00 at most of this plan = 10.00 USD; no limit", result.out
    )
    environment = "environments/local/environment.yaml"
    place.replace(environment, "  branch: main", "  branch: main\n  budget: {monthlyUsd: 8, agents: {docs: 20}}")
    place.commit("A budget")
    result = place("plan")
    assert "= 10.00 of 8.00 USD, 2.00 too much" in result.out
    assert "budget of agent docs: 0.00 spent + 0.00 reserved + 10.00 at most of this plan = 10.00 of 20.00 USD" in result.out
    assert "stops it; what it has cost by then stays spent" in result.out
    assert place("apply", "--no-wait").code == 3
    trainings.go("30")
    trainings.until("30")
    told = place("status").out
    assert "! Reference: waits for TrainingRequest/docs-v2, which is running, attempt 1 of 3, step 30 of 100 (30 %)" in told
    assert "! Reference: spec.evaluation: " in told
    assert "in this order: TrainingRequest/docs-v2 -> Evaluation/docs-v2 -> Rollout/docs-v2" in place("plan").out


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_evaluation_that_nobody_answers(trainings: Trainings, more: tuple[str, ...]) -> None:
    """Its endpoints do not listen; it goes on until it is cancelled."""
    place = trainings.place
    other = EVALUATION.replace(
        "{training: docs-v2, endpoint: huggingface}", "{model: acme/docs-v2, endpoint: huggingface, version: v2}"
    )
    place.write("state/evaluations/docs-v2.yaml", other)
    place.write("data/eval.jsonl", '{"inputs": {"task": "ask"}, "outputs": {"code": "y"}}\n' * 1)
    place.commit("Evaluate")
    assert place("apply", "--no-wait").code == 0
    assert "docs: v2 against v1.0.0 on data/eval.jsonl, running" in place("status").out
    assert "at most 10.00" in place("watch", "docs-v2", "--timeout", "0").out
    done = place("cancel", "docs-v2", *more)
    assert done.code == 0
    assert place("apply", "--no-wait").code == 0
    assert "cancelled: its file is gone" in place("log", "--subject", "Evaluation/docs-v2").out
    assert place("watch", "docs-v2", "--timeout", "20").code == 1
    assert place("status", "--json", "docs-v2").code == 1


def test_on_a_terminal(trainings: Trainings) -> None:
    place = trainings.place
    trainings.go("40")
    trainings.declare()
    assert place("apply", "--no-wait").code == 0
    trainings.until("40")
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (40, 60))
    command = [str(SCRIPT), "--repo", str(place.path), "watch", "docs-v1", *LOOK, "--timeout", "60"]
    child = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    )
    os.close(theirs)
    seen = b""
    try:
        while b"step 40 of 100" not in seen:
            seen += os.read(ours, 65536)
        trainings.go("fail")
        assert trainings.gone()
        assert place("apply", "--no-wait").code == 0
        with contextlib.suppress(OSError):  # the other side is closed
            while more := os.read(ours, 65536):
                seen += more
        assert child.wait(60) == 1
    finally:
        child.kill()
        os.close(ours)
    text = seen.decode()
    assert "█" * 12 + "░" * 18 in text
    assert any(0x2800 < ord(char) <= 0x28FF for char in text)
    assert "loss 0.075, 1,500 tokens/s, about 6 min left" in " ".join(text.split())  # nothing is cut off
    assert "diverged" in text
    assert "Traceback" not in text
