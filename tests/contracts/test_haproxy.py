"""The HAProxy target on a real HAProxy: what is asked is what is split, weights without a reload, reloads without a loss."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import math
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.address import Address
from controller.clients import haproxy as door_module
from controller.errors import Permanent, Temporary
from controller.kind import Observed
from controller.kinds.rollout.provider import signals
from controller.resource import digest

ROOT = Path(__file__).parents[2]
STABLE = {"model": "docs", "endpoint": "old", "version": "v1"}
CANDIDATE = {"model": "docs", "endpoint": "new", "version": "v2"}


# -- the split -------------------------------------------------------------------------------------------------------


def stands_at(session: str) -> float:
    """Where the page of the kind says that a session stands, in percent."""
    return int(hashlib.sha256(f"docs-v2-ab12:{session}".encode()).hexdigest()[:8], 16) / 2**32 * 100


def test_the_asked_share_is_what_is_observed_and_sessions_only_move_forward(edge: Any) -> None:
    edge.canary(1)
    edge.start()
    assert edge.step().is_noop
    sessions = [f"session-{number}" for number in range(3000)]
    worker, before = edge.worker(), set[str]()
    for step, weight in enumerate((1, 20, 50)):
        edge.canary(weight, step)
        edge.step()
        answered = edge.who(sessions)
        moved = {session for session, variant in answered.items() if variant == "candidate"}
        expected, spread = len(sessions) * weight / 100, math.sqrt(len(sessions) * weight / 100 * (1 - weight / 100))
        assert abs(len(moved) - expected) <= 4.5 * spread
        assert moved == {session for session in sessions if stands_at(session) < weight}
        assert before <= moved, "a session went back"
        before = moved
    some = sessions[:400]
    edge.canary(0, 3)
    edge.step()
    assert set(edge.who(some).values()) == {"stable"}
    edge.canary(100, 4)
    edge.step()
    assert set(edge.who(some).values()) == {"candidate"}
    assert edge.worker() == worker, "weights alone must not reload"
    assert edge.step().is_noop


def test_without_a_session_each_request_is_drawn(edge: Any) -> None:
    edge.canary(50)
    edge.start()
    drawn = [edge.ask()[1]["x-turnout-variant"] for _ in range(60)]
    assert 8 <= drawn.count("candidate") <= 52


def test_a_tester_names_the_variant(edge: Any) -> None:
    edge.canary(0)
    edge.start()
    assert edge.ask(X_Turnout_Variant="candidate")[2]["who"] == "new"
    assert edge.ask(X_Turnout_Variant="stable")[2]["who"] == "old"
    assert edge.ask(X_Turnout_Variant="nobody")[2]["who"] == "old"


# -- requests --------------------------------------------------------------------------------------------------------


def test_an_agent_is_named_by_path_or_header(edge: Any) -> None:
    edge.start()
    status, headers, body = edge.ask("/agents/docs/v1/chat/completions?x=1", Authorization="Bearer mine", X_Api_Key="mine")
    assert (status, body["who"], body["path"]) == (200, "old", "/v1/chat/completions?x=1")
    sent = {name.lower(): value for name, value in body["headers"].items()}
    assert sent["x-turnout-model"] == "docs"
    assert not {"authorization", "x-api-key", "x-turnout-agent"} & set(sent), "the client's keys are not the vendor's"
    shown = {name: value for name, value in headers.items() if name.startswith("x-turnout-")}
    assert shown == {
        "x-turnout-agent": "docs",
        "x-turnout-variant": "stable",
        "x-turnout-version": "v1",
        "x-turnout-model": "docs",
        "x-turnout-endpoint": "old",
    }
    assert edge.ask("/v1/embeddings", X_Turnout_Agent="docs")[2]["path"] == "/v1/embeddings"
    for path, headers_, code in (
        ("/v1/chat/completions", {}, "unknown_path"),
        ("/agents/docs/metrics", {}, "unknown_path"),
        ("/agents/docs/v1/../../metrics", {}, "unknown_path"),
        ("/agents/docs/v1/%2e%2e/metrics", {}, "unknown_path"),
        ("/agents/dosc/v1/models", {}, "unknown_agent"),
        ("/v1/models", {"X_Turnout_Agent": 'do"cs'}, "unknown_agent"),
    ):
        status, _, body = edge.ask(path, **headers_)
        assert (status, body["error"]["code"]) == (404, code), path
    assert edge.ask("/healthz")[0] == 200


def test_the_key_comes_from_haproxys_environment_and_its_absence_is_said(edge: Any) -> None:
    edge.endpoints["old"]["apiKey"] = "env:TURNOUT_TEST_KEY"
    edge.start({"TURNOUT_TEST_KEY": "s3cret"})
    assert edge.ask(Authorization="Bearer mine")[2]["headers"]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in (edge.folder / "turnout.cfg").read_text()
    edge.stop()
    edge.start({"TURNOUT_TEST_KEY": ""})
    status, _, body = edge.ask()
    assert (status, body["error"]["code"]) == (502, "key_missing")
    assert "TURNOUT_TEST_KEY" in body["error"]["message"]


def test_replicas_share_the_requests_and_a_dead_one_gets_none(
    edge: Any, upstreams: dict[str, Any], port: Callable[[], int]
) -> None:
    """Rendered by hand until an endpoint of environment.yaml may have replicas."""
    from controller.kinds.gateway import haproxy
    from controller.kinds.gateway.spec import HaproxyTarget

    urls = [f"http://127.0.0.1:{each.port}/api" for each in upstreams.values()] + [f"http://127.0.0.1:{port()}/api"]
    endpoint = {"url": urls[0], "replicas": urls, "strategy": "round_robin", "timeout_s": 30.0}
    variant = {"name": "stable", "model": "docs", "version": "v1", "endpoint": "pool", "weight": 100.0}
    table = {"routes": {"docs": {"variants": [variant]}}, "endpoints": {"pool": endpoint}}
    target = HaproxyTarget.model_validate(edge.target)
    made = haproxy.render(target, table, {}, str(edge.folder / "run.sock"))
    assert made.conditions == ()
    edge.by_hand = True
    (edge.folder / "turnout.cfg").write_text(made.config)
    (edge.folder / "turnout.routes").write_text(haproxy.map_text(made.routes))
    edge.start()
    answers = [edge.ask() for _ in range(12)]
    assert {status for status, _, _ in answers} == {200}, "a server that refuses connections is tried elsewhere"
    assert {body["who"] for _, _, body in answers} == {"old", "new"}
    assert {body["headers"]["host"] for _, _, body in answers} == {f"127.0.0.1:{each.port}" for each in upstreams.values()}
    assert {body["path"] for _, _, body in answers} == {"/api/chat/completions"}
    running = edge.door.running("edge", "turnout.routes")
    assert digest([each for each in running.servers if each.startswith("turnout-")]) == made.state["servers"]


def test_a_vendor_whose_certificate_is_not_signed_is_not_talked_to(
    tmp_path: Path, an_upstream: Callable[..., Any], an_edge: Callable[..., Any]
) -> None:
    for name in ("good", "bad"):
        words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.pem -days 2"
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        subprocess.run(["openssl", *words.split(), *subject], cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "good.pem", tmp_path / "good.key")
    vendor = an_upstream("vendor", context)
    edge = an_edge({"old": {"url": f"https://localhost:{vendor.port}/v1"}}, caFile=str(tmp_path / "good.pem"))
    edge.start()
    assert edge.ask()[2]["who"] == "vendor"
    edge.target["caFile"] = str(tmp_path / "bad.pem")
    edge.step()
    status, _, body = edge.ask()
    assert (status, body["error"]["code"]) == (503, "endpoint_503")


# -- changes ---------------------------------------------------------------------------------------------------------


def test_no_open_stream_is_cut_by_weights_or_by_a_reload(edge: Any, upstreams: dict[str, Any]) -> None:
    edge.canary(100)
    edge.start()
    worker = edge.worker()
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)
    connection.request("POST", "/agents/docs/v1/stream", b"{}")
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: new 0")
    edge.canary(0, 1)
    edge.step()
    assert edge.ask()[2]["who"] == "old", "weight 0 moves all at once"
    assert edge.worker() == worker
    edge.endpoints["third"] = {"url": "http://127.0.0.1:9/v1"}
    edge.step()
    assert edge.worker() != worker, "a new endpoint is structure"
    upstreams["new"].finish.set()
    rest = answer.read()
    connection.close()
    assert rest.endswith(b"data: new end\n\n")


def test_reloads_lose_no_request(edge: Any) -> None:
    edge.canary(50)
    edge.start()
    stop, faults, done = threading.Event(), list[str](), list[int]()

    def load() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
        while not stop.is_set():
            try:
                connection.request("POST", "/agents/docs/v1/chat/completions", b"{}")
                answer = connection.getresponse()
                answer.read()
                done.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                faults.append(repr(error))
        connection.close()

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(6):
        edge.endpoints[f"more{number}"] = {"url": "http://127.0.0.1:9/v1"}
        edge.canary(50, number + 1)
        edge.step()
        assert edge.step().is_noop
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert set(done) == {200}
    assert len(done) > 20


def test_a_restart_alone_serves_the_same(edge: Any) -> None:
    edge.start()
    edge.canary(30)
    edge.step()
    was = edge.door.running("edge", "turnout.routes")
    edge.stop()
    edge.start()
    assert edge.door.running("edge", "turnout.routes") == was
    assert edge.step().is_noop


def test_thousands_of_agents_go_in_one_step(edge: Any) -> None:
    for number in range(3000):
        edge.states[Address(f"ModelBinding/agent_{number}")] = {**STABLE, "fallbacks": []}
    edge.start()
    edge.canary(10)
    edge.step()
    assert len(edge.door.running("edge", "turnout.routes").routes) == 3001
    assert edge.step().is_noop


def test_a_process_that_does_not_run_is_blind_and_gets_its_files(edge: Any) -> None:
    edge.start()
    assert edge.step().is_noop
    edge.stop()
    change = edge.planned()
    assert change.is_noop
    assert [wait.code for wait in change.conditions] == ["Blind"]
    edge.canary(30)
    with pytest.raises(Temporary, match="is it running"):
        edge.step()
    edge.start()
    edge.step()
    assert edge.step().is_noop
    assert edge.door.running("edge", "turnout.routes").routes["docs"].split("|")[1] == "docs-v2/0-ab12"


# -- drift -----------------------------------------------------------------------------------------------------------


def test_what_somebody_else_changes_is_seen_and_put_back(edge: Any) -> None:
    edge.canary(20)
    edge.start()
    assert edge.step().is_noop
    right = edge.door.running("edge", "turnout.routes").routes["docs"]
    for command in (
        f"set map turnout.routes docs {right.replace('|858993459!', '|4294967296!')}",
        "del map turnout.routes docs",
        "set server turnout-old/r1 addr 127.0.0.9 port 9",
    ):
        edge.door.ask("edge", command)
        change = edge.step()
        assert "drift: haproxy edge" in change.reason, command
        assert edge.door.running("edge", "turnout.routes").routes == {"docs": right}
        assert edge.step().is_noop
    assert edge.ask(X_Turnout_Variant="stable")[2]["who"] == "old"


def test_a_file_that_somebody_edits_is_written_again_with_a_backup(edge: Any) -> None:
    edge.start()
    edge.step()
    path = edge.folder / "turnout.cfg"
    right = path.read_text()
    path.write_text("global\n  # mine\n")
    assert "drift" in edge.step().reason
    assert path.read_text() == right
    assert Path(edge.outcome.notes[f"backup of {path}"]).read_text() == "global\n  # mine\n"
    (edge.folder / "turnout.routes").write_text("")
    assert "drift" in edge.step().reason
    assert edge.step().is_noop


def test_nothing_is_written_over_what_was_not_planned_against(edge: Any) -> None:
    edge.canary(20)
    edge.start()
    edge.step()
    edge.canary(50, 1)
    change = edge.planned()
    edge.door.put_routes("edge", "turnout.routes", {"docs": "salt||0!old!stable!v9!docs"}, {})
    with pytest.raises(Temporary, match="planned again"):
        edge.provider.apply(change, lambda text: None)
    assert edge.door.running("edge", "turnout.routes").routes == {"docs": "salt||0!old!stable!v9!docs"}


def test_a_configuration_that_is_refused_changes_nothing(edge: Any) -> None:
    edge.start()
    edge.step()
    before = (edge.folder / "turnout.cfg").read_text()
    edge.target["caFile"] = str(edge.folder / "nothing.pem")
    edge.endpoints["old"]["url"] = "https://localhost:9/v1"
    with pytest.raises(Permanent, match=r"refuses the configuration.*nothing\.pem"):
        edge.step()
    assert (edge.folder / "turnout.cfg").read_text() == before
    assert edge.ask()[0] == 200


def test_a_way_back_does_not_wait_for_a_configuration_that_is_refused(edge: Any) -> None:
    edge.canary(100)
    edge.start()
    edge.target["caFile"] = str(edge.folder / "nothing.pem")
    edge.endpoints["third"] = {"url": "https://localhost:9/v1"}
    edge.canary(0, 1)
    with pytest.raises(Permanent, match="refuses the configuration"):
        edge.step()
    assert edge.ask()[2]["who"] == "old"
    edge.stop()
    edge.start()
    assert edge.ask()[2]["who"] == "old", "after a restart too"


def test_a_file_of_somebody_else_is_taken_over_with_a_backup(edge: Any) -> None:
    theirs = f"global\n  stats socket {edge.folder}/run.sock level admin\ndefaults\n  mode http\n"
    theirs += "  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n"
    (edge.folder / "turnout.cfg").write_text(theirs)
    edge.by_hand = True
    edge.start()
    assert edge.step().action == "create"
    assert Path(edge.outcome.notes[f"backup of {edge.folder}/turnout.cfg"]).read_text() == theirs
    assert edge.ask()[2]["who"] == "old"
    assert edge.step().is_noop


def test_a_reload_that_is_not_taken_leaves_the_old_file_for_a_restart(edge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "RELOAD_SECONDS", 1.0)
    edge.start()
    edge.step()
    before = (edge.folder / "turnout.cfg").read_text()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        edge.target["bind"] = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(Temporary, match="did not take its new configuration"):
            edge.step()
        for _ in range(1500):  # HAProxy tries for some seconds, and its old worker pauses meanwhile
            if "Loading failure" in (edge.folder / "haproxy.log").read_text():
                break
            time.sleep(0.02)
    assert (edge.folder / "turnout.cfg").read_text() == before
    for _ in range(500):
        with contextlib.suppress(OSError):
            assert edge.ask()[0] == 200
            break
        time.sleep(0.02)
    else:
        raise AssertionError((edge.folder / "haproxy.log").read_text())
    monkeypatch.undo()
    edge.target["bind"] = f"127.0.0.1:{edge.port}"
    edge.endpoints["old"]["timeout"] = 60
    edge.step()
    assert edge.step().is_noop, "it takes the next one"


# -- figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_told_as_a_proxy_tells_them(edge: Any) -> None:
    edge.canary(50)
    edge.start()
    edge.step()
    for status in ("200", "200", "500", "404", "429"):
        edge.ask(X_Turnout_Variant="candidate", X_Wanted_Status=status)
    edge.ask(X_Turnout_Variant="stable")
    found = edge.door.stats("edge")
    told = signals({"binding": "docs", "step_id": "docs-v2/0-ab12", "stable": STABLE}, [found])
    candidate = told["variants"]["candidate"]
    assert (candidate["requests"], candidate["errors"]) == (5, 2)
    assert told["variants"]["stable"]["requests"] == 1
    assert candidate["p95"] is None, "HAProxy knows no latency that compares"
    assert candidate["costPerRequest"] is None
    assert told["seconds"] is not None
    assert told["tripped"] is None
    edge.endpoints["third"] = {"url": "http://127.0.0.1:9/v1"}
    worker = edge.worker()
    edge.step()
    assert edge.worker() != worker
    edge.ask(X_Turnout_Variant="candidate")
    again = edge.door.stats("edge")
    told = signals({"binding": "docs", "step_id": "docs-v2/0-ab12", "stable": STABLE}, [again])
    assert (told["variants"]["candidate"]["requests"], told["variants"]["candidate"]["errors"]) == (6, 2), "handed over"


def test_a_steps_time_begins_when_it_comes_into_service(edge: Any) -> None:
    edge.canary(50)
    edge.start()
    edge.canary(50, 1)
    edge.step()
    later = door_module.Haproxies(edge.settings(), clock=lambda: time.time() + 3600)
    agent = later.stats("edge")["agents"]["docs"]
    assert agent["step"] == "docs-v2/1-ab12"
    assert 3599 < agent["step_seconds"] < 3700
    assert agent["steps"] == {}


def test_what_haproxy_cannot_do_is_said(edge: Any) -> None:
    edge.canary(20)
    assert edge.rollout is not None
    edge.rollout["guard"] = {"errorRate": 50.0, "minimum": 20}
    edge.rollout["candidate"] = {**CANDIDATE, "model": "acme/docs-2", "endpoint": "third"}
    edge.endpoints["third"] = {"url": "http://127.0.0.1:9/v1"}
    edge.start()
    change = edge.planned()
    assert isinstance(edge.observed, Observed)
    said = {wait.on: wait.reason for wait in change.conditions}
    assert {wait.on: wait.code for wait in change.conditions} == {
        "haproxy edge docs candidate": "Unserved",
        "haproxy edge guard": "Unsupported",
    }
    assert "body is not rewritten" in said["haproxy edge docs candidate"]
    edge.step()
    assert edge.ask()[2]["who"] == "old"
    assert edge.door.stats("edge")["agents"]["docs"]["step"] == "", "a step that is not served whole is not reported as served"


def test_a_signal_reloads_where_there_is_no_master_socket(edge: Any) -> None:
    edge.target["reload"] = {"signal": {"pidFile": "haproxy.pid", "signal": "USR2"}}
    edge.start()
    (edge.folder / "haproxy.pid").write_text(str(edge.process.pid))
    worker = edge.worker()
    edge.endpoints["third"] = {"url": "http://127.0.0.1:9/v1"}
    edge.step()
    assert edge.worker() != worker
    assert edge.step().is_noop


def test_the_file_stands_beside_one_of_your_own(edge: Any, haproxy: str) -> None:
    edge.start()
    own = edge.folder / "own.cfg"
    own.write_text("global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n")
    own.write_text(own.read_text() + f"frontend mine\n  bind unix@{edge.folder}/mine.sock\n  default_backend mine\nbackend mine\n")
    done = subprocess.run([haproxy, "-c", "-f", own, "-f", edge.target["config"]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_page_work(tmp_path: Path, upstreams: dict[str, Any], port: Callable[[], int], haproxy: str) -> None:
    """Its file, its line for environment.yaml and its commands, with other paths and ports."""
    page = (ROOT / "docs" / "kinds" / "gateway.md").read_text().partition("### HAProxy\n")[2].partition("\n### ")[0]
    here = {"/etc/haproxy": f"{tmp_path}/etc", "/run/haproxy": f"{tmp_path}/run", "5810": str(port())}
    for there, other in here.items():
        page = page.replace(there, other)
    repository = tmp_path / "state-repository"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{Path(haproxy).parent}:{os.environ['PATH']}"}
    environment |= {f"GIT_{who}_{what}": "someone@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def shell(line: str) -> subprocess.CompletedProcess[str]:
        turnout = f"{shlex.quote(sys.executable)} -m controller"
        line = re.sub(r"^(until )?turnout ", rf"\1{turnout} ", line)
        return subprocess.run(["bash", "-c", line], cwd=repository, env=environment, capture_output=True, text=True, timeout=60)

    for folder in (
        repository / "state/gateways",
        repository / "state/bindings",
        repository / "environments/local",
        tmp_path / "etc",
    ):
        folder.mkdir(parents=True)
    where = next(text for text in re.findall(r"`(haproxies: .*)`", page))
    settings = (
        f"  writeBack: direct\n  {where}\n  endpoints: {{openrouter: {{url: 'http://127.0.0.1:{upstreams['old'].port}/v1'}}}}\n"
    )
    head = "apiVersion: turnout/v1\nkind: Environment\nmetadata: {name: local}\nspec:\n  branch: main\n"
    (repository / "environments/local/environment.yaml").write_text(head + settings)
    (repository / "state/gateways/main.yaml").write_text(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    binding = "kind: ModelBinding\nmetadata: {name: docs}\nspec: {model: acme/docs, endpoint: openrouter, version: v1}\n"
    (repository / "state/bindings/docs.yaml").write_text(f"apiVersion: turnout/v1\n{binding}")
    assert shell("git init -q -b main . && git add -A && git commit -q -m 'A gateway of its own'").returncode == 0
    lines = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[0].splitlines()
    try:
        for line in lines:
            if not line.startswith(("apt-get", "curl")):
                done = shell(line)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        (url, session, body) = re.search(r"(http://\S+) -H '(.*?)' -d '(.*?)'", lines[-1]).groups()  # type: ignore[union-attr]
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=10)
        connection.request("POST", "/" + url.split("/", 3)[3], body, dict([session.split(": ")]))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("x-turnout-model")) == (200, "acme/docs")
        answer.read()
        connection.close()
    finally:
        pids = tmp_path / "run" / "turnout.pid"
        for pid in pids.read_text().split() if pids.exists() else ():
            os.kill(int(pid), signal.SIGTERM)
