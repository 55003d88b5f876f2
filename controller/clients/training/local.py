"""Trains on this machine: one process group an attempt, in a session of its own, that survives the controller.

Everything of a run lies in `<data>/training/<intent>/`, so a fresh process finds it by its intent alone:

    order-N.json        what was ordered as attempt N (`record` goes back to the flow after a crash)
    rows.jsonl          the data, as it was checked
    request-N.json      what attempt N of the program was told
    process-N           who attempt N is: pid, start time in the kernel's ticks, boot. Created by the attempt itself, exclusively,
                        before it does anything: whoever comes second ends at once. So a controller may die anywhere, and a number
                        that the kernel has given to somebody else is never taken for ours
    exit-N, said-N      its exit code; its stderr
    out/                the program's own folder: claim, progress.jsonl, checkpoints, result.json

SIGTERM goes to the whole group: the program then writes a checkpoint and ends; another attempt goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.clients.huggingface import Hub
from controller.clients.secrets import resolve
from controller.clients.training import progress
from controller.clients.training.backend import Found, Hardware, Order, Prices, Sight, Stage, Verified
from controller.errors import Permanent, Temporary
from controller.resource import digest

THIS_MACHINE = "this-machine"
START_SECONDS = 10.0
"""How long an attempt may take to say who it is; a shell needs milliseconds."""
_WRAPPER = """\
place=$1; number=$2; shift 2; stopped=; code=1
trap 'stopped=1' TERM INT
born=$(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f20)
( set -C; echo "$$ $born $(cat /proc/sys/kernel/random/boot_id)" > "$place/process-$number" ) 2>/dev/null || exit 76
"$@" &
child=$!
while kill -0 $child 2>/dev/null; do
  if [ -n "$stopped" ]; then  # said until it is heard: a program that is just being started may miss it
    case "$(cat /proc/$child/stat 2>/dev/null)" in
      *") Z "*|"") ;;
      *) kill -TERM $child 2>/dev/null; sleep 0.3; continue ;;
    esac
  fi
  wait $child; code=$?
done
wait $child 2>/dev/null; last=$?
[ $last = 127 ] || code=$last
echo $code > "$place/exit-$number.draft" && mv "$place/exit-$number.draft" "$place/exit-$number"
exit $code
"""


class LocalTraining:
    """`folder` is private to this environment; `program` is the training program, `python` its interpreter.

    `environment` is what the process gets beside PATH, HOME and the like; `token` a reference that becomes HF_TOKEN.
    """

    def __init__(
        self,
        folder: Path,
        program: Path,
        *,
        python: str = "",
        token: str | None = None,
        hub: Callable[[], Hub],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.program, self.token, self.hub = folder, program, token, hub
        self.python = python or os.environ.get("TURNOUT_TRAINING_PYTHON") or sys.executable
        self.environment = dict(environment or {})
        self.machine = os.uname().nodename
        self._children: list[subprocess.Popen[bytes]] = []

    # -- the protocol ------------------------------------------------------------------------------------------------

    def start(self, order: Order) -> str:
        """Idempotent: an attempt that has been there, in whatever state, is not started again. Raises Temporary, Permanent."""
        place = self._place(order.run)
        if not self._process(place, order.attempt):
            self._prepare(place, order)
            self._launch(place, order)
        return self._handle(place, order.attempt)

    def find(self, intent: str) -> Found | None:
        for path in sorted(self.folder.glob("*/order-*.json")):
            order = _read_json(path)
            if order is not None and order["intent"] == intent and self._process(path.parent, order["attempt"]):
                return Found(self._handle(path.parent, order["attempt"]), order["record"])
        return None

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        self._reap()
        return {handle: self._guarded(handle) for handle in handles}

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        place, _ = self._taken_apart(handle)
        result = _read_json(place / "out" / "result.json")
        if result is None:
            return Verified(("result.json is not there",))
        problems = progress.check_folder(place / "out", result)
        revision = ""
        if repo:
            revision, _ = progress.result_on_hub(self.hub(), repo, place / "result-on-hub.json")
            problems += progress.check_hub(self.hub(), repo, revision, result)
        return progress.verified(result, problems, intent, revision)

    def cancel(self, handle: str) -> None:
        """SIGTERM: it writes a checkpoint and ends by itself. A later look tells; one that is not ours is left alone."""
        place, attempt = self._taken_apart(handle)
        self._reap()
        pid = self._alive(place, attempt)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

    def prices(self) -> Prices:
        return Prices("", True, {THIS_MACHINE: Hardware(0.0)})

    # -- starting ----------------------------------------------------------------------------------------------------

    def _prepare(self, place: Path, order: Order) -> None:
        """The order is on disk before anything runs; what a killed controller left half written is written again."""
        if shutil.which(self.python) is None:
            told = "write spec.training.python in the environment, or set TURNOUT_TRAINING_PYTHON"
            raise Permanent(f"{self.python!r}, which should run the training program, is not there; {told}")
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            rows = place / "rows.jsonl"
            if not rows.exists():
                _write(rows, order.rows.read_bytes())
            before = [str(number) for number in range(1, order.attempt)]
            request = {**order.request, "intent": order.run, "attempt": str(order.attempt), "takes_over": before}
            request |= {"output": str(place / "out"), "dataset_files": [str(rows)], "deadline_seconds": order.timeout}
            _write(place / f"request-{order.attempt}.json", json.dumps(request).encode())
            kept = {"intent": order.intent, "attempt": order.attempt, "record": dict(order.record)}
            _write(place / f"order-{order.attempt}.json", json.dumps(kept).encode())
        except OSError as error:
            raise Temporary(f"{place}: {error.strerror or error}") from error

    def _launch(self, place: Path, order: Order) -> None:
        number = str(order.attempt)
        command = [self.python, str(self.program), "--request", str(place / f"request-{number}.json")]
        with (place / f"said-{number}").open("ab") as said:
            child = subprocess.Popen(
                ["/bin/sh", "-c", _WRAPPER, "turnout-training", str(place), number, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=place,
                env=self._environment(),
                start_new_session=True,
            )
        self._children.append(child)
        until = time.monotonic() + START_SECONDS
        while not self._process(place, order.attempt):
            if time.monotonic() > until or (child.poll() is not None and not self._process(place, order.attempt)):
                raise Temporary(f"the training process of {place} did not begin; {_tail(place / f'said-{number}')}")
            time.sleep(0.005)

    def _environment(self) -> dict[str, str]:
        """Nothing of the controller's secrets but the Hub token that it is meant to have."""
        names = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_ENDPOINT")
        found = {name: os.environ[name] for name in names if name in os.environ}
        found |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **self.environment}
        if self.token:
            found["HF_TOKEN"] = resolve(self.token, self.folder.parent)
        return found

    # -- looking -----------------------------------------------------------------------------------------------------

    def _guarded(self, handle: str) -> Sight | Exception:
        try:
            return self._sight(handle)
        except (Temporary, Permanent, OSError) as error:
            return error

    def _sight(self, handle: str) -> Sight:
        place, attempt = self._taken_apart(handle)
        out = place / "out"
        lines = _lines(out / "progress.jsonl")
        stage, code, message = self._stage(place, attempt)
        begun, ended = _changed(place / f"process-{attempt}"), _changed(place / f"exit-{attempt}")
        seconds = max(0.0, (ended or time.time()) - begun) if begun else 0.0
        return progress.sight_of(progress.events_of(lines), stage, code=code, message=message, seconds=seconds, cost_usd=0.0)

    def _stage(self, place: Path, attempt: int) -> tuple[Stage, str, str]:
        if not self._process(place, attempt):
            return "lost", "lost", f"{place} has no attempt {attempt} any more"
        if self._alive(place, attempt):
            return "running", "", ""
        try:
            found = int((place / f"exit-{attempt}").read_text())
        except (OSError, ValueError):
            return "lost", "lost", "its process ended without an exit code (killed, or the machine was restarted)"
        if found == 0:
            return "succeeded", "", ""
        code = progress.CODES.get(found, "unexpected")
        return "failed", code, f"exit code {found}; {_tail(place / f'said-{attempt}')}"

    def _process(self, place: Path, attempt: int) -> tuple[int, str] | None:
        """pid and identity of an attempt that has begun, whether it lives or not."""
        try:
            pid, born, boot = (place / f"process-{attempt}").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid), f"{born} {boot}"

    def _alive(self, place: Path, attempt: int) -> int:
        """Its pid while that is still the same process; 0 = it has ended."""
        found = self._process(place, attempt)
        return found[0] if found and identity(found[0]) == found[1] else 0

    def _reap(self) -> None:
        """Children that have ended leave the process table."""
        self._children = [child for child in self._children if child.poll() is None]

    # -- names -------------------------------------------------------------------------------------------------------

    def _place(self, run: str) -> Path:
        return self.folder / (run if run.isalnum() and len(run) <= 40 else digest(run))

    def _handle(self, place: Path, attempt: int) -> str:
        return f"{self.machine}:{place.name}:{attempt}"

    def _taken_apart(self, handle: str) -> tuple[Path, int]:
        """Raises Temporary for a training of another machine: only a controller there can see it."""
        machine, name, attempt = handle.split(":")
        if machine != self.machine:
            raise Temporary(f"it trains on the machine {machine!r}; this is {self.machine!r}, run the controller there")
        return self.folder / name, int(attempt)


def identity(pid: int) -> str:
    """When a process started, and in which boot; empty when it is gone or only its exit code is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{fields[19]} {boot}"


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _tail(path: Path) -> str:
    """The last line that it said, for an error."""
    lines = [line for line in _lines(path)[-20:] if line.strip()]
    return f"its last words: {lines[-1][:300]}" if lines else "it said nothing"
