"""`turnout costs --html`: one HTML file with the sums of each month and a plot; no script, nothing loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.judgement.hostile import page as safe
from controller.judgement.plots import bars
from controller.judgement.style import POLICY, STYLE
from controller.projections.money import groups_of, series

Month = Mapping[str, Any]
MOST_ROWS = 400


def html_page(months: Sequence[Month], by: str) -> str:
    """The whole file, from documents of `money.spending`, oldest first."""
    span = months[0]["month"] if len(months) == 1 else f"{months[0]['month']} to {months[-1]['month']}"
    rows = series(months, by)[:MOST_ROWS]
    plot = bars(rows, groups_of(rows), f"US dollars spent, {span}, by {by}", "USD")
    body = [
        f"<h1>Costs {safe(span)}</h1>",
        f"<p>{sum(month['spent'] for month in months):.2f} USD were spent by this controller's actions. Months are UTC.</p>",
        f"<h2>Spent, by {safe(by)}</h2>{plot}" if plot else "<p>Nothing was spent.</p>",
        *(_month(month) for month in reversed(months)),
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>Costs {safe(span)}</title>",
        f"<style>{STYLE}</style>",
    ]
    return "\n".join(['<!doctype html>\n<html lang="en"><head>', *head, "</head><body>", *body, "</body></html>\n"])


def _month(month: Month) -> str:
    agents = [("everything", month), *((name or "(no agent)", row) for name, row in sorted(month["agents"].items()))]
    parts = [f"<h2>{safe(month['month'])}</h2>", _table("Agent", agents), _table("Kind", list(month["kinds"].items()))]
    parts.append(_table("Resource", [(row["address"], row) for row in month["resources"]]))
    return "".join(parts)


def _table(what: str, rows: Sequence[tuple[str, Month]]) -> str:
    if not rows:
        return ""
    limited = any(row.get("limit") is not None for _, row in rows)
    names = ("spent", "reserved", *(("left", "limit") if limited else ()))
    head = "".join(f'<th scope="col">{name}</th>' for name in (what, *(name.capitalize() for name in names)))
    lines = "".join(
        f"<tr><td>{safe(name, 200)}</td>{''.join(f'<td>{_usd(row.get(each))}</td>' for each in names)}</tr>" for name, row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def _usd(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
