"""The git servers that other tests build on behave as real ones: races, hooks, authentication, failures."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.testing import git_servers
from controller.testing.git_servers import NO_CONFIG, HttpGitServer, ServerUnavailable, SshGitServer

Server = HttpGitServer | SshGitServer
AUTHOR = {f"GIT_{who}_{what}": "t@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def git(where: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **NO_CONFIG, **AUTHOR, **(env or {})}
    return subprocess.run(["git", *arguments], cwd=where, env=environment, capture_output=True, text=True, timeout=60)


def commit(where: Path, name: str, content: bytes = b"x") -> str:
    (where / name).write_bytes(content)
    assert git(where, "add", "-A").returncode == 0
    done = git(where, "commit", "-q", "-m", name)
    assert done.returncode == 0, done.stderr
    return git(where, "rev-parse", "HEAD").stdout.strip()


def start_http(folder: Path) -> HttpGitServer:
    return HttpGitServer(folder / "http")


def start_ssh(folder: Path) -> SshGitServer:
    try:
        git_servers.require_sshd()
    except ServerUnavailable as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    return SshGitServer(folder / "ssh", folder / "private")


@pytest.fixture(params=[start_http, start_ssh], ids=["http", "ssh"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    start: Callable[[Path], Server] = request.param
    with start(tmp_path) as running:
        yield running


def environment(server: Server) -> dict[str, str]:
    return server.env if isinstance(server, SshGitServer) else {}


def clone(server: Server, name: str, into: Path) -> Path:
    done = git(into.parent, "clone", "-q", server.url(name), str(into), env=environment(server))
    assert done.returncode == 0, done.stderr
    git(into, "symbolic-ref", "HEAD", "refs/heads/main")
    return into


def test_clone_and_push(server: Server, tmp_path: Path) -> None:
    bare = server.create("state")
    here = clone(server, "state", tmp_path / "a")
    made = commit(here, "file", os.urandom(3_000_000))  # over http.postBuffer, so the body comes in chunks
    done = git(here, "push", "origin", "main", env=environment(server))
    assert done.returncode == 0, done.stderr
    assert git(bare, "rev-parse", "main").stdout.strip() == made
    assert (clone(server, "state", tmp_path / "b") / "file").stat().st_size == 3_000_000


def test_a_push_with_a_lease_loses_the_race(server: Server, tmp_path: Path) -> None:
    bare = server.create("state")
    one, two = clone(server, "state", tmp_path / "a"), clone(server, "state", tmp_path / "b")
    first = commit(one, "file")
    assert git(one, "push", "origin", "main", env=environment(server)).returncode == 0
    commit(two, "other")
    lost = git(two, "push", "--force-with-lease=refs/heads/main:", "origin", "main", env=environment(server))
    assert lost.returncode != 0
    assert "stale info" in lost.stderr
    assert git(bare, "rev-parse", "main").stdout.strip() == first
    won = git(two, "push", f"--force-with-lease=refs/heads/main:{first}", "origin", "main", env=environment(server))
    assert won.returncode == 0, won.stderr


def test_of_many_racing_writers_one_wins(server: Server, tmp_path: Path) -> None:
    bare = server.create("state")
    base = clone(server, "state", tmp_path / "base")
    first = commit(base, "file")
    assert git(base, "push", "origin", "main", env=environment(server)).returncode == 0
    writers = [clone(server, "state", tmp_path / f"w{i}") for i in range(4)]
    made = [commit(writer, f"from{i}") for i, writer in enumerate(writers)]
    results: dict[int, int] = {}

    def push(i: int) -> None:
        lease = f"--force-with-lease=refs/heads/main:{first}"
        results[i] = git(writers[i], "push", lease, "origin", "main", env=environment(server)).returncode

    threads = [threading.Thread(target=push, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [i for i, code in results.items() if code == 0]
    assert len(winners) == 1
    assert git(bare, "rev-parse", "main").stdout.strip() == made[winners[0]]


def test_a_hook_rejects(server: Server, tmp_path: Path) -> None:
    bare = server.create("state")
    server.hook("state", "pre-receive", "echo 'main is protected' >&2; exit 1")
    here = clone(server, "state", tmp_path / "a")
    commit(here, "file")
    done = git(here, "push", "origin", "main", env=environment(server))
    assert done.returncode != 0
    assert "main is protected" in done.stderr
    assert git(bare, "rev-parse", "--verify", "main").returncode != 0


def test_http_asks_for_the_password(tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "root", user="agent", password="right") as server:
        server.create("state")
        clone(server, "state", tmp_path / "a")
        for url in (server.url("state", credentials=False), server.url("state").replace("right", "wrong")):
            done = git(tmp_path, "ls-remote", url)
            assert done.returncode != 0
            assert "uthentication" in done.stderr or "could not read Username" in done.stderr


def test_http_may_be_read_only(tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "root", allow_push=False) as server:
        server.create("state")
        here = clone(server, "state", tmp_path / "a")
        commit(here, "file")
        done = git(here, "push", "origin", "main")
        assert done.returncode != 0
        assert "403" in done.stderr


def test_http_fails_and_is_slow_on_purpose(tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "root") as server:
        server.create("state")
        server.fail_next(2, status=503)
        for _ in range(2):
            done = git(tmp_path, "ls-remote", server.url("state"))
            assert done.returncode != 0
            assert "503" in done.stderr
        assert git(tmp_path, "ls-remote", server.url("state")).returncode == 0
        server.delay_s = 0.3
        before = time.monotonic()
        assert git(tmp_path, "ls-remote", server.url("state")).returncode == 0
        assert time.monotonic() - before >= 0.3
        assert server.requests[0] == "GET /state.git/info/refs?service=git-upload-pack"
        assert git(tmp_path, "ls-remote", server.url("missing")).returncode != 0
        outside = git(tmp_path, "ls-remote", server.url("state").replace("state.git", "%2e%2e/root/state.git"))
        assert outside.returncode != 0


def test_http_passes_the_protocol_and_compressed_bodies(tmp_path: Path) -> None:
    with HttpGitServer(tmp_path / "root") as server:
        server.create("state")
        here = clone(server, "state", tmp_path / "a")
        for i in range(40):  # enough branches that a fetch compresses what it asks for
            commit(here, f"file{i}")
            git(here, "branch", f"b{i}")
        assert git(here, "push", "-q", "--all", "origin").returncode == 0
        trace = {"GIT_TRACE_PACKET": "1", "GIT_TRACE_CURL": "1"}
        done = git(tmp_path, "clone", "-q", server.url("state"), "b", env=trace)
        assert done.returncode == 0
        assert "version 2" in done.stderr
        assert "Content-Encoding: gzip" in done.stderr


def test_ssh_refuses_a_stranger(tmp_path: Path) -> None:
    with start_ssh(tmp_path) as server:
        server.create("state")
        assert git(tmp_path, "ls-remote", server.url("state"), env=server.env).returncode == 0
        done = git(tmp_path, "ls-remote", server.url("state"), env=server.stranger_env)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
        port = server.port
    assert port
    assert git(tmp_path, "ls-remote", f"ssh://127.0.0.1:{port}/x", env=server.env).returncode != 0


def test_a_missing_sshd_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_servers, "SSHD", tmp_path / "sshd")
    with pytest.raises(ServerUnavailable, match="openssh-server"), SshGitServer(tmp_path / "root", tmp_path / "keys"):
        pass
