"""Which replica gets the next request: every strategy over figures, without sockets and without a clock of its own."""

from __future__ import annotations

import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.forward import Forward
from controller.proxy.probes import vllm_figures
from controller.proxy.replica import Replica
from controller.proxy.strategies import STRATEGIES, Ring, Turn, prefix_key

Choose = Callable[[Sequence[Replica], Turn], Replica]
NOW = 1000.0


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20261101)


def made(number: int) -> list[Replica]:
    return [Replica(f"http://replica-{i}:8000/v1") for i in range(number)]


def turn(now: float = NOW, slow_start_s: float = 0.0) -> Turn:
    found = Turn()
    found.now, found.slow_start_s = now, slow_start_s
    return found


def kept(replicas: Sequence[Replica], choose: Choose, asked: Turn, requests: int) -> list[int]:
    """How many requests each has, when none of them ends."""
    for _ in range(requests):
        choose(replicas, asked).in_flight += 1
    return [replica.in_flight for replica in replicas]


# shares


@pytest.mark.parametrize("name", STRATEGIES)
def test_equals_get_equal_shares(name: str) -> None:
    assert kept(made(4), STRATEGIES[name], turn(), 400) == [100] * 4


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "round_robin"])
def test_ties_are_broken_at_random(name: str) -> None:
    """Several proxies that see the same figures must not all choose the same replica."""
    replicas = made(4)
    found = Counter(replicas.index(STRATEGIES[name](replicas, turn())) for _ in range(4000))
    assert all(abs(found[i] - 1000) < 5 * 27.4 for i in range(4))  # five standard deviations
    replicas[2].in_flight = 1
    assert {replicas.index(STRATEGIES[name](replicas, turn())) for _ in range(200)} == {0, 1, 3}


def test_round_robin_takes_turns_whatever_they_have() -> None:
    replicas, asked = made(3), turn()
    replicas[1].in_flight = 50
    order = [replicas.index(STRATEGIES["round_robin"](replicas, asked)) for _ in range(7)]
    assert order == [0, 1, 2, 0, 1, 2, 0]


def test_least_connections_fills_up_to_the_same_level() -> None:
    replicas = made(3)
    replicas[0].in_flight, replicas[1].in_flight = 9, 4
    assert kept(replicas, STRATEGIES["least_connections"], turn(), 8) == [9, 6, 6]


@pytest.mark.parametrize("name", ["least_connections", "least_latency", "least_load"])
@pytest.mark.parametrize(("after", "warmth"), [(0.0, 0.1), (1.0, 0.1), (10.0, 0.5), (15.0, 0.75), (20.0, 1.0), (500.0, 1.0)])
def test_a_cold_replica_gets_a_growing_share(name: str, after: float, warmth: float) -> None:
    replicas = made(4)
    replicas[0].warming_since = NOW
    cold, *warm = kept(replicas, STRATEGIES[name], turn(NOW + after, 20.0), 310)
    assert max(warm) - min(warm) <= 1
    assert abs(cold - warmth * warm[0]) <= 1
    assert (replicas[0].warming_since == 0.0) is (warmth == 1.0)


@pytest.mark.parametrize(("after", "warmth"), [(0.0, 0.1), (10.0, 0.5), (20.0, 1.0)])
def test_round_robin_passes_over_a_cold_replica(after: float, warmth: float) -> None:
    replicas = made(4)
    replicas[0].warming_since = NOW
    cold, *warm = kept(replicas, STRATEGIES["round_robin"], turn(NOW + after, 20.0), 4000)
    assert abs(cold / (sum(warm) / 3) - warmth) < 0.07
    for replica in replicas:
        replica.warming_since = NOW
    assert sum(kept(replicas, STRATEGIES["round_robin"], turn(NOW, 20.0), 8)) == 4008  # all are cold: somebody must


# figures


def test_a_slow_first_byte_counts_at_once_and_is_forgotten_slowly() -> None:
    replicas = made(2)
    for replica in replicas:
        replica.measured(NOW, 0.01, 0.1, 10)
    replicas[0].measured(NOW + 1, 3.0, 3.1, 10)
    assert replicas[0].first_byte_s == 3.0  # no mean with what was before
    assert {STRATEGIES["least_latency"](replicas, turn(NOW + 1)) for _ in range(50)} == {replicas[1]}
    replicas[1].in_flight = 298
    assert STRATEGIES["least_latency"](replicas, turn(NOW + 1)) is replicas[1]
    replicas[1].in_flight = 300
    assert STRATEGIES["least_latency"](replicas, turn(NOW + 1)) is replicas[0]  # 301 x 0.01 s is more than 3 s
    replicas[0].measured(NOW + 11, 0.01, 0.1, 10)
    assert replicas[0].first_byte_s == pytest.approx(3.0 / math.e + 0.01 * (1 - 1 / math.e))
    for second in range(12, 120):
        replicas[0].measured(NOW + second, 0.01, 0.1, 10)
    assert replicas[0].first_byte_s == pytest.approx(0.01, abs=1e-3)


def test_the_time_of_a_token_is_a_slow_mean_of_whole_answers() -> None:
    replica = made(1)[0]
    replica.measured(NOW, 0.1, 2.0, 100)
    assert replica.token_s == pytest.approx(0.02)
    replica.measured(NOW, 0.1, 12.0, 100)
    assert replica.token_s == pytest.approx(0.02 + 0.1 * (0.12 - 0.02))
    other = made(1)[0]
    other.measured(NOW, 0.1, 2.0, 0)  # an answer that says nothing of tokens is one
    assert other.token_s == 2.0


@pytest.mark.parametrize(
    ("in_flight", "polled", "at_poll", "age", "load"),
    [
        (0, 0, 0, 0.0, 1),
        (3, 10, 2, 0.0, 3 + 8 + 1),  # eight that others sent
        (3, 10, 2, 5.0, 3 + 8 + 1),  # fresh enough
        (3, 10, 2, 5.1, 3 + 1),  # too old to be believed
        (3, 2, 2, 1.0, 3 + 1),
        (3, 1, 2, 1.0, 3 + 1),  # ours were not yet there when it was asked: never less than none
        (0, 7, 7, 1.0, 1),  # all of them were ours and have ended
    ],
)
def test_load_is_ours_and_what_others_sent(in_flight: int, polled: float, at_poll: int, age: float, load: float) -> None:
    replica = made(1)[0]
    assert replica.load(NOW) == 1  # never polled
    replica.in_flight, replica.polled, replica.in_flight_at_poll, replica.polled_at = in_flight, polled, at_poll, NOW - age
    assert replica.load(NOW) == load


@pytest.mark.parametrize(
    ("kv", "age", "factor"),
    [(0.0, 0, 1), (0.8, 0, 1), (0.85, 0, 1 + 0.1 / 0.15), (0.9, 0, 3), (0.99, 0, 39), (1.0, 0, 41), (1, 6, 1)],
)
def test_a_full_cache_costs(kv: float, age: float, factor: float) -> None:
    replica = made(1)[0]
    replica.kv_usage, replica.polled_at = kv, NOW - age
    assert replica.pressure(NOW) == pytest.approx(factor)


@st.composite
def loaded(draw: st.DrawFn) -> list[Replica]:
    """Replicas with any figures, never two with the same cost."""
    replicas = made(draw(st.integers(2, 6)))
    for i, replica in enumerate(replicas):
        replica.in_flight = draw(st.integers(0, 40))
        replica.polled, replica.in_flight_at_poll = draw(st.integers(0, 60)), draw(st.integers(0, 40))
        replica.polled_at = NOW - draw(st.sampled_from([0.0, 4.0, 6.0, 60.0]))
        replica.kv_usage = draw(st.floats(0, 1))
        replica.token_s = draw(st.floats(0.001, 1.0)) * (1 + i * 1e-9)
        replica.measured_at = NOW
    return replicas


@settings(max_examples=200, deadline=None)
@given(loaded())
def test_least_load_takes_the_lowest_cost_of_the_formula(replicas: list[Replica]) -> None:
    def cost(replica: Replica) -> float:
        fresh = NOW - replica.polled_at <= 5.0
        unseen = max(0.0, replica.polled - replica.in_flight_at_poll) if fresh else 0.0
        kv = replica.kv_usage if fresh else 0.0
        pressure = 1 + 2 * (kv - 0.8) / max(1 - kv, 0.01) if kv > 0.8 else 1.0
        return (replica.in_flight + unseen + 1) * replica.token_s * pressure

    chosen = STRATEGIES["least_load"](replicas, turn())
    assert cost(chosen) <= min(map(cost, replicas)) * (1 + 1e-6)


@pytest.mark.parametrize(("name", "figure"), [("least_load", "token_s"), ("least_latency", "first_byte_s")])
def test_one_that_is_not_known_counts_as_the_fastest(name: str, figure: str) -> None:
    replicas = made(3)
    for replica, seconds in zip(replicas, (0.5, 0.02, 0.0), strict=True):
        setattr(replica, figure, seconds)
        replica.measured_at = NOW
    assert {STRATEGIES[name](replicas, turn()) for _ in range(100)} == set(replicas[1:])


# one of four at half speed, and traffic that this proxy does not see


TOKEN_S, FIRST_S, PLACES = 0.02, 0.1, 16


def lowest_polled(replicas: Sequence[Replica], asked: Turn) -> Replica:
    """What one would write first: the lowest figure of the last poll. All requests between two polls go to the same one."""
    lowest = min(replica.polled for replica in replicas)
    return random.choice([replica for replica in replicas if replica.polled == lowest])


class Simulated:
    """Servers with some places and a queue behind replicas, as discrete events. Its clock is its own, its seed fixed."""

    def __init__(self, choose: Choose, seed: int, *, rate: float, seconds: float, unseen: float, speeds: Sequence[float]) -> None:
        random.seed(seed)
        self.drawn = random.Random(seed)
        self.choose, self.rate, self.seconds, self.unseen, self.speeds = choose, rate, seconds, unseen, speeds
        self.hiccup = (0, 0.0, 0.0)  # which replica is fifty times as slow, from when to when
        self.replicas = made(len(speeds))
        self.running = [0] * len(speeds)
        self.queues: list[list[tuple[bool, float, int]]] = [[] for _ in speeds]
        self.waits: list[float] = []  # of ours, for the first byte
        self.minutes: dict[int, Counter[int]] = {}  # which replica got how many of ours
        self._turn = Turn()
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._number = count()

    def run(self) -> Simulated:
        at = 0.0
        while at < self.seconds:
            at += self.drawn.expovariate(self.rate)
            self._at(at, self._arrives, self.drawn.random() >= self.unseen, 20 + self.drawn.randint(0, 160))
        for second in range(int(self.seconds)):
            self._at(float(second), self._polled)
        while self._events:
            now, _, what, arguments = heapq.heappop(self._events)
            what(now, *arguments)
        return self

    @property
    def p99(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)]

    def _at(self, at: float, what: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (at, next(self._number), what, arguments))

    def _arrives(self, now: float, ours: bool, tokens: int) -> None:
        i = self.drawn.randrange(len(self.speeds))
        if ours:
            self._turn.now = now
            i = self.replicas.index(self.choose(self.replicas, self._turn))
            self.replicas[i].in_flight += 1
            self.minutes.setdefault(int(now // 60), Counter())[i] += 1
        if self.running[i] < PLACES:
            self._begins(now, i, (ours, now, tokens))
        else:
            self.queues[i].append((ours, now, tokens))

    def _begins(self, now: float, i: int, job: tuple[bool, float, int]) -> None:
        self.running[i] += 1
        which, since, until = self.hiccup
        speed = self.speeds[i] / (50 if i == which and since <= now < until else 1)
        first = now + FIRST_S / speed
        if job[0]:
            self.waits.append(first - job[1])
        self._at(first + job[2] * TOKEN_S / speed, self._ends, i, job, first)

    def _ends(self, now: float, i: int, job: tuple[bool, float, int], first: float) -> None:
        ours, arrived, tokens = job
        if ours:
            self.replicas[i].in_flight -= 1
            self.replicas[i].measured(now, first - arrived, now - arrived, tokens)
        self.running[i] -= 1
        if self.queues[i]:
            self._begins(now, i, self.queues[i].pop(0))

    def _polled(self, now: float) -> None:
        for replica, running, queue in zip(self.replicas, self.running, self.queues, strict=True):
            replica.polled, replica.in_flight_at_poll, replica.polled_at = running + len(queue), replica.in_flight, now


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_least_load_is_clearly_the_best_where_one_of_four_has_half_the_speed(seed: int) -> None:
    """At 70 % of what all four can do, 20 % of it sent by somebody else."""
    p99 = {
        name: Simulated(choose, seed, rate=20, seconds=600, unseen=0.2, speeds=(0.5, 1, 1, 1)).run().p99
        for name, choose in {**STRATEGIES, "lowest polled": lowest_polled}.items()
    }
    assert p99["least_load"] * 50 < p99["round_robin"], p99
    assert p99["least_load"] * 3 < p99["lowest polled"], p99
    assert p99["least_load"] * 1.5 < p99["least_connections"], p99
    assert p99["least_load"] == min(p99.values()), p99


@pytest.mark.parametrize("rate", [4, 8])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_replica_that_was_slow_for_a_minute_gets_its_share_again(name: str, rate: float) -> None:
    """A frozen minute must not cost a quarter of the fleet for ever: a quarter of an hour later it works again."""
    world = Simulated(STRATEGIES[name], 1, rate=rate, seconds=1200, unseen=0.0, speeds=(1, 1, 1, 1))
    world.hiccup = (1, 100.0, 160.0)
    world.run()
    last = sum((world.minutes[minute] for minute in range(15, 19)), Counter[int]())
    assert last[1] > 0.1 * last.total(), {minute: dict(found) for minute, found in world.minutes.items()}


# affinity


KEYS = [f"session-{i}".encode() for i in range(4000)]


def owners(ring: Ring, replicas: Sequence[Replica]) -> dict[bytes, str]:
    return {key: ring.choose(key, replicas).url for key in KEYS}


def test_a_key_stays_where_it_is_and_few_move() -> None:
    ten = made(10)
    before = owners(Ring(ten), ten)
    again = made(10)
    assert before == owners(Ring(again), again)  # in every worker, after every restart
    assert before == owners(Ring(ten[::-1]), ten[::-1])
    assert max(Counter(before.values()).values()) < 2 * len(KEYS) / 10
    eleven = made(11)
    after = owners(Ring(eleven), eleven)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert {after[key] for key in moved} == {eleven[10].url}
    assert 0 < len(moved) < 2 * len(KEYS) / 11
    nine = ten[:3] + ten[4:]
    left = owners(Ring(nine), nine)
    assert {before[key] for key in KEYS if before[key] != left[key]} == {ten[3].url}


def test_one_that_is_out_is_passed_over_and_gets_its_keys_back() -> None:
    replicas = made(5)
    ring = Ring(replicas)
    before = owners(ring, replicas)
    well = replicas[:2] + replicas[3:]
    during = owners(ring, well)
    assert {before[key] for key in KEYS if before[key] != during[key]} == {replicas[2].url}
    assert owners(ring, replicas) == before
    assert set(owners(ring, replicas[:1]).values()) == {replicas[0].url}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 3), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=200))
def test_no_replica_gets_more_than_its_bound(number: int, out: int, asked: list[tuple[int, bool]]) -> None:
    replicas = made(number)
    ring = Ring(replicas)
    allowed = replicas[min(out, number - 1) :]
    for key, ends in asked:
        total = sum(replica.in_flight for replica in allowed)
        chosen = ring.choose(b"%d" % key, allowed)
        chosen.in_flight += 1
        assert chosen in allowed
        assert chosen.in_flight <= math.ceil(1.25 * (total + 1) / len(allowed))
        if ends:
            max(allowed, key=lambda replica: replica.in_flight).in_flight -= 1


def test_a_session_that_had_to_give_way_comes_back() -> None:
    replicas = made(4)
    ring = Ring(replicas)
    home = ring.choose(b"one session", replicas)
    home.in_flight = 3
    away = {ring.choose(b"one session", replicas) for _ in range(20)}
    assert home not in away
    assert len(away) == 1  # the next one on the ring, not just any
    for replica in replicas:
        replica.in_flight = 3
    assert ring.choose(b"one session", replicas) is home


def chat(text: str, model: str = "dev", **more: object) -> bytes:
    return json.dumps({"model": model, **more, "messages": [{"role": "system", "content": text}]}).encode()


def test_what_begins_the_same_has_the_same_prefix_key() -> None:
    long = "You are an agent that writes tests. " * 60
    assert prefix_key(chat(long + "first")) == prefix_key(chat(long + "second", model="other", temperature=0.5))
    assert prefix_key(chat("first " + long)) != prefix_key(chat("second " + long))
    assert len(prefix_key(chat(long))) == 1024
    assert prefix_key(b'{"model":"m","prompt":"a"}') == prefix_key(b'{"stream":true,"model":"n","prompt":"a"}')
    assert prefix_key(b'{"input":["a","b"],"model":"m"}').startswith(b'"input":["a"')
    assert prefix_key(b"no JSON at all") == b"no JSON at all"
    assert prefix_key(b"") == b""


def test_affinity_is_by_session_or_by_how_the_request_begins() -> None:
    forward = Forward(b"POST", b"/chat/completions", b"", chat("Hello"), [])
    assert forward.affinity("", "s") is None
    assert forward.affinity("session", "s\udc80") == b"s\x80"
    assert forward.affinity("session", None) == prefix_key(chat("Hello"))
    assert forward.affinity("prefix", "s") == prefix_key(chat("Hello"))


# what vLLM says


def test_the_figures_of_vllm_are_read() -> None:
    page = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a"} 1e1
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.75
vllm:num_requests_waiting_by_reason{reason="x"} 99
other:num_requests_running 99
 vllm:num_requests_running 99
"""
    assert vllm_figures(page) == (15.0, 0.75)
    assert vllm_figures(b"vllm:num_requests_waiting 4 1700000000000\nvllm:gpu_cache_usage_perc 0.5\n") == (4.0, 0.5)
    assert vllm_figures(b"vllm:num_requests_running\t7\r\n") == (7.0, 0.0)
    assert vllm_figures(b"vllm:num_requests_running 1\nvllm:kv_cache_usage_perc 12.5\n") == (1.0, 1.0)


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>vllm:num_requests_running 5</html>",
        b"\xff\x00vllm:num_requests_running{ NaN NaN\n\x00vllm:num_requests_waiting -\n",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting +Inf\n",
        b"vllm:num_requests_running -1\n",
        b"vllm:num_requests_running 1e300\n",
        b"vllm:num_requests_running five\n",
        b"vllm:num_requests_running",
        b"vllm:kv_cache_usage_perc 0.5\n",  # how full, but not how busy
        b"# vllm:num_requests_running 5\n",
    ],
)
def test_garbage_is_no_figure(page: bytes) -> None:
    assert vllm_figures(page) is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"vllm:num_requests_running", b"{", b"}", b" ", b"\n", b"1", b"-", b"e9", b"NaN", b"\xff"]), max_size=12
    )
)
def test_no_page_breaks_the_reader(parts: list[bytes]) -> None:
    found = vllm_figures(b"".join(parts))
    assert found is None or (0 <= found[0] < math.inf and 0 <= found[1] <= 1)


def test_a_model_with_braces_in_its_name_is_read() -> None:
    assert vllm_figures(b'vllm:num_requests_running{model_name="a}b{c"} 5\n') == (5.0, 0.0)
