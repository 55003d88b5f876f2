"""The command line with LangSmith: what is done is traced by `apply` and `reconcile`, and what is missing is said by `status`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controller.testing.langsmith_api import LangSmithApi

Place = Any  # of conftest.py


def configure(place: Place, url: str) -> None:
    place.replace(
        "environments/local/environment.yaml",
        "  branch: main",
        f"  branch: main\n  langsmith: {{url: '{url}', apiKey: 'env:TRACE_KEY', timeout: 2s}}",
    )
    place.commit("Trace")


def ended(place: Place) -> list[int]:
    return [each["sequence"] for each in place("log", "--json").lines if "action.succeeded" in each["type"]]


def sent(api: LangSmithApi) -> list[int]:
    return sorted(run["extra"]["metadata"]["sequence"] for run in api.tables.all("runs"))


@pytest.mark.parametrize("command", [("apply",), ("reconcile", "--once")])
def test_what_is_done_is_traced(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.setenv("TRACE_KEY", "k")
    with LangSmithApi(tmp_path / "langsmith", keys=["k"]) as api:
        configure(place, api.url)
        for _ in range(60):  # the first end waits two seconds; what is not sent by then is sent by the next
            assert place(*command).code == 0
            if len(sent(api)) == 4:
                break
        assert sent(api) == ended(place)
        assert {run["name"].partition("/")[0] for run in api.tables.all("runs")} == {"create ModelBinding"}
        assert "LangSmith" not in place("status").out


def test_a_controller_that_stays_traces_and_says_once_what_it_cannot(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_KEY", "wrong")
    with LangSmithApi(tmp_path / "langsmith", keys=["k"]) as api:
        configure(place, api.url)
        place.replace("environments/local/environment.yaml", "  branch: main", "  branch: main\n  resync: 1s")
        place.commit("Look often")
        command = [sys.executable, "-m", "controller", "--repo", str(place.path), "reconcile"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert child.stdout is not None
        lines = []
        for line in child.stdout:
            lines.append(line)
            if "not in LangSmith" in line:
                child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        child.stdout.close()
    (told,) = [line for line in lines if "not in LangSmith" in line]
    assert "not in LangSmith: LangSmith at" in told
    assert "refuses the key" in told
    assert "wrong" not in told
    assert len(ended(place)) == 4
    assert "not in LangSmith: LangSmith at" in place("status").out
    assert place("status", "--json").code == 0


def test_nothing_of_langsmith_is_loaded_where_it_is_not_configured(place: Place) -> None:
    program = (
        "import json, sys\nfrom controller.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "loaded = [name for name in sys.modules if name.partition('.')[0] == 'langsmith' or name.endswith('langsmith_trace')]\n"
        "print(json.dumps([code, loaded]))\n"
    )
    for words in (["--repo", str(place.path), "apply"], ["--help"]):
        run = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
        assert json.loads(run.stdout.splitlines()[-1]) == [0, []], run.stderr
