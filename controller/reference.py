"""Pages of the documentation that are generated from the code; a test fails when they are stale."""

from __future__ import annotations

import sys
from pathlib import Path

from controller.events import MAX_EVENT_BYTES, TYPES

_HEAD = f"""# Events

<!-- Generated from controller/events.py by `make schemas`. -->

Everything the controller does, refuses or decides is an event on branch `events/<environment>`: CloudEvents 1.0, one JSON
object a line, one segment file and one commit an append. `sequence` is the order; `time` is for display. An event has at most
{MAX_EVENT_BYTES // 1024} KB; a larger value is a blob of the same commit, named `{{"blob": digest}}`.
Readers keep types that they do not know.
`schemas/event.json` is the machine-readable form.
"""


def events_page() -> str:
    """docs/events.md"""
    parts = [_HEAD]
    for kind in TYPES:
        rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in kind.fields.items())
        parts.append(f"## `{kind.full}`\n\n{kind.doc}\n\n| field of `data` | meaning |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(events_page())
