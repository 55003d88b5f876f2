"""Code fences around what models answer. By lines, in one pass: a regular expression over a hostile megabyte takes hours."""

from __future__ import annotations

PYTHON = ("", "python", "py", "python3")


def unfenced(text: str) -> str:
    """Without one code fence around all of it."""
    inner = text.strip()
    if not (inner.startswith("```") and inner.endswith("```") and len(inner) >= 6):
        return inner
    head, line, rest = inner[3:-3].partition("\n")
    return rest.strip() if (line and head.strip().isalnum()) or (line and not head.strip()) else inner[3:-3].strip()


def code_in(text: str) -> str:
    """The Python of an answer: all its fenced blocks that are Python or say nothing, one after another; without a closed one,
    all of it.
    """
    blocks: list[str] = []
    inside: list[str] = []
    language: str | None = None
    for line in text.splitlines():
        mark = line.strip()
        if language is None and mark.startswith("```"):
            language, inside = mark[3:].strip().lower(), []
        elif language is not None and mark == "```":
            if language in PYTHON:
                blocks += inside
            language = None
        elif language is not None:
            inside.append(line)
    return "\n".join(blocks) if blocks else text
