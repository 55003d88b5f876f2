"""CPU, wall time and memory of a child process from the operating system's own accounting, and a table to print them in."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Cost:
    """`cpu` and `wall` in seconds, `memory` in MB (largest resident set of one process)."""

    cpu: float
    wall: float
    memory: float


def child(
    command: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, ok: tuple[int, ...] = (0,)
) -> Cost:
    """One run. CPU is user + system of the process and everything it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    if code not in ok:
        raise SystemExit(f"{' '.join(command)}: exit {code}\n{process.stderr.read().decode() if process.stderr else ''}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Cost(cpu or usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024)


def middle(costs: Sequence[Cost]) -> Cost:
    """Medians."""
    return Cost(median(c.cpu for c in costs), median(c.wall for c in costs), median(c.memory for c in costs))


def python(script: str, *args: str) -> list[str]:
    return [sys.executable, "-c", script, *args]


def table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """First row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for number, row in enumerate(rows):
        print(
            "  "
            + "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
    sys.stdout.flush()
