"""Everything that the double is: its options, its clock, its stores, and the lock that every route holds while it acts."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from controller.testing.hugging_face.accounts import DEFAULT_TOKEN, Account
from controller.testing.hugging_face.disk import Clock, Shelf
from controller.testing.hugging_face.endpoints import Endpoints
from controller.testing.hugging_face.faults import Faults
from controller.testing.hugging_face.job_processes import Processes
from controller.testing.hugging_face.jobs import ENDED, Jobs, Script
from controller.testing.hugging_face.repositories import Repositories

if TYPE_CHECKING:
    from controller.testing.hugging_face.storage_routes import Upload

DEFAULT_MODELS = ("Qwen/Qwen2.5-Coder-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct")


@dataclass(frozen=True)
class Options:
    """`run_jobs`: scripted jobs run nothing, `subprocess` really runs them with `interpreter`. Times in seconds."""

    accounts: Mapping[str, Account] = field(default_factory=lambda: {DEFAULT_TOKEN: Account("rehearsal", ("acme",))})
    run_jobs: Literal["scripted", "subprocess"] = "scripted"
    script: Script = field(default_factory=Script)
    interpreter: str = sys.executable
    most_processes: int = 2
    boot_seconds: float = 30.0
    serving_url: str = "http://127.0.0.1:9"
    part_bytes: int = 16 << 20
    models: tuple[str, ...] = DEFAULT_MODELS
    now: Callable[[], float] = time.time


class World:
    """One double. `url` and `storage_url` are known once it listens."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.folder, self.options = folder, options
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.clock = Clock(Shelf(folder / "world"), options.now)
        self.repositories = Repositories(folder)
        self.jobs = Jobs(folder)
        self.endpoints = Endpoints(folder)
        self.faults = Faults()
        self.uploads: dict[str, Upload] = {}
        self.requests: Counter[str] = Counter()
        self.script = options.script
        self.url = self.storage_url = ""
        self.processes = Processes(
            folder / "processes", options.interpreter, self.clock.now, options.most_processes, self._job_changed
        )

    def open(self) -> None:
        """Takes up the jobs that an earlier double left running."""
        for job in self.jobs.all():
            if job["script"] is None and job["stage"] not in ENDED:
                self.processes.adopt(job)

    def close(self) -> None:
        self.closing.set()
        self.processes.stop()

    def _job_changed(self, job_id: str, fields: Mapping[str, Any]) -> None:
        with self.lock:
            job = next(each for each in self.jobs.all() if each["id"] == job_id)
            job.update(fields)
            self.jobs.save(job)
