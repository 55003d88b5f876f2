"""The route table as the control plane meets it: accepted, refused, kept, and switched under load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest


def route(proxy: Any, model: str) -> dict[str, Any]:
    return {"dev": {"variants": [proxy.variant("stable", model, 100)]}}


def test_only_the_holder_of_the_token_sees_the_table(proxy: Any, models: Any, tmp_path: Any) -> None:
    proxy.put(route(proxy, "a"), models.endpoints())
    assert proxy.request("GET", "/-/routes")[0] == 401
    assert proxy.request("PUT", "/-/routes", {}, {"Authorization": "Bearer no"})[0] == 401
    status, headers, body = proxy.admin("GET")
    assert (status, headers["etag"], json.loads(body)["digest"]) == (200, '"d1"', "d1")
    assert proxy.admin("GET", **{"If-None-Match": '"d1"'})[0] == 304
    assert proxy.admin("GET", **{"If-None-Match": '"d0"'})[0] == 200
    assert proxy.admin("DELETE")[0] == 405
    proxy.data.with_name(proxy.data.name + ".token").write_text("rotated")
    assert proxy.admin("GET")[0] == 401
    proxy.data.with_name(proxy.data.name + ".token").unlink()
    assert proxy.admin("GET")[0] == 403


def test_a_stale_table_is_refused_and_the_same_one_is_not(proxy: Any, models: Any) -> None:
    first = proxy.table(route(proxy, "a"), models.endpoints())
    proxy.put(route(proxy, "a"), models.endpoints())
    proxy.put(route(proxy, "b"), models.endpoints())
    status, _, body = proxy.admin("PUT", first)
    assert status == 409
    assert json.loads(body)["current"] == {"serial": 2, "digest": "d2"}
    again = {**proxy.table(route(proxy, "b"), models.endpoints()), "serial": 2, "digest": "d2", "replaces": "d1"}
    assert proxy.admin("PUT", again)[0] == 200
    assert proxy.chat()[1]["x-turnout-model"] == "b"


def test_an_invalid_table_is_refused_with_all_problems(proxy: Any, models: Any) -> None:
    proxy.put(route(proxy, "a"), models.endpoints())
    bad = {"dev": {"variants": [proxy.variant("stable", "", 50, "nowhere")], "fallbacks": ["dev"]}}
    status, _, body = proxy.admin("PUT", proxy.table(bad, models.endpoints()))
    assert status == 422
    assert len(json.loads(body)["problems"]) == 4
    assert proxy.admin("PUT", b"{")[0] == 422
    assert proxy.admin("PUT", b"[" * 100000)[0] == 422
    assert proxy.json("/healthz") == {"status": "ok", "digest": "d1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_table_and_figures_outlive_the_process(proxy: Any, models: Any, number: int) -> None:
    routes = {"dev": {**route(proxy, "a")["dev"], "step": "s1"}}
    table = {**proxy.table(routes, models.endpoints()), "of_a_newer_writer": True}
    assert proxy.admin("PUT", table)[0] == 200
    assert proxy.chat()[0] == 200
    kept = proxy.data / "stats.json"
    proxy.until(lambda: kept.exists() and b'"requests":1' in kept.read_bytes())
    before = json.loads(kept.read_bytes())["agents"]["dev"]["since"]["s1"]
    proxy.restart(number)
    assert json.loads(proxy.admin("GET")[2]) == table
    assert proxy.cell("dev", step="s1")["requests"] == 1
    assert proxy.chat()[0] == 200
    assert proxy.cell("dev", step="s1")["requests"] == 2
    proxy.process.stop()
    assert json.loads(kept.read_bytes())["agents"]["dev"]["since"]["s1"] == before


def test_a_torn_table_falls_back_to_the_previous_one(proxy: Any, models: Any) -> None:
    proxy.put(route(proxy, "a"), models.endpoints())
    proxy.put(route(proxy, "b"), models.endpoints())
    current = proxy.data / "routes.json"
    for torn in (current.read_bytes()[:-20], b"", b'{"serial":9,"digest":"d9","routes":{"x":{"variants":[]}}}'):
        proxy.process.stop()
        current.write_bytes(torn)
        (proxy.data / "stats.json").write_bytes(torn)
        proxy.start()
        assert proxy.chat()[1]["x-turnout-model"] == "a"
    proxy.digest = "d1"
    proxy.put(route(proxy, "c"), models.endpoints())  # the torn file must not become the previous one
    assert json.loads((proxy.data / "routes.json.previous").read_bytes())["digest"] == "d1"


def test_a_first_table_from_a_file(start_proxy: Any, models: Any, tmp_path: Any) -> None:
    first = tmp_path / "first.json"
    first.write_text("{}")
    command = ["-m", "controller.proxy", "--port", "0", "--data", str(tmp_path / "d"), "--routes", str(first)]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    variant = {"name": "stable", "model": "a", "version": "1", "endpoint": "one", "weight": 100}
    routes = {"dev": {"variants": [variant]}}
    first.write_text(json.dumps({"serial": 1, "digest": "d1", "routes": routes, "endpoints": models.endpoints()}))
    proxy = start_proxy("--routes", str(first))
    assert proxy.chat()[1]["x-turnout-model"] == "a"
    proxy.serial, proxy.digest = 1, "d1"
    proxy.put(route(proxy, "b"), models.endpoints())
    proxy.restart()
    assert proxy.chat()[1]["x-turnout-model"] == "b"


def test_switching_under_load_loses_nothing(proxy: Any, models: Any) -> None:
    names = [f"m{i}" for i in range(20)]
    proxy.put(route(proxy, names[0]), models.endpoints())
    stop = threading.Event()
    seen: list[str] = []
    wrong: list[Any] = []

    def ask(stream: bool) -> None:
        while not stop.is_set():
            status, headers, body = proxy.chat(stream=stream)
            seen.append(headers["x-turnout-model"])
            if status != 200 or seen[-1].encode() not in body or (stream and not body.endswith(b"[DONE]\n\n")):
                wrong.append((status, body))

    askers = [threading.Thread(target=ask, args=(i % 2 == 0,)) for i in range(6)]
    for asker in askers:
        asker.start()
    for name in names[1:]:
        proxy.put(route(proxy, name), models.endpoints())
        assert proxy.chat()[1]["x-turnout-model"] == name  # from the answer to the PUT on, nobody gets the old one
        proxy.until(lambda name=name: name in seen)
    stop.set()
    for asker in askers:
        asker.join()
    assert not wrong
    cell = proxy.cell("dev")
    total = sum(counts["requests"] for counts in models.counts("one").values())
    assert (cell["requests"], cell["errors"]) == (total, 0)
    assert total == len(seen) + 19
