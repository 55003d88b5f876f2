"""`python -m controller.evaluating --order FILE`: works off one order. `clients/evaluations.py` starts it, or you by hand.

SIGTERM: calls under way finish, the rest is left; started again it goes on. Exit codes: 0 there is a result (or somebody else
works on it), 75 it can go on later, 1 it cannot be read.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from controller.clients import huggingface, models
from controller.clients.evaluation_work import STOPPED, Order, Work
from controller.clients.langsmith import LangSmith
from controller.environment import EnvironmentSpec
from controller.errors import Temporary
from controller.evaluating.run import Evaluation
from controller.settings import Settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m controller.evaluating", description=__doc__)
    parser.add_argument("--order", type=Path, required=True, help="order.json of the evaluation's folder")
    parser.add_argument("--lock", type=int, help="descriptor that holds the folder's lock already")
    given = parser.parse_args()
    work = Work(given.order.parent)
    if given.lock is not None:
        os.set_inheritable(given.lock, False)  # the sandbox of the answers must not keep it
    elif (held := work.lock()) is None:
        print(f"{work.folder}: another process works on it", file=sys.stderr)
        return 0
    else:
        os.set_inheritable(held, False)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    work.write("pid", str(os.getpid()).encode())
    try:
        order = work.order()
    except Temporary as error:
        print(error, file=sys.stderr)
        return 1
    if order is None:
        print(f"there is no {given.order}", file=sys.stderr)
        return 1
    if work.path("result.json").exists():
        return 0
    return 0 if evaluation(order, work, asked).run() == "ended" else STOPPED


def evaluation(order: Order, work: Work, asked: threading.Event) -> Evaluation:
    """Everything it needs, from its order alone."""
    data, environment = Path(order.data), order.environment
    known = {key: value for key, value in environment.items() if key in EnvironmentSpec.model_fields}
    settings = Settings("evaluating", EnvironmentSpec.model_validate(known, strict=False), data)
    return Evaluation(
        order,
        work,
        settings,
        models.connect(settings),
        LangSmith(settings.spec.langsmith, data) if settings.spec.langsmith else None,
        huggingface.connect(settings.spec.huggingface, data),
        stop=lambda: "cancelled" if work.path("cancelled").exists() else "asked to stop" if asked.is_set() else "",
        now=lambda: datetime.now(UTC),
        say=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    sys.exit(main())
