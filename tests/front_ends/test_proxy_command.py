"""The data plane alone: `turnout proxy`, `turnout key`, and `LoadBalancingProxy` inside a program."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.proxy import LoadBalancingProxy, load_config
from controller.proxy.config import Config
from controller.testing.fleet import Fleet

Result = Any  # of conftest.py
SCRIPT = Path(sys.executable).with_name("turnout")
BODY = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", 2, models=["acme/one", "acme/two"]) as found:
        yield found


def written(folder: Path, text: str) -> Path:
    path = folder / "gateway.yaml"
    draft = folder / "draft.yaml"
    draft.write_text(text)
    draft.replace(path)
    return path


def config(fleet: Fleet, model: str = "acme/one", more: str = "") -> str:
    return f"""\
port: 0
strategy: round_robin
endpoints: {{gpus: {{replicas: [{", ".join(f"{url!r}" for url in fleet.urls)}]}}}}
agents: {{docs: {{model: {model}, endpoint: gpus, version: v1}}}}
{more}"""


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def chat(port: int, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return ask(port, "POST", "/v1/chat/completions", {"model": "docs", **BODY}, **headers)


@contextlib.contextmanager
def serving(*args: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """`turnout proxy`; the process, its port, and what it says on stderr."""
    errors = Path(args[1]).parent / "said"
    with errors.open("w") as said:
        child = subprocess.Popen([str(SCRIPT), "proxy", *args], stdout=said, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(1000):
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", errors.read_text())
            if found or child.poll() is not None:
                break
            time.sleep(0.02)
        assert found, errors.read_text()
        yield child, int(found[1]), errors
    finally:
        child.kill()
        child.wait()


# -- turnout proxy ---------------------------------------------------------------------------------------------------


def test_it_serves_a_file_follows_it_and_ends_by_itself(tmp_path: Path, fleet: Fleet) -> None:
    path = written(tmp_path, config(fleet))
    with serving("--config", str(path), "--access-log", str(tmp_path / "access.jsonl")) as (child, port, said):
        status, headers, _ = chat(port)
        assert (status, headers["x-turnout-version"]) == (200, "v1")
        assert json.loads(ask(port, "GET", "/v1/models")[2])["data"][0]["id"] == "docs"
        token = tmp_path / ".turnout-proxy/admin.token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert f"admin token in {token}" in said.read_text()
        secret = token.read_text().strip()
        assert ask(port, "GET", "/-/sessions")[0] in (401, 403)
        assert ask(port, "GET", "/-/sessions", Authorization=f"Bearer {secret}")[0] == 200
        written(tmp_path, config(fleet).replace("version: v1", "version: v2"))
        assert until(lambda: chat(port)[1]["x-turnout-version"] == "v2")
        written(tmp_path, "agents: {docs: {}}\n")  # means nothing: the last good one goes on
        assert until(lambda: "needs either model and endpoint, or variants" in said.read_text())
        assert chat(port)[1]["x-turnout-version"] == "v2"
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
    assert len((tmp_path / "access.jsonl").read_text().splitlines()) >= 3
    assert "Traceback" not in said.read_text()
    with serving("--config", str(path)) as (_, port, _):  # a start with a file that means nothing
        assert chat(port)[1]["x-turnout-version"] == "v2"
    assert token.read_text().strip() == secret


def until(so: Callable[[], bool]) -> bool:
    for _ in range(500):
        if so():
            return True
        time.sleep(0.02)
    return False


def test_a_client_with_a_key(turnout: Callable[..., Result], tmp_path: Path, fleet: Fleet) -> None:
    found = turnout("key", "ci", "--json").json
    assert found["client"] == "ci"
    assert found["digest"] == "sha256:" + hashlib.sha256(found["key"].encode()).hexdigest()
    path = written(tmp_path, config(fleet, more=f"clients: {{ci: {{keys: ['{found['digest']}']}}}}\n"))
    with serving("--config", str(path), "--data", str(tmp_path / "data")) as (_, port, _):
        assert chat(port)[0] == 401
        assert chat(port, Authorization="Bearer tk-of-somebody-else")[0] == 401
        assert chat(port, Authorization=f"Bearer {found['key']}")[0] == 200
    assert (tmp_path / "data/admin.token").exists()
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or found["key"].encode() not in file.read_bytes()


def test_keys_are_never_the_same_and_are_shown_with_their_lines(turnout: Callable[..., Result]) -> None:
    texts = [turnout("key", "web").out for _ in range(2)]
    keys = [re.findall(r"tk-[\w-]{40,}", text) for text in texts]
    assert [len(each) for each in keys] == [1, 1]
    assert keys[0] != keys[1]
    for text, (key,) in zip(texts, keys, strict=True):
        assert "    web:\n      keys: ['sha256:" + hashlib.sha256(key.encode()).hexdigest() + "']" in text


def test_a_file_is_checked_without_serving(turnout: Callable[..., Result], tmp_path: Path, fleet: Fleet) -> None:
    path = written(tmp_path, config(fleet))
    result = turnout("proxy", "--config", str(path), "--check")
    assert result.code == 0
    assert result.out == f"docs: 100 % acme/one v1 at {', '.join(fleet.urls)} (round_robin)\n"
    assert turnout("proxy", "--config", str(path), "--check", "--json").json == {"routes": {"docs": ["acme/one"]}}
    assert not (tmp_path / ".turnout-proxy").exists()


GPUS = "endpoints: {gpus: {url: 'http://127.0.0.1:9/v1'}}\n"
BOTH = "agents: {docs: {model: m, endpoint: gpus, variants: [{name: a, model: m, version: v, endpoint: gpus, weight: 100}]}}"
WRONG = [
    ("agnets: {}", "allowed at the top are host, port, strategy"),
    ("port: '5800'", "Expected `int`, got `str` - at `$.port`"),
    ("agents: {docs: {model: m}}", "agents.docs: needs either model and endpoint, or variants"),
    (GPUS + BOTH, "agents.docs: needs either model and endpoint, or variants"),
    (GPUS + "agents: {docs: {model: m, endpoint: gups}}", "variant 'stable' is at endpoint 'gups', which the table does not have"),
    (
        GPUS + "agents: {docs: {model: m, endpoint: gpus, fallbacks: [nobody]}}",
        "routes.docs: falls back to 'nobody', which has no route",
    ),
    ("endpoints: {gpus: {urls: []}}", "endpoints.gpus: urls is not known; there are url"),
    ("endpoints: {gpus: {url: 'http://a/v1', health: {intervall: 3}}}", "health.intervall is not known; there are path"),
    ("endpoints: {gpus: {url: 'http://a/v1', strategy: fastest}}", "endpoints.gpus: strategy: 'fastest' is not one of least_load"),
    ("strategy: leastload\n" + GPUS, "endpoints.gpus: strategy: 'leastload' is not one of least_load, round_robin"),
    ("clients: {ci: {keys: [tk-plain]}}", "clients.ci: keys holds something that is not a SHA-256 digest in hexadecimal"),
    ("clients: {ci: {keys: [], limits: {budget_usd: -1}}}", "clients.ci: limits.budget_usd: -1.0 is negative"),
    ("agents: {docs: {model: a}}\nagents: {}", "the key 'agents' stands there twice"),
    ("a: &a [1]\nb: *a", "aliases are not read here"),
    ("agents: [", "is not valid YAML"),
    ("- 1", "Expected `object`, got `array`"),
    ("{" * 5000, "is not valid YAML"),
    ("# " + "x" * (1 << 20), "is larger than 1 MiB"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_a_file_that_means_nothing_is_said(turnout: Callable[..., Result], tmp_path: Path, text: str, said: str) -> None:
    result = turnout("proxy", "--config", str(written(tmp_path, text)), "--check")
    assert result.code == 1
    assert said in result.err
    assert "hint: docs/data-plane.md" in result.err
    assert result.out == ""


def test_what_cannot_start_says_why(turnout: Callable[..., Result], tmp_path: Path, fleet: Fleet) -> None:
    assert turnout("proxy").code == 64
    assert "--config" in turnout("proxy").err
    assert turnout("proxy", "--config", str(tmp_path), "--check").code == 64
    missing = turnout("proxy", "--config", str(tmp_path / "none.yaml"), "--check")
    assert missing.code == 1
    assert "none.yaml" in missing.err
    port = fleet.urls[0].rpartition(":")[2].partition("/")[0]
    run = subprocess.run(
        [str(SCRIPT), "proxy", "--config", str(written(tmp_path, config(fleet))), "--port", port],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 1
    assert port in run.stderr
    assert "Traceback" not in run.stderr


# -- inside a program ------------------------------------------------------------------------------------------------


def test_a_program_of_ones_own(fleet: Fleet, tmp_path: Path) -> None:
    async def main() -> None:
        plain = {
            "port": 0,
            "endpoints": {"gpus": {"replicas": list(fleet.urls)}},
            "agents": {"docs": {"model": "acme/one", "endpoint": "gpus", "version": "v7"}},
        }
        proxy = LoadBalancingProxy(plain)
        await proxy.start()
        try:
            assert proxy.port > 0
            status, headers, _ = await asyncio.to_thread(chat, proxy.port)
            assert (status, headers["x-turnout-version"]) == (200, "v7")
        finally:
            await proxy.stop()
        with pytest.raises(OSError):
            await asyncio.to_thread(chat, proxy.port or 1)
        path = written(tmp_path, config(fleet, "acme/two"))
        async with LoadBalancingProxy(str(path), data=tmp_path / "data") as other:
            assert (await asyncio.to_thread(chat, other.port))[0] == 200
        assert (tmp_path / "data").is_dir()

    asyncio.run(main())


def test_the_models_of_a_pool_lie_on_ports_in_a_row(tmp_path: Path) -> None:
    text = "models: [{name: coder, model_path: /m/coder, base_port: 5900, replicas: 3}]\n"
    found = load_config(written(tmp_path, text))
    assert isinstance(found, Config)
    assert (found.port, found.health_check_interval, found.request_timeout) == (5800, 30.0, 300.0)
    endpoint = LoadBalancingProxy(found)._table.endpoints["coder"]
    assert list(endpoint.urls) == [f"http://127.0.0.1:{port}/v1" for port in (5900, 5901, 5902)]


@pytest.mark.parametrize("given", [{"agents": {"docs": {"model": "m", "endpoint": "none"}}}, {"agents": {"docs": {}}}])
def test_a_config_that_means_nothing_never_starts(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="docs"):
        LoadBalancingProxy(given)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"gateway\.yaml: .* allowed at the top are"):
        load_config(written(tmp_path, "prot: 1\n"))
