"""`python -m benchmarks [passes] [log] [switch] [idle] [judgement]`; without names, all of them."""

from __future__ import annotations

import importlib
import sys

ALL = ("passes", "log", "switch", "idle", "judgement")


def main() -> int:
    names = sys.argv[1:] or list(ALL)
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; allowed: {', '.join(ALL)}", file=sys.stderr)
        return 64
    for name in names:
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


raise SystemExit(main())
