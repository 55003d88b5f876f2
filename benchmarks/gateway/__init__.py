"""Turnout's proxy side by side with its peers, in one run: `python -m benchmarks gateway [--quick] [--only NAME,...]`.

`run.py` is the flow; then `measures.py` (what is measured), `peers.py` (of whom), `report.py` (against which targets).
`stub.c` is the upstream and `load.c` the load; they are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str] = ()) -> int:
    """The exit code: 1 if Turnout made an error or could not be measured; a missed target is no error."""
    from benchmarks.gateway.run import run  # `python -m benchmarks.gateway.peers` does without it

    return run(words)
