"""The page about verdicts tells what the code does: its example is run, its rules and defaults are those of the code."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

from controller.judgement import verdict
from controller.judgement.results import Scoring
from controller.judgement.rules import Rules

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation-statistics.md").read_text("utf-8")


def test_the_worked_example_prints_what_the_page_shows() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (shown,) = re.findall(r"^````markdown\n(.*?)^````$", PAGE, re.DOTALL | re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "evaluation-statistics.md", "exec"), {})
    assert printed.getvalue() == shown


def test_the_page_has_the_rules_of_the_code_in_their_order() -> None:
    told = re.findall(r"^\| (\w+) \|.*\| (\w+) \|$", verdict.__doc__ or "", re.MULTILINE)
    shown = re.findall(r"^\| `(\w+)` \|.*\| `(\w+)`", PAGE, re.MULTILINE)
    assert [row for row in told if row[0] != "rule"] == shown
    source = Path(verdict.__file__).read_text("utf-8")
    assert {name for name, _ in shown} == set(re.findall(r'return \(?\s*"\w+",\s*"(\w+)"', source))


def test_the_page_has_the_defaults_of_the_code() -> None:
    rules = Rules()
    assert (rules.alpha, rules.minimum_examples, rules.gains, rules.judge_disagrees) == (0.025, 30, {"score": 0.02}, 0.25)
    assert rules.keep == {"accuracy": 0.03, "success_rate": 0.02}
    assert rules.watch == {"completeness": 0.05, "integration": 0.05, "latency_p95": 0.2, "cost_per_request": 0.1}
    assert rules.judge_contradicts == 0.25
    for name, weight in Scoring().weights.items():
        assert f"| {name} | {weight:g} % |" in PAGE
