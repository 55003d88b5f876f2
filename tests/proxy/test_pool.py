"""Who may be asked, who waits and who is out: a pool on a clock that only the test moves."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from controller.proxy import pool as module
from controller.proxy.pool import Full, Pool, Pools
from controller.proxy.replica import Replica
from controller.proxy.table import Ejection, Endpoint, Health, Queue


class Handle:
    """A timer that can be cancelled, as an event loop gives it."""

    def __init__(self, at: float, number: int, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.at, self.number, self.callback, self.arguments = at, number, callback, arguments
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True

    def __lt__(self, other: Handle) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Clock:
    """The part of an event loop that a pool uses, and its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[Handle] = []
        self._number = count()

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Handle:
        handle = Handle(self.now + delay, next(self._number), callback, arguments)
        heapq.heappush(self._timers, handle)
        return handle

    def forward(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0].at <= end:
            handle = heapq.heappop(self._timers)
            self.now = max(self.now, handle.at)
            if not handle.cancelled:
                handle.callback(*handle.arguments)
        self.now = end


class Asker:
    """Somebody who wants a replica."""

    def __init__(self, key: bytes | None = None) -> None:
        self.key = key
        self.replica: Replica | None = None
        self.in_vain = False

    def granted(self, replica: Replica) -> None:
        assert self.replica is None
        assert not self.in_vain
        self.replica = replica

    def waited_in_vain(self) -> None:
        assert self.replica is None
        self.in_vain = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    random.seed(7)
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    return clock


def urls(*names: str) -> list[str]:
    return [f"http://{name}:8000/v1" for name in names]


def endpoint(names: str = "abcd", **more: Any) -> Endpoint:
    return Endpoint(**{"replicas": urls(*names), "strategy": "round_robin", **more})


def pool(clock: Clock, names: str = "abcd", **more: Any) -> Pool:
    return Pool("one", endpoint(names, **more), clock)  # type: ignore[arg-type]


def asked(pool: Pool, key: bytes | None = None, tried: tuple[Replica, ...] = ()) -> Asker:
    asker = Asker(key)
    asker.replica = pool.take(asker, tried)
    return asker


def once(pool: Pool, *, well: bool | None, tried: tuple[Replica, ...] = ()) -> Replica:
    """One request from beginning to end; `well` None = it ended without a verdict."""
    replica = asked(pool, tried=tried).replica
    assert replica is not None
    end(pool, replica, well=well)
    return replica


def end(pool: Pool, replica: Replica, *, well: bool | None) -> None:
    if well is not None:
        (pool.succeeded if well else pool.failed)(replica)
    pool.give_back(replica)


def fail(pool: Pool, replica: Replica, times: int) -> None:
    """Requests to this very replica that fail."""
    for _ in range(times):
        replica.in_flight += 1
        pool.in_flight += 1
        end(pool, replica, well=False)


def chosen(pool: Pool, requests: int = 40) -> set[Replica]:
    return {once(pool, well=None) for _ in range(requests)}


# the queue


def test_who_came_first_is_served_first(clock: Clock) -> None:
    one = pool(clock, "ab", max_in_flight=1)
    served = [asked(one) for _ in range(2)]
    waiting = [asked(one) for _ in range(5)]
    assert [asker.replica for asker in waiting] == [None] * 5
    assert (one.waiting, one.in_flight) == (5, 2)
    for i, asker in enumerate(waiting):
        gone = served.pop(0).replica
        assert gone is not None
        one.give_back(gone)
        assert asker.replica is gone
        assert all(other.replica is None for other in waiting[i + 1 :])
        served.append(asker)
    assert (one.waiting, one.in_flight) == (0, 2)


def test_no_replica_gets_more_than_it_may(clock: Clock) -> None:
    for strategy in ("round_robin", "least_load"):
        for affinity in ("", "session"):
            one = pool(clock, "abc", max_in_flight=3, strategy=strategy, affinity=affinity)
            found = [asked(one, key=b"the same session").replica for _ in range(12)]
            assert found.count(None) == 3
            assert [replica.in_flight for replica in one.replicas] == [3, 3, 3]


def test_a_full_queue_refuses_and_a_wait_has_an_end(clock: Clock) -> None:
    one = pool(clock, "a", max_in_flight=1, queue=Queue(size=2, wait_s=5.0))
    first = asked(one)
    early = asked(one)
    clock.forward(3)
    late = asked(one)
    with pytest.raises(Full):
        asked(one)
    assert one.waiting == 2
    clock.forward(2)
    assert (early.in_vain, late.in_vain, one.waiting) == (True, False, 1)
    assert first.replica is not None
    one.give_back(first.replica)
    assert late.replica is first.replica
    clock.forward(60)
    assert not late.in_vain
    assert one.in_flight == 1


def test_a_queue_of_none_refuses_at_once(clock: Clock) -> None:
    one = pool(clock, "a", max_in_flight=1, queue=Queue(size=0))
    asked(one)
    with pytest.raises(Full):
        asked(one)


def test_who_has_left_is_passed_over(clock: Clock) -> None:
    one = pool(clock, "a", max_in_flight=1, queue=Queue(size=3, wait_s=5.0))
    first, gone, next_one = asked(one), asked(one), asked(one)
    one.forget(gone)
    one.forget(gone)
    assert one.waiting == 1
    assert first.replica is not None
    one.give_back(first.replica)
    assert (gone.replica, next_one.replica) == (None, first.replica)
    clock.forward(60)
    assert not gone.in_vain


def test_a_raised_limit_lets_in_who_waits(clock: Clock) -> None:
    one = pool(clock, "a", max_in_flight=1)
    waiting = [asked(one) for _ in range(4)][1:]
    one.update(endpoint("a", max_in_flight=3))
    assert [asker.replica is not None for asker in waiting] == [True, True, False]
    one.update(endpoint("ab", max_in_flight=3))
    assert waiting[2].replica is one.replicas[1]


def test_many_who_cannot_use_what_they_get_do_not_pile_up(clock: Clock) -> None:
    """As when the key of the endpoint is gone: each of those who wait fails in the moment in which it is its turn."""
    one = pool(clock, "a", max_in_flight=1, queue=Queue(size=5000))

    class Useless(Asker):
        def granted(self, replica: Replica) -> None:
            super().granted(replica)
            one.give_back(replica)

    first = asked(one)
    waiting = [Useless() for _ in range(3000)]
    for asker in waiting:
        assert one.take(asker, ()) is None
    assert first.replica is not None
    one.give_back(first.replica)
    assert all(asker.replica is not None for asker in waiting)
    assert (one.in_flight, one.waiting) == (0, 0)


# ejection


def test_only_failures_in_a_row_take_a_replica_out(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=3, seconds=10))
    sick = one.replicas[1]
    for _ in range(5):
        fail(one, sick, 2)
        one.succeeded(sick)
    assert chosen(one) == set(one.replicas)
    fail(one, sick, 3)
    assert sick.health == "ejected"
    assert chosen(one) == set(one.replicas) - {sick}


def test_without_ejection_nobody_is_out(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=0))
    fail(one, one.replicas[0], 100)
    assert chosen(one) == set(one.replicas)


def test_half_open_means_one_trial(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=3, seconds=10))
    sick = one.replicas[0]
    fail(one, sick, 3)
    clock.forward(9.9)
    assert sick not in chosen(one)
    clock.forward(0.2)
    assert sick.health == "trial"
    trial = asked(one).replica
    assert trial is sick
    assert sick not in chosen(one)  # until the trial has an end
    end(one, sick, well=True)
    assert sick.health == "up"
    assert sick in chosen(one)


def test_a_trial_is_nothing_for_who_has_tried_already(clock: Clock) -> None:
    """Only a request that a retry can save is risked."""
    one = pool(clock, ejection=Ejection(failures=3, seconds=10))
    sick, tried = one.replicas[0], one.replicas[1]
    fail(one, sick, 3)
    clock.forward(11)
    assert all(once(one, well=None, tried=(tried,)) not in (sick, tried) for _ in range(20))
    assert once(one, well=True) is sick


def test_a_failed_trial_doubles_the_time_up_to_a_limit(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=3, seconds=10))
    sick = one.replicas[0]
    fail(one, sick, 3)
    for seconds in (10, 20, 40, 80, 160, 300, 300, 300):
        clock.forward(seconds - 0.1)
        assert sick.health == "ejected"
        clock.forward(0.2)
        assert once(one, well=False) is sick
    clock.forward(300)
    assert once(one, well=True) is sick
    fail(one, sick, 3)
    clock.forward(10.1)
    assert sick.health == "trial"  # a success makes the next time out a short one again


def test_a_trial_that_ends_without_a_verdict_is_made_again(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=3, seconds=10))
    sick = one.replicas[0]
    fail(one, sick, 3)
    clock.forward(11)
    for _ in range(3):
        assert once(one, well=None) is sick
        assert sick.health == "trial"
    assert once(one, well=True) is sick
    assert sick.health == "up"


@pytest.mark.parametrize(("most", "out"), [(0, 0), (24, 0), (25, 1), (50, 2), (74, 2), (75, 3), (100, 4)])
def test_only_so_many_are_out_at_once(clock: Clock, most: float, out: int) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10, most=most))
    for replica in one.replicas:
        fail(one, replica, 6)
    assert sum(not replica.usable for replica in one.replicas) == out


def test_who_stood_alone_is_out_as_soon_as_there_is_room(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10, most=25))
    first, second = one.replicas[:2]
    fail(one, first, 2)
    fail(one, second, 5)
    assert (first.health, second.health) == ("ejected", "up")
    clock.forward(11)
    assert once(one, well=True) is first
    fail(one, second, 1)
    assert second.health == "ejected"


def test_where_all_are_out_all_are_asked(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10, most=100))
    for replica in one.replicas:
        fail(one, replica, 2)
    assert {once(one, well=False) for _ in range(40)} == set(one.replicas)
    back = asked(one).replica
    assert back is not None
    end(one, back, well=True)
    assert chosen(one) == {back}  # from then on a well one is preferred to those that are out


def test_without_retries_nobody_is_the_guinea_pig(clock: Clock) -> None:
    """A trial would be an error for whoever makes it; after its time the replica just works again."""
    one = pool(clock, retries=0, ejection=Ejection(failures=3, seconds=10))
    fail(one, one.replicas[0], 3)
    clock.forward(11)
    assert one.replicas[0].health == "up"
    fail(one, one.replicas[0], 2)
    assert one.replicas[0].health == "up"


def test_the_timer_of_an_ejection_that_is_over_shortens_no_later_one(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10, most=100), health=Health(path="/health", fall=1))
    sick = one.replicas[0]
    fail(one, sick, 2)
    clock.forward(4)
    one.checked(sick, well=False)
    one.checked(sick, well=True)
    assert sick.health == "up"
    clock.forward(4)
    fail(one, sick, 2)
    clock.forward(9)
    assert sick.health == "ejected"
    clock.forward(1.1)
    assert sick.health == "trial"


def test_a_late_failure_during_the_trial_time_makes_no_second_trial(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10))
    sick = one.replicas[0]
    while (late := asked(one).replica) is not sick:  # a request that goes on while the replica is thrown out
        assert late is not None
        end(one, late, well=True)
    fail(one, sick, 2)
    clock.forward(11)
    assert sick.health == "trial"
    end(one, sick, well=False)  # nobody has made the trial yet
    assert sick.health == "ejected"
    clock.forward(21)
    trials = [asked(one).replica for _ in range(8)]
    assert trials.count(sick) == 1


def test_a_trial_keeps_to_the_limit(clock: Clock) -> None:
    one = pool(clock, "ab", max_in_flight=2, ejection=Ejection(failures=2, seconds=10))
    sick = one.replicas[0]
    held = [asked(one).replica for _ in range(4)]
    assert held.count(sick) == 2
    one.failed(sick)
    one.failed(sick)
    clock.forward(11)
    assert sick.health == "trial"
    assert asked(one).replica is None
    assert sick.in_flight == 2


def test_a_trial_is_nothing_for_who_waits_with_a_try_behind_it(clock: Clock) -> None:
    one = pool(clock, "abc", max_in_flight=1, ejection=Ejection(failures=2, seconds=10))
    sick, tried, other = one.replicas
    fail(one, sick, 2)
    held = {asked(one).replica for _ in range(2)}
    assert held == {tried, other}
    waiting = Asker()
    assert one.take(waiting, (tried,)) is None
    clock.forward(11)
    end(one, other, well=True)
    assert waiting.replica is other


def test_who_waits_gets_the_trial_before_who_comes_later(clock: Clock) -> None:
    one = pool(clock, "ab", max_in_flight=1, ejection=Ejection(failures=2, seconds=10))
    sick = one.replicas[0]
    fail(one, sick, 2)
    asked(one)
    waiting = asked(one)
    clock.forward(11)
    later = asked(one)
    assert (waiting.replica, later.replica) == (sick, None)


# slow start


def test_who_comes_back_warms_up(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10), slow_start_s=20.0)
    assert all(replica.warmth(clock.now, 20) == 1 for replica in one.replicas)  # those of the first table are warm
    sick = one.replicas[0]
    fail(one, sick, 2)
    clock.forward(11)
    assert once(one, well=True) is sick
    clock.forward(10)
    assert sick.warmth(clock.now, 20) == 0.5
    one.update(endpoint("abcde", slow_start_s=20.0))
    assert one.replicas[4].warmth(clock.now + 5, 20) == 0.25


# active checks


def test_checks_take_out_and_bring_back_after_so_many_in_a_row(clock: Clock) -> None:
    one = pool(clock, health=Health(path="/health", fall=3, rise=2))
    sick = one.replicas[2]

    def checks(*results: bool) -> str:
        for well in results:
            one.checked(sick, well=well)
        return sick.health

    assert checks(False, False, True, False, False) == "up"
    assert checks(False) == "down"
    assert sick not in chosen(one)
    assert checks(False, True, False, True) == "down"
    assert checks(True) == "up"
    assert sick in chosen(one)


def test_a_check_that_is_well_ends_an_ejection(clock: Clock) -> None:
    one = pool(clock, health=Health(path="/health", fall=1), ejection=Ejection(failures=2, seconds=10))
    sick = one.replicas[0]
    fail(one, sick, 2)
    one.checked(sick, well=False)
    clock.forward(11)
    assert sick not in chosen(one)  # no trial for one that is down
    one.checked(sick, well=True)
    assert sick.health == "up"
    assert sick in chosen(one)


def test_where_all_are_down_all_are_asked_and_one_that_rises_gets_who_waits(clock: Clock) -> None:
    one = pool(clock, "ab", max_in_flight=1, health=Health(path="/health", fall=1))
    for replica in one.replicas:
        one.checked(replica, well=False)
    first = [asked(one).replica for _ in range(2)]
    assert set(first) == set(one.replicas)
    waiting = asked(one)
    end(one, one.replicas[1], well=None)
    assert waiting.replica is one.replicas[1]
    end(one, one.replicas[0], well=None)
    second = asked(one).replica
    assert second is one.replicas[0]
    late = asked(one)
    one.checked(one.replicas[1], well=True)
    end(one, one.replicas[0], well=None)
    assert late.replica is None  # the one that is well again is full, the other is still down
    end(one, one.replicas[1], well=None)
    assert late.replica is one.replicas[1]


# tables come and go


def test_a_removed_replica_finishes_what_it_has_and_gets_nothing(clock: Clock) -> None:
    one = pool(clock, "abc")
    held = [asked(one).replica for _ in range(3)]
    gone = one.replicas[1]
    closed: list[bool] = []

    class Connection:
        idle_since = 0.0

        def abort(self) -> None:
            closed.append(True)

    gone.idle.append(Connection())
    one.update(endpoint("acd"))
    assert gone.health == "draining"
    assert (closed, gone.idle) == ([True], [])
    assert gone not in chosen(one)
    assert [shown["health"] for shown in one.shown()["replicas"]] == ["up", "up", "up", "draining"]
    assert gone in held
    end(one, gone, well=False)  # what it does now is nobody's business
    assert one.leaving == set()
    assert len(one.shown()["replicas"]) == 3
    assert one.in_flight == 2


def test_a_replica_that_stays_keeps_its_state_and_its_figures(clock: Clock) -> None:
    one = pool(clock, ejection=Ejection(failures=2, seconds=10))
    sick, well = one.replicas[:2]
    fail(one, sick, 2)
    well.sent, well.first_byte_s = 7, 0.5
    one.update(endpoint("dcba", ejection=Ejection(failures=2, seconds=10), strategy="least_load"))
    assert one.replicas[3] is sick
    assert (one.replicas[2].sent, one.replicas[2].first_byte_s) == (7, 0.5)
    assert sick not in chosen(one)
    clock.forward(11)
    assert sick.health == "trial"


def test_a_replica_that_left_while_it_was_out_comes_back_in(clock: Clock) -> None:
    """It left, ejected and with a request in flight; when it is named again, its time out must still have an end."""
    rules = Ejection(failures=2, seconds=10)
    one = pool(clock, ejection=rules)
    sick = one.replicas[0]
    while asked(one).replica is not sick:  # this one stays in flight
        pass
    fail(one, sick, 2)
    one.update(endpoint("bcd", ejection=rules))
    clock.forward(11)
    one.update(endpoint("abcd", ejection=rules))
    assert one.replicas[0] is sick
    clock.forward(300)
    assert sick in {once(one, well=True) for _ in range(40)}


def test_an_endpoint_that_no_table_names_serves_who_waits(clock: Clock) -> None:
    pools = Pools(clock)  # type: ignore[arg-type]
    one = pools.adopt([("one", endpoint("a", max_in_flight=1))])["one"]
    first, waiting = asked(one), asked(one)
    assert pools.adopt([("two", endpoint("b"))]).keys() == {"two"}
    assert first.replica is not None
    end(one, first.replica, well=True)
    assert waiting.replica is first.replica
    end(one, first.replica, well=True)
    assert (one.in_flight, one.waiting, one.leaving) == (0, 0, set())
    again = pools.adopt([("one", endpoint("a", max_in_flight=1)), ("two", endpoint("b"))])
    assert asked(again["one"]).replica is not None


def test_equal_endpoints_keep_their_pool_untouched(clock: Clock) -> None:
    pools = Pools(clock)  # type: ignore[arg-type]
    one = pools.adopt([("one", endpoint("ab"))])["one"]
    order = [once(one, well=True) for _ in range(3)]
    assert pools.adopt([("one", endpoint("ab"))])["one"] is one
    assert once(one, well=True) is order[1]  # even the turn goes on


# retries


def test_retries_are_a_small_part_of_the_traffic(clock: Clock) -> None:
    one = pool(clock)
    one.retrying = 9
    assert one.may_retry()
    one.retrying = 10
    assert not one.may_retry()  # few requests: always ten
    held = [asked(one).replica for _ in range(100)]
    assert one.may_retry()
    one.retrying = 19
    assert one.may_retry()
    one.retrying = 20
    assert not one.may_retry()  # many: a fifth of them
    for replica in held[:60]:
        assert replica is not None
        one.give_back(replica)
    one.retrying = 10
    assert not one.may_retry()


def test_a_retry_goes_elsewhere_while_there_is_an_elsewhere(clock: Clock) -> None:
    for strategy in ("round_robin", "least_connections", "least_latency", "least_load"):
        for affinity in ("", "session"):
            one = pool(clock, strategy=strategy, affinity=affinity)
            tried: tuple[Replica, ...] = ()
            for _ in range(4):
                asker = asked(one, b"a session", tried)
                assert asker.replica is not None
                assert asker.replica not in tried
                tried = (*tried, asker.replica)
            assert asked(one, b"a session", tried).replica in one.replicas
