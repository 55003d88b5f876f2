"""A thousand route tables under load: nothing is lost, doubled or mixed; and what a proxy that was killed serves next.

Every answer says which table it was made by: table n gives its variants the version `tn` and the model `mn`. So a request
whose version, model, endpoint and replica do not belong to one table was torn between two.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from controller.testing.fleet import Fleet
from controller.testing.load import Load
from controller.testing.load_answer import Asked, Got

RELOADS = int(os.environ.get("TURNOUT_RELOADS", "1000"))
ENDPOINTS = ("one", "two")


def work(prefix: str) -> Iterator[Asked]:
    """For ever: quick ones and slow streams that see many tables go by."""
    drawn = random.Random(prefix)
    for i in count():
        asked = {"id": f"{prefix}-{i}", "tokens": drawn.randint(6, 12), "words": drawn.randint(1, 30)}
        session = (("X-Session-ID", f"s{drawn.randrange(500)}"),)
        if i % 10 == 0:
            yield Asked(**asked, agent="slow", stream=True, headers=session)
        else:
            yield Asked(**asked, stream=i % 3 == 0, headers=session)


class Tables:
    """Numbered tables: two endpoints that change places, weights that move, endpoints that go and come back."""

    def __init__(self, proxy: Any, fleet: Fleet) -> None:
        self.urls = dict(zip(ENDPOINTS, fleet.urls, strict=True))
        self.replicas = dict(zip(ENDPOINTS, fleet.names, strict=True))
        self._proxy = proxy
        self._drawn = random.Random(7)
        self.begun_ns: dict[int, int] = {}
        self.served_ns: dict[int, int] = {}  # since when nobody may get an older one

    def made(self, number: int) -> tuple[Any, Any]:
        here, there = ENDPOINTS if number % 2 else ENDPOINTS[::-1]
        weight = 0 if number % 3 == 0 else self._drawn.choice((1, 20, 50, 99, 100))

        def route(model: str) -> Any:
            both = [self._proxy.variant("stable", model, 100 - weight, here)]
            both += [self._proxy.variant("candidate", model, weight, there)] if weight else []
            return {"variants": [{**each, "version": f"t{number}"} for each in both], "salt": "one"}

        endpoints = {name: {"url": url} for name, url in self.urls.items() if weight or name == here}
        return {"dev": route(f"m{number}"), "slow": route("slow")}, endpoints

    def wrong(self, done: list[Got]) -> list[str]:
        """Answers that no client may get."""
        found = [f"{got}" for got in done if got.kind != "whole"]
        for got in done:
            if got.kind != "whole":
                continue
            number = int(got.turnout("version")[1:])
            model = "slow" if got.asked.agent == "slow" else f"m{number}"
            first = got.turnout("variant") == "stable"
            endpoint = ENDPOINTS[(number % 2 == 1) is not first]
            if (got.turnout("model"), got.turnout("endpoint"), got.replica) != (model, endpoint, self.replicas[endpoint]):
                found.append(f"torn between tables: {got} {got.headers}")
            if number not in self.begun_ns or self.begun_ns[number] > got.ended_ns:
                found.append(f"by a table that was not there yet: {got} {got.headers}")
            if any(ns < got.began_ns for newer, ns in self.served_ns.items() if newer > number):
                found.append(f"by a table that was replaced before: {got} {got.headers}")
        return found

    def backwards(self, done: list[Got]) -> list[str]:
        """Answers by an older table than one that had answered before they were asked for."""
        found, newest, ended = [], 0, sorted((got.ended_ns, int(got.turnout("version")[1:])) for got in done)
        for got in sorted(done, key=lambda got: got.began_ns):
            while ended and ended[0][0] < got.began_ns:
                newest = max(newest, ended.pop(0)[1])
            if int(got.turnout("version")[1:]) < newest:
                found.append(f"by an older table than t{newest}: {got} {got.headers}")
        return found

    def outlived(self, done: list[Got]) -> int:
        """Streams that went on while newer tables came into service."""
        last = {number: self.served_ns.get(number + 1, 1 << 62) for number in self.begun_ns}
        return sum(got.asked.stream and last[int(got.turnout("version")[1:])] < got.ended_ns for got in done)


def same_figures(proxy: Any, fleet: Fleet, done: list[Got]) -> None:
    """Each request was asked once, answered once, counted once."""
    attempts = fleet.attempts()
    assert attempts.keys() == {got.id for got in done}
    assert [tries for tries in attempts.values() if len(tries) != 1 or tries[0].finished_ns is None] == []
    for agent in ("dev", "slow"):
        mine = [got for got in done if got.asked.agent == agent]
        cells = proxy.stats()["agents"][agent]["steps"][""]
        for variant, cell in cells.items():
            assert cell["requests"] == sum(got.turnout("variant") == variant for got in mine)
        assert sum(cell["errors"] + cell["retries"] for cell in cells.values()) == 0
        assert sum(cell["input_tokens"] for cell in cells.values()) == sum(got.asked.input_tokens for got in mine)
        assert sum(cell["output_tokens"] for cell in cells.values()) == sum(got.asked.tokens for got in mine)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", 2, models=["slow"]) as fleet:
        for i in range(2):
            fleet.behave(i, {"slow": {"token_ms": 15}})
        yield fleet


def test_a_thousand_reloads_lose_and_double_nothing(proxy: Any, fleet: Fleet) -> None:
    tables = Tables(proxy, fleet)
    sent = [next_table(proxy, tables)]
    with Load(proxy.port, work("put"), clients=8) as load:
        while len(sent) < RELOADS:
            sent.append(next_table(proxy, tables))
            if len(sent) % 50 == 0:
                refused(proxy, sent)
        load.stop()
    assert json.loads(proxy.admin("GET")[2]) == sent[-1]
    done = load.done
    assert tables.wrong(done) == []
    assert tables.backwards(done) == []
    assert load.unasked == []
    assert tables.outlived(done) > 20
    same_figures(proxy, fleet, done)


def next_table(proxy: Any, tables: Tables) -> Any:
    table = proxy.table(*tables.made(proxy.serial + 1))
    tables.begun_ns[table["serial"]] = time.monotonic_ns()
    proxy.put(table["routes"], table["endpoints"])
    tables.served_ns[table["serial"]] = time.monotonic_ns()
    return table


def refused(proxy: Any, sent: list[Any]) -> None:
    """Tables that are older, equal or of somebody else change nothing."""
    current = {"serial": proxy.serial, "digest": proxy.digest}
    newest = sent[-1]
    for stale in (
        sent[-5],
        {**newest, "digest": "another"},  # an equal serial, made for the same predecessor
        {**newest, "digest": "another", "serial": newest["serial"] + 1, "replaces": "somebody"},
        {**newest, "digest": "another", "serial": newest["serial"] + 1, "replaces": ""},
    ):
        status, _, body = proxy.admin("PUT", stale)
        assert (status, json.loads(body)["current"]) == (409, current)


def test_a_table_that_comes_twice_does_not_come_back(proxy: Any, models: Any) -> None:
    """Digests are those of the content, so a rollback has an old one. A late copy of the table between is older all the same."""
    one, two = ({"dev": {"variants": [proxy.variant("stable", model, 100)]}} for model in ("a", "b"))
    endpoints = models.endpoints()
    first = {"serial": 1, "digest": "A", "replaces": "", "routes": one, "endpoints": endpoints}
    second = {"serial": 2, "digest": "B", "replaces": "A", "routes": two, "endpoints": endpoints}
    third = {"serial": 3, "digest": "A", "replaces": "B", "routes": one, "endpoints": endpoints}
    assert [proxy.admin("PUT", table)[0] for table in (first, second, third)] == [200] * 3
    assert proxy.admin("PUT", second)[0] == 409
    assert json.loads(proxy.admin("GET")[2]) == third
    assert proxy.admin("PUT", {**second, "serial": 3})[0] == 409
    assert proxy.chat()[1]["x-turnout-model"] == "a"
    assert proxy.admin("PUT", {**second, "serial": 4})[0] == 200


# a file that is followed


def written(path: Path, content: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(content)
    os.replace(temporary, path)


def test_a_file_replaced_a_thousand_times_loses_and_doubles_nothing(start_proxy: Any, fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "routes.json"

    def table(number: int) -> str:
        routes, endpoints = tables.made(number)
        return json.dumps({"serial": number, "digest": f"f{number}", "routes": routes, "endpoints": endpoints})

    class Named:
        """Only the names of variants; there is no proxy yet."""

        variant = staticmethod(lambda *some, **more: dict(zip(("name", "model", "weight", "endpoint"), some, strict=True)))

    tables = Tables(Named, fleet)
    tables.begun_ns[1] = time.monotonic_ns()
    written(path, table(1))
    proxy = start_proxy("--config", str(path))
    with Load(proxy.port, work("file"), clients=8) as load:
        for number in range(2, RELOADS + 1):
            if number % 300 == 0:
                broken(proxy, path)
            tables.begun_ns[number] = time.monotonic_ns()
            written(path, table(number))
            time.sleep(0.004)
        proxy.until(lambda: proxy.json("/healthz")["digest"] == f"f{RELOADS}")
        tables.served_ns[RELOADS] = time.monotonic_ns()
        load.further(100)
        load.stop()
    assert tables.wrong(load.done) == []
    assert tables.backwards(load.done) == []
    assert load.unasked == []
    followed = {int(got.turnout("version")[1:]) for got in load.done}
    assert len(followed) > 5  # it looks four times a second
    same_figures(proxy, fleet, load.done)
    assert proxy.admin("PUT", proxy.table(*tables.made(1)))[0] == 409  # the file decides alone


def broken(proxy: Any, path: Path) -> None:
    """Half a table: it is said, and what served goes on serving."""
    said = proxy.errors.read_text().count("is passed over")
    proxy.until(lambda: proxy.json("/healthz")["digest"] == json.loads(path.read_text())["digest"])
    digest = proxy.json("/healthz")["digest"]
    written(path, path.read_text()[:-40])
    proxy.until(lambda: proxy.errors.read_text().count("is passed over") > said)
    assert proxy.json("/healthz")["digest"] == digest


def test_a_broken_file_at_the_start_leaves_the_last_good_table(start_proxy: Any, models: Any, tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text(json.dumps({"endpoints": models.endpoints(), "agents": {"dev": {"model": "a", "endpoint": "one"}}}))
    proxy = start_proxy("--config", str(path))
    assert proxy.chat()[1]["x-turnout-model"] == "a"
    path.write_text("agents: [")
    proxy.process.stop()
    proxy.start()
    assert proxy.chat()[1]["x-turnout-model"] == "a"
    assert "is passed over" in proxy.errors.read_text()
    path.write_text(json.dumps({"endpoints": models.endpoints(), "agents": {"dev": {"model": "b", "endpoint": "one"}}}))
    proxy.until(lambda: proxy.chat()[1]["x-turnout-model"] == "b")


# killed

HOOK = """
import os, signal, sys

def counted(name):
    original = getattr(os, name)

    def call(*arguments, **more):
        above = sys._getframe(1).f_back
        if above is not None and above.f_code.co_filename.endswith("routefile.py") and os.path.exists(PATH):
            left = int(open(PATH).read()) - 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            with open(PATH, "w") as file:
                file.write(str(left))
        return original(*arguments, **more)

    setattr(os, name, call)

PATH = os.environ["KILL_AFTER"]
for name in ("open", "write", "fsync", "close", "replace"):
    counted(name)
"""


def test_a_proxy_killed_between_any_two_writes_serves_a_whole_table_alone(start_proxy: Any, models: Any, tmp_path: Path) -> None:
    """The hook kills it before the nth thing that it does to a file while it stores a table."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    left = tmp_path / "left"
    above = os.environ.get("PYTHONPATH", "")
    env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path / "hook"), above))), "KILL_AFTER": str(left)}
    proxy = start_proxy(env=env)
    routes = {"dev": {"variants": [proxy.variant("stable", "m0", 100)]}}
    proxy.put(routes, models.endpoints())
    killed = 0
    for number in count():
        old = json.loads(proxy.admin("GET")[2])
        routes["dev"]["variants"][0]["model"] = f"m{number + 1}"
        proxy.serial, proxy.digest = old["serial"], old["digest"]
        new = {**proxy.table(routes, models.endpoints()), "digest": f"d-{number}"}
        left.write_text(str(number))
        answered = None
        with suppress(OSError, http.client.HTTPException):
            answered = proxy.admin("PUT", new)[0]
        left.unlink()
        if answered is not None:
            break
        killed += 1
        assert proxy.process.child.wait(20) == -signal.SIGKILL
        proxy.restart()
        found = json.loads(proxy.admin("GET")[2])
        assert found in (old, new)
        assert proxy.chat()[1]["x-turnout-model"] == found["routes"]["dev"]["variants"][0]["model"]
    assert answered == 200
    assert json.loads(proxy.admin("GET")[2]) == new
    assert killed >= 12  # two files, each opened, written, made durable, closed and renamed, and its folder made durable


def test_what_was_on_disk_when_it_was_killed_is_what_it_goes_on_with(proxy: Any, fleet: Fleet) -> None:
    routes, endpoints = {"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": {"replicas": fleet.urls}}
    proxy.put(routes, endpoints)
    path = proxy.data / "stats.json"

    def kept() -> int:
        with suppress(OSError, KeyError):
            return int(json.loads(path.read_bytes())["agents"]["dev"]["steps"][""]["stable"]["requests"])
        return 0

    asked = (Asked(f"kill-{i}", stream=i % 3 == 0) for i in count())
    with Load(proxy.port, asked, clients=8) as load:
        for _ in range(3):  # it goes on being written while requests come
            seen = kept()
            proxy.until(lambda seen=seen: kept() > seen)
        on_disk = kept()
        proxy.process.stop(signal.SIGKILL)
        load.stop()
    proxy.start()
    cell = proxy.cell("dev")
    whole = [got for got in load.done if got.kind == "whole"]
    begun = [got for got in load.done if got.status]
    assert 0 < on_disk <= cell["requests"] <= len(begun)
    assert sum(cell["latency"].values()) == cell["requests"] - cell["errors"]
    assert cell["input_tokens"] <= sum(got.asked.input_tokens for got in begun)
    with Load(proxy.port, (Asked(f"again-{i}") for i in range(200)), clients=8) as again:
        pass
    assert {got.kind for got in again.done} == {"whole"}
    assert proxy.cell("dev")["requests"] == cell["requests"] + 200
    assert len(whole) > on_disk / 2
