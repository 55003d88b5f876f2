"""A full disk: nothing that was acknowledged is lost, nothing starts that is not in the log, and it goes on when there is room."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.testing.simulation import Simulation, binding


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mount.returncode and os.environ.get("CI") != "true":
        pytest.skip("mounting a small file system needs root")
    assert mount.returncode == 0, mount.stderr
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk(small_disk: Path) -> None:
    sim = Simulation(small_disk)
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit(binding("docs", "v2"), "v2")
    before, puts = len(sim.check_log()), sim.gateway.puts
    filler = small_disk / "filler"
    fill(filler)
    with pytest.raises(Exception, match=r"(?i)space|disk|full"):
        sim.settle(flow)
    assert sim.gateway.puts == puts, "nothing starts that is not in the log"
    filler.unlink()
    assert len(sim.check_log()) == before
    sim.settle(sim.controller("m"))
    assert sim.gateway.versions("docs") == {"v2": 100.0}
    sim.check_log()
