"""Jobs of the double that really run, the double as a process, and what survives when it stops or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from controller.clients.hugging_face_jobs import Job, JobOrder, script_order
from controller.clients.huggingface import Hub
from controller.errors import Temporary
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options

TOKEN = "hf_secretsecretsecret"
PATIENCE_SECONDS = 30.0
RUN = {"flavor": "cpu-basic", "timeout_seconds": 600}
WAITS = "import time\nprint('waiting', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def options() -> Options:
    return Options(accounts={TOKEN: Account("ada", ("acme",))}, run_jobs="subprocess", interpreter=sys.executable)


def until(hub: Hub, job: str, wanted: Callable[[Job], bool]) -> Job:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = hub.jobs.get(job)
        if wanted(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"still {hub.jobs.get(job)}")


def says(hub: Hub, job: str, line: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while line not in hub.jobs.lines(job).lines:
        assert time.monotonic() < deadline, hub.jobs.lines(job)
        time.sleep(0.05)


def processes_in(folder: Path) -> list[int]:
    """Processes of this machine whose working folder is below this one."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(each / "cwd")).is_relative_to(folder):
                found.append(int(each.name))
        except OSError:
            continue
    return found


def test_a_script_runs_with_arguments_environment_and_secrets(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "api.key").write_text("the key")
    script = (
        "# /// script\n# dependencies = ['trl']\n# ///\nimport os, sys\n"
        "env = os.environ\n"
        "print(sys.argv[1:], env['MODE'], len(env['KEY']), env['JOB_ID'] != '', 'TURNOUT_SCRIPT' in env)\n"
        "print('no line end', end='')\n"
    )
    order = script_order(script, ["--epochs", "3 4"], env={"MODE": "demo"}, secrets={"KEY": "file:api.key"}, **RUN)
    job = hub.jobs.start("7f", order)
    assert until(hub, job, lambda found: found.ended).stage == "COMPLETED"
    assert hub.jobs.lines(job).lines == ("['--epochs', '3 4'] demo 7 True False", "no line end")
    kept = "".join(path.read_text() for path in tmp_path.glob("double/jobs/*.json"))
    assert "the key" not in kept


def test_a_job_publishes_to_the_hub_that_it_belongs_to(hub: Hub, tmp_path: Path) -> None:
    script = (
        "import os, huggingface_hub\n"
        "api = huggingface_hub.HfApi(token=os.environ['HF_TOKEN'])\n"
        "api.create_repo('acme/made', exist_ok=True)\n"
        "api.upload_file(path_or_fileobj=b'weights' * 9, path_in_repo='adapter.safetensors', repo_id='acme/made')\n"
    )
    hub.jobs.start("7f", script_order(script, secrets={"HF_TOKEN": f"file:{TOKEN}.token"}, **RUN))
    found = hub.jobs.find("7f")
    assert found is not None
    ended = until(hub, found.id, lambda job: job.ended)
    assert ended.stage == "COMPLETED", hub.jobs.lines(found.id)
    assert [file.name for file in hub.repositories.files("made")] == [".gitattributes", "adapter.safetensors"]


def test_a_failing_command_says_its_exit_code(hub: Hub) -> None:
    job = hub.jobs.start("7f", JobOrder(("python3", "-c", "import sys; sys.exit('no data')"), **RUN))
    ended = until(hub, job, lambda found: found.ended)
    assert (ended.stage, ended.message) == ("ERROR", "Job failed with exit code: 1. Reason: Error")
    assert hub.jobs.lines(job).lines == ("no data",)


def test_cancel_and_time_out_end_the_process(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    first = hub.jobs.start("7f", script_order(WAITS, **RUN))
    second = hub.jobs.start("8f", script_order(WAITS, **RUN))
    third = hub.jobs.start("9f", script_order(WAITS, **RUN))  # two places: it waits for one
    says(hub, first, "waiting")
    says(hub, second, "waiting")
    assert hub.jobs.get(third).stage == "SCHEDULING"
    hub.jobs.cancel(third)
    hub.jobs.cancel(first)
    assert until(hub, first, lambda found: found.ended).stage == "CANCELED"
    assert until(hub, third, lambda found: found.ended).stage == "CANCELED"
    double.advance(601)
    ended = until(hub, second, lambda found: found.ended)
    assert (ended.stage, ended.message) == ("ERROR", "Job timeout")
    assert processes_in(tmp_path) == []
    assert [row["minutes"] for row in double.ledger()["jobs"]] == [1, 11, 0]


def test_state_survives_a_restart_and_nothing_runs_on(options: Options, opened: Callable[..., Hub], tmp_path: Path) -> None:
    with HuggingFaceDouble(tmp_path / "double", options) as double:
        hub = opened(double)
        job = hub.jobs.start("7f", script_order(WAITS, **RUN))
        says(hub, job, "waiting")
        hub.repositories.ensure("kept")
        head = hub.repositories.revision("kept")
    assert processes_in(tmp_path) == []
    with HuggingFaceDouble(tmp_path / "double", replace(options, run_jobs="scripted")) as again:
        hub = opened(again)
        found = hub.jobs.find("7f")
        assert found is not None
        assert (found.id, found.stage, found.message) == (job, "ERROR", "The double was stopped")
        assert hub.jobs.lines(job).lines == ("waiting",)
        assert hub.repositories.revision("kept") == head


class Process:
    """The double as `turnout up --rehearse` runs it."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "controller.testing.hugging_face", "--port", "0", "--data", str(data)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]
        self.inference_endpoints_url = f"{self.url}/v2"

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(PATIENCE_SECONDS)


def test_as_a_process_killed_it_finds_its_jobs_again(opened: Callable[..., Hub], tmp_path: Path) -> None:
    first = Process(tmp_path / "double")
    hub = opened(first, "hf_rehearsal")
    script = (
        "import time, pathlib\nprint('up', flush=True)\n"
        "while not pathlib.Path('go').exists():\n    time.sleep(0.05)\n"
        "print('went')\n"
    )
    job = hub.jobs.start("7f", script_order(script, **RUN))
    says(hub, job, "up")
    first.end(signal.SIGKILL)
    with pytest.raises(Temporary, match="no answer"):
        hub.jobs.get(job)
    second = Process(tmp_path / "double")
    try:
        hub = opened(second, "hf_rehearsal")
        assert hub.jobs.get(job).stage == "RUNNING"
        (tmp_path / "double" / "processes" / job / "work" / "go").touch()
        assert until(hub, job, lambda found: found.ended).stage == "COMPLETED"
        assert hub.jobs.lines(job).lines == ("up", "went")
    finally:
        assert second.end(signal.SIGTERM) == 0
    assert processes_in(tmp_path) == []
