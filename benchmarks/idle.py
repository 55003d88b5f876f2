"""What a controller costs while nothing happens: CPU and memory of its process over half a minute."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.measure import table
from benchmarks.switch import running

SECONDS = 30.0
TICK = os.sysconf("SC_CLK_TCK")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _memory(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    with running() as there:
        time.sleep(3)
        before, start = _cpu(there.controller.pid), time.monotonic()
        time.sleep(SECONDS)
        used, passed = _cpu(there.controller.pid) - before, time.monotonic() - start
        rows = [
            ["controller, idle", "CPU %", "memory MB"],
            [f"over {passed:.0f} s", f"{100 * used / passed:.2f}", f"{_memory(there.controller.pid):.0f}"],
        ]
    table("Idle", rows)
