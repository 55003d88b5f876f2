"""Several simulated endpoints (`model_server.py`) as processes of their own, for tests that kill, freeze and revive them.

    with Fleet(tmp_path, 3, models=["m"]) as fleet:
        ...  # requests to fleet.urls, or through a proxy that balances over them
        fleet.kill(0)  # SIGKILL, in the middle of whatever it was; connections to it are refused
        fleet.start(0)  # again, on the same port, with the behaviour and the journal that it had
        fleet.pause(1)  # SIGSTOP: it accepts connections and says nothing
        fleet.behave(2, {"*": {"fault": "close_mid_body", "fault_rate": 0.1}})
    # nothing is left running, whatever happened; the journals stay in tmp_path

What became of each request stands in the journals (`model_journal.py` says what each line proves). `attempts` has them by
request, so that a test can say: of all replicas, at most one began to answer it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Any, Self

_TIMEOUT_S = 30.0
_HOST = "127.0.0.1"


@dataclass
class Attempt:
    """What one replica did with one request; times in nanoseconds of the machine's monotonic clock, None for never."""

    replica: str
    pid: int
    received_ns: int | None = None
    first_byte_ns: int | None = None
    finished_ns: int | None = None
    cut: str | None = None  # why it was not finished
    status: int | None = None  # of its answer, as far as it was begun
    fault: str | None = None  # what was wrong with that on purpose

    @property
    def open(self) -> bool:
        """It was neither finished nor cut: it is under way, or its process was killed and nobody knows."""
        return self.finished_ns is None and self.cut is None


class Replica:
    """One process. Its port is held while it is down, so that nobody else can be given it."""

    def __init__(self, folder: Path, name: str, models: Sequence[str]) -> None:
        self.name = name
        self.folder = folder
        self._models = models
        self._child: Popen[str] | None = None
        self._frozen = False
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind((_HOST, 0))
        self.port: int = self._held.getsockname()[1]
        self.journal = folder / f"{name}.journal.jsonl"
        self.errors = folder / f"{name}.stderr"

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """Raises RuntimeError where the replica does not run."""
        if self._child is None or self._child.poll() is not None:
            raise RuntimeError(f"{self.name} (port {self.port}) does not run; {self._last_words()}. Start it again first")
        return self._child.pid

    def launch(self) -> None:
        """Begin to start; `wait` returns when it listens."""
        if self.running:
            raise RuntimeError(f"{self.name} (port {self.port}) runs already; kill it first")
        self.stop()
        self._frozen = False
        command = [sys.executable, "-m", "controller.testing.model_server", "--host", _HOST, "--reuse-port", "--until-stdin-ends"]
        command += ["--endpoint", f"{self.name}={self.port}", "--journal", str(self.journal)]
        command += ["--state", str(self.folder / f"{self.name}.behaviour.json"), *(f"--model={model}" for model in self._models)]
        # Should this process be killed, the stdin of the replica ends; but a frozen one would not notice. The kernel's way
        # follows the thread that starts a process, and only the main one surely lives as long as this process.
        command += ["--die-with-starter"] if threading.current_thread() is threading.main_thread() else []
        with self.errors.open("a") as errors:
            self._child = Popen(command, stdin=PIPE, stdout=PIPE, stderr=errors, text=True, env=_environment())

    def wait(self) -> None:
        """Raises RuntimeError, with what it said, where it did not come to listen."""
        assert self._child is not None
        assert self._child.stdout is not None
        if "listening on" not in self._child.stdout.readline():
            self.stop()
            raise RuntimeError(f"{self.name} (port {self.port}) did not start; {self._last_words()}")

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self._frozen = True
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self._frozen = False

    def lines(self) -> list[dict[str, Any]]:
        """Its journal. A replica that can answer is asked first: then the lines of all that it has sent are written."""
        if self.running and not self._frozen:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("GET", "/healthz")
        return [json.loads(line) for line in self.journal.read_bytes().splitlines()] if self.journal.exists() else []

    def stop(self) -> None:
        """SIGKILL, which a frozen process obeys too; nothing where it does not run."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def close(self) -> None:
        self.stop()
        self._held.close()

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """Status and JSON of a request to it. Raises OSError where it does not answer."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, None if content is None else json.dumps(content))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def complaints(self) -> str:
        return self.errors.read_text(errors="replace").strip() if self.errors.exists() else ""

    def _last_words(self) -> str:
        return f"it last said: {self.complaints()[-2000:]}" if self.complaints() else "it said nothing"


class Fleet:
    """A context manager. The replicas are numbered from 0; a wrong number is an IndexError."""

    def __init__(self, folder: Path, replicas: int = 3, *, models: Sequence[str] = (), name: str = "replica") -> None:
        """`folder` takes journals, behaviours and error output; `models` are known to the replicas before they are asked."""
        folder.mkdir(parents=True, exist_ok=True)
        self._replicas = [Replica(folder, f"{name}-{i}", models) for i in range(replicas)]

    def __enter__(self) -> Self:
        try:
            for replica in self._replicas:
                replica.launch()
            for replica in self._replicas:
                replica.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if kind is None:
            for replica in self._replicas:
                if "Traceback" in replica.complaints():
                    raise RuntimeError(f"{replica.name} had an error of its own: {replica.complaints()[-4000:]}")

    def close(self) -> None:
        """Ends all of them, however they are."""
        for replica in self._replicas:
            replica.close()

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def names(self) -> list[str]:
        """What the journals and the header `x-replica` call them."""
        return [replica.name for replica in self._replicas]

    @property
    def ports(self) -> list[int]:
        return [replica.port for replica in self._replicas]

    @property
    def urls(self) -> list[str]:
        """With `/v1`, as clients of OpenAI and route tables want them."""
        return [f"http://{_HOST}:{port}/v1" for port in self.ports]

    def pid(self, i: int) -> int:
        return self._replicas[i].pid

    def running(self, i: int) -> bool:
        return self._replicas[i].running

    def kill(self, i: int) -> None:
        """SIGKILL, now. Connections to it are refused from then on."""
        os.kill(self._replicas[i].pid, signal.SIGKILL)
        self._replicas[i].stop()

    def start(self, i: int) -> None:
        """Again, after `kill`: same port, name, behaviour and journal; its counts begin at nothing."""
        self._replicas[i].launch()
        self._replicas[i].wait()

    def pause(self, i: int) -> None:
        """SIGSTOP; returns when it is frozen. The kernel goes on accepting connections for it."""
        self._replicas[i].freeze()

    def resume(self, i: int) -> None:
        self._replicas[i].thaw()

    def behave(self, i: int, patch: Mapping[str, Any]) -> None:
        """A patch `{model: {field: value}}` (`model_behaviour.py`); raises ValueError with all that is wrong with it."""
        status, content = self._replicas[i].ask("PUT", "/-/behaviour", patch)
        if status != 200:
            raise ValueError(f"{self.names[i]} refuses the behaviour: {'; '.join(content['errors'])}")

    def counts(self, i: int) -> dict[str, dict[str, int]]:
        """By model, since the replica was last started."""
        counts: dict[str, dict[str, int]] = self._replicas[i].ask("GET", "/-/counts")[1]
        return counts

    def journal(self, i: int) -> list[dict[str, Any]]:
        """All lines since the beginning, over restarts. It can be read while the replica is dead or frozen."""
        return self._replicas[i].lines()

    def attempts(self) -> dict[str, list[Attempt]]:
        """What all replicas did with each request that had an `x-request-id`, by that, in the order of their arrival."""
        found: dict[tuple[str, int, int], tuple[str, Attempt]] = {}
        for replica in self._replicas:
            for line in replica.lines():
                key = (replica.name, line["pid"], line["serial"])
                if line["request_id"] is not None:
                    _, attempt = found.setdefault(key, (line["request_id"], Attempt(replica.name, line["pid"])))
                    attempt.status, attempt.fault = line.get("status"), line.get("fault")
                    if line["event"] == "cut":
                        attempt.cut = line["why"]
                    else:
                        setattr(attempt, f"{line['event']}_ns", line["at_ns"])
        by_id: dict[str, list[Attempt]] = {}
        for request_id, attempt in sorted(found.values(), key=lambda one: one[1].received_ns or one[1].first_byte_ns or 0):
            by_id.setdefault(request_id, []).append(attempt)
        return by_id


def _environment() -> dict[str, str]:
    """The child finds the same `controller` as this process, wherever that was started."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
