"""`python -m benchmarks [passes] [log] [switch] [idle] [judgement]`; without names, all but the last.

`judgement` simulates thousands of evaluations, in half an hour. `python -m benchmarks gateway [--quick]` measures the data plane
beside its peers, in a quarter of an hour.
"""

from __future__ import annotations

import importlib
import sys

ALL = ("passes", "log", "switch", "idle", "judgement")


def main() -> int:
    if sys.argv[1:2] == ["gateway"]:  # a quarter of an hour, and options of its own
        return int(importlib.import_module("benchmarks.gateway").main(sys.argv[2:]))
    names = sys.argv[1:] or [name for name in ALL if name != "judgement"]
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; allowed: {', '.join(ALL)}, or gateway alone", file=sys.stderr)
        return 64
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


raise SystemExit(main())
