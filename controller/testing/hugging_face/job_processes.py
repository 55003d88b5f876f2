"""Jobs of the double that really run: one process group each, in a folder of its own, with a clean environment.

`python`, `python3` and `uv` are fixed names for one interpreter of this machine (`Options.interpreter`): inline dependencies of a
script are not installed, they must be there. The process writes its output and its exit code to files, so a double that is
killed finds its jobs again; one that is stopped takes them along.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller.testing.hugging_face.jobs import TIMED_OUT

POLL_SECONDS = 0.03
_WRAPPER = '"$@"; code=$?; echo "$code" > "$0.tmp" && mv "$0.tmp" "$0"; exit "$code"'
_PYTHON = '#!/bin/sh\nexec "{interpreter}" "$@"\n'
_UV = """#!/bin/sh
# Stands for uv: `uv run [options] script [arguments]` with the one interpreter that the double was given.
[ "$1" = run ] || {{ echo "uv: the double knows only 'uv run'" >&2; exit 2; }}
shift
while [ $# -gt 0 ]; do
  case "$1" in
    --with|--python|-p|--index|--index-url|--extra-index-url) shift 2 ;;
    -*) shift ;;
    python|python3) shift; break ;;
    *) break ;;
  esac
done
exec "{interpreter}" "$@"
"""

Ended = Callable[[str, Mapping[str, Any]], None]
"""Told what changed in the record of a job: (id, fields)."""


class Processes:
    """Runs jobs, at most `most` at a time; the others stay in SCHEDULING."""

    def __init__(self, folder: Path, interpreter: str, now: Callable[[], float], most: int, changed: Ended) -> None:
        self._folder, self._now, self._changed = folder, now, changed
        self._places = threading.Semaphore(most)
        self._stopping = threading.Event()
        self._canceled: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._shims = folder / "bin"
        self._shims.mkdir(parents=True, exist_ok=True)
        for name, text in (("python", _PYTHON), ("python3", _PYTHON), ("uv", _UV)):
            path = self._shims / name
            path.write_text(text.format(interpreter=interpreter))
            path.chmod(0o755)

    def start(self, job: Mapping[str, Any], secrets: Mapping[str, str], url: str) -> None:
        """Returns at once. `url` is where the job finds the Hub."""
        place = self._place(job["id"])
        place.mkdir(parents=True, exist_ok=True)
        self._thread(self._begin, job, self._environment(job, secrets, url))

    def adopt(self, job: Mapping[str, Any]) -> None:
        """Follows a process that an earlier double left running."""
        self._thread(self._follow_left, job)

    def cancel(self, job_id: str) -> None:
        self._canceled.add(job_id)

    def lines(self, job_id: str) -> list[tuple[float, str]]:
        """What a job has written so far, whole lines: (Unix seconds, text)."""
        with contextlib.suppress(OSError):
            rows = (self._place(job_id) / "lines").read_text(encoding="utf-8").splitlines()
            return [(row[0], row[1]) for row in map(json.loads, rows)]
        return []

    def stop(self) -> None:
        """Ends every process and waits for the threads that follow them."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    # -- one job -------------------------------------------------------------------------------------------------

    def _thread(self, follow: Callable[..., None], *arguments: Any) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._threads.append(threading.Thread(target=follow, args=arguments, daemon=True))
        self._threads[-1].start()

    def _begin(self, job: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        while not self._places.acquire(timeout=POLL_SECONDS):
            if self._stopping.is_set() or job["id"] in self._canceled:
                self._over(job["id"], *self._unstarted(job["id"]))
                return
        try:
            if self._stopping.is_set() or job["id"] in self._canceled:
                self._over(job["id"], *self._unstarted(job["id"]))
                return
            place = self._place(job["id"])
            (place / "work").mkdir(exist_ok=True)
            with (place / "output").open("wb") as output:
                process = subprocess.Popen(
                    ["/bin/sh", "-c", _WRAPPER, str(place / "code"), *job["spec"]["command"], *job["spec"]["arguments"]],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                    cwd=place / "work", env=dict(environment),
                )  # fmt: skip
            begun = {"stage": "RUNNING", "started": self._now(), "process": process.pid, "born": _born(process.pid)}
            self._changed(job["id"], begun)
            self._follow({**job, **begun}, child=True)
            process.wait()  # only now: until it is reaped, its number and its group are nobody else's
        finally:
            self._places.release()

    def _unstarted(self, job_id: str) -> tuple[str, str | None]:
        return ("CANCELED", None) if job_id in self._canceled else ("ERROR", "The double was stopped before the job began")

    def _follow_left(self, job: Mapping[str, Any]) -> None:
        if not job.get("process"):
            self._over(job["id"], "ERROR", "The double was restarted before the job began")
            return
        self._follow(job, child=False)

    def _follow(self, job: Mapping[str, Any], *, child: bool) -> None:
        """Until it ends by itself, by its time-out, by being cancelled, or with the double."""
        place, limit = self._place(job["id"]), job["started"] + job["spec"]["timeoutSeconds"]
        reader = _Reader(place / "output", place / "lines", self._now)
        stage: str = ""
        message: str | None = None
        while _born(job["process"]) == job["born"]:
            reader.read()
            if job["id"] in self._canceled:
                stage = "CANCELED"
            elif self._now() >= limit:
                stage, message = "ERROR", TIMED_OUT
            elif self._stopping.is_set():
                stage, message = "ERROR", "The double was stopped"
            if stage:
                break
            time.sleep(POLL_SECONDS)
        if stage or child:
            _kill(job["process"])  # the group: what a job leaves behind ends with it
        reader.read(last=True)
        if not stage:
            stage, message = _ending(place / "code")
        self._over(job["id"], stage, message)

    def _over(self, job_id: str, stage: str, message: str | None) -> None:
        self._changed(job_id, {"stage": stage, "message": message, "finished": self._now(), "process": None})

    def _place(self, job_id: str) -> Path:
        return self._folder / job_id

    def _environment(self, job: Mapping[str, Any], secrets: Mapping[str, str], url: str) -> dict[str, str]:
        """Nothing of the double's own environment but what a machine has; the Hub is the double."""
        work = str(self._place(job["id"]) / "work")
        return {
            "PATH": f"{self._shims}:/usr/local/bin:/usr/bin:/bin",
            "HOME": work,
            "TMPDIR": work,
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "JOB_ID": job["id"],
            "HF_ENDPOINT": url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **job["spec"]["environment"],
            **secrets,
        }


class _Reader:
    """Gives every whole line of a growing file a time, in a second file that outlives the double."""

    def __init__(self, source: Path, target: Path, now: Callable[[], float]) -> None:
        self._source, self._target, self._now = source, target, now
        self._seen = len(target.read_text(encoding="utf-8").splitlines()) if target.exists() else 0

    def read(self, *, last: bool = False) -> None:
        found = self._source.read_bytes().decode(errors="replace").split("\n")
        whole = found if last and found[-1] else found[:-1]
        if len(whole) > self._seen:
            with self._target.open("a", encoding="utf-8") as out:
                for line in whole[self._seen :]:
                    out.write(json.dumps([self._now(), line.rstrip("\r")]) + "\n")
            self._seen = len(whole)


def _ending(code: Path) -> tuple[str, str | None]:
    try:
        found = int(code.read_text())
    except (OSError, ValueError):
        return "ERROR", "Job was killed"
    if found == 0:
        return "COMPLETED", None
    return "ERROR", f"Job failed with exit code: {found}. Reason: {'OOMKilled' if found == 137 else 'Error'}"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None when it is gone or only its exit code is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
