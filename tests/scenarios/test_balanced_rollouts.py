"""Rollouts over endpoints with several replicas: the controller judges by the proxy's own figures, at 1 % and not before."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controller.testing.fleet import Fleet
from controller.testing.load import Load
from controller.testing.load_answer import Asked, Got

World = Any
AGENT = "feature_dev"
ENDPOINTS = ("openrouter", "huggingface")
SAMPLES = 10


def eventually(condition: Callable[[], Any]) -> None:
    """The limit is there to fail, never to pass."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


class Balanced:
    """A world whose endpoints have two replicas each, and clients that ask there."""

    def __init__(self, world: World, fleets: dict[str, Fleet]) -> None:
        self.world, self.fleets = world, fleets
        self.done: list[Got] = []
        self._numbers = count()
        environment = world.repo / "environments/local/environment.yaml"
        text = environment.read_text()
        for name, fleet in fleets.items():
            begin = text.index(f"    {name}:\n")
            end = text.index("      simulated: true\n", begin) + len("      simulated: true\n")
            lines = [f"    {name}:", "      replicas:", *(f"        - {url}" for url in fleet.urls), "      strategy: least_load"]
            lines += ["      load: /metrics", "      ejection: {failures: 2, for: 0.2}", ""]
            text = text[:begin] + "\n".join(lines) + text[end:]
        environment.write_text(text)
        world.commit("Two replicas each")
        world.settle()

    def send(self, requests: int) -> Counter[str]:
        """Requests of as many sessions; what came of them, by version and kind."""
        asked = [
            Asked(f"rollout-{i}", AGENT, stream=i % 5 == 0, tokens=12, headers=(("X-Session-ID", f"session-{i}"),))
            for i in (next(self._numbers) for _ in range(requests))
        ]
        with Load(self.world.port, asked, clients=8) as load:
            pass
        self.done += load.done
        return Counter(f"{got.turnout('version')} {got.kind}" for got in load.done)

    def stats(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.world.port}/stats", timeout=10) as answer:
            return json.loads(answer.read())

    def head(self) -> str:
        return str(self.world.git("log", "-1", "--format=%s"))

    def of(self, version: str) -> list[Got]:
        return [got for got in self.done if got.turnout("version") == version and got.turnout("step")]

    def evidence(self) -> dict[str, Any]:
        """What the last decision says that it was made by."""
        found = [
            event.data["evidence"] for event in self.world.first.events("Rollout/feature_dev-v2") if event.data.get("evidence")
        ]
        return dict(found[-1])


@pytest.fixture
def balanced(world: World, tmp_path: Path) -> Iterator[Balanced]:
    with (
        Fleet(tmp_path / "openrouter", 2, name="openrouter") as first,
        Fleet(tmp_path / "huggingface", 2, name="huggingface") as second,
    ):
        yield Balanced(world, dict(zip(ENDPOINTS, (first, second), strict=True)))


def test_one_percent_waits_for_samples_and_promotes_on_them(balanced: Balanced) -> None:
    """One replica of the candidate is dead all the time; retries hide that from clients, and so from the analysis."""
    world = balanced.world
    balanced.fleets["huggingface"].kill(1)
    world.rollout(strategy="{canary: [{weight: 1, hold: 0s}]}", samples=SAMPLES)
    world.settle()
    while len(balanced.of("v2.0.0")) < SAMPLES - 1:
        balanced.send(20)
        if len(balanced.of("v2.0.0")) < SAMPLES:  # nine of ten are too few, however good
            world.settle()
            assert balanced.head().startswith("Try v2.0.0")
    assert world.types("Rollout/feature_dev-v2")["condition.raised"] == 1  # it waits for samples, and says so once
    while len(balanced.of("v2.0.0")) < SAMPLES:
        balanced.send(20)
    figures = balanced.stats()["agents"][AGENT]
    world.settle_until(lambda: balanced.head() == "Promote feature_dev to v2.0.0")
    assert {got.kind for got in balanced.done} == {"whole"}
    cells = figures["steps"][figures["step"]]
    for variant, version in (("stable", "v1.4.0"), ("candidate", "v2.0.0")):
        mine = balanced.of(version)
        assert (cells[variant]["requests"], cells[variant]["errors"]) == (len(mine), 0)
        assert cells[variant]["output_tokens"] == sum(got.asked.tokens for got in mine)
        told = balanced.evidence()[variant]
        assert (told["requests"], told["errors"]) == (len(mine), 0)
    assert cells["candidate"]["retries"] > 0
    assert {got.replica for got in balanced.of("v2.0.0")} == {"huggingface-0"}
    assert {got.replica for got in balanced.of("v1.4.0")} == {"openrouter-0", "openrouter-1"}
    assert len(balanced.of("v2.0.0")) / len(balanced.done) < 0.03  # and it was 1 % indeed
    assert balanced.send(40) == {"v2.0.0 whole": 40}


def test_one_percent_aborts_on_evidence_that_clients_saw(balanced: Balanced) -> None:
    world = balanced.world
    for i in range(2):
        balanced.fleets["huggingface"].behave(i, {"*": {"error_rate": 0.5}})
    world.rollout(strategy="{canary: [{weight: 1, hold: 0s}]}", samples=SAMPLES)
    world.settle()
    while not balanced.head().startswith("Revert"):
        balanced.send(50)
        world.settle()
        assert len(balanced.done) < 20_000
    mine = balanced.of("v2.0.0")
    errors = sum(got.kind == "error" for got in mine)
    told = balanced.evidence()
    assert (told["candidate"]["requests"], told["candidate"]["errors"]) == (len(mine), errors)
    assert told["candidate"]["errorRate"] == pytest.approx(100 * errors / len(mine))
    assert (told["stable"]["requests"], told["stable"]["errors"]) == (len(balanced.of("v1.4.0")), 0)
    assert len(mine) >= SAMPLES
    assert 0 < errors <= (len(mine) + 2) // 2
    assert balanced.send(40) == {"v1.4.0 whole": 40}


def test_a_shadow_is_compared_and_its_cost_is_counted(balanced: Balanced) -> None:
    """Also over a proxy that is killed in between: what was compared is kept."""
    world = balanced.world
    world.rollout(strategy="{shadow: {percent: 100, hold: 0s, then: end}}", samples=40)
    world.settle()
    assert balanced.send(30) == {"v1.4.0 whole": 30}

    def compared() -> Any:
        figures = balanced.stats()["agents"][AGENT]
        return figures["compared"].get(figures["step"], {})

    eventually(lambda: compared().get("pairs") == 30)
    assert compared()["same"] == 0  # the simulated models say who they are
    assert 0 < compared()["likeness_sum"] < 30
    world.settle()
    assert "completed" not in world.story()  # thirty of forty
    kept = world.root / "proxy" / "stats.json"
    eventually(lambda: kept.exists() and b'"pairs":30' in kept.read_bytes())
    world.proxy.stop(signal.SIGKILL)
    world.proxy = world.start_proxy(world.port)
    assert balanced.send(20) == {"v1.4.0 whole": 20}
    eventually(lambda: compared().get("pairs") == 50)
    figures = balanced.stats()["agents"][AGENT]
    shadow = figures["steps"][figures["step"]]["candidate"]
    assert (shadow["requests"], shadow["errors"], shadow["costed"]) == (50, 0, 50)
    assert shadow["cost_usd"] == pytest.approx((shadow["input_tokens"] + shadow["output_tokens"]) * 0.4 / 1e6)
    seen = sum(counts["requests"] for i in range(2) for counts in balanced.fleets["huggingface"].counts(i).values())
    assert seen == 50
    world.settle_until(lambda: "completed" in world.story())
    assert balanced.send(10) == {"v1.4.0 whole": 10}
