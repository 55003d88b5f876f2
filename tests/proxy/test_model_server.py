"""The simulated endpoints: what can be asked of them, and that their faults are exactly those that were asked for."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any


def ask(models: Any, model: str = "m") -> int:
    return models.web["one"].request("POST", "/v1/chat/completions", {"model": model, "messages": []})[0]


def test_errors_are_spread_evenly(models: Any) -> None:
    models.behave("one", {"m": {"error_rate": 0.1, "status": 429}})
    assert [ask(models) for _ in range(30)] == ([200] * 9 + [429]) * 3
    models.behave("one", {"m": {"error_rate": None, "status": None}})
    assert ask(models) == 200
    assert models.counts("one")["m"]["errors"] == 3
    models.behave("one", {"m": {"status": 503}})
    assert [ask(models), ask(models, "other")] == [503, 200]
    models.behave("one", {"m": None})
    assert ask(models) == 200


def test_a_wrong_behaviour_is_explained(models: Any) -> None:
    wrong = {"m": {"error_rate": 2, "latency": 1, "hang": "yes", "output_tokens": 0, "status": 200}, "n": 3}
    status, _, body = models.web["one"].request("PUT", "/-/behaviour", wrong)
    assert status == 422
    assert len(json.loads(body)["errors"]) == 6
    assert models.web["one"].json("/-/behaviour") == {}
    assert models.web["one"].request("PUT", "/-/behaviour", b"{")[0] == 422


def test_behaviours_are_kept_and_sigterm_stops_at_once(tmp_path: Path, models: Any) -> None:
    web = type(models.web["one"])
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "controller.testing.model_server", "--endpoint", "x=0", "--state", str(state)]
    for expected in ({}, {"m": {"hang": True, "latency_ms": 0, "output_tokens": 12, "die_mid_stream": False}}):
        child = Popen(command, stdout=PIPE, text=True)
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("model endpoint x listening on http://127.0.0.1:")
        server = web(int(line.rpartition(":")[2]))
        assert server.json("/-/behaviour") == expected
        assert server.request("PUT", "/-/behaviour", {"m": {"hang": True}})[0] == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        child.stdout.close()
