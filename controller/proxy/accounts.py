"""What clients and agents have used, and whether they may use more: rates by the minute, money by the day or month.

A rate is a sliding window: the minute before counts as far as it still lies within the last 60 s. A budget is checked before
a request and charged after it, so it is overdrawn by at most what is in flight when it runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from .table import Limits, RouteTable
from .usage import Usage

_MINUTE = 60.0
_JUST_BELOW = 1 - 1e-9
_PERIODS_KEPT = 14  # months of each account, and days


class Refused(NamedTuple):
    """Why an account may not go on now; `retry_s` is 0 where waiting a minute does not help."""

    status: int
    code: str
    message: str
    retry_s: float


class Used(msgspec.Struct):
    """What was used in one period (`2026-11`, `2026-11-21`). Estimated tokens are those that no answer reported."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated_tokens: int = 0
    cost_usd: float = 0.0


class Window:
    """A count over the last minute. `others` is what the other workers of this proxy counted."""

    __slots__ = ("before", "count", "minute", "others")

    def __init__(self) -> None:
        self.minute = 0
        self.count = 0.0
        self.before = 0.0
        self.others = 0.0

    def own(self, now: float) -> float:
        minute = int(now // _MINUTE)
        if minute != self.minute:
            self.before = self.count if minute == self.minute + 1 else 0.0
            self.count, self.minute = 0.0, minute
        return self.before * (1.0 - (now / _MINUTE - minute)) + self.count

    def used(self, now: float) -> float:
        return self.own(now) + self.others

    def add(self, now: float, amount: float) -> None:
        self.own(now)
        self.count += amount

    def wait(self, now: float, most: float) -> float:
        """Seconds until no more than `most` is used, if nothing comes meanwhile and the other workers stay as they are."""
        most = max(0.0, most - self.others)
        excess = self.own(now) - most
        left = _MINUTE * (1.0 - (now / _MINUTE - int(now // _MINUTE)))
        if self.count <= most:  # it is enough that the minute before fades
            return min(left, _MINUTE * excess / self.before) if self.before > 0 else 0.0
        return left + _MINUTE * (1.0 - most / self.count)


class Account:
    """One client or one agent. `now` is the wall clock in seconds."""

    __slots__ = ("_clock", "_limits", "_periods", "kind", "name", "others_usd", "requests", "tokens", "used")

    def __init__(self, kind: str, name: str, used: dict[str, Used], clock: Callable[[], float]) -> None:
        self.kind = kind
        self.name = name
        self.used = used
        self.requests = Window()
        self.tokens = Window()
        self.others_usd: dict[str, float] = {}
        self._limits = Limits()
        self._clock = clock
        self._periods = (0, "", "")

    def limit(self, limits: Limits) -> None:
        self._limits = limits

    def admit(self) -> Refused | None:
        """Counts a request in, or says why not."""
        refused = self.check()
        if refused is None:
            self.count()
        return refused

    def count(self) -> None:
        """A request comes in."""
        if self._limits.requests_per_minute:
            self.requests.add(self._clock(), 1)

    def check(self) -> Refused | None:
        """Why a request may not come in now, or None."""
        now, limits = self._clock(), self._limits
        most = limits.requests_per_minute
        if most and self.requests.used(now) + 1 > most:
            return self._too_fast(self.requests.wait(now, most - 1), f"{most:g} requests")
        most = limits.tokens_per_minute
        if most and self.tokens.used(now) >= most:
            return self._too_fast(self.tokens.wait(now, most * _JUST_BELOW), f"{most:g} tokens")
        return self._too_dear(now, limits.budget_usd) if limits.budget_usd is not None else None

    def _too_fast(self, seconds: float, limit: str) -> Refused:
        wait = max(1.0, seconds)
        text = f"The {self.kind} {self.name} has used its {limit} a minute; it goes on in {wait:.0f} s"
        return Refused(429, "rate_limit_exceeded", text, wait)

    def _too_dear(self, now: float, budget: float) -> Refused | None:
        period = self._period(now)[1 if self._limits.budget_period == "day" else 0]
        used = self.used.get(period)
        spent = (used.cost_usd if used is not None else 0.0) + self.others_usd.get(period, 0.0)
        if spent < budget:
            return None
        text = (
            f"The budget of the {self.kind} {self.name} for {period} is spent: {spent:.4f} of {budget:.2f} USD. "
            f"It begins anew with the next {self._limits.budget_period}; who needs more raises budgetUsd in environment.yaml"
        )
        return Refused(402, "budget_exceeded", text, 0.0)

    def charge(self, input_tokens: int, output_tokens: int, cost_usd: float, *, estimated: bool) -> None:
        """A request has ended."""
        now = self._clock()
        if self._limits.tokens_per_minute:
            self.tokens.add(now, input_tokens + output_tokens)
        month, day = self._period(now)
        for period in (month, day) if self._limits.budget_period == "day" else (month,):
            used = self.used.get(period)
            if used is None:
                used = self._begin(period)
            used.requests += 1
            used.cost_usd += cost_usd
            if estimated:
                used.estimated_tokens += input_tokens + output_tokens
            else:
                used.input_tokens += input_tokens
                used.output_tokens += output_tokens

    def _begin(self, period: str) -> Used:
        alike = sorted(known for known in self.used if len(known) == len(period))  # months, or days
        for old in alike[: max(0, len(alike) + 1 - _PERIODS_KEPT)]:
            del self.used[old]
        used = self.used[period] = Used()
        return used

    def _period(self, now: float) -> tuple[str, str]:
        """The month and the day in UTC; worked out once a minute."""
        minute = int(now // _MINUTE)
        if self._periods[0] != minute:
            day = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")
            self._periods = (minute, day[:7], day)
        return self._periods[1:]


def summed(kept: Iterable[Mapping[str, dict[str, Used]]]) -> dict[str, dict[str, Used]]:
    """The accounts of several workers as one."""
    total: dict[str, dict[str, Used]] = {}
    for each in kept:
        _add(total, each)
    return total


def _add(into: dict[str, dict[str, Used]], kept: Mapping[str, dict[str, Used]]) -> None:
    for key, periods in kept.items():
        ours = into.setdefault(key, {})
        for period, theirs in periods.items():
            so_far = ours.setdefault(period, Used())
            for field in Used.__struct_fields__:
                setattr(so_far, field, getattr(so_far, field) + getattr(theirs, field))


def charge(accounts: Iterable[Account], usage: Usage | None) -> None:
    """Put what one answer used on these accounts; an answer that nobody can price costs nothing."""
    for account in accounts:
        if usage is None:
            account.charge(0, 0, 0.0, estimated=False)
        else:
            account.charge(usage.input_tokens, usage.output_tokens, usage.cost_usd or 0.0, estimated=usage.estimated)


class Accounts:
    """All accounts. They outlive tables and, through `kept`, the process."""

    def __init__(self, clock: Callable[[], float], kept: Mapping[str, dict[str, Used]] | None = None) -> None:
        self._clock = clock
        self._kept: dict[str, dict[str, Used]] = dict(kept or {})
        self._accounts: dict[str, Account] = {}

    def adopt(self, table: RouteTable, agents: Iterable[str] | None = None) -> None:
        """The limits of a table hold from now on; of `agents` only where they are given."""
        for name, client in table.clients.items():
            self.of("client", name).limit(client.limits)
        for name in table.routes if agents is None else agents:
            self.of("agent", name).limit(table.routes[name].limits or Limits())

    def of(self, kind: str, name: str) -> Account:
        key = f"{kind}:{name}"
        account = self._accounts.get(key)
        if account is None:
            used = self._kept.setdefault(key, {})
            account = self._accounts[key] = Account(kind, name, used, self._clock)
        return account

    def include(self, kept: Mapping[str, dict[str, Used]]) -> None:
        """Add what another worker charged that is no longer there."""
        _add(self._kept, kept)

    def kept(self) -> dict[str, dict[str, Used]]:
        return self._kept

    # between workers

    def told(self) -> dict[str, Any]:
        """What the other workers have to know to keep the limits together with this one."""
        now = self._clock()
        return {
            key: [
                account.requests.own(now),
                account.tokens.own(now),
                {period: used.cost_usd for period, used in account.used.items()},
            ]
            for key, account in self._accounts.items()
            if account.used or account.requests.count
        }

    def hear(self, others: Iterable[Mapping[str, Any]]) -> None:
        """What all others told last."""
        heard = list(others)
        for key, account in self._accounts.items():
            figures = [other[key] for other in heard if key in other]
            account.requests.others = sum(each[0] for each in figures)
            account.tokens.others = sum(each[1] for each in figures)
            spent: dict[str, float] = {}
            for each in figures:
                for period, usd in each[2].items():
                    spent[period] = spent.get(period, 0.0) + usd
            account.others_usd = spent
