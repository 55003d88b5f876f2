"""`python -m controller.testing.openrouter_api --port P --data DIR [--rules FILE | --answers MODULE:CALLABLE]`: as a process."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from ..vendor_double import serve
from .answers import Answers
from .api import KEY, OpenRouterApi
from .rules import Rules


def _callable(text: str) -> Answers:
    module, _, name = text.partition(":")
    try:
        found: Answers = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODULE:CALLABLE: {error}") from error
    return found


def _rules(text: str) -> Rules:
    try:
        return Rules.read(Path(text))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m controller.testing.openrouter_api", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one; the first line of output says which")
    parser.add_argument("--data", type=Path, help="folder in which its state is kept")
    parser.add_argument("--key", action="append", help=f"a key that it knows (default {KEY})")
    parser.add_argument("--credits", type=float, help="USD on the account")
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--rules", type=_rules, help="what models there are and what they answer")
    answers.add_argument("--answers", type=_callable, metavar="MODULE:CALLABLE", help="what they answer, as Python")
    given = parser.parse_args()
    double = OpenRouterApi(given.data, given.port, given.rules or given.answers, credits=given.credits, keys=given.key or [KEY])
    return serve(double)


if __name__ == "__main__":
    sys.exit(main())
