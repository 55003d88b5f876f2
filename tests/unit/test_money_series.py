"""Money: what counts where, that a month stays bounded and its sums exact, and what is plotted."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import pytest

from controller.cli.costs_page import html_page
from controller.environment import BudgetSpec
from controller.events import Event
from controller.judgement.plots import bars
from controller.projections.money import MONEY, OPEN, RESOURCES_KEPT, budget, groups_of, months_until, series, spending

LIMITS = BudgetSpec.model_validate({"monthlyUsd": 100.0, "agents": {"docs": 10.0, "cicd": 5.0}})


class Ledger:
    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = defaultdict(dict)

    def add(self, kind: str, subject: str, day: str = "2026-11-03", **data: Any) -> None:
        event = Event(id="e", source="t", type=f"turnout.action.{kind}.v1", subject=subject, time=f"{day}T10:00:00Z", data=data)
        MONEY.fold(self.states, event)

    def pay(self, subject: str, usd: float, agent: str = "docs", day: str = "2026-11-03", **data: Any) -> None:
        self.add("started", subject, day, cost={"usd": 2.0, "ceiling": 4.0}, after={"agent": agent})
        self.add("succeeded", subject, day, **({"after": {"agent": agent, "cost_usd": usd}} | data))

    def month(self, month: str = "2026-11") -> dict[str, Any]:
        return spending(month, self.states[month], LIMITS)


def test_spent_reserved_and_left_by_agent() -> None:
    ledger = Ledger()
    ledger.pay("TrainingRequest/a", 3.0)
    ledger.add("started", "Evaluation/b", cost={"usd": 1.0, "ceiling": 1.5}, after={"agent": "docs"})
    found = ledger.month()
    assert (found["spent"], found["reserved"], found["left"]) == (3.0, 1.5, 95.5)
    assert found["agents"]["docs"] == {"spent": 3.0, "reserved": 1.5, "limit": 10.0, "left": 5.5}
    assert found["agents"]["cicd"]["left"] == 5.0
    assert found["kinds"] == {
        "Evaluation": {"spent": 0.0, "reserved": 1.5},
        "TrainingRequest": {"spent": 3.0, "reserved": 0.0},
    }
    assert budget(ledger.states["2026-11"], "x", 10.0, "docs").reserved == 1.5


@pytest.mark.parametrize(
    ("data", "usd"),
    [
        ({"after": {"agent": "docs", "cost": 0.25}}, 0.25),
        ({"after": None, "notes": {"cost_usd": 0.5}}, 0.5),
        ({"after": {"agent": "docs", "cost": None}}, 2.0),
        ({"after": {"agent": "docs", "cost_usd": 0.0}}, 0.0),
    ],
    ids=["an evaluation", "cancelled", "nobody knows: the estimate", "for nothing"],
)
def test_what_an_outcome_says_counts(data: dict[str, Any], usd: float) -> None:
    ledger = Ledger()
    ledger.pay("Evaluation/a", 0.0, **data)
    assert ledger.month()["spent"] == usd
    assert ledger.states[OPEN] == {}


def test_it_counts_for_the_day_and_month_in_which_it_began() -> None:
    ledger = Ledger()
    ledger.add("started", "TrainingRequest/a", "2026-10-31", cost={"usd": 1.0, "ceiling": 2.0}, after={"agent": "docs"})
    ledger.add("succeeded", "TrainingRequest/a", "2026-11-02", after={"cost_usd": 1.25})
    assert ledger.month("2026-10")["days"] == {"2026-10-31": {"docs": {"TrainingRequest": 1.25}}}
    assert ledger.month("2026-11")["spent"] == 0


def test_a_month_is_bounded_and_its_sums_are_exact() -> None:
    ledger = Ledger()
    count = 3 * RESOURCES_KEPT
    for number in range(count):
        ledger.pay(f"Job/{number}", 0.5, agent="docs" if number % 2 else "cicd", day=f"2026-11-{number % 28 + 1:02d}")
    assert len(ledger.states["2026-11"]["spent"]) <= 2 * RESOURCES_KEPT
    found = ledger.month()
    assert found["spent"] == count / 2
    assert found["agents"]["docs"]["spent"] == found["agents"]["cicd"]["spent"] == count / 4
    assert found["kinds"]["Job"]["spent"] == count / 2
    assert sum(usd for _, groups in series([found], "agent") for usd in groups.values()) == count / 2


def test_rows_to_plot() -> None:
    ledger = Ledger()
    ledger.pay("TrainingRequest/a", 3.0, day="2026-11-03")
    ledger.pay("Evaluation/b", 1.0, "cicd", day="2026-11-05")
    months = [ledger.month()]
    assert series(months, "agent") == [("2026-11-03", {"docs": 3.0}), ("2026-11-04", {}), ("2026-11-05", {"cicd": 1.0})]
    assert series(months, "kind")[0] == ("2026-11-03", {"TrainingRequest": 3.0})
    assert series(months, "resource") == [("TrainingRequest/a", {"docs": 3.0}), ("Evaluation/b", {"cicd": 1.0})]
    assert groups_of(series(months, "agent")) == ["docs", "cicd"]
    year = [ledger.month(month) for month in months_until("2026-12", 12)]
    assert [label for label, _ in series(year, "agent")] == months_until("2026-12", 12)
    assert series([ledger.month("2026-01")], "agent") == []


def test_months() -> None:
    assert months_until("2026-02", 4) == ["2025-11", "2025-12", "2026-01", "2026-02"]
    for wrong in ("2026", "2026-13", "yesterday", "2026-11-01"):
        with pytest.raises(ValueError):
            months_until(wrong, 1)


def test_the_page_shows_sums_and_lets_nothing_else_in() -> None:
    ledger = Ledger()
    hostile = '<script>alert(1)</script>"\u202e'
    ledger.pay("TrainingRequest/a", 3.0, agent=hostile)
    ledger.pay("TrainingRequest/b", 1.0)
    page = html_page([ledger.month("2026-10"), ledger.month()], "agent")
    assert "<script" not in page
    assert "\u202e" not in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert "2026-10 to 2026-11" in page
    assert "<td>3.00</td>" in page
    widths = [float(each) for each in re.findall(r'<rect class="g\d"[^>]* width="([\d.]+)" height="16"', page)]
    assert len(widths) == 2
    assert sum(widths) == pytest.approx(400, abs=1)
    assert "Nothing was spent." in html_page([ledger.month("2026-10")], "kind")


def test_bars_are_as_long_as_what_they_say() -> None:
    rows = [("a", {"x": 1.0, "y": 3.0}), ("b", {"x": 2.0}), ("c", {})]
    plot = bars(rows, ["y", "x"], "T", "USD")
    widths = [float(each) for each in re.findall(r'<rect class="g\d"[^>]* width="([\d.]+)" height="16"', plot)]
    assert widths == pytest.approx([300, 100, 200], abs=0.2)
    assert bars([], [], "T", "USD") == ""
    long = bars([("TrainingRequest/" + "x" * 60, {"x": 1.0})], ["x"], "T", "USD")
    assert f">TrainingRequest/{'x' * 9}…<title>TrainingRequest/{'x' * 60}</title>" in long
