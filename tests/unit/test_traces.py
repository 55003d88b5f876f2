"""Events folded into runs: attempts, parents, what is left out and what must never leave."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.events import Event, typed
from controller.projections.traces import LONGEST_TEXT, MOST_BYTES, RUNS_KEPT, Traces, bounded, shown


def event(sequence: int, name: str, subject: str = "ModelBinding/docs", **data: Any) -> Event:
    return Event(
        id=f"event-{sequence}",
        source="turnout/production/machine-1",
        type=typed(name),
        subject=subject,
        time=f"2026-11-01T12:00:{sequence:02d}.000000Z",
        sequence=sequence,
        correlationid="pass",
        statecommit="c0ffee",
        data=data,
    )


def action(sequence: int, how: str, name: str = "update", intent: str = "i", **more: Any) -> Event:
    return event(sequence, f"action.{how}", action=name, intent=intent, generation=1, **more)


def test_start_and_outcome_are_one_run() -> None:
    fold = Traces()
    start = action(1, "started", reason="v2", spec={"model": "a"}, before={"model": "b"}, cost={"usd": 2.0, "ceiling": 3.0})
    assert fold.fold(start) is None
    traced = fold.fold(action(3, "succeeded", after={"model": "a", "cost_usd": 1.5}, notes={"n": 1}, said="done"))
    assert traced is not None
    assert (traced.id, traced.name, (traced.ended - traced.started).total_seconds()) == ("event-3", "update ModelBinding/docs", 2.0)
    assert traced.inputs == {"reason": "v2", "spec": {"model": "a"}, "before": {"model": "b"}}
    assert traced.outputs == {"after": {"model": "a", "cost_usd": 1.5}, "notes": {"n": 1}, "said": "done"}
    assert (traced.error, traced.parent, traced.tags) == (None, None, ("ModelBinding", "update", "production"))
    assert traced.metadata == {
        "address": "ModelBinding/docs",
        "intent": "i",
        "commit": "c0ffee",
        "sequence": 3,
        "started_sequence": 1,
        "correlation": "pass",
        "environment": "production",
        "agent": "docs",
        "generation": 1,
        "cost_usd": 2.0,
        "cost_ceiling_usd": 3.0,
        "spent_usd": 1.5,
    }
    assert fold.opened == {}


def test_every_attempt_is_a_run_of_the_same_intent() -> None:
    fold = Traces()
    fold.fold(action(1, "started"))
    first = fold.fold(action(2, "failed", error="busy", temporary=True, attempts=1))
    second = fold.fold(action(4, "failed", error="gone", temporary=True, attempts=2))  # careful work is not started anew
    fold.fold(action(5, "started"))
    last = fold.fold(action(6, "failed", error="no", temporary=False, attempts=3))
    assert first is not None
    assert second is not None
    assert last is not None
    assert [one.error for one in (first, second, last)] == ["busy (is tried again)", "gone (is tried again)", "no"]
    assert [one.started.second for one in (first, second, last)] == [1, 1, 5]
    assert first.outputs is None
    assert fold.opened == {}


def test_what_is_done_about_a_run_is_below_its_start() -> None:
    fold = Traces()
    fold.fold(action(1, "started", "run"))
    run = fold.fold(action(2, "succeeded", "run", running=True))
    fold.fold(action(3, "started", "step", "s"))
    step = fold.fold(action(4, "succeeded", "step", "s", ends="promoted"))
    fold.fold(event(5, "edits.started", intent="w", edits={"ModelBinding/docs": {"model": "a"}}, reason="promoted"))
    written = fold.fold(event(6, "edits.written", intent="w", commit="abc", by="the controller"))
    other = fold.fold(event(7, "action.succeeded", "ModelBinding/other", action="update", intent="o"))
    assert run is not None
    assert step is not None
    assert written is not None
    assert other is not None
    assert run.parent is None
    for one in (step, written):
        assert one.parent is not None
        assert (one.parent.id, one.parent.started, one.parent.parent) == (run.id, run.started, None)
    assert (written.name, written.outputs) == ("write ModelBinding/docs", {"commit": "abc", "by": "the controller"})
    assert other.parent is None
    assert other.started == other.ended  # its start is not known
    fold.fold(action(8, "started", "run", "again"))
    again = fold.fold(action(9, "succeeded", "run", "again", running=True))
    assert again is not None
    assert again.parent is None
    assert fold.runs["ModelBinding/docs"][0] == "event-9"


def test_a_clock_that_goes_back_leaves_times_in_order() -> None:
    fold = Traces()
    fold.fold(action(10, "started", "run"))
    fold.fold(action(11, "succeeded", "run", running=True))
    fold.fold(action(5, "started", "step", "s"))
    step = fold.fold(action(4, "succeeded", "step", "s"))
    assert step is not None
    assert step.parent is not None
    assert step.parent.started <= step.started <= step.ended


def test_other_events_are_no_runs_and_what_is_remembered_is_bounded() -> None:
    fold = Traces()
    unknown = Event(id="x", source="s", type="turnout.something.new.v9")
    for each in (unknown, event(1, "condition.raised", code="c"), event(2, "plan.made"), event(3, "retry.requested")):
        assert fold.fold(each) is None
    for number in range(RUNS_KEPT + 5):
        done = event(5, "action.succeeded", f"Rollout/r{number}", action="run", intent="i", running=True)
        assert fold.fold(done) is not None
    assert len(fold.runs) == RUNS_KEPT
    assert "Rollout/r4" not in fold.runs


def test_nothing_that_looks_like_a_secret_leaves() -> None:
    key = "hf_" + "aBcDeFgHiJ" * 4
    state = {
        "apiKey": "env:OPENROUTER_API_KEY",
        "token": "plain-value",
        "env": {"WANDB_API_KEY": "plain-value", "headers": [{"Authorization": "plain-value"}]},
        "url": "https://ada:plain-value@example.org/x",
        "max_tokens": 4000,
    }
    fold = Traces()
    changed = [{"field": "endpoint.apiKey", "old": "plain-value", "new": "env:NEW"}]
    fold.fold(action(1, "started", spec=state, before=state, reason=f"because {key}", diff=changed))
    done = fold.fold(action(2, "succeeded", after=state, notes=state, said=key))
    failed = fold.fold(action(3, "failed", error=f"401 for https://u:plain-value@h/ with {key}", temporary=False))
    assert done is not None
    assert failed is not None
    told = json.dumps([done.inputs, done.outputs, done.metadata, failed.error])
    assert "plain-value" not in told
    assert key not in told
    assert done.inputs["spec"]["apiKey"] == "env:OPENROUTER_API_KEY"
    assert done.inputs["spec"]["max_tokens"] == 4000
    assert done.inputs["diff"] == [{"field": "endpoint.apiKey", "old": "(hidden)", "new": "env:NEW"}]


@pytest.mark.parametrize(
    "key",
    [
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1B2" * 10,
        "sk-ant-" + "a1B2" * 10,
        "sk-or-v1-" + "a1B2" * 10,
        "sk-proj-" + "a1B2" * 10,
        "lsv2_pt_" + "a1B2" * 8 + "_" + "a1B2c3D4e5",
        "xoxb-" + "a1B2" * 5,
        "-----BEGIN RSA PRIVATE KEY-----",
    ],
)
def test_keys_of_a_known_form_are_hidden_wherever_they_stand(key: str) -> None:
    found = shown({"note": [f"before {key}, after"]})
    assert found == {"note": ["before (hidden), after"]}


def test_everything_is_bounded() -> None:
    deep: Any = "end"
    for _ in range(100):
        deep = {"d": deep}
    values = {"text": "x" * 10**6, "list": list(range(10**4)), "map": {str(n): n for n in range(10**4)}, "deep": deep}
    assert len(json.dumps(bounded(values))) < MOST_BYTES
    assert shown("x" * (LONGEST_TEXT + 7)).endswith("(... 7 more characters)")
    assert shown(list(range(60)))[-1] == "(10 more)"
    many = bounded({f"f{n}": "y" * LONGEST_TEXT for n in range(30)})
    assert many["f29"].startswith("(left out: ")
    assert many["f0"] == "y" * LONGEST_TEXT
    assert len(json.dumps(many)) < MOST_BYTES + 30 * 100
