"""Runs as they look: bars, curves, lines; of every kind, also of one that nobody has heard of."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from controller.address import Address
from controller.cli import runs, watch_runs
from controller.cli.watch import Look
from controller.cli.watch_text import one_line, paragraphs
from controller.health import Status
from controller.kind import Past

TRAINING = {
    "phase": "running", "agent": "docs", "version": "v1.1.0", "method": "sft", "base_model": "acme/a-7B", "hardware": "a10g-small",
    "attempt": 2, "attempts": 3, "spent_usd": 0.5, "cost_usd": 0.6,
}  # fmt: skip
EVALUATION = {
    "phase": "running", "agent": "docs", "candidate": {"version": "v2"}, "baseline": {"model": "m", "version": ""},
    "dataset": "ls://eval", "ceiling": 4.0, "cost": None,
}  # fmt: skip


def status(
    kind: str, after: dict[str, Any] | None, signals: dict[str, Any] | None = None, told: dict[str, str] | None = None, **past: Any
) -> Status:
    history = Past(after=after, conditions=dict.fromkeys(told or {}, ""), **{"running": after is not None, **past})
    return Status(Address.of(kind, "docs-v1"), history, told or {}, "Progressing", "waits", signals)


def training(step: int = 54, **more: Any) -> Status:
    progress = {
        "step": step, "steps": 120, "loss": 1.234, "tokens_per_second": 1234.5, "eta_seconds": 1800.0,
        "losses": [[each, 3 - each / 50] for each in range(1, step + 1)],
    }  # fmt: skip
    started = datetime.now(UTC) - timedelta(minutes=12)
    return status("TrainingRequest", TRAINING, {"sight": {"cost_usd": 0.25, "progress": progress}}, started_at=started, **more)


def shown(*statuses: Status, width: int = 120, ascii_only: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    for each in paragraphs(Look(list(statuses), []), [], {each.address: 4.5 for each in statuses}, ascii_only=ascii_only):
        console.print(each)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_training_on_a_terminal() -> None:
    text = shown(training(told={"Blind": "its backend does not answer"}))
    assert "TrainingRequest/docs-v1  docs v1.1.0: sft of acme/a-7B on a10g-small  Progressing" in text
    assert "running, attempt 2 of 3, for 12 min" in text
    assert "█" * 13 + "░" * 17 + "  step 54 of 120 (45 %), loss 1.23, 1,234 tokens/s, about 30 min left" in text
    assert "0.75 USD so far, at most 4.50" in text
    assert "Blind: its backend does not answer" in text
    assert sum(any(0x2800 < ord(char) <= 0x28FF for char in line) for line in text.splitlines()) == watch_runs.CURVE[1]


def test_a_terminal_of_ascii_alone() -> None:
    text = shown(training(), ascii_only=True)
    assert "#" * 13 + "." * 17 in text
    assert text.isascii()


def test_nothing_to_watch() -> None:
    assert "nothing runs; waiting for a run" in shown()


def test_an_evaluation() -> None:
    found = status("Evaluation", EVALUATION, {"phase": "running", "done": 30, "total": 200, "cost_usd": 0.1})
    assert "docs: v2 against m on ls://eval" in shown(found)
    assert "█████░" in shown(found).replace("█" * 4 + "░", "█" * 4 + "█░", 1)
    line = one_line(found, 4.0)
    assert (
        line
        == "Evaluation/docs-v1: docs: v2 against m on ls://eval, running, calls 30 of 200 (15 %), 0.10 USD so far, at most 4.00"
    )


def test_a_kind_that_tells_its_progress() -> None:
    signals = {"progress": {"step": 3, "steps": 4, "said": "quantizes Q4_K_M"}, "losses": "not ours"}
    found = status("Conversion", {"phase": "running"}, signals)
    assert one_line(found, None) == "Conversion/docs-v1: running, step 3 of 4 (75 %), quantizes Q4_K_M"
    assert "step 3 of 4 (75 %), quantizes Q4_K_M" in shown(found)


@pytest.mark.parametrize(
    "signals", [None, {}, {"sight": {"unknown": "no network"}}, {"progress": None}, {"progress": {"steps": 0}}]
)
def test_where_nobody_can_look_the_log_tells(signals: dict[str, Any] | None) -> None:
    after = {**TRAINING, "progress": {"step": 48, "steps": 120, "loss": 1.5, "cost_usd": 0.6}}
    line = one_line(status("TrainingRequest", after, signals), None)
    assert "step 48 of 120 (40 %), loss 1.5, 0.60 USD so far" in line


def test_one_that_waits_and_ones_that_are_over() -> None:
    waits = status("TrainingRequest", None, told={"Approval": "needs an approval"})
    assert one_line(waits, None) == "TrainingRequest/docs-v1: waits; Approval: needs an approval"
    assert (
        one_line(status("Rollout", None, told={"Reference": "no verdict"}), None)
        == "Rollout/docs-v1: waits to start; Reference: no verdict"
    )
    assert "waits to start" in shown(status("Rollout", None, told={"Reference": "no verdict"}))
    over = status("TrainingRequest", {**TRAINING, "said": "trained v1.1.0"}, running=False, ended="completed")
    assert "completed: trained v1.1.0, 0.60 USD so far" in one_line(over, None)
    failed = status("Evaluation", EVALUATION, running=False, failed="no permission")
    assert "failed: no permission" in one_line(failed, None)


def test_a_line_is_due_for_a_tenth_and_not_for_a_number() -> None:
    keys = [runs.state_key(training(step)) for step in range(121)]
    assert len({str(key) for key in keys}) == 11
    assert keys[47] != keys[48]
    assert keys[48] == keys[59]
    assert runs.state_key(training(54)) != runs.state_key(training(54, told={"Blind": "x"}))
    later = status("TrainingRequest", {**TRAINING, "attempt": 3})
    assert runs.state_key(status("TrainingRequest", TRAINING)) != runs.state_key(later)


def test_a_curve_goes_through_its_points() -> None:
    falling = watch_runs.plot([[0, 4.0], [10, 0.0]], 10, 2)
    assert [len(line) for line in falling] == [10, 10]
    assert falling[0][0] != "\u2800"
    assert falling[0][-1] == "\u2800"
    assert falling[1][-1] != "\u2800"
    assert falling[1][0] == "\u2800"
    flat = watch_runs.plot([[1, 2.0], [2, 2.0]], 4, 1)
    assert flat == ["\u2809" * 4]
    assert watch_runs.plot([[3, 1.0], [3, 1.0]], 2, 1)


def test_a_bar_is_full_only_at_the_end() -> None:
    assert watch_runs.bar(0.999, 10) == "█" * 9 + "░"
    assert watch_runs.bar(1.0, 10) == "█" * 10
    assert watch_runs.bar(0.0, 10) == "░" * 10
    assert runs.pace(training(500)).share == 1.0
