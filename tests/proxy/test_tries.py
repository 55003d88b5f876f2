"""Small stories about single requests: who leaves, what is tried again and where, and what is never asked twice."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.testing.fleet import Fleet
from controller.testing.load import Load
from controller.testing.load_answer import Asked, Got


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", 3, models=["m"]) as fleet:
        yield fleet


def serve(proxy: Any, fleet: Fleet, **more: Any) -> None:
    """Requests of `dev` go to the model `m` at the first replicas of the fleet, in turn."""
    number = more.pop("replicas", len(fleet))
    endpoint = {"replicas": fleet.urls[:number], "strategy": "round_robin", **more}
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": endpoint})


def replicas(proxy: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = proxy.stats()["endpoints"]["one"]["replicas"]
    return found


def load(proxy: Any, *asked: Asked, clients: int = 1) -> dict[str, Got]:
    with Load(proxy.port, asked, clients=clients) as load:
        pass
    assert load.unasked == []
    return {got.id: got for got in load.done}


def odd(name: str, **more: Any) -> Asked:
    """A POST to a path that the proxy does not know: nobody knows what it does, so it is not asked twice."""
    return Asked(name, path="/v1/odd", headers=(("X-Turnout-Agent", "dev"),), **more)


# who leaves


def test_who_leaves_in_the_middle_of_a_stream_stops_the_upstream(proxy: Any, fleet: Fleet) -> None:
    for i in range(3):
        fleet.behave(i, {"m": {"fault": "hang_mid_body"}})
    serve(proxy, fleet)
    names = [f"left-{i}" for i in range(60)]
    got = load(proxy, *(Asked(name, stream=True, leave=True) for name in names), clients=6)
    assert {one.kind for one in got.values()} == {"left"}
    proxy.until(lambda: all(not one.open for tries in fleet.attempts().values() for one in tries))
    attempts = fleet.attempts()
    assert sorted(attempts) == sorted(names)
    for tries in attempts.values():
        assert [(one.cut, one.finished_ns) for one in tries] == [("the client left", None)]
    proxy.until(lambda: proxy.cell("dev")["requests"] == 60)
    assert proxy.cell("dev")["errors"] == 0  # that is nobody's error
    assert [(one["in_flight"], one["failed"], one["answered"]) for one in replicas(proxy)] == [(0, 0, 0)] * 3
    assert sum(one["sent"] for one in replicas(proxy)) == 60


def test_who_leaves_while_waiting_for_a_place_is_never_sent(proxy: Any, fleet: Fleet) -> None:
    fleet.behave(0, {"m": {"hang": True}})
    serve(proxy, fleet, replicas=1, max_in_flight=1)
    connections = []
    for i in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        connection.request("POST", "/v1/chat/completions", '{"model":"dev","messages":[]}', {"X-Request-ID": f"place-{i}"})
        connections.append(connection)
        proxy.until(lambda i=i: waiting(proxy) == (1, i))
    for connection in connections[1:4]:
        connection.close()
    proxy.until(lambda: waiting(proxy) == (1, 1))
    proxy.until(lambda: len(fleet.journal(0)) == 1)
    connections[0].close()
    proxy.until(lambda: "place-4" in fleet.attempts())
    connections[4].close()
    proxy.until(lambda: waiting(proxy) == (0, 0))
    assert fleet.attempts().keys() == {"place-0", "place-4"}
    proxy.until(lambda: proxy.cell("dev")["requests"] == 5)
    assert proxy.cell("dev")["errors"] == 0


def waiting(proxy: Any) -> tuple[int, int]:
    shown = proxy.stats()["endpoints"]["one"]
    return shown["in_flight"], shown["waiting"]


# what is tried again


@pytest.mark.parametrize("fault", ["close_before_head", "reset_before_head", "not_http", "close_mid_head", "two_lengths"])
def test_a_failure_before_the_first_byte_is_made_good_elsewhere(proxy: Any, fleet: Fleet, fault: str) -> None:
    for i in range(2):
        fleet.behave(i, {"m": {"fault": fault}})
    serve(proxy, fleet, ejection={"failures": 0})
    got = load(proxy, *(Asked(f"try-{i}", stream=i % 2 == 0) for i in range(12)))
    assert {(one.kind, one.replica) for one in got.values()} == {("whole", "replica-2")}
    assert proxy.cell("dev")["errors"] == 0
    assert proxy.cell("dev")["retries"] == sum(one["failed"] for one in replicas(proxy)) > 0


def test_every_try_goes_to_another_replica_and_then_it_is_told(proxy: Any, fleet: Fleet) -> None:
    for i in range(3):
        fleet.behave(i, {"m": {"fault": "close_before_head"}})
    serve(proxy, fleet, ejection={"failures": 0})
    got = load(proxy, Asked("all-fail"))["all-fail"]
    assert (got.kind, got.status, got.code) == ("error", 502, "endpoint_broken")
    assert sorted(one.replica for one in fleet.attempts()["all-fail"]) == fleet.names
    assert (proxy.cell("dev")["requests"], proxy.cell("dev")["errors"], proxy.cell("dev")["retries"]) == (1, 1, 2)
    assert [(one["sent"], one["failed"]) for one in replicas(proxy)] == [(1, 1)] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_tried_again_after_the_first_byte(proxy: Any, fleet: Fleet, stream: bool) -> None:
    for i in range(3):
        fleet.behave(i, {"m": {"fault": "close_mid_body"}})
    serve(proxy, fleet)
    got = load(proxy, Asked("half", stream=stream))["half"]
    assert (got.kind, got.code) == (("error_event", "endpoint_broken") if stream else ("cut", ""))
    assert len(fleet.attempts()["half"]) == 1
    assert proxy.cell("dev")["errors"] == 1


def test_what_may_do_something_is_asked_once(proxy: Any, fleet: Fleet) -> None:
    for i in range(3):
        fleet.behave(i, {"m": {"fault": "close_before_head"}})
    serve(proxy, fleet, ejection={"failures": 0})
    got = load(proxy, *(odd(f"odd-{i}", agent="m") for i in range(9)))
    assert {(one.kind, one.status, one.code) for one in got.values()} == {("error", 502, "endpoint_broken")}
    assert {len(tries) for tries in fleet.attempts().values()} == {1}


def test_what_may_do_something_is_asked_elsewhere_where_nobody_heard_it(proxy: Any, fleet: Fleet) -> None:
    fleet.kill(0)
    fleet.kill(1)
    serve(proxy, fleet, ejection={"failures": 0})
    got = load(proxy, *(odd(f"odd-{i}", agent="m") for i in range(6)))
    assert {(one.kind, one.replica) for one in got.values()} == {("whole", "replica-2")}


def test_what_may_do_something_is_no_trial_of_a_replica_that_failed(proxy: Any, fleet: Fleet) -> None:
    """Half open: the next request that a retry can save goes there; this one cannot be saved."""
    fleet.behave(0, {"m": {"fault": "close_before_head"}})
    serve(proxy, fleet, ejection={"failures": 2, "seconds": 0.05})
    assert {got.kind for got in load(proxy, *(Asked(f"first-{i}") for i in range(9))).values()} == {"whole"}
    proxy.until(lambda: replicas(proxy)[0]["health"] == "trial")
    got = load(proxy, *(odd(f"odd-{i}", agent="m") for i in range(6)))
    assert {one.kind for one in got.values()} == {"whole"}
    assert replicas(proxy)[0]["health"] == "trial"  # it waits for one that can be saved
    assert load(proxy, Asked("saved"))["saved"].kind == "whole"
    assert "replica-0" in {one.replica for one in fleet.attempts()["saved"]}


def test_one_answer_that_is_an_error_and_breaks_is_one_failure(proxy: Any, upstream: Any) -> None:
    """The wire says 500 and then breaks: the replica has failed once, not twice in a row."""
    answers = upstream([b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"])
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": answers.endpoint()})
    assert load(proxy, Asked("half-an-error"))["half-an-error"].kind == "cut"
    assert replicas(proxy)[0]["failed"] == 1


def test_retries_do_not_finish_off_who_is_left(proxy: Any, fleet: Fleet) -> None:
    """Many at once fail; only some of them may be tried again at the same time, the others are told at once."""
    for i in range(3):
        fleet.behave(i, {"m": {"latency_ms": 400, "status": 503}})
    serve(proxy, fleet, retries=2, ejection={"failures": 0})
    got = load(proxy, *(Asked(f"storm-{i}") for i in range(40)), clients=40)
    assert {(one.kind, one.status) for one in got.values()} == {("error", 503)}
    most, now = 0, 0
    events = []
    for tries in fleet.attempts().values():
        for one in tries[1:]:
            assert one.received_ns is not None
            assert one.first_byte_ns is not None
            events += [(one.received_ns, 1), (one.first_byte_ns, -1)]
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    assert 0 < most <= 15  # ten; a replica notes a first byte after it has left, when the next try may be under way
    assert proxy.cell("dev")["errors"] == 40


def test_an_answer_whose_client_does_not_read_says_nothing_about_the_replica(proxy: Any, fleet: Fleet) -> None:
    """The upstream is silent because it may not send; that is neither a failure nor an error."""
    fleet.behave(0, {"m": {"output_tokens": 100_000}})
    serve(proxy, fleet, replicas=1, timeout_s=0.3)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    try:
        body = json.dumps({"model": "dev", "messages": [], "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"X-Request-ID": "deaf"})
        proxy.until(lambda: "deaf" in fleet.attempts() and not fleet.attempts()["deaf"][0].open)
    finally:
        connection.close()
    proxy.until(lambda: proxy.cell("dev")["requests"] == 1)
    assert proxy.cell("dev")["errors"] == 0
    assert replicas(proxy)[0]["failed"] == 0
