"""Plots as inline SVG: no script, no font, no file. Colours come from the page's style sheet; shape and text carry the meaning
too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from controller.judgement.evidence import Evidence
from controller.judgement.hostile import page
from controller.judgement.words import change, figure, label

WIDTH = 720
LEFT, RIGHT = 190, 130
LOOKS = 6  # of stacked bars, in the style sheet
MOST_LABEL = 26  # characters that fit left of a bar
MOST_STEPS = 400  # points of a curve; more cannot be seen


def forest(evidence: Sequence[Evidence], title: str) -> str:
    """A row a measure: the difference, its interval, a line at no difference, and a dashed one at what is allowed or wanted."""
    rows = [e for e in evidence if e.low is not None and e.high is not None and e.difference is not None]
    if not rows:
        return ""
    marks = [value for e in rows for value in (e.low, e.high, _limit(e)) if value is not None]
    low, high = min(0.0, *marks), max(0.0, *marks)
    room = (high - low) * 0.05 or 0.01
    scale = _Scale(low - room, high + room, LEFT, WIDTH - RIGHT)
    height = 34 * len(rows) + 40
    body = [f'<line class="zero" x1="{scale(0)}" x2="{scale(0)}" y1="8" y2="{height - 28}"/>']
    for place, e in enumerate(rows):
        assert e.low is not None and e.high is not None and e.difference is not None  # noqa: PT018 - chosen above
        y = 34 * place + 26
        limit = _limit(e)
        if limit is not None:
            body.append(f'<line class="limit" x1="{scale(limit)}" x2="{scale(limit)}" y1="{y - 11}" y2="{y + 11}"/>')
        body += [
            f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{page(label(e.measure))}</text>',
            f'<line class="span" x1="{scale(e.low)}" x2="{scale(e.high)}" y1="{y}" y2="{y}"/>',
            f'<circle class="{e.state}" cx="{scale(e.difference)}" cy="{y}" r="5"/>',
            f'<text x="{WIDTH - RIGHT + 10}" y="{y + 4}">{change(e.difference, e.relative)}</text>',
        ]
    relative = rows[0].relative
    for value in (scale.low, 0.0, scale.high):
        body.append(f'<text class="axis" x="{scale(value)}" y="{height - 8}" text-anchor="middle">{change(value, relative)}</text>')
    return _svg(height, title, "".join(body))


def steps(differences: Sequence[float], title: str) -> str:
    """Every example's difference, sorted: how many got better, how many worse, and by how much."""
    if len(differences) < 2:
        return ""
    ordered = sorted(differences)
    reach = max(1e-9, max(map(abs, ordered)))
    height, middle = 200, 100
    x = _Scale(0, len(ordered), 40, WIDTH - 20)
    drawn = _thinned(ordered)
    wide = max(0.5, (WIDTH - 60) / len(drawn))
    bars = []
    for place, value in drawn:
        tall = abs(value) / reach * 85
        if tall < 0.2:
            continue
        kind = "better" if value > 0 else "worse"
        top = middle - tall if value > 0 else middle
        bars.append(f'<rect class="{kind}" x="{x(place)}" y="{top:.1f}" width="{wide:.2f}" height="{tall:.1f}"/>')
    worse, better = sum(value < 0 for value in ordered), sum(value > 0 for value in ordered)
    text = (
        f'<line class="zero" x1="40" x2="{WIDTH - 20}" y1="{middle}" y2="{middle}"/>'
        f'<text x="40" y="{height - 6}">{worse} worse</text>'
        f'<text x="{WIDTH - 20}" y="14" text-anchor="end">{better} better</text>'
        f'<text class="axis" x="36" y="19" text-anchor="end">{100 * reach:+.0f}</text>'
        f'<text class="axis" x="36" y="{height - 12}" text-anchor="end">{-100 * reach:+.0f}</text>'
    )
    return _svg(height, title, "".join(bars) + text)


def curves(candidate: Sequence[float], baseline: Sequence[float], title: str, unit: str) -> str:
    """Cumulative shares of two samples on a logarithmic axis; p50 and p95 are where the lines cross the rulers."""
    sides = [sorted(value for value in side if value > 0) for side in (candidate, baseline)]
    if not all(sides):
        return ""
    low, high = min(side[0] for side in sides), max(side[-1] for side in sides)
    x = _Scale(math.log(low), math.log(high) if high > low else math.log(low) + 1, 50, WIDTH - 20)
    height, top, bottom = 240, 14, 200
    body = []
    for share in (0.5, 0.95):
        y = bottom - share * (bottom - top)
        body.append(f'<line class="limit" x1="50" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="axis" x="44" y="{y + 4:.1f}" text-anchor="end">p{100 * share:.0f}</text>')
    for name, side in zip(("candidate", "baseline"), sides, strict=True):
        points = [
            f"{x(math.log(value))},{bottom - (place + 1) / len(side) * (bottom - top):.1f}" for place, value in _thinned(side)
        ]
        body.append(f'<polyline class="{name}" points="{x(math.log(side[0]))},{bottom} {" ".join(points)}"/>')
    for share in (0.0, 0.5, 1.0):
        value = math.exp(x.low + share * (x.high - x.low))
        anchor = ("start", "middle", "end")[round(2 * share)]
        where = f'x="{x(math.log(value))}" y="{bottom + 16}" text-anchor="{anchor}"'
        body.append(f'<text class="axis" {where}>{figure(value)} {page(unit)}</text>')
    for name, left in (("candidate", 50), ("baseline", 180)):
        body.append(f'<line class="{name}" x1="{left}" x2="{left + 30}" y1="{height - 10}" y2="{height - 10}"/>')
        body.append(f'<text x="{left + 36}" y="{height - 6}">{name}</text>')
    return _svg(height, title, "".join(body))


def bars(rows: Sequence[tuple[str, Mapping[str, float]]], groups: Sequence[str], title: str, unit: str) -> str:
    """A bar a row from the top down, stacked by group, each with its label and its sum; the legend below. Six looks, then again."""
    if not rows:
        return ""
    most = max(sum(values.values()) for _, values in rows)
    scale = _Scale(0.0, most or 1.0, LEFT, WIDTH - RIGHT)
    high = 22
    height = high * (len(rows) + len(groups)) + 24
    body = []
    for place, (label_, values) in enumerate(rows):
        y, at = high * place + 6, 0.0
        short = label_ if len(label_) <= MOST_LABEL else f"{label_[: MOST_LABEL - 1]}…"
        body.append(f'<text x="{LEFT - 10}" y="{y + 12}" text-anchor="end">{page(short)}<title>{page(label_)}</title></text>')
        for number, group in enumerate(groups):
            value = values.get(group, 0.0)
            if value > 0:
                wide = float(scale(at + value)) - float(scale(at))
                told = f"{page(label_, 80)}, {page(group or 'none', 80)}: {value:.2f} {page(unit)}"
                body.append(
                    f'<rect class="g{number % LOOKS}" x="{scale(at)}" y="{y}" width="{wide:.1f}" height="{high - 6}">'
                    f"<title>{told}</title></rect>"
                )
                at += value
        body.append(f'<text x="{float(scale(at)) + 8:.1f}" y="{y + 12}">{at:.2f}</text>' if at else "")
    for number, group in enumerate(groups):
        y = high * (len(rows) + number) + 20
        body.append(f'<rect class="g{number % LOOKS}" x="{LEFT}" y="{y}" width="14" height="14"/>')
        body.append(f'<text x="{LEFT + 22}" y="{y + 12}">{page(group or "(none)", 60)}</text>')
    return _svg(height, title, "".join(body))


class _Scale:
    """Values to pixels, as short text."""

    def __init__(self, low: float, high: float, left: float, right: float) -> None:
        self.low, self.high, self.left, self.right = low, high, left, right

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.left + min(1.0, max(0.0, share)) * (self.right - self.left):.1f}"


def _limit(e: Evidence) -> float | None:
    if e.limit is None:
        return None
    return e.limit if e.role == "gain" or e.relative else -e.limit


def _thinned(ordered: Sequence[float]) -> list[tuple[int, float]]:
    """(place, value), at most MOST_STEPS of them, with both ends."""
    count = len(ordered)
    places = range(count) if count <= MOST_STEPS else sorted({round(k * (count - 1) / (MOST_STEPS - 1)) for k in range(MOST_STEPS)})
    return [(place, ordered[place]) for place in places]


def _svg(height: int, title: str, body: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{page(title)}"><title>{page(title)}</title>{body}</svg>'
