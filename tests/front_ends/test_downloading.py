"""`turnout download`: files of a conversion that ran on this machine, fetched, checked, fetched again."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.clients import conversions
from controller.clients.conversions.local import LocalConversions
from controller.clients.huggingface import HuggingFace, connect
from controller.settings import Settings

Place = Any  # of conftest.py
PROGRAM = Path(__file__).parents[1] / "contracts" / "conversion_program_of_tests.py"


class Door(conversions.Conversions):
    """Without a Hub: the small program asks for nothing of its source."""

    def source(self, repo: str, revision: str) -> dict[str, Any]:
        return {"repo": repo, "revision": "a" * 40, "bytes": 1_000_000}


@pytest.fixture
def converting(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The sample state, with a door whose program needs the standard library only."""
    folders: list[Path] = []

    def open_door(settings: Settings) -> Door:
        hub = connect(HuggingFace(url="http://127.0.0.1:9", token="env:HOME"), settings.data)
        folders.append(settings.data / "conversions")
        local = LocalConversions(folders[-1], PROGRAM, python=sys.executable, hub=lambda: hub, artefact=lambda *_: Path())
        return Door({"local": local}, "local", lambda: hub)

    monkeypatch.setattr(conversions, "connect", open_door)
    yield place
    for path in {path for folder in folders for path in folder.glob("*/process-*")}:
        try:
            os.killpg(int(path.read_text().split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue


def convert(place: Place, agent: str = "docs") -> None:
    place.write(
        "state/conversions/docs-gguf.yaml",
        f"""\
apiVersion: turnout/v1
kind: Conversion
metadata: {{name: docs-gguf}}
spec: {{agent: {agent}, version: v1.0.0, source: {{repo: acme/docs}}, quantizations: [F16, q8_0]}}
""",
    )
    place.commit("Convert docs")


def until(place: Place, phase: str) -> None:
    for _ in range(300):
        place("apply", "--yes")
        found = {row["address"]: row for row in place("status", "--json").json}["Conversion/docs-gguf"]
        if (found["state"] or {}).get("phase") == phase:
            return
        time.sleep(0.05)
    raise AssertionError(f"never {phase}: {found}")


def test_the_files_are_fetched_and_are_what_the_log_says(converting: Place, tmp_path: Path) -> None:
    convert(converting)
    until(converting, "succeeded")
    result = converting("download", "docs-gguf", "--to", str(tmp_path / "models"))
    assert result.code == 0
    first, second = result.out.splitlines()
    assert "docs-v1.0.0-F16.gguf" in first
    path, digest = second.split()[0], second.split()[-1]
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
    again = converting("download", "Conversion/docs-gguf", "-q", "q8_0", "--to", str(tmp_path / "models"), "--json").json
    assert [(each["quantization"], each["sha256"], each["path"]) for each in again] == [("Q8_0", digest, path)]
    assert "made F16 (0.1 MB), Q8_0 (0.1 MB)" in converting("log", "--subject", "docs-gguf").out


def test_what_cannot_be_fetched_is_said(converting: Place, tmp_path: Path) -> None:
    nothing = converting("download", "docs-gguf")
    assert (nothing.code, "there is no conversion" in nothing.err) == (1, True)
    convert(converting)
    early = converting("download", "docs-gguf")
    assert (early.code, "has no files to fetch: it is not started" in early.err) == (1, True)
    until(converting, "succeeded")
    wrong = converting("download", "docs-gguf", "-q", "Q4_K_M", "--to", str(tmp_path))
    assert (wrong.code, "it has no Q4_K_M; there are F16, Q8_0" in wrong.err) == (1, True)
    (converting.path / "state/conversions/docs-gguf.yaml").unlink()
    converting.commit("Archive it")
    converting("apply", "--yes")
    gone = converting("download", "docs-gguf")
    assert (gone.code, "archived" in gone.err) == (1, True)
