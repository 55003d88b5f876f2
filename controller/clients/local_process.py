"""Programs on this machine: one process group an attempt, in a session of its own, that survives the controller.

Everything of a run lies in a place, `<folder>/<intent>/`, so a fresh process finds it by its intent alone. Of each attempt N:

    process-N           who it is: pid, start time in the kernel's ticks, boot. Created by the attempt itself, exclusively, before
                        it does anything: whoever comes second ends at once. So a controller may die anywhere, and a number that
                        the kernel has given to somebody else is never taken for ours
    exit-N, said-N      its exit code; its stderr

A handle is `machine:place:N`. SIGTERM goes to the whole group; another attempt goes on from what the program left.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.clients.runs import Hardware, Prices, Stage
from controller.clients.secrets import resolve
from controller.errors import Permanent, Temporary
from controller.resource import digest

_LACKS = """\
import importlib.metadata, json, sys
def lacks(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True
print("LACKS " + json.dumps([name for name in sys.argv[1:] if lacks(name)]))
"""
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


class LocalProcesses:
    """The process groups of one `folder` on this machine; `work` and `does` name them in errors: `training`, `trains`."""

    def __init__(self, folder: Path, work: str, does: str) -> None:
        self.folder, self.work, self.does = folder, work, does
        self.machine = os.uname().nodename
        self._children: list[subprocess.Popen[bytes]] = []

    # -- starting ----------------------------------------------------------------------------------------------------

    def launch(self, place: Path, number: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Returns when the attempt has said who it is. Raises Temporary when it does not."""
        try:
            with (place / f"said-{number}").open("ab") as said:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", _WRAPPER, f"turnout-{self.work}", str(place), str(number), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    cwd=place,
                    env=dict(environment),
                    start_new_session=True,
                )
        except OSError as error:
            raise Temporary(f"the {self.work} process of {place} cannot be started: {error.strerror or error}") from error
        self._children.append(child)
        until = time.monotonic() + START_SECONDS
        while not self.begun(place, number):
            if time.monotonic() > until or (child.poll() is not None and not self.begun(place, number)):
                raise Temporary(f"the {self.work} process of {place} did not begin; {tail(place / f'said-{number}')}")
            time.sleep(0.005)

    # -- looking -----------------------------------------------------------------------------------------------------

    def begun(self, place: Path, number: int) -> tuple[int, str] | None:
        """pid and identity of an attempt that has begun, whether it lives or not."""
        try:
            pid, born, boot = (place / f"process-{number}").read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid), f"{born} {boot}"

    def stage(self, place: Path, number: int, codes: Mapping[int, str]) -> tuple[Stage, str, str]:
        """Stage, code and message; `codes` are the names of the program's exit codes."""
        if not self.begun(place, number):
            return "lost", "lost", f"{place} has no attempt {number} any more"
        if self._pid(place, number):
            return "running", "", ""
        try:
            found = int((place / f"exit-{number}").read_text())
        except (OSError, ValueError):
            return "lost", "lost", "its process ended without an exit code (killed, or the machine was restarted)"
        if found == 0:
            return "succeeded", "", ""
        return "failed", codes.get(found, "unexpected"), f"exit code {found}; {tail(place / f'said-{number}')}"

    def seconds(self, place: Path, number: int) -> float:
        """How long it has run."""
        begun, ended = _changed(place / f"process-{number}"), _changed(place / f"exit-{number}")
        return max(0.0, (ended or time.time()) - begun) if begun else 0.0

    def since_end(self, place: Path, number: int) -> float:
        """Seconds since it ended; 0 = it has not, or nobody knows when."""
        ended = _changed(place / f"exit-{number}")
        return max(0.0, time.time() - ended) if ended else 0.0

    def alive(self) -> list[str]:
        """Handles of all that run now, whoever started them: found from the folders, so a fresh process sees them too."""
        self.reap()
        found = []
        for path in sorted(self.folder.glob("*/process-*")):
            number = path.name.removeprefix("process-")
            if number.isdigit() and self._pid(path.parent, int(number)):
                found.append(self.handle(path.parent, int(number)))
        return found

    def reap(self) -> None:
        """Children that have ended leave the process table."""
        self._children = [child for child in self._children if child.poll() is None]

    def _pid(self, place: Path, number: int) -> int:
        """Its pid while that is still the same process; 0 = it has ended."""
        found = self.begun(place, number)
        return found[0] if found and identity(found[0]) == found[1] else 0

    # -- ending ------------------------------------------------------------------------------------------------------

    def stop(self, handles: Iterable[str]) -> None:
        """SIGTERM to the whole group of each; `alive` tells when they have ended. One that is not ours is left alone.

        Raises Temporary for one of another machine.
        """
        self.reap()
        for handle in handles:
            place, number = self.taken_apart(handle)
            pid = self._pid(place, number)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGTERM)

    # -- names -------------------------------------------------------------------------------------------------------

    def place(self, run: str) -> Path:
        return self.folder / (run if run.isalnum() and len(run) <= 40 else digest(run))

    def handle(self, place: Path, number: int) -> str:
        return f"{self.machine}:{place.name}:{number}"

    def taken_apart(self, handle: str) -> tuple[Path, int]:
        """Place and attempt. Raises Temporary for one of another machine: only a controller there can see it."""
        machine, name, number = handle.split(":")
        if machine != self.machine:
            told = f"this is {self.machine!r}, run the controller there"
            raise Temporary(f"it {self.does} on the machine {machine!r}; {told}")
        return self.folder / name, int(number)


def environment_of(folder: Path, token: str | None, more: Mapping[str, str]) -> dict[str, str]:
    """What a program gets: nothing of the controller's secrets but the Hub token that it is meant to have.

    `folder` is where `file:` references begin. Raises Temporary when the token is not there.
    """
    names = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_ENDPOINT")
    found = {name: os.environ[name] for name in names if name in os.environ}
    found |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
    if token:
        found["HF_TOKEN"] = resolve(token, folder)
    return found


def interpreter_there(python: str, does: str, program: Path) -> None:
    """Raises Permanent when there is no such interpreter, or it lacks packages that the program names in its head (PEP 723)."""
    if shutil.which(python) is None:
        told = "write spec.training.python in the environment, or set TURNOUT_TRAINING_PYTHON"
        raise Permanent(f"{python!r}, which should run the {does} program, is not there; {told}")
    lacking = _lacking(python, program)
    if lacking:
        told = "pip install -r requirements-training.txt into a Python of its own, and write that as spec.training.python or set"
        told += " TURNOUT_TRAINING_PYTHON; then `turnout retry`"
        raise Permanent(f"{python}, which should run the {does} program, lacks {', '.join(lacking)}; {told}")


def _lacking(python: str, program: Path) -> list[str]:
    """Packages of the program's head that are not installed; a Python that cannot tell is given the benefit of the doubt."""
    head = program.read_text().partition("# /// script\n")[2].partition("# ///\n")[0] if program.is_file() else ""
    names = re.findall(r'"([A-Za-z0-9._-]+)[^"]*"', head.partition("dependencies")[2])
    if not names:
        return []
    try:
        run = subprocess.run([python, "-c", _LACKS, *names], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    told = next((line for line in run.stdout.splitlines() if line.startswith("LACKS ")), "LACKS []")
    return [str(name) for name in json.loads(told.removeprefix("LACKS "))]


def free_of_charge() -> Prices:
    """What this machine costs."""
    return Prices("", True, {THIS_MACHINE: Hardware(0.0)})


def identity(pid: int) -> str:
    """When a process started, and in which boot; empty when it is gone or only its exit code is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{fields[19]} {boot}"


def write(path: Path, content: bytes) -> None:
    """The file is there whole, or not at all. Raises OSError."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """An object; None where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def lines(path: Path) -> list[str]:
    """Of a text that may still grow; none where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def tail(path: Path) -> str:
    """The last line that a program said, for an error."""
    said = [line for line in lines(path)[-20:] if line.strip()]
    return f"its last words: {said[-1][:300]}" if said else "it said nothing"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
