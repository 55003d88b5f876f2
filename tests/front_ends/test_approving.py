"""`turnout approve`: a second person's yes to one run, or to a whole chain, as one commit."""

from __future__ import annotations

from typing import Any

import pytest

from controller import approval
from controller.address import Address
from controller.change import Action, Change, Cost

EVALUATION = """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {{name: {name}}}
spec:
  agent: docs
  candidate: {{model: acme/{name}, endpoint: huggingface, version: v9.0.0}}
  dataset: {{files: [data/judge.jsonl]}}
  evaluators: [{{name: accuracy, kind: exact, field: outputs.answer}}]
  budgetUsd: {usd}
"""


def waiting(place: Any, **runs: float) -> None:
    """Evaluations that may cost so much, in an environment that asks for a second person from one dollar on."""
    path = "environments/local/environment.yaml"
    place.write(path, (place.path / path).read_text() + "  rules: {approvalAboveUsd: 1}\n")
    place.write("data/judge.jsonl", '{"inputs": {"task": "a"}, "outputs": {"answer": "b"}}\n')
    for name, usd in runs.items():
        place.write(f"state/evaluations/{name}.yaml", EVALUATION.format(name=name, usd=usd))
    place.commit("Ask for evaluations")


def as_somebody_else(place: Any) -> None:
    place.git("config", "user.name", "Grace")
    place.git("config", "user.email", "grace@example.org")


def test_one_commit_approves_a_whole_chain(place: Any) -> None:
    waiting(place, one=2.5, two=3.0)
    as_somebody_else(place)
    result = place("approve", "--all")
    assert result.code == 0
    assert result.out.count("Turnout-Approve: Evaluation/") == 2
    assert place.git("log", "-1", "--format=%s (%an)") == "Approve Evaluation/one, Evaluation/two (Grace)"
    assert place.git("diff", "--name-only", "HEAD~1", "HEAD") == ""
    place("apply", "--yes", "--no-wait")
    told = place("log").out
    assert "one: approved up to 2.50 USD by Grace" in told
    again = place("approve", "--all")
    assert again.code == 1
    assert "nothing waits for an approval" in again.err


def test_a_name_that_waits_for_nothing_is_told_and_nothing_is_written(place: Any) -> None:
    waiting(place, one=2.5)
    as_somebody_else(place)
    head = place.git("rev-parse", "HEAD")
    result = place("approve", "Evaluation/one", "ModelBinding/docs")
    assert result.code == 1
    assert "ModelBinding/docs waits for no approval" in result.err
    assert place.git("rev-parse", "HEAD") == head
    assert place("approve").code == 64
    assert place("approve", "one", "--all").code == 64


def test_who_asked_cannot_approve(place: Any) -> None:
    waiting(place, one=2.5)
    place.git("config", "user.name", "The author")
    place.git("config", "user.email", place.git("log", "-1", "--format=%ae"))
    result = place("approve", "Evaluation/one")
    assert result.code == 1
    assert "somebody else has to approve it" in result.err


@pytest.mark.parametrize(("ceiling", "told"), [(5.7333, "5.74"), (5.73, "5.73"), (0.0041, "0.01"), (1.1, "1.10"), (0.0, "0.00")])
def test_the_number_of_an_approval_is_never_below_the_ceiling(ceiling: float, told: str) -> None:
    change = Change(Action.RUN, "runs", cost=Cost(ceiling, ceiling), address=Address("Evaluation/one"))
    assert approval.line(change).endswith(f"up to {told} USD")
