"""`python -m controller.testing.langsmith_api --port P --data DIR [--key KEY]`: the double as a process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..vendor_double import serve
from .api import LangSmithApi
from .identity import KEY


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m controller.testing.langsmith_api", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one; the first line of output says which")
    parser.add_argument("--data", type=Path, help="folder in which its state is kept")
    parser.add_argument("--key", action="append", help=f"a key that it knows (default {KEY})")
    arguments = parser.parse_args()
    return serve(LangSmithApi(arguments.data, arguments.port, arguments.key or [KEY]))


if __name__ == "__main__":
    sys.exit(main())
