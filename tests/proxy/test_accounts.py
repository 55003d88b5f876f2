"""Rates, budgets and what is charged, as functions of a clock that the test sets; and usage, however an answer comes in."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.proxy.accounts import Account, Accounts, Used, Window, charge
from controller.proxy.table import Limits, Price, Route, RouteTable
from controller.proxy.usage import Capture, Usage

PRICE = Price(input=3, output=15)
START = 1_800_000_000.0  # the beginning of a minute


class Clock:
    """A wall clock that stands still."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def account(clock: Clock, **limits: Any) -> Account:
    made = Account("client", "ci", {}, clock)
    made.limit(Limits(**limits))
    return made


def admitted(of: Account, times: int) -> int:
    return sum(of.admit() is None for _ in range(times))


# -- rates -----------------------------------------------------------------------------------------------------------


def test_the_minute_before_counts_as_far_as_it_is_within_the_last_60_seconds() -> None:
    window = Window()
    for second in range(0, 60, 6):
        window.add(START + second, 1)
    assert window.used(START + 59) == 10
    assert [round(window.used(START + second), 6) for second in (60, 75, 90, 119.4)] == [10, 7.5, 5, 0.1]
    window.add(START + 90, 4)
    assert window.used(START + 90) == 9
    assert window.used(START + 120) == 4
    assert window.used(START + 240) == 0


def test_a_rate_lets_in_what_it_says_and_goes_on_bit_by_bit() -> None:
    clock = Clock()
    ci = account(clock, requests_per_minute=10)
    assert admitted(ci, 15) == 10
    refused = ci.admit()
    assert refused is not None
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert "client ci has used its 10 requests a minute" in refused.message
    clock.now += 60 + 30
    assert admitted(ci, 15) == 5
    clock.now += 600
    assert admitted(ci, 15) == 10


def test_tokens_are_counted_when_they_are_known() -> None:
    clock = Clock()
    ci = account(clock, tokens_per_minute=100)
    assert ci.admit() is None
    ci.charge(60, 30, 0.0, estimated=False)
    assert ci.admit() is None  # 90 are used
    ci.charge(60, 0, 0.0, estimated=True)
    refused = ci.admit()
    assert refused is not None
    assert "100 tokens a minute" in refused.message
    clock.now += 60 + 30  # half of 150
    assert ci.admit() is None


def test_a_refused_request_uses_nothing() -> None:
    clock = Clock()
    ci = account(clock, requests_per_minute=2, budget_usd=1.0)
    ci.charge(0, 0, 1.0, estimated=False)
    assert admitted(ci, 20) == 0
    assert ci.requests.used(clock.now) == 0
    ci.limit(Limits(requests_per_minute=2))
    assert admitted(ci, 20) == 2


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 50), st.lists(st.floats(0, 20), max_size=120), st.sampled_from(("requests", "tokens")))
def test_who_waits_as_long_as_told_is_let_in(limit: int, gaps: list[float], kind: str) -> None:
    clock = Clock()
    ci = account(clock, **{f"{kind}_per_minute": limit})
    refused = None
    for gap in gaps:
        clock.now += gap
        refused = ci.admit()
        if refused is None:
            ci.charge(1, 0, 0.0, estimated=False)
    if refused is not None:
        assert 1 <= refused.retry_s <= 120
        clock.now += math.ceil(refused.retry_s)  # as the header says it
        assert ci.admit() is None


def test_other_workers_count_too() -> None:
    clock = Clock()
    table = RouteTable(
        serial=1, digest="d", routes={"dev": Route(variants=[], limits=Limits(requests_per_minute=10, budget_usd=1.0))}
    )
    one, other = Accounts(clock), Accounts(clock)
    for accounts in (one, other):
        accounts.adopt(table)
    assert admitted(one.of("agent", "dev"), 7) == 7
    one.of("agent", "dev").charge(1, 1, 0.6, estimated=False)
    other.hear([one.told()])
    assert admitted(other.of("agent", "dev"), 10) == 3
    other.of("agent", "dev").charge(1, 1, 0.4, estimated=False)
    clock.now += 300
    one.hear([other.told()])
    refused = one.of("agent", "dev").admit()
    assert refused is not None
    assert refused.code == "budget_exceeded"


# -- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "before", "after", "name"),
    [
        ("month", "2026-11-30T23:59:59", "2026-12-01T00:00:00", "2026-11"),
        ("month", "2026-12-31T23:59:59", "2027-01-01T00:00:00", "2026-12"),
        ("day", "2026-11-20T23:59:59", "2026-11-21T00:00:00", "2026-11-20"),
        ("day", "2028-02-28T23:59:59", "2028-02-29T00:00:00", "2028-02-28"),
    ],
)
def test_a_budget_begins_anew_with_its_period(period: str, before: str, after: str, name: str) -> None:
    clock = Clock()
    clock.set(before)
    ci = account(clock, budget_usd=2.0, budget_period=period)
    charge([ci], Usage(1000, 10, 1.99))
    assert ci.admit() is None
    charge([ci], Usage(1000, 10, 1.5))
    refused = ci.admit()
    assert refused is not None
    assert (refused.status, refused.code, refused.retry_s) == (402, "budget_exceeded", 0)
    assert f"client ci for {name} is spent: 3.4900 of 2.00 USD" in refused.message
    clock.set(after)
    assert ci.admit() is None
    assert ci.used[name].cost_usd == pytest.approx(3.49)


def test_a_month_is_not_over_with_its_days() -> None:
    clock = Clock()
    clock.set("2026-11-01T12:00:00")
    ci = account(clock, budget_usd=2.0, budget_period="month")
    ci.charge(1, 1, 2.0, estimated=False)
    clock.set("2026-11-29T12:00:00")
    assert ci.admit() is not None


def test_a_budget_of_nothing_lets_nobody_in() -> None:
    assert account(Clock(), budget_usd=0.0).admit() is not None


def test_what_nobody_can_price_is_counted_and_costs_nothing() -> None:
    clock = Clock()
    clock.set("2026-11-21T12:00:00")
    ci = account(clock)
    charge([ci], Usage(5, 6, None))
    charge([ci], None)
    charge([ci], Usage(7, 8, 0.5, estimated=True))
    assert ci.used == {"2026-11": Used(requests=3, input_tokens=5, output_tokens=6, estimated_tokens=15, cost_usd=0.5)}


def test_a_month_has_all_that_its_days_have() -> None:
    clock = Clock()
    ci = account(clock, budget_usd=2.0, budget_period="day")
    for month, days in (("2026-10", 31), ("2026-11", 30)):
        for day in range(1, days + 1):
            clock.set(f"{month}-{day:02d}T12:00:00")
            ci.charge(1, 1, 0.5, estimated=False)
        assert ci.used[month].cost_usd == pytest.approx(days * 0.5)
        assert ci.used[f"{month}-{days}"].cost_usd == 0.5
    assert len(ci.used) < 40


def test_figures_of_a_worker_that_is_gone_are_added() -> None:
    clock = Clock()
    accounts = Accounts(clock, {"client:ci": {"2026-11": Used(requests=1, cost_usd=0.5)}})
    accounts.include({"client:ci": {"2026-11": Used(requests=2, cost_usd=0.25), "2026-10": Used(requests=9)}, "agent:dev": {}})
    assert accounts.kept()["client:ci"] == {"2026-11": Used(requests=3, cost_usd=0.75), "2026-10": Used(requests=9)}
    assert accounts.of("client", "ci").used["2026-11"].requests == 3


# -- usage -----------------------------------------------------------------------------------------------------------

CHAT = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 5 + b"data: [DONE]\n\n"
MESSAGES = (
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":70,"cache_read_input_tokens":30,'
    b'"output_tokens":1}}}\n\n'
    + b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'
    * 9
    + b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":40}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
LONG = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"a" * 1000) * 200


def captured(stream: bytes, cuts: list[int]) -> Usage | None:
    capture = Capture(stream=True)
    places = sorted({0, *(cut % len(stream) for cut in cuts), len(stream)})
    for start, end in pairwise(places):
        capture.add(stream[start:end])
    return capture.usage(PRICE, 400)


def test_a_stream_that_says_nothing_is_estimated() -> None:
    assert captured(CHAT, []) == Usage(100, 6, pytest.approx((300 + 90) / 1e6), estimated=True)  # type: ignore[arg-type]
    assert captured(LONG, []) == Usage(100, 200, pytest.approx((300 + 3000) / 1e6), estimated=True)  # type: ignore[arg-type]
    assert captured(MESSAGES, []) == Usage(100, 40, pytest.approx((300 + 600) / 1e6))  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from((CHAT, MESSAGES)), st.lists(st.integers(0, 1 << 20), max_size=200))
def test_the_usage_of_a_stream_does_not_depend_on_its_packets(stream: bytes, cuts: list[int]) -> None:
    assert captured(stream, cuts) == captured(stream, [])


def test_a_stream_that_comes_byte_by_byte_is_charged_the_same() -> None:
    for stream in (CHAT, MESSAGES):
        assert captured(stream, list(range(len(stream)))) == captured(stream, [])
