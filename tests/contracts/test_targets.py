"""File targets of a gateway and the three ways to tell their reader, each on the real thing."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from controller.clients.files import Files
from controller.clients.reload import Reload
from controller.document import parse, plain
from controller.environment import EnvironmentSpec
from controller.errors import Temporary
from controller.settings import Settings

IN_CI = os.environ.get("CI") == "true"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("local", EnvironmentSpec(), tmp_path)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_with_a_backup_and_its_mode(settings: Settings, tmp_path: Path) -> None:
    files = Files(settings)
    assert files.digest("config/models.yaml") is None
    assert files.write("config/models.yaml", "agents: {}\n") == ""
    os.chmod(tmp_path / "config/models.yaml", 0o640)
    first = files.digest("config/models.yaml")
    backup = files.write("config/models.yaml", "agents: {docs: {}}\n")
    assert Path(backup).read_text() == "agents: {}\n"
    assert (tmp_path / "config/models.yaml").read_text() == "agents: {docs: {}}\n"
    assert (tmp_path / "config/models.yaml").stat().st_mode & 0o777 == 0o640
    assert files.digest("config/models.yaml") != first
    assert sorted(path.name for path in (tmp_path / "config").iterdir()) == ["models.yaml", Path(backup).name]


def test_a_reader_never_sees_half_a_file(settings: Settings, tmp_path: Path) -> None:
    files = Files(settings)
    texts = {f"agents: {{a{number}: {'x' * 20_000}}}\n" for number in range(2)}
    files.write("models.yaml", sorted(texts)[0])
    stop = threading.Event()
    torn: list[str] = []

    def read() -> None:
        while not stop.is_set():
            text = (tmp_path / "models.yaml").read_text()
            if text not in texts:
                torn.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        files.write("models.yaml", sorted(texts)[number % 2])
    stop.set()
    reader.join()
    assert not torn


def test_a_place_that_cannot_be_written_is_temporary(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "models.yaml").mkdir()
    with pytest.raises(Temporary, match=r"models\.yaml"):
        Files(settings).write("models.yaml", "x")


# -- signal ----------------------------------------------------------------------------------------------------------

READER = """
import signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: (open(sys.argv[1], "a").write("reloaded\\n"), None))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_signal_reaches_the_process(settings: Settings, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", READER, str(tmp_path / "told")], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        (tmp_path / "reader.pid").write_text(f"{process.pid}\n")
        Reload(settings).tell({"signal": {"pidFile": "reader.pid", "signal": "HUP"}})
        for _ in range(200):
            if (tmp_path / "told").exists():
                break
            time.sleep(0.02)
        assert (tmp_path / "told").read_text() == "reloaded\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(Temporary, match="SIGHUP"):
        Reload(settings).tell({"signal": {"pidFile": "reader.pid", "signal": "HUP"}})


# -- HTTP ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def web(status: int) -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/reload", seen
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_is_called(settings: Settings) -> None:
    with web(204) as (url, seen):
        Reload(settings).tell({"http": {"url": url, "method": "POST"}})
        assert seen == ["/reload"]
    with web(500) as (url, _), pytest.raises(Temporary, match="500"):
        Reload(settings).tell({"http": {"url": url, "method": "POST"}})


# -- container -------------------------------------------------------------------------------------------------------


def _docker_missing() -> str:
    if shutil.which("busybox") is None:
        return "busybox-static is not installed"
    try:
        import docker

        docker.from_env(timeout=10).ping()
    except Exception as error:
        return f"no Docker engine answers ({error})"
    return ""


@pytest.fixture
def container() -> Iterator[Any]:
    missing = _docker_missing()
    if missing and not IN_CI:
        pytest.skip(missing)
    assert not missing
    import docker

    client = docker.from_env()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(os.path.realpath(shutil.which("busybox") or ""), "busybox")
        text = b'FROM scratch\nCOPY busybox /bin/busybox\nENTRYPOINT ["/bin/busybox", "sleep", "600"]\n'
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag="turnout-test-reader")
    made = client.containers.run("turnout-test-reader", name=f"turnout-reader-{os.getpid()}", detach=True, network_mode="none")
    try:
        yield made
    finally:
        made.remove(force=True)


def test_a_container_is_restarted(settings: Settings, container: Any) -> None:
    container.reload()
    before = container.attrs["State"]["StartedAt"]
    Reload(settings).tell({"container": {"name": container.name}})
    container.reload()
    assert container.attrs["State"]["Running"]
    assert container.attrs["State"]["StartedAt"] != before
    with pytest.raises(Temporary, match="nobody-here"):
        Reload(settings).tell({"container": {"name": "nobody-here"}})


def test_what_is_written_is_what_an_orchestrator_reads() -> None:
    from controller.kinds.gateway.plan import content

    variant = {"name": "stable", "model": "acme/m", "endpoint": "huggingface", "version": "3.10", "weight": 80.0}
    table = {"routes": {"docs": {"variants": [variant, {**variant, "version": "v2", "weight": 20.0}]}}, "endpoints": {}}
    wanted = {"agents": {"docs": {"model": "acme/m", "endpoint": "huggingface", "version": "3.10"}}}
    assert plain(parse(content("models.yaml", table).encode()).data) == wanted
    assert plain(parse(content("json", table).encode()).data) == wanted
