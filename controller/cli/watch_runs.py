"""Trainings, evaluations, conversions as people watch them: a bar, a curve of losses, what it has cost; on a pipe one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from controller.cli.runs import Pace, going, money, pace, place, what
from controller.cli.text import HEALTH_STYLE, age, clean, styled

if TYPE_CHECKING:
    from rich.text import Text

    from controller.health import Status

BAR = 30
CURVE = (45, 4)
"""Characters wide and high."""
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character (Unicode block U+2800): four rows of two dots."""


def paragraph(status: Status, ceiling: float | None, *, ascii_only: bool = False) -> list[Text]:
    """One run on a terminal."""
    past, found = status.past, pace(status)
    head = styled(str(status.address), "bold") + styled(f"  {what(status)}  ")
    out = [head + styled(status.health, HEALTH_STYLE.get(status.health, ""))]
    since = f", for {age(past.started_at)}" if past.started_at and past.running else ""
    out.append(styled(f"  {place(status)}{since}"))
    if found.share is not None:
        out.append(styled("  ") + styled(bar(found.share, ascii_only=ascii_only), "cyan") + styled(f"  {going(found)}"))
    elif going(found):
        out.append(styled(f"  {going(found)}"))
    if not ascii_only:
        out += _curve(found)
    spent = money(found, ceiling)
    if spent:
        out.append(styled(f"  {spent}"))
    return out + [styled(f"  {code}: {clean(reason)}", "yellow") for code, reason in sorted(status.told.items())]


def bar(share: float, width: int = BAR, *, ascii_only: bool = False) -> str:
    full = int(share * width + 1e-9)
    return "#" * full + "." * (width - full) if ascii_only else "█" * full + "░" * (width - full)


def _curve(found: Pace) -> list[Text]:
    if len(found.losses) < 2:
        return []
    values = [loss for _, loss in found.losses]
    labels = {0: f"{max(values):.3g}", CURVE[1] - 1: f"{min(values):.3g}"}
    out = []
    for number, line in enumerate(plot(found.losses, *CURVE)):
        head = f"  {'loss' if not number else '':4} {labels.get(number, ''):>8} "
        out.append(styled(head, "dim") + styled(line, "green"))
        out[-1].no_wrap = True
    return out


def plot(points: Sequence[Sequence[float]], width: int, height: int) -> list[str]:
    """A curve through [x, y] points in braille: two dots a character across, four down; the highest y on top."""
    xs, ys = [each[0] for each in points], [each[1] for each in points]
    across, down = 2 * width - 1, 4 * height - 1
    low, high = min(ys), max(ys)
    wide, tall = (xs[-1] - xs[0]) or 1.0, (high - low) or 1.0
    cells = [[0] * width for _ in range(height)]
    segment = 0
    for column in range(across + 1):
        x = xs[0] + wide * column / across
        while segment < len(xs) - 2 and xs[segment + 1] < x:
            segment += 1
        following = min(segment + 1, len(xs) - 1)
        step = (xs[following] - xs[segment]) or 1.0
        y = ys[segment] + (ys[following] - ys[segment]) * min((x - xs[segment]) / step, 1.0)
        row = round((high - y) / tall * down)
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(0x2800 + bits) for bits in line) for line in cells]


def one_line(status: Status, ceiling: float | None) -> str:
    """A run for a pipe."""
    found = pace(status)
    told = [f"{code}: {reason}" for code, reason in sorted(status.told.items())]
    state = ", ".join(
        each for each in (place(status), going(found) if not status.past.ended else "", money(found, ceiling)) if each
    )
    title = what(status)
    return "; ".join([f"{status.address}: {title}, {state}" if title else f"{status.address}: {state}", *told]).replace("\n", " ")
