"""A data set that takes long to check is checked beside the passes: they stay short, and who does not stay waits for it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from controller.address import Address
from controller.clients.datasets import Datasets
from controller.clients.training import Backends
from controller.environment import TrainingDefaults
from controller.kind import Known, Observed, Past
from controller.kinds.training import provider as training
from controller.kinds.training.spec import TrainingSpec
from controller.resource import Resource

ROWS = "".join(f"{json.dumps({'inputs': {'task': f'task {n}'}, 'outputs': {'code': f'x = {n}'}})}\n" for n in range(80)).encode()
A = Address("TrainingRequest/a")


class Doors:
    def __init__(self, folder: Path) -> None:
        self.doors: dict[str, Any] = {
            "training": Backends({}, TrainingDefaults()),
            "datasets": Datasets(
                folder, lambda: pytest.fail("nobody asks it"), lambda: pytest.fail("nobody asks it"), lambda path, found: ROWS
            ),
        }

    def open(self, name: str) -> Any:
        return self.doors[name]


def asked(provider: training.TrainingProvider) -> dict[str, Any]:
    written = {"agent": "docs", "version": "v1.0.0", "method": "sft", "dataset": {"files": ["a.jsonl"]}, "baseModel": "tiny"}
    spec = TrainingSpec.model_validate(written)
    resource: Resource[TrainingSpec] = Resource(A, spec, written, "d", paths={"a.jsonl": "0" * 40})
    seen = provider.observe([Known(A, resource, Past())])[A]
    assert isinstance(seen, Observed)
    assert seen.signals is not None
    found: dict[str, Any] = seen.signals["dataset"]
    return found


def test_many_rows_are_checked_beside_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, validate = threading.Event(), training.validate
    monkeypatch.setattr(training, "AT_ONCE_BYTES", 100)
    monkeypatch.setattr(training, "validate", lambda *args, **more: (go.wait(30), validate(*args, **more))[1])
    provider = training.TrainingProvider(Doors(tmp_path))
    assert asked(provider) == {"unknown": "the rows of a.jsonl are being checked"}
    assert asked(provider) == {"unknown": "the rows of a.jsonl are being checked"}
    assert len(provider.working()) == 1
    go.set()
    for _ in range(200):
        if not provider.working():
            break
        threading.Event().wait(0.02)
    assert asked(provider)["rows"] == 80
    assert provider.working() == []


def test_few_rows_are_checked_at_once(tmp_path: Path) -> None:
    provider = training.TrainingProvider(Doors(tmp_path))
    assert asked(provider)["rows"] == 80
    assert provider.working() == []
