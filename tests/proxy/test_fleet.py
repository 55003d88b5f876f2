"""Fleets of simulated endpoints: killed, frozen, revived; what their journals prove; and that nothing is left behind."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from controller.testing.fleet import Fleet
from controller.testing.model_journal import Journal

BODY = '{"model":"m","messages":[]}'
STREAM = '{"model":"m","messages":[],"stream":true}'


def ask(fleet: Fleet, i: int, request_id: str = "", body: str = BODY) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[i], timeout=30)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"X-Request-ID": request_id} if request_id else {})
        return connection.getresponse().read()
    finally:
        connection.close()


def eventually(condition: Callable[[], Any]) -> None:
    """The limit is there to fail, never to pass."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def state(pid: int) -> str:
    """As the kernel names it: T is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def alive(pid: int) -> bool:
    return state(pid) not in ("Z", "X")


def test_a_killed_replica_comes_back_as_it_was(tmp_path: Path) -> None:
    with Fleet(tmp_path, 2, models=["m"]) as fleet:
        assert fleet.urls == [f"http://127.0.0.1:{port}/v1" for port in fleet.ports]
        assert ask(fleet, 0, "a").startswith(b'{"id":"chatcmpl-replica-0-')
        fleet.behave(0, {"m": {"output_tokens": 3}})
        assert [line["event"] for line in fleet.journal(0)] == ["received", "first_byte", "finished"]
        fleet.kill(0)
        assert not fleet.running(0)
        with pytest.raises(ConnectionRefusedError):
            ask(fleet, 0)
        with pytest.raises(RuntimeError, match=r"replica-0 \(port \d+\) does not run"):
            fleet.pause(0)
        assert ask(fleet, 1)
        assert len(fleet.journal(0)) == 3
        fleet.start(0)
        with pytest.raises(RuntimeError, match="runs already"):
            fleet.start(0)
        assert fleet.counts(0) == {}
        assert b'"Simulated answer of"' in ask(fleet, 0, "b")
        lines = fleet.journal(0)
        assert [line["count"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert [line["request_id"] for line in lines] == ["a"] * 3 + ["b"] * 3
        assert len({line["pid"] for line in lines}) == 2
        assert lines[0]["at_ns"] < lines[2]["at_ns"] < lines[3]["at_ns"]
        assert (lines[5]["replica"], lines[5]["status"], lines[5]["model"]) == ("replica-0", 200, "m")
        assert fleet.journal(1)[0]["request_id"] is None
        with pytest.raises(ValueError, match=r"replica-1 refuses the behaviour: m: fault is one of"):
            fleet.behave(1, {"m": {"fault": "?"}})


def test_a_frozen_replica_accepts_and_says_nothing(tmp_path: Path) -> None:
    answers: list[bytes] = []
    with Fleet(tmp_path, 1) as fleet:
        fleet.pause(0)
        assert state(fleet.pid(0)) == "T"
        asking = Thread(target=lambda: answers.append(ask(fleet, 0)))
        asking.start()
        assert fleet.journal(0) == []
        fleet.resume(0)
        asking.join(30)
        assert len(answers) == 1
        assert len(fleet.journal(0)) == 3
        fleet.pause(0)  # and it is cleaned up even so
        pid = fleet.pid(0)
    assert not alive(pid)


def test_the_journals_bound_what_clients_saw_over_kills(tmp_path: Path) -> None:
    """With retries before the first byte only, at most one replica begins to answer, and the books balance."""
    whole: set[str] = set()
    broken: set[str] = set()
    enough = Event()

    def try_once(replica: int, request_id: str) -> bool:
        """Whether that was the end of it: an answer was begun."""
        connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[replica], timeout=30)
        begun = False
        try:
            connection.request("POST", "/v1/chat/completions", STREAM, {"X-Request-ID": request_id})
            answer = connection.getresponse()
            begun = True
            (whole if answer.read().endswith(b"[DONE]\n\n") else broken).add(request_id)
        except (OSError, http.client.HTTPException):
            if begun:
                broken.add(request_id)
        finally:
            connection.close()
        return begun

    def client(name: int) -> None:
        sent = 0
        while not enough.is_set():
            sent += 1
            replica = sent
            while not try_once(replica % 3, f"{name}-{sent}"):
                replica += 1

    with Fleet(tmp_path, 3) as fleet:
        for i in range(3):
            fleet.behave(i, {"m": {"token_ms": 1}})
        clients = [Thread(target=client, args=(name,)) for name in range(4)]
        for one in clients:
            one.start()
        for i in (0, 1, 2, 0, 1, 2):
            seen = len(whole)
            eventually(lambda seen=seen: len(whole) > seen + 10)
            fleet.kill(i)
            fleet.start(i)
        enough.set()
        for one in clients:
            one.join(60)
        attempts = fleet.attempts()
    assert not whole & broken
    finished = {name for name, tries in attempts.items() if any(one.finished_ns for one in tries)}
    unknown = {name for name, tries in attempts.items() if any(one.open for one in tries)}
    assert whole >= finished
    assert whole - finished <= unknown
    assert broken <= unknown
    for tries in attempts.values():
        assert sum(one.first_byte_ns is not None for one in tries) <= 1
        assert all(one.received_ns is not None for one in tries)


def test_a_client_that_leaves_is_in_the_journal(tmp_path: Path) -> None:
    with Fleet(tmp_path, 1) as fleet:
        fleet.behave(0, {"m": {"fault": "hang_mid_body"}})
        connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[0], timeout=30)
        connection.request("POST", "/v1/chat/completions", STREAM, {"X-Request-ID": "left"})
        connection.getresponse()
        connection.close()
        eventually(lambda: not fleet.attempts()["left"][0].open)
        (attempt,) = fleet.attempts()["left"]
        assert (attempt.cut, attempt.finished_ns) == ("the client left", None)
        assert attempt.first_byte_ns is not None


def test_a_journal_goes_on_where_it_ended_and_refuses_another_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    for count in (1, 2, 3):
        entry = Journal(path).entry("r", "x" * 70_000, "POST", "/v1/x")
        entry.received()
        assert path.read_text().count("\n") == count
        assert f'"count":{count},' in path.read_text().splitlines()[-1]
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="the last line is not one of a journal"):
        Journal(path)
    full = Journal(tmp_path / "new.jsonl")
    full._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"):
        full.append(event="received")
    os.close(full._file)


def test_a_replica_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "replica-1.journal.jsonl").write_text("something else\n")
    with (
        pytest.raises(RuntimeError, match=r"replica-1 \(port \d+\) did not start; it last said: model_server: .*journal"),
        Fleet(tmp_path, 2),
    ):
        pass


def test_nothing_is_left_when_the_test_itself_is_killed(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from controller.testing.fleet import Fleet
with Fleet(Path({str(tmp_path)!r}), 2) as fleet:
    fleet.pause(1)
    print(fleet.pid(0), fleet.pid(1), flush=True)
    input()
"""
    root = str(Path(__file__).resolve().parents[2])
    test = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    assert test.stdout is not None
    assert test.stdin is not None
    pids = [int(pid) for pid in test.stdout.readline().split()]
    assert [alive(pid) for pid in pids] == [True, True]
    try:
        test.kill()
        test.wait()
        eventually(lambda: not any(alive(pid) for pid in pids))
    finally:
        test.stdin.close()
        test.stdout.close()
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
