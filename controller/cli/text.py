"""How things look in a terminal: clean text, aligned rows that survive a narrow window, times and figures for people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from controller.events import Event

SECRET_NAME = re.compile(r"(?i)(secret|token|password|passwd|api_?key|credential)")
REFERENCE = re.compile(r"^(env|file|output):")
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
HEALTH_STYLE = {
    "Healthy": "green",
    "Progressing": "cyan",
    "Suspended": "yellow",
    "Degraded": "red",
    "Missing": "dim",
    "Unknown": "magenta",
}


def clean(text: str) -> str:
    """Without control and direction characters: what somebody wrote into a file or a commit must not drive the terminal."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co") else "\ufffd" for char in text
    )


def masked(value: Any, name: str = "") -> Any:
    """A value to show: references to secrets stay, what looks like a secret itself does not."""
    if isinstance(value, dict):
        return {key: masked(each, str(key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [masked(each, name) for each in value]
    if isinstance(value, str):
        if SECRET_NAME.search(name.rpartition(".")[2]) and value and not REFERENCE.match(value):
            return "(hidden)"
        return USER_INFO.sub("(hidden)@", value)
    return value


def shown(value: Any, name: str = "") -> str:
    """One field's value in a line."""
    import json

    value = masked(value, name)
    if isinstance(value, str):
        text = value if value and value == value.strip() else json.dumps(value)
        return clean(text[:12] if re.fullmatch(r"[0-9a-f]{32}", text) else text).replace("\n", "\\n")
    if value is None:
        return "none"
    return clean(json.dumps(value, ensure_ascii=False, default=str))


def styled(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text.assemble((clean(text), style))  # a span, so that what is added to it keeps its own look


def write(console: Console, text: Text | str, *, indent: int = 0, hang: int = 0) -> None:
    """A paragraph: wrapped with its indent where somebody looks, one line on a pipe."""
    text = styled(text) if isinstance(text, str) else text
    room = max(20, console.width - indent - hang) if console.is_terminal else 100_000
    lines: list[Text] = [line for paragraph in text.split(allow_blank=True) for line in paragraph.wrap(console, room)] or [text]
    for number, line in enumerate(lines):
        line.rstrip()
        console.print(styled(" " * (indent + (hang if number else 0))) + line, no_wrap=True, crop=False, overflow="ignore")


def rows(console: Console, table: Sequence[Sequence[Text | str]], *, indent: int = 0, gap: int = 2) -> None:
    """Aligned columns; the last one wraps below itself, or goes below its row where the window is too narrow."""
    cells = [[styled(cell) if isinstance(cell, str) else cell for cell in row] for row in table]
    if not cells:
        return
    count = max(len(row) for row in cells)
    widths = [max((row[column].cell_len for row in cells if column < len(row)), default=0) for column in range(count - 1)]
    start = indent + sum(width + gap for width in widths if width)
    for row in cells:
        line = styled(" " * indent)
        for column, cell in enumerate(row[: count - 1]):
            if widths[column]:
                line += cell + styled(" " * (widths[column] - cell.cell_len + gap))
        last = row[count - 1] if len(row) == count else styled("")
        if not last:
            line.rstrip()
        if last and console.is_terminal and console.width - start < 24 and last.cell_len > console.width - start:
            line.rstrip()
            console.print(line, no_wrap=True, crop=False, overflow="ignore")
            write(console, last, indent=indent + 4)
        else:
            _beside(console, line, last, start)


def _beside(console: Console, line: Text, last: Text, start: int) -> None:
    room = max(20, console.width - start) if console.is_terminal else 100_000
    lines: list[Text] = list(last.wrap(console, room)) if last else []
    whole = line + lines[0] if lines else line
    whole.rstrip()
    console.print(whole, no_wrap=True, crop=False, overflow="ignore")
    for more in lines[1:]:
        console.print(styled(" " * start) + more, no_wrap=True, crop=False, overflow="ignore")


def event_as_json(event: Event) -> dict[str, Any]:
    """The CloudEvent as a mapping, each attribute once."""
    import json

    from controller.events import encode

    plain: dict[str, Any] = json.loads(encode(event))
    return plain


def moment(at: datetime | None) -> str:
    """Local time, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


def age(at: datetime | None) -> str:
    """`3 min`, `2 h`, `5 d`: how long ago."""
    return spoken((datetime.now(UTC) - at).total_seconds()) if at else ""


def spoken(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def short(commit: str) -> str:
    return commit[:7]


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
