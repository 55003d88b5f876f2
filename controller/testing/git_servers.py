"""Real git servers on loopback, for tests of everything that talks to a remote (`clients.git_remote`, log, write-back).

A path remote has no compare-and-swap, no hooks and no authentication; these have. `HttpGitServer` is a bridge to
`git http-backend`, `SshGitServer` runs a real sshd. Both serve the bare repositories below one folder.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import hmac
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import unquote, urlsplit

SSHD = Path("/usr/sbin/sshd")
CHUNK = 64 * 1024
NO_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


class ServerUnavailable(RuntimeError):
    """The server cannot run on this machine; says what is missing."""


class _GitServer:
    """The bare repositories below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def create(self, name: str) -> Path:
        """A new bare repository with the default branch main, which takes pushes."""
        path = self.path(name)
        _git("init", "--quiet", "--bare", "--initial-branch=main", str(path))
        _git("-C", str(path), "config", "http.receivepack", "true")
        return path

    def path(self, name: str) -> Path:
        return self.root / (name if name.endswith(".git") else f"{name}.git")

    def hook(self, name: str, which: str, script: str) -> Path:
        """Installs a server hook, for example `pre-receive`; a script without `#!` is one of sh."""
        path = self.path(name) / "hooks" / which
        path.parent.mkdir(exist_ok=True)
        path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path


class HttpGitServer(_GitServer):
    """`git http-backend` behind a loopback port. With `user`, every request needs this user and password."""

    def __init__(self, root: Path, *, user: str | None = None, password: str | None = None, allow_push: bool = True) -> None:
        super().__init__(root)
        self.user, self.password, self.allow_push = user, password, allow_push
        self.delay_s = 0.0  # before every answer
        self.requests: list[str] = []  # method and path of each request so far
        self._failures: list[int] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        bridge = type("Bridge", (_Bridge,), {"git": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), bridge)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def port(self) -> int:
        if self._server is None:
            raise RuntimeError("the server is not running; use it as a context manager")
        return int(self._server.server_address[1])

    def url(self, name: str, *, credentials: bool = True) -> str:
        """Where a client finds a repository; with the user and password in it unless told otherwise."""
        login = f"{self.user}:{self.password or ''}@" if self.user is not None and credentials else ""
        return f"http://{login}127.0.0.1:{self.port}/{self.path(name).name}"

    def fail_next(self, n: int = 1, status: int = 503) -> None:
        """The next `n` requests are answered with `status` and reach no repository."""
        with self._lock:
            self._failures += [status] * n

    def recover(self) -> None:
        """No more failures."""
        with self._lock:
            self._failures.clear()

    def _next_failure(self) -> int | None:
        with self._lock:
            return self._failures.pop(0) if self._failures else None

    def _knows(self, authorization: str) -> bool:
        if self.user is None:
            return True
        expected = base64.b64encode(f"{self.user}:{self.password or ''}".encode()).decode()
        return hmac.compare_digest(authorization.encode(), f"Basic {expected}".encode())


class _Bridge(BaseHTTPRequestHandler):
    """One request: the CGI variables, the body in, the answer out, both as streams."""

    git: HttpGitServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing; `requests` of the server knows."""

    def _answer(self) -> None:
        self.close_connection = True  # an answer of unknown length ends with the connection
        self.git.requests.append(f"{self.command} {self.path}")
        if self.git.delay_s:
            time.sleep(self.git.delay_s)
        if (status := self.git._next_failure()) is not None:
            self._refuse(status)
        elif not self.git._knows(self.headers.get("Authorization", "")):
            self._refuse(401, {"WWW-Authenticate": 'Basic realm="git"'})
        elif "git-receive-pack" in self.path and not self.git.allow_push:
            self._refuse(403)
        else:
            with contextlib.suppress(ConnectionError):  # the client may hang up at any time
                self._run()

    def _refuse(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in self._body():  # read to the end, or the client sees a reset instead of the answer
                pass
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": "0", "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()

    def _run(self) -> None:
        process = subprocess.Popen(
            ["git", "http-backend"], env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes to git http-backend")
        feeder = threading.Thread(target=self._feed, args=(process.stdin,), daemon=True)
        feeder.start()
        try:
            self._relay(process.stdout)
        finally:
            process.stdout.close()
            if process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
            process.wait()
            feeder.join(10)

    def _environment(self) -> dict[str, str]:
        where = urlsplit(self.path)
        variables = {
            "GIT_PROJECT_ROOT": str(self.git.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": unquote(where.path),
            "QUERY_STRING": where.query,
            "REQUEST_METHOD": self.command,
            "REMOTE_ADDR": self.client_address[0],
            "REMOTE_USER": self.git.user or "",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            variables["CONTENT_LENGTH"] = self.headers.get("Content-Length", "0")
        return {**_clean_environment(), **variables}

    def _feed(self, into: IO[bytes]) -> None:
        with contextlib.suppress(ConnectionError, ValueError, TimeoutError):
            for block in self._body():
                into.write(block)
        with contextlib.suppress(ConnectionError):
            into.close()

    def _body(self) -> Any:
        """The blocks of the request's body, whichever way it comes; compressed stays compressed."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            yield from self._exactly(int(self.headers.get("Content-Length", "0")))
            return
        while size := int(self.rfile.readline(64).split(b";")[0].strip() or b"0", 16):
            yield from self._exactly(size)
            self.rfile.readline(64)
        while self.rfile.readline(CHUNK).strip():
            pass  # trailers

    def _exactly(self, size: int) -> Any:
        while size > 0:
            block = self.rfile.read(min(size, CHUNK))
            if not block:
                raise ConnectionAbortedError("the client hung up")
            size -= len(block)
            yield block

    def _relay(self, answer: IO[bytes]) -> None:
        headers: list[tuple[str, str]] = []
        while line := answer.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers.append((name, value.strip()))
        status = next((value for name, value in headers if name.lower() == "status"), "200" if headers else "502")
        self.send_response(int(status.split()[0]))
        for name, value in headers:
            if name.lower() != "status":
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        while block := answer.read1(CHUNK):  # type: ignore[attr-defined]
            self.wfile.write(block)
            self.wfile.flush()


class SshGitServer(_GitServer):
    """A real sshd on a loopback port for the user that runs it. `private` holds its keys, configuration and log."""

    def __init__(self, root: Path, private: Path) -> None:
        super().__init__(root)
        self.private = private.resolve()
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        require_sshd()
        self.private.mkdir(parents=True, exist_ok=True)
        self.private.chmod(0o700)
        for name in ("host_key", "user_key", "stranger_key"):
            if not (self.private / name).exists():
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.private / name))
        shutil.copy(self.private / "user_key.pub", self.private / "authorized_keys")
        for _ in range(5):  # somebody else may take the port between the look and the start
            self.port = _free_port()
            if self._start():
                return self
        raise ServerUnavailable(f"sshd did not start: {self.log()[-500:]!r}")

    def __exit__(self, *raised: object) -> None:
        self._stop()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a git that may log in."""
        return self._env("user_key")

    @property
    def stranger_env(self) -> dict[str, str]:
        """The environment of a git whose key the server does not know."""
        return self._env("stranger_key")

    def url(self, name: str) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.path(name)}"

    def log(self) -> str:
        path = self.private / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _env(self, key: str) -> dict[str, str]:
        ssh = (
            f"ssh -F none -i '{self.private / key}' -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes "
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        )
        return {**_clean_environment(), "GIT_SSH_COMMAND": ssh}

    def _start(self) -> bool:
        config = self.private / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.private / 'host_key'}\n"
            f"AuthorizedKeysFile {self.private / 'authorized_keys'}\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            "AllowTcpForwarding no\nX11Forwarding no\nMaxStartups 100\nAcceptEnv GIT_PROTOCOL\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of Debian asks for it
        log = str(self.private / "sshd.log")
        self._process = subprocess.Popen(
            [str(SSHD), "-D", "-f", str(config), "-E", log], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
                if probe.recv(4) == b"SSH-" and self._process.poll() is None:
                    return True
            time.sleep(0.02)
        self._stop()
        return False

    def _stop(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)  # its own group: nobody else is in it
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def require_sshd() -> None:
    """Raises ServerUnavailable where there is no ssh server, or no ssh client."""
    if not SSHD.exists():
        raise ServerUnavailable(f"{SSHD} is missing: apt-get install -y --no-install-recommends openssh-server")
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            raise ServerUnavailable(f"{program} is missing: apt-get install -y --no-install-recommends openssh-client")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean_environment() -> dict[str, str]:
    """The process's environment without what would lead git to another repository or another configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, **NO_CONFIG}


def _git(*arguments: str) -> str:
    return _run("git", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, env=_clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerUnavailable(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
