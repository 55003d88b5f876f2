"""One suite of promises for every store of the log: in memory, on a local branch, on a remote over http, ssh and a path."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.clients.git import Identity, Repository
from controller.clients.git_remote import Remote
from controller.errors import LogDamaged, LogRewritten, LostRace, RemoteDown, RemoteRefused
from controller.events import Event, decode, encode, typed, uuid7
from controller.log import EventLog, GitLog, MemoryLog, segment_path
from controller.testing.git_servers import HttpGitServer, SshGitServer, require_sshd

WHO = Identity("Turnout", "turnout@localhost")
Maker = Callable[[], EventLog]


def event(number: int, /, **data: object) -> Event:
    from datetime import UTC, datetime

    return Event(
        id=uuid7(datetime.now(UTC)),
        source="test",
        type=typed("condition.raised"),
        subject=f"ModelBinding/a{number}",
        time="2026-11-01T00:00:00.000000Z",
        data={"code": "X", "reason": f"event {number}", **data},
    )


def make_repo(path: Path) -> Repository:
    subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)
    return Repository(path)


def git_log(path: Path, remote: str = "", data: str = "data") -> GitLog:
    repository = make_repo(path) if not (path / ".git").exists() else Repository(path)
    return GitLog(repository, "local", path / data, WHO, time.time, Remote(repository, remote) if remote else None)


def _ssh_available() -> bool:
    try:
        require_sshd()
    except Exception:
        return os.environ.get("CI") == "true"
    return True


STORES = [
    "memory",
    "git",
    "http",
    "path",
    pytest.param("ssh", marks=pytest.mark.skipif(not _ssh_available(), reason="openssh-server is not installed")),
]


@pytest.fixture(params=STORES)
def maker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Maker]:
    """Makes logs over one shared store; each is another process's view."""
    count = iter(range(100))
    if request.param == "memory":
        shared = MemoryLog()
        yield lambda: shared
    elif request.param == "git":
        make_repo(tmp_path / "shared")
        yield lambda: git_log(tmp_path / "shared", data=f"data{next(count)}")
    elif request.param == "path":
        subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "bare.git")], check=True)
        yield lambda: git_log(tmp_path / f"clone{next(count)}", str(tmp_path / "bare.git"))
    elif request.param == "http":
        with HttpGitServer(tmp_path / "served") as server:
            server.create("log")
            yield lambda: git_log(tmp_path / f"clone{next(count)}", server.url("log"))
    else:
        with SshGitServer(tmp_path / "served", tmp_path / "private") as server:
            server.create("log")
            for key, value in server.env.items():
                monkeypatch.setenv(key, value)
            yield lambda: git_log(tmp_path / f"clone{next(count)}", server.url("log"))


def test_appends_are_numbered_and_read_in_order(maker: Maker) -> None:
    log = maker()
    assert log.refresh() == 0
    first = log.append([event(1), event(2)], 0)
    assert [e.sequence for e in first] == [1, 2]
    log.append([event(3)], 2)
    assert [e.sequence for e in log.read()] == [1, 2, 3]
    assert [e.data["reason"] for e in log.read(after=1)] == ["event 2", "event 3"]
    assert list(log.read(after=3)) == []


def test_a_stale_position_loses(maker: Maker) -> None:
    one, two = maker(), maker()
    one.refresh()
    two.refresh()
    one.append([event(1)], 0)
    with pytest.raises(LostRace):
        two.append([event(2)], 0)
    assert two.refresh() == 1
    two.append([event(2)], 1)
    assert one.refresh() == 2
    assert [e.data["reason"] for e in one.read()] == ["event 1", "event 2"]


def test_what_came_back_is_what_is_read(maker: Maker) -> None:
    log = maker()
    log.refresh()
    done = log.append([event(1, text='grüß\n"quoted"', number=3, none=None, nested={"a": [1, 2]})], 0)
    (read,) = maker_read(maker)
    assert read == done[0]


def maker_read(maker: Maker) -> list[Event]:
    log = maker()
    log.refresh()
    return list(log.read())


def test_deferred_facts_come_with_the_next_append_and_once(maker: Maker) -> None:
    log = maker()
    log.refresh()
    log.append([event(1)], 0)
    late = event(2)
    log.defer([late])
    log.append([event(3)], 1)
    log.append([event(4)], log.refresh())
    found = list(log.read())
    assert [e.data["reason"] for e in found] == ["event 1", "event 2", "event 3", "event 4"]
    assert [e.sequence for e in found] == [1, 2, 3, 4]
    assert found[1].id == late.id
    assert [e.reportedlate for e in found] == [False, True, False, False]


def test_unknown_types_and_fields_are_kept(maker: Maker) -> None:
    log = maker()
    log.refresh()
    strange = Event(id="x", source="later", type="turnout.tomorrow.invented.v9", subject="Thing/x", time="2026-11-01T00:00:00Z")
    log.append([strange], 0)
    assert maker_read(maker)[0].type == "turnout.tomorrow.invented.v9"


# -- only on git -----------------------------------------------------------------------------------------------------


def test_a_segment_is_a_commit_that_a_person_can_read(tmp_path: Path) -> None:
    log = git_log(tmp_path / "r")
    log.append([event(1), event(2)], log.refresh())
    text = subprocess.run(
        ["git", "-C", str(tmp_path / "r"), "show", "events/local"], capture_output=True, text=True, check=True
    ).stdout
    assert "0001-0002 a1: event 1 (and 1 more)" in text
    assert "Sequence: 1-2" in text
    added = [line[1:] for line in text.splitlines() if line.startswith("+{")]
    assert [json.loads(line)["sequence"] for line in added] == [1, 2]
    assert all(json.loads(line)["specversion"] == "1.0" for line in added)


def test_segments_fan_out() -> None:
    assert segment_path(0) == "segments/00/00/00.jsonl"
    assert segment_path(123456) == "segments/12/34/56.jsonl"


def test_a_large_value_becomes_a_blob_of_the_same_commit(tmp_path: Path) -> None:
    log = git_log(tmp_path / "r")
    log.refresh()
    big = {"text": "x" * 200_000}
    log.append([event(1, after=big)], 0)
    (found,) = log.read()
    assert found.data["after"] == big
    stored = subprocess.run(
        ["git", "-C", str(tmp_path / "r"), "show", f"events/local:{segment_path(0)}"], capture_output=True, text=True, check=True
    ).stdout
    assert len(stored) < 65536
    assert set(json.loads(stored)["data"]["after"]) == {"blob", "bytes"}
    assert log.verify() == 1


def test_a_lock_left_by_a_killed_process_is_cleared(tmp_path: Path) -> None:
    log = git_log(tmp_path / "r")
    log.append([event(1)], log.refresh())
    lock = tmp_path / "r/.git/refs/heads/events/local.lock"
    lock.write_text("")
    with pytest.raises(LostRace):
        log.append([event(2)], 1)  # young: perhaps somebody writes
    os.utime(lock, (time.time() - 60, time.time() - 60))
    log.append([event(2)], 1)
    assert log.verify() == 2


@pytest.mark.parametrize("what", ["commit", "tree", "blob"])
@pytest.mark.parametrize("how", ["empty", "garbage", "gone"])
def test_a_torn_tip_loses_no_acknowledged_event(tmp_path: Path, what: str, how: str) -> None:
    log = git_log(tmp_path / "r")
    log.append([event(1)], log.refresh())
    log.append([event(2), event(3)], 1)
    names = {"commit": "events/local", "tree": "events/local^{tree}", "blob": f"events/local:{segment_path(1)}"}
    oid = subprocess.run(
        ["git", "-C", str(tmp_path / "r"), "rev-parse", names[what]], capture_output=True, text=True, check=True
    ).stdout.strip()
    loose = tmp_path / "r/.git/objects" / oid[:2] / oid[2:]
    loose.chmod(0o644)
    if how == "gone":
        loose.unlink()
    else:
        loose.write_bytes(b"" if how == "empty" else b"no git object")
    again = git_log(tmp_path / "r")
    assert again.refresh() == 3
    assert [e.data["reason"] for e in again.read()] == ["event 1", "event 2", "event 3"]
    again.append([event(4)], 3)
    assert git_log(tmp_path / "r").verify() == 4


def test_rewriting_the_log_is_noticed(tmp_path: Path) -> None:
    log = git_log(tmp_path / "r")
    log.append([event(1)], log.refresh())
    log.append([event(2)], 1)
    subprocess.run(["git", "-C", str(tmp_path / "r"), "update-ref", "refs/heads/events/local", "events/local~1"], check=True)
    with pytest.raises(LogRewritten):
        log.refresh()


@pytest.mark.parametrize("damage", ["changed", "gap", "repeated"])
def test_verify_finds(tmp_path: Path, damage: str) -> None:
    log = git_log(tmp_path / "r")
    log.append([event(1)], log.refresh())
    done = log.append([event(2)], 1)
    repository = log.repository
    tip = repository.tip("refs/heads/events/local")
    assert tip
    lines = {"changed": encode(done[0]), "gap": encode(event(4)), "repeated": encode(done[0])}
    files: dict[str, bytes | None] = {segment_path(2): lines[damage] + b"\n"}
    if damage == "changed":
        files[segment_path(0)] = b"{}\n"
        files[segment_path(2)] = encode(decode(encode(event(3)).replace(b'"source"', b'"sequence":3,"source"'))) + b"\n"
    tree = repository.write_tree(tip, files)
    repository.write_commit(tree, [tip], "0003 forged\n\nSequence: 3-3\nSegment: 2\n", WHO, time.time(), "refs/heads/events/local")
    with pytest.raises(LogDamaged):
        git_log(tmp_path / "r").verify()


def test_a_shallow_clone_has_the_whole_log(tmp_path: Path) -> None:
    log = git_log(tmp_path / "r")
    for number in range(5):
        log.append([event(number)], log.refresh())
    subprocess.run(
        ["git", "clone", "-q", "--depth=1", "--branch", "events/local", f"file://{tmp_path / 'r'}", str(tmp_path / "s")], check=True
    )
    assert [e.data["reason"] for e in git_log(tmp_path / "s").read()] == []  # nothing is read before a refresh
    shallow = git_log(tmp_path / "s")
    assert shallow.refresh() == 5
    assert [e.data["reason"] for e in shallow.read()] == [f"event {n}" for n in range(5)]
    shallow.append([event(5)], 5)
    assert shallow.refresh() == 6


# -- only with a remote ----------------------------------------------------------------------------------------------


def test_a_hook_that_rejects_means_nothing_was_appended(tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "served") as server:
        server.create("log")
        log = git_log(tmp_path / "a", server.url("log"))
        log.append([event(1)], log.refresh())
        server.hook("log", "pre-receive", "#!/bin/sh\necho 'frozen for the release' >&2\nexit 1\n")
        with pytest.raises(RemoteRefused, match="frozen for the release"):
            log.append([event(2)], 1)
        assert log.refresh() == 1
        server.hook("log", "pre-receive", "#!/bin/sh\nexit 0\n")
        log.append([event(2)], 1)
        other = git_log(tmp_path / "b", server.url("log"))
        assert other.refresh() == 2


def test_a_remote_that_is_down_raises_and_facts_wait_on_disk(tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "served") as server:
        server.create("log")
        url = server.url("log")
        log = git_log(tmp_path / "a", url)
        log.append([event(1)], log.refresh())
    with pytest.raises(RemoteDown):
        log.append([event(2)], 1)
    log.defer([event(3)])
    assert list((tmp_path / "a/data/outbox").glob("*.json"))


def test_an_outbox_survives_the_process(tmp_path: Path) -> None:
    log = git_log(tmp_path / "r")
    log.append([event(1)], log.refresh())
    log.defer([event(2)])
    again = git_log(tmp_path / "r")
    again.append([event(3)], again.refresh())
    assert [e.data["reason"] for e in again.read()] == ["event 1", "event 2", "event 3"]
    assert not list((tmp_path / "r/data/outbox").glob("*.json"))
