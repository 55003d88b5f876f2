"""Lists of models and hardware before an evaluation starts: kept, dated, told as unknown, and nobody is asked too often."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.clients.model_lists import AGAIN_SECONDS, FRESH_SECONDS, ModelLists
from controller.clients.models import Models
from controller.environment import Endpoint
from controller.errors import Temporary
from controller.testing.openrouter_api import OpenRouterApi
from controller.vendors import InferenceSpec

MODELS = "GET */models"


class Clock:
    def __init__(self) -> None:
        self.seconds, self.day = 0.0, 21

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 11, self.day, tzinfo=UTC)


def no_hub() -> Any:
    raise Temporary("Hugging Face: no token")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lists_of(api: OpenRouterApi, data: Path, clock: Clock) -> ModelLists:
    models = Models({"router": Endpoint(url=api.base_url)}, {}, InferenceSpec(), data)
    return ModelLists(models, no_hub, clock, clock.now)


def test_a_list_is_kept_and_then_read_again(tmp_path: Path, clock: Clock) -> None:
    with OpenRouterApi() as api:
        lists = lists_of(api, tmp_path, clock)
        found = lists.of(["router"], hardware=False)
        assert found["lists"]["router"]["asOf"] == "2026-11-21"
        assert found["lists"]["router"]["models"]["anthropic/claude-3.5-sonnet"] == {"input": 3.0, "output": 15.0}
        for _ in range(1000):  # as many evaluations may wait for a month
            assert lists.of(["router"], hardware=False) == found
        assert len(api.asked(MODELS)) == 1
        clock.seconds, clock.day = FRESH_SECONDS, 22
        assert lists.of(["router"], hardware=False)["lists"]["router"]["asOf"] == "2026-11-22"
        assert len(api.asked(MODELS)) == 2


def test_what_cannot_be_read_is_unknown_and_asked_again_in_a_minute(tmp_path: Path, clock: Clock) -> None:
    with OpenRouterApi() as api:
        api.fail("status", MODELS, status=503, times=1)
        lists = lists_of(api, tmp_path, clock)
        assert "503" in lists.of(["router"], hardware=False)["lists"]["router"]["unknown"]
        assert "unknown" in lists.of(["router"], hardware=False)["lists"]["router"]
        assert len(api.asked(MODELS)) == 1
        clock.seconds = AGAIN_SECONDS
        assert "models" in lists.of(["router"], hardware=False)["lists"]["router"]


def test_what_was_read_before_stays_with_its_date(tmp_path: Path, clock: Clock) -> None:
    with OpenRouterApi() as api:
        lists = lists_of(api, tmp_path, clock)
        before = lists.of(["router"], hardware=False)
        clock.seconds, clock.day = FRESH_SECONDS, 22
        api.fail("status", MODELS, status=503, times=1)
        assert lists.of(["router"], hardware=False) == before


def test_hardware_without_a_token_is_unknown(tmp_path: Path, clock: Clock) -> None:
    with OpenRouterApi() as api:
        lists = lists_of(api, tmp_path, clock)
        assert lists.of([], hardware=True) == {"hardware": {"unknown": "Hugging Face: no token"}}
        assert api.asked(MODELS) == []
