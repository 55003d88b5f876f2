"""Text that somebody else wrote (a model, a data set, a person), made safe to show: on a page, in Markdown, in a terminal.

Place in the flow: the reports let nothing through that has not passed one of these functions.
Why code spans in Markdown: inside them nothing is a link, an image, a mention, an issue number or HTML, on every platform.
"""

from __future__ import annotations

import html
import re
import unicodedata


def visible(text: str) -> str:
    """Control, direction and other invisible characters become U+FFFD, except newline and tab: nothing drives a terminal or
    turns text round.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "\ufffd" for char in text
    )


def clipped(text: str, most: int) -> str:
    """The first `most` characters, and how many are left out."""
    return text if len(text) <= most else f"{text[:most]} [{len(text) - most:,} more characters]"


def line(text: str, most: int = 120) -> str:
    """One line: cut, visible, spaces and line ends collapsed."""
    return " ".join(visible(clipped(text, most)).split())


def page(text: str, most: int = 20_000) -> str:
    """For HTML, in an element or a quoted attribute."""
    return html.escape(visible(clipped(text, most)), quote=True)


def code_span(text: str, most: int = 120, *, cell: bool = False) -> str:
    """For Markdown: a code span that the text cannot end; `cell`: inside a table, where only an escaped pipe is one."""
    inner = line(text, most)
    if not inner:
        return "(empty)"
    ticks = "`" * (max((len(run) for run in re.findall("`+", inner)), default=0) + 1)
    space = " " if inner[0] == "`" or inner[-1] == "`" else ""
    inner = inner.replace("\\|", "\\ |").replace("|", "\\|") if cell else inner
    return f"{ticks}{space}{inner}{space}{ticks}"
