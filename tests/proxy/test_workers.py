"""Several workers behind one port are one proxy: one table, one set of limits, one account; and they come and go."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from controller.testing.fleet import Fleet
from controller.testing.load import Load
from controller.testing.load_answer import Asked

FORCED = {"X-Turnout-Variant": "candidate"}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", 2, models=["m"]) as fleet:
        yield fleet


def one(fleet: Fleet, **more: Any) -> dict[str, Any]:
    return {"one": {"replicas": fleet.urls, **more}}


def plain(proxy: Any, model: str = "m", **more: Any) -> dict[str, Any]:
    return {"dev": {"variants": [proxy.variant("stable", model, 100)], **more}}


def fresh(number: int, prefix: str, **more: Any) -> Iterator[Asked]:
    return (Asked(f"{prefix}-{i}", fresh=True, stream=i % 3 == 0, **more) for i in range(number))


class Client:
    """A connection that is kept, and so stays with one worker; `worker` is when that worker was started."""

    def __init__(self, proxy: Any) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        self.worker = self.json("/stats")["started_at"]

    def ask(self, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
        self._connection.request(method, path, None if content is None else json.dumps(content), headers or {})
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def json(self, path: str) -> Any:
        return json.loads(self.ask("GET", path)[2])

    def chat(self, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
        body = {"model": "dev", "messages": [{"role": "user", "content": "Hello"}]}
        return self.ask("POST", "/v1/chat/completions", body, headers)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def clients_of() -> Iterator[Callable[[Any, int], list[Client]]]:
    """One client a worker."""
    made: list[Client] = []

    def clients(proxy: Any, workers: int) -> list[Client]:
        found: dict[float, Client] = {}

        def all_of_them() -> bool:
            client = Client(proxy)
            made.append(client)
            found.setdefault(client.worker, client)
            return len(found) == workers

        proxy.until(all_of_them)
        return list(found.values())

    yield clients
    for client in made:
        client.close()


def worker_pids(proxy: Any) -> dict[int, int]:
    """The processes of the workers, by their number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode().split("\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if "--worker" in words and parent == proxy.process.child.pid:
                    found[int(words[words.index("--worker") + 1])] = int(entry.name)
    return found


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# one port, one table, one sum


def test_the_port_is_shared_and_the_sum_is_what_clients_saw(start_proxy: Any, fleet: Fleet, clients_of: Any) -> None:
    proxy = start_proxy("--workers", "2")
    proxy.put({**plain(proxy), "other": plain(proxy)["dev"]}, one(fleet))
    fleet.behave(0, {"m": {"status": 500, "error_rate": 0.1}})
    with Load(proxy.port, fresh(400, "sum"), clients=8) as load:
        pass
    kinds = Counter(got.kind for got in load.done)
    whole = [got for got in load.done if got.kind == "whole"]
    assert kinds.keys() == {"whole", "error"}
    clients = clients_of(proxy, 2)
    for client in clients:  # every worker tells the sum
        shown = client.json("/stats")["agents"]
        cell = shown["dev"]["steps"][""]["stable"]
        assert (cell["requests"], cell["errors"]) == (400, kinds["error"])
        assert sum(cell["latency"].values()) == kinds["whole"]
        assert cell["input_tokens"] == sum(got.asked.input_tokens for got in whole)
        assert cell["output_tokens"] == sum(got.asked.tokens for got in whole)
        assert shown["other"]["steps"] == {}
    proxy.process.stop()
    shares = [json.loads((proxy.data / name).read_bytes())["agents"]["dev"] for name in ("stats.json", "stats-1.json")]
    counts = [share["steps"][""]["stable"]["requests"] for share in shares]
    assert sum(counts) == 400
    assert min(counts) > 40  # the kernel spreads connections by their hash


def test_the_replicas_that_stats_shows_are_those_of_all_workers(start_proxy: Any, fleet: Fleet) -> None:
    """What the dashboards and the controller read must not depend on which worker happens to answer."""
    proxy = start_proxy("--workers", "2")
    proxy.put(plain(proxy), one(fleet))
    with Load(proxy.port, fresh(200, "replicas"), clients=8) as load:
        pass
    assert {got.kind for got in load.done} == {"whole"}
    for _ in range(20):
        replicas = proxy.stats()["endpoints"]["one"]["replicas"]
        assert sum(replica["answered"] for replica in replicas) == 200
        assert sum(replica["sent"] for replica in replicas) == 200


def test_the_counters_of_metrics_never_go_back(start_proxy: Any, fleet: Fleet) -> None:
    """Prometheus takes a counter that falls for a restart, and adds all that it counted once more."""
    proxy = start_proxy("--workers", "2")
    proxy.put(plain(proxy), one(fleet))
    with Load(proxy.port, fresh(200, "metrics"), clients=8):
        pass
    pages = [proxy.request("GET", "/metrics")[2].decode() for _ in range(20)]
    found = [re.findall(r'^turnout_requests_total{agent="dev".*} (\d+)$', page, re.M) for page in pages]
    assert {sum(map(int, numbers)) for numbers in found} == {200}


def test_a_table_is_in_every_worker_before_it_is_acknowledged(start_proxy: Any, fleet: Fleet) -> None:
    proxy = start_proxy("--workers", "3")
    for number in range(20):
        proxy.put(plain(proxy, f"m{number}"), one(fleet))
        assert {proxy.json("/healthz")["digest"] for _ in range(12)} == {proxy.digest}
        assert {proxy.chat()[1]["x-turnout-model"] for _ in range(6)} == {f"m{number}"}


def test_of_two_writers_exactly_one_wins(start_proxy: Any, fleet: Fleet, clients_of: Any) -> None:
    proxy = start_proxy("--workers", "2")
    proxy.put(plain(proxy), one(fleet))
    for _ in range(15):
        tables = [{**proxy.table(plain(proxy, name), one(fleet)), "digest": f"{name}{proxy.serial}"} for name in ("ours", "theirs")]
        answers: dict[str, int] = {}
        together = threading.Barrier(2)

        def put(client: Client, table: Any, together: threading.Barrier = together, answers: dict[str, int] = answers) -> None:
            together.wait()
            answers[table["digest"]] = client.ask("PUT", "/-/routes", table, {"Authorization": f"Bearer {proxy.token}"})[0]

        writers = [
            threading.Thread(target=put, args=(client, table))
            for client, table in zip(clients_of(proxy, 2), tables, strict=True)  # each at another worker
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert sorted(answers.values()) == [200, 409], answers
        (winner,) = [table for table in tables if answers[table["digest"]] == 200]
        proxy.serial, proxy.digest = winner["serial"], winner["digest"]
        assert {proxy.json("/healthz")["digest"] for _ in range(8)} == {winner["digest"]}
        assert json.loads((proxy.data / "routes.json").read_bytes()) == winner


def test_a_worker_that_hangs_is_told_to_the_writer_and_catches_up(start_proxy: Any, fleet: Fleet, clients_of: Any) -> None:
    proxy = start_proxy("--workers", "2")
    proxy.put(plain(proxy), one(fleet))
    clients_of(proxy, 2)
    pid = worker_pids(proxy)[1]
    table = proxy.table(plain(proxy, "new"), one(fleet))
    os.kill(pid, signal.SIGSTOP)
    try:
        while True:  # until the worker that is well got it
            with suppress(TimeoutError):
                connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
                connection.request("PUT", "/-/routes", json.dumps(table), {"Authorization": f"Bearer {proxy.token}"})
                answer = connection.getresponse()
                status, said = answer.status, json.loads(answer.read())
                break
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (status, said["error"]["code"]) == (503, "not_everywhere")
    assert "worker 1" in said["error"]["message"]
    assert proxy.admin("PUT", table)[0] == 200
    assert {proxy.json("/healthz")["digest"] for _ in range(12)} == {table["digest"]}


# limits


@pytest.mark.parametrize(
    ("limits", "price", "status"),
    [
        ({"requests_per_minute": 100}, None, 429),
        ({"tokens_per_minute": 100 * 16}, None, 429),  # four for the prompt, twelve for the answer
        ({"budget_usd": 0.1}, {"input": 0.0, "output": 1000.0 / 12}, 402),  # 0.001 USD a request
    ],
)
def test_a_limit_holds_over_all_workers(
    start_proxy: Any, fleet: Fleet, clients_of: Any, limits: Any, price: Any, status: int
) -> None:
    """One worker lets in about what is allowed; the other, once it has heard of that, lets in next to nothing."""
    proxy = start_proxy("--workers", "2")
    variant = proxy.variant("stable", "m", 100, **({"price": price} if price else {}))
    proxy.put({"dev": {"variants": [variant], "limits": limits}}, one(fleet))
    first, second = clients_of(proxy, 2)

    def admitted(client: Client, pause_s: float) -> int:
        """How many in a row, until one is refused."""
        for number in range(500):
            found, _, body = client.chat()
            if found != 200:
                assert (found, json.loads(body)["error"]["code"][:4]) == (status, {429: "rate", 402: "budg"}[status])
                return number
            time.sleep(pause_s)
        raise AssertionError("nothing was refused")

    before = admitted(first, 0.0)
    assert 95 <= before <= 110  # a minute that ends meanwhile makes room for a few
    assert admitted(second, 0.05) < 60  # what comes in until it has heard; by itself it would let in as many again
    assert first.chat()[0] == status or limits.keys() != {"budget_usd"}


def guarded(proxy: Any, minimum: int) -> dict[str, Any]:
    variants = [proxy.variant("stable", "m", 50), proxy.variant("candidate", "bad", 50)]
    return {"dev": {"variants": variants, "step": "s1", "salt": "x", "guard": {"error_rate": 0.5, "minimum": minimum}}}


def test_a_guard_trips_by_the_sum_and_in_every_worker(start_proxy: Any, fleet: Fleet, clients_of: Any) -> None:
    """Each worker alone never sees as many requests as the guard needs."""
    proxy = start_proxy("--workers", "2")
    for i in range(2):
        fleet.behave(i, {"bad": {"status": 500}})
    proxy.put(guarded(proxy, 40), one(fleet))
    clients = clients_of(proxy, 2)
    sent = {client.worker: 0 for client in clients}

    def tripped(client: Client) -> bool:
        sent[client.worker] += 1
        return client.chat(FORCED)[1]["x-turnout-variant"] == "stable"

    for client in clients:
        assert not any(tripped(client) for _ in range(20))
    for client in clients:
        while not tripped(client):
            assert sent[client.worker] < 39  # alone it would trip with the next one
            time.sleep(0.5)
    shown = [client.json("/stats")["agents"]["dev"]["tripped"] for client in clients]
    assert shown[0] == shown[1]
    assert (shown[0]["step"], shown[0]["errors"]) == ("s1", shown[0]["requests"])
    assert shown[0]["requests"] >= 40
    for client in clients:
        assert client.chat()[0] == 200


# workers come and go


def test_a_worker_that_dies_is_started_again(start_proxy: Any, fleet: Fleet, clients_of: Any) -> None:
    proxy = start_proxy("--workers", "2")
    proxy.put(plain(proxy), one(fleet))
    with Load(proxy.port, fresh(100, "before"), clients=4) as load:
        pass
    clients_of(proxy, 2)
    kept = proxy.data / "stats-1.json"
    proxy.until(lambda: counted(proxy.data / "stats.json") + counted(kept) == 100)
    pid = worker_pids(proxy)[1]
    os.kill(pid, signal.SIGKILL)
    proxy.until(lambda: worker_pids(proxy).get(1, pid) != pid)
    clients_of(proxy, 2)
    assert {proxy.json("/healthz")["digest"] for _ in range(12)} == {proxy.digest}
    with Load(proxy.port, fresh(100, "after"), clients=4) as load:
        pass
    assert {got.kind for got in load.done} == {"whole"}
    for client in clients_of(proxy, 2):
        assert client.json("/stats")["agents"]["dev"]["steps"][""]["stable"]["requests"] == 200
    assert "worker 1 ended (-9), it is started again" in proxy.errors.read_text()


def counted(path: Path) -> int:
    """Requests in a file of figures."""
    with suppress(OSError, KeyError):
        return int(json.loads(path.read_bytes())["agents"]["dev"]["steps"][""]["stable"]["requests"])
    return 0


def test_stopping_drains_every_worker(start_proxy: Any, fleet: Fleet) -> None:
    proxy = start_proxy("--workers", "2")
    for i in range(2):
        fleet.behave(i, {"m": {"token_ms": 100}})
    proxy.put(plain(proxy), one(fleet))
    asked = [Asked(f"drain-{i}", stream=i % 2 == 0, fresh=True) for i in range(16)]
    with Load(proxy.port, asked, clients=16) as load:
        proxy.until(lambda: sum(line["event"] == "received" for i in range(2) for line in fleet.journal(i)) == 16)
        pids = worker_pids(proxy)
        assert proxy.process.stop() == 0
    assert [f"{got}" for got in load.done if got.kind != "whole"] == []
    assert not any(alive(pid) for pid in pids.values())
    assert counted(proxy.data / "stats.json") + counted(proxy.data / "stats-1.json") == 16


def test_workers_do_not_outlive_their_supervisor(start_proxy: Any, fleet: Fleet) -> None:
    proxy = start_proxy("--workers", "2")
    proxy.put(plain(proxy), one(fleet))
    pids = worker_pids(proxy)
    assert sorted(pids) == [0, 1]
    assert proxy.chat()[0] == 200
    proxy.process.stop(signal.SIGKILL)
    try:
        proxy.until(lambda: not any(alive(pid) for pid in pids.values()))
    finally:
        for pid in pids.values():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
    assert counted(proxy.data / "stats.json") + counted(proxy.data / "stats-1.json") == 1  # and what they had counted is kept


def test_fewer_workers_keep_all_figures(start_proxy: Any, fleet: Fleet) -> None:
    proxy = start_proxy("--workers", "4")
    price = {"input": 0.0, "output": 1000.0 / 12}
    routes = {"dev": {"variants": [proxy.variant("stable", "m", 100, price=price)], "limits": {"budget_usd": 0.5}}}
    proxy.put(routes, one(fleet))
    with Load(proxy.port, fresh(400, "four", tokens=12), clients=8) as load:
        pass
    assert {got.kind for got in load.done} == {"whole"}
    proxy.process.stop()
    assert sum(counted(path) > 0 for path in proxy.data.glob("stats*.json")) == 4
    for number in (3, 1, 1):
        proxy._arguments = ("--workers", str(number))
        proxy.start()
        assert proxy.cell("dev")["requests"] == 400
        assert proxy.cell("dev")["cost_usd"] == pytest.approx(0.4)
        proxy.process.stop()
    assert not list(proxy.data.glob("stats-*.json"))
    proxy.start()
    assert Counter(proxy.chat()[0] for _ in range(110)) == {200: 100, 402: 10}  # 0.4 of 0.5 USD had been spent before


def test_figures_that_are_taken_over_survive_a_kill_at_once(start_proxy: Any, fleet: Fleet) -> None:
    proxy = start_proxy("--workers", "4")
    proxy.put(plain(proxy), one(fleet))
    with Load(proxy.port, fresh(200, "four"), clients=8):
        pass
    proxy.process.stop()
    proxy._arguments = ()
    for _ in range(2):
        proxy.start()
        proxy.process.stop(signal.SIGKILL)
    proxy.start()
    assert proxy.cell("dev")["requests"] == 200


def test_workers_start_with_the_last_good_table_where_their_file_is_broken(fleet: Fleet, tmp_path: Path) -> None:
    path, data = tmp_path / "proxy.yaml", tmp_path / "data"
    command = [
        sys.executable,
        "-m",
        "controller.proxy",
        "--port",
        "0",
        "--data",
        str(data),
        "--config",
        str(path),
        "--workers",
        "2",
    ]
    for content in (json.dumps({"endpoints": one(fleet), "agents": {"dev": {"model": "m", "endpoint": "one"}}}), "agents: ["):
        path.write_text(content)
        with (tmp_path / "stderr").open("a") as errors:
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert child.stdout is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda lines=child.stdout, said=said: said.append(lines.readline()), daemon=True)
        reader.start()
        reader.join(20)
        try:
            assert said, "it never said that it listens"
            assert said[0].startswith("proxy listening")
        finally:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()  # its workers follow
                child.wait()
                raise
            finally:
                child.stdout.close()
