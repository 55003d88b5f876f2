"""The flow of a run: find and install the peers, measure them round by round, print.

The rounds are interleaved, so that what disturbs the machine for a minute disturbs everybody. Each step has a fresh gateway
in front of a fresh stub, and nothing of them is left after it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gateway import measures, peers, report
from benchmarks.gateway.install import CannotInstall
from benchmarks.gateway.machine import Cores, allow_open_files, cores
from benchmarks.gateway.measures import Figures, Reloads, Size
from benchmarks.gateway.peers import NotMeasured, Peer
from benchmarks.gateway.processes import Ended
from benchmarks.gateway.programs import CannotBuild, Stub, build, stub

_TABLES = (1, 1000)  # routes in the tables that are reloaded


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gateway", description="Turnout's proxy side by side with its peers."
    )
    parser.add_argument("--quick", action="store_true", help="seconds instead of a quarter of an hour: only that everything works")
    parser.add_argument("--only", default="", metavar="NAME,...", help=f"among {', '.join(peers.NAMES)}")
    parser.add_argument("--rounds", type=int, help="medians of so many (default 3)")
    parser.add_argument("--seconds", type=float, help="for each figure (default 5)")
    return parser.parse_args(words)


def run(words: Sequence[str]) -> int:
    """Measure and print; the exit code."""
    given = _arguments(words)
    wanted = given.only.split(",") if given.only else list(peers.NAMES)
    unknown = sorted(set(wanted) - set(peers.NAMES))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; allowed: {', '.join(peers.NAMES)}", file=sys.stderr)
        return 64
    chosen = [peer for peer in peers.PEERS if peer.name in wanted]
    try:
        build("stub"), build("load")
    except CannotBuild as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    size = measures.QUICK if given.quick else Size()
    size = replace(size, **{name: value for name in ("rounds", "seconds") if (value := getattr(given, name))})
    before = os.sched_getaffinity(0)
    where = cores()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that everything is stopped and removed
    try:
        os.sched_setaffinity(0, {where.stub, where.generator})  # this program may not disturb what is measured
        return Run(chosen, size, where).all(install=not given.quick)
    finally:
        os.sched_setaffinity(0, before)


class Run:
    """One run: the figures that there are so far, and the steps that add to them."""

    def __init__(self, chosen: Sequence[Peer], size: Size, where: Cores) -> None:
        self._chosen = list(chosen)
        self._size = size
        self._where = where
        self._figures = {peer.name: Figures() for peer in chosen}
        self._direct = Figures()
        self._reloads: list[Reloads] = []
        self._broken = 0

    def all(self, *, install: bool) -> int:
        """The whole run; the exit code."""
        self._say(f"{self._where}, open files {allow_open_files():,}")
        self._find(install=install)
        print("Measured: " + "; ".join(f"{peer.name} ({version})" for peer in self._chosen if (version := peer.version())))
        for number in range(self._size.rounds):
            self._in_front(self._measure_direct, f"round {number + 1}: direct")
            for peer in self._chosen:
                self._for_peer(peer, self._measure, f"round {number + 1}: {peer.name}")
        for peer in self._chosen:
            self._for_peer(peer, self._measure_memory, f"memory: {peer.name}", held=True)
            if peer.name == "turnout":
                self._for_peer(peer, self._measure_reloads, "reloads: turnout")
        report.show(self._figures, self._direct, self._reloads, self._size)
        return 1 if self._turnout_failed() else 0

    def _find(self, *, install: bool) -> None:
        for peer in self._chosen:
            if peer.found() is not None:
                continue
            if not install:
                self._figures[peer.name].missing = "not installed"
                continue
            self._say(f"installing {peer.name}")
            try:
                peer.install()
            except CannotInstall as error:
                self._figures[peer.name].missing = str(error)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def _in_front(self, step: Callable[[Stub], None], text: str, *, held: bool = False) -> None:
        size = self._size
        tokens, gap = (size.held_tokens, size.held_gap) if held else (size.tokens, size.gap)
        self._say(text)
        with stub(self._where.stub, tokens=tokens, gap_us=int(gap * 1e6)) as upstream:
            step(upstream)

    def _for_peer(self, peer: Peer, step: Callable[[Figures, peers.Gateway], None], text: str, *, held: bool = False) -> None:
        """A fresh stub and a fresh gateway for one step. What goes wrong is kept as the reason, and the run goes on."""
        figures = self._figures[peer.name]
        if figures.missing:
            return

        def with_gateway(upstream: Stub) -> None:
            with (
                tempfile.TemporaryDirectory(prefix="turnout-benchmark-") as folder,
                peers.serving(peer, upstream.port, Path(folder), self._where.measured) as gateway,
            ):
                step(figures, gateway)
                gateway.process.check()

        try:
            self._in_front(with_gateway, text, held=held)
        except (NotMeasured, Ended, RuntimeError, OSError) as error:
            figures.missing = str(error)
            self._say(f"{peer.name}: {error}")

    def _measure_direct(self, upstream: Stub) -> None:
        self._direct.delay.append(measures.delay(upstream.port, self._where, self._size))
        self._direct.streams.append(measures.streams(upstream.port, None, self._where, self._size))

    def _measure(self, figures: Figures, gateway: peers.Gateway) -> None:
        where, size = self._where, self._size
        figures.chat.append(measures.most(gateway, where, size, measures.CHAT))
        figures.big.append(measures.most(gateway, where, size, measures.BIG))
        figures.delay.append(measures.delay(gateway.port, where, size))
        figures.streams.append(measures.streams(gateway.port, gateway, where, size))

    def _measure_memory(self, figures: Figures, gateway: peers.Gateway) -> None:
        rate = figures.chat[-1].rate
        figures.memory = measures.memory(gateway, self._where, self._size, rate)

    def _measure_reloads(self, figures: Figures, gateway: peers.Gateway) -> None:
        for routes in _TABLES:
            self._reloads.append(measures.reloads(gateway, self._where, self._size, routes))

    def _turnout_failed(self) -> bool:
        if "turnout" not in self._figures:
            return False
        found = self._figures["turnout"]
        errors = sum(one.errors for some in (found.chat, found.big, found.delay, found.streams) for one in some)
        errors += sum(one.calm.errors + one.reloading.errors for one in self._reloads)
        if found.memory is not None:
            errors += found.memory.idle_errors + found.memory.stream_errors
        return bool(found.missing or errors or found.memory is None or not self._reloads)
