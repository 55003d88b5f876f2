"""Durable events a second beside plain append+fsync, SQLite and `git commit`; and folding of 100,000 and 1,000,000 events."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pygit2

from benchmarks.measure import table
from controller.clients.cache import Cache
from controller.clients.git import Identity, Repository
from controller.events import Event, encode, typed, uuid7
from controller.loading import PROJECTIONS
from controller.log import GitLog
from controller.projections import Folds

WHO = Identity("Turnout", "turnout@localhost")
ROUNDS = 3


def made(count: int, start: int = 0) -> Iterator[Event]:
    """Alternating started and succeeded events of 500 bindings, about 540 bytes each."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(start, start + count):
        pair, done = divmod(number, 2)
        after = {"model": "anthropic/claude-3.5-sonnet", "endpoint": "openrouter", "version": f"v1.{pair}.0", "fallbacks": []}
        data = {"action": "update", "intent": f"{pair:032x}", "generation": pair // 500, "after": after}
        if not done:
            data |= {"reason": f"v1.{pair}.0 answers", "spec_digest": f"{pair:032x}", "spec": after}
        yield Event(
            id=uuid7(now),
            source="turnout/local/bench",
            type=typed("action.succeeded" if done else "action.started"),
            subject=f"ModelBinding/agent-{pair % 500}",
            time="2026-11-01T00:00:00.000000Z",
            statecommit="0" * 40,
            actor="bench",
            data=data,
        )


def repository(folder: Path) -> GitLog:
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    return GitLog(Repository(folder), "bench", folder / "data", WHO, time.time)


def rate(write: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    write(count)
    return count / (time.perf_counter() - start)


def turnout(folder: Path, batch: int) -> Callable[[int], None]:
    log = repository(folder)

    def write(count: int) -> None:
        position = log.refresh()
        events = list(made(count))
        for at in range(0, count, batch):
            position = log.append(events[at : at + batch], position)[-1].sequence

    return write


def plain(folder: Path) -> Callable[[int], None]:
    folder.mkdir(parents=True)
    file = open(folder / "events.jsonl", "ab")  # noqa: SIM115 - closed with the process

    def write(count: int) -> None:
        for event in made(count):
            file.write(encode(event) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    return write


def sqlite_full(folder: Path, batch: int) -> Callable[[int], None]:
    folder.mkdir(parents=True)
    db = sqlite3.connect(folder / "events.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, line BLOB)")

    def write(count: int) -> None:
        lines = [(encode(event),) for event in made(count)]
        for at in range(0, count, batch):
            db.execute("BEGIN")
            db.executemany("INSERT INTO events (line) VALUES (?)", lines[at : at + batch])
            db.execute("COMMIT")

    return write


def git_commit(folder: Path) -> Callable[[int], None]:
    subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
    base = ["git", "-C", str(folder), "-c", "user.name=b", "-c", "user.email=b@b", "commit", "-q", "--allow-empty", "-m"]

    def write(count: int) -> None:
        for event in made(count):
            subprocess.run([*base, encode(event).decode()], check=True)

    return write


def durable(folder: Path) -> None:
    writers: list[tuple[str, Callable[[int], None], int]] = [
        ("plain file, append + fsync, one by one", plain(folder / "plain"), 2000),
        ("turnout, segments of 100 events", turnout(folder / "hundred", 100), 10_000),
        ("turnout, segments of 3 events", turnout(folder / "three", 3), 600),
        ("turnout, one by one", turnout(folder / "one", 1), 200),
        ("SQLite FULL, one by one", sqlite_full(folder / "sqlite1", 1), 2000),
        ("SQLite FULL, hundreds", sqlite_full(folder / "sqlite100", 100), 20_000),
        ("git commit, one by one", git_commit(folder / "git"), 60),
    ]
    best: dict[str, list[float]] = {name: [] for name, _, _ in writers}
    for _ in range(ROUNDS):
        for name, write, count in writers:
            best[name].append(rate(write, count))
    figures = {name: sorted(found)[len(found) // 2] for name, found in best.items()}
    base = figures[writers[0][0]]
    rows = [["durable events", "events/s", "of append+fsync"]]
    rows += [[name, f"{figure:,.0f}", f"{figure / base:.2f} x"] for name, figure in figures.items()]
    table(f"Durable events a second (medians of {ROUNDS}, interleaved)", rows)


def fold(folder: Path, count: int) -> list[str]:
    pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, False)  # only to make the data quickly
    log = repository(folder)
    position = log.refresh()
    events: list[Event] = []
    for event in made(count):
        events.append(event)
        if len(events) == 100:
            position = log.append(events, position)[-1].sequence
            events = []
    pygit2.option(pygit2.enums.Option.ENABLE_FSYNC_GITDIR, True)
    subprocess.run(["git", "-C", str(folder), "gc", "-q"], check=True)
    cache = folder / "cache.sqlite"
    zero = _cpu(lambda: _folded(folder, cache))
    again = _cpu(lambda: _folded(folder, cache))
    size = sum(path.stat().st_size for path in (folder / ".git").rglob("*") if path.is_file()) / 1e6
    return [f"{count:,}", f"{zero:.2f} s", f"{again * 1000:.0f} ms", f"{size:.0f} MB"]


def _folded(folder: Path, cache: Path) -> None:
    kept = Cache(cache)
    log = GitLog(Repository(folder), "bench", folder / "data", WHO, time.time)
    log.refresh()
    Folds(log, kept, PROJECTIONS).catch_up()
    kept.close()


def _cpu(call: Callable[[], None]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        durable(Path(name))
    with tempfile.TemporaryDirectory() as name:
        rows = [["events", "from zero, CPU", "from the cache, CPU", "repository after gc"]]
        rows += [fold(Path(name) / str(count), count) for count in (100_000, 1_000_000)]
        table("Folding the log (all projections)", rows)
