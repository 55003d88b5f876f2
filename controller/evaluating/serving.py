"""Creates the Inference Endpoints of an evaluation's sides, waits until they serve, and deletes them. Paid by the minute.

Place in the flow: below `run`, before the first question and after the last. A killed process leaves an endpoint behind; the next
one finds it by its name, because a name follows from intent and side, and goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from controller.clients.evaluation_serving import Period, ended, key_of, name_of, periods, stopped, told, usd_of
from controller.clients.evaluation_work import Journal, Order, Work
from controller.clients.hugging_face_endpoints import Endpoint, EndpointOrder, billed_usd
from controller.clients.huggingface import Hub
from controller.errors import Permanent, Temporary
from controller.evaluating.asking import Halt, Purse

FIRST_LOOK, LONGEST_LOOK = 0.25, 10.0
DELETE_ATTEMPTS = 5
DELETE_SECONDS = 60.0
"""What ending an endpoint may take, kept free in the purse while nobody asks it yet."""
STOPPED = ("scaledToZero", "paused")


class Serving:
    """The endpoints of one evaluation. `stop` says why to stop, or nothing; `tell` gets a sentence while it waits."""

    def __init__(
        self,
        order: Order,
        work: Work,
        hub: Hub,
        purse: Purse,
        *,
        stop: Callable[[], str],
        now: Callable[[], datetime],
        tell: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.order, self.work, self.hub, self.purse = order, work, hub, purse
        self.stop, self.now, self.tell, self.sleep = stop, now, tell, sleep
        self.rules: dict[str, dict[str, Any]] = order.state.get("serving", {})
        self.journal: Journal | None = None
        self.open: dict[str, Period] = {}
        self.there: dict[str, Endpoint] = {}
        self.seen: dict[str, str] = {}  # what the vendor last said, by side

    def begin(self, journal: Journal) -> None:
        """Takes up what an earlier process left."""
        self.journal = journal
        self.open = {side: period for side, period in periods(self.work).items() if side in self.rules}

    # -- money -------------------------------------------------------------------------------------------------------

    def owed(self, ahead: float = 0.0) -> float:
        """USD of the endpoints that are paid for now, as if they ran for `ahead` more seconds."""
        until = self.now() + timedelta(seconds=ahead)
        return sum(self._usd(side, each.since or each.asked, until) for side, each in self.open.items())

    def _usd(self, side: str, since: datetime, until: datetime) -> float:
        return billed_usd(since, until, self.rules[side]["usdPerHour"] or 0.0)

    def reserve(self) -> float:
        """What has to stay free in the purse for the calls under way to finish and the endpoints to be ended."""
        return self.owed(max((self.rules[side]["ending"] for side in self.open), default=0.0))

    def _broke(self, side: str) -> Halt | None:
        """Unless there is money to go on with this side for as long as it takes to end it."""
        now = self.now()
        more = 0.0 if side in self.open else self._usd(side, now, now + timedelta(seconds=DELETE_SECONDS))
        if self.purse.spent + self.owed(DELETE_SECONDS) + more <= self.purse.ceiling:
            return None
        return Halt(f"its ceiling of {self.purse.ceiling:.4g} USD leaves no room for another minute of its endpoints", ceiling=True)

    # -- start -------------------------------------------------------------------------------------------------------

    def ready(self, sides: Collection[str]) -> Halt | None:
        """Returns when all that these sides need serves, or why it does not. Raises Permanent, Temporary."""
        todo = [side for side in self.rules if side in sides and side not in self.there]
        for side in todo:
            halt = self._patiently(side, self._create)
            if halt is not None:
                return halt
        for side in todo:
            halt = self._patiently(side, self._serves)
            if halt is not None:
                return halt
        return None

    def _patiently(self, side: str, done: Callable[[str], bool]) -> Halt | None:
        """Asks until it is done, within `boot` of the side. Temporary failures are asked again."""
        end, waits = self.now() + timedelta(seconds=self.rules[side]["boot"]), FIRST_LOOK
        while True:
            why, last = self.stop(), ""
            halt = Halt(why) if why else self._broke(side)
            if halt is not None:
                return halt
            try:
                if done(side):
                    return None
            except Temporary as error:
                last = str(error)
            if self.now() >= end:
                raise self._late(side, last)
            self.tell(f"waits for the endpoint of the {side} ({last or self._state(side)})")
            self._pause(waits)
            waits = min(LONGEST_LOOK, waits * 1.5)

    def _pause(self, seconds: float) -> None:
        while seconds > 0 and not self.stop():
            self.sleep(min(0.2, seconds))
            seconds -= 0.2

    def _state(self, side: str) -> str:
        return self.seen.get(side, "it is being created")

    def _late(self, side: str, last: str) -> Exception:
        name, boot = name_of(self.order.intent, side), self.rules[side]["boot"] / 60
        what = f"the {told(side)} ({name}) does not serve after {boot:g} min"
        if last:
            return Temporary(f"{what}: {last}")
        advice = "look at its log at the vendor, then raise inferenceEndpoint.boot or choose other hardware or another image"
        return Permanent(f"{what}: {self._state(side)}; {advice}")

    def _create(self, side: str) -> bool:
        """One that is there is taken up; one that sleeps is woken, its time until then is settled; else it is made."""
        name, rules = name_of(self.order.intent, side), self.rules[side]
        found = self.hub.endpoints.get(name)
        if found is not None and found.failed:
            self.hub.endpoints.delete(name)
            self._settle(side, found)
            found = None
        elif found is None or found.state in STOPPED:
            self._settle(side, found)
        now = self.now()
        self._note({"asked": side, "at": now.isoformat()})
        if found is not None and found.state not in STOPPED:  # an earlier process, or an answer that was lost, left it
            period = self.open.get(side) or Period(now)
            self.open[side] = replace(period, asked=now, since=period.since or min(found.created, period.asked))
        else:
            self.open[side] = Period(now)
            if found is not None:
                self.hub.endpoints.resume(name)
            else:
                found = self.hub.endpoints.create(key_of(self.order.intent, side), _order(rules))
                now = min(found.created, now)
            self.open[side].since = now
        self._note({"made": side, "since": (self.open[side].since or now).isoformat()})
        return True

    def _serves(self, side: str) -> bool:
        name = name_of(self.order.intent, side)
        found = self.hub.endpoints.get(name)
        if found is not None:
            self.seen[side] = f"{found.state}: {found.message}" if found.message else found.state
        if found is None:
            raise Permanent(f"the {told(side)} ({name}) is gone: somebody deleted it; `turnout retry` creates it again")
        if found.failed:
            raise Permanent(f"the {told(side)} ({name}) failed: {found.message or found.state}; see its log at the vendor")
        if not found.serves:
            return False
        self.there[side] = found
        self.open[side].serves = True
        self._note({"serves": side, "at": self.now().isoformat()})
        return True

    # -- end ---------------------------------------------------------------------------------------------------------

    def close(self) -> str:
        """Deletes them all. Never raises: a sentence says what is left, and what bounds it."""
        left = [side for side in list(self.open) if not self._gone(side)]
        self.there.clear()
        names = ", ".join(name_of(self.order.intent, side) for side in left)
        return f"could not be deleted, and stop by themselves when nobody asks them: {names}" if left else ""

    def _gone(self, side: str) -> bool:
        name, waits = name_of(self.order.intent, side), 1.0
        for attempt in range(DELETE_ATTEMPTS):
            try:
                self._settle(side, stopped(self.hub, name))
                return True
            except Permanent:
                return False
            except Temporary:
                if attempt + 1 < DELETE_ATTEMPTS:
                    self.sleep(waits)
                    waits *= 2
        return False

    def _settle(self, side: str, found: Endpoint | None) -> None:
        """What it cost so far is paid from here on."""
        period = self.open.pop(side, None)
        if period is None and found is None:
            return
        period = period or Period(found.created if found else self.now())
        period.seen = self.now() if side in self.there else period.seen
        usd = usd_of(period, found, self.rules[side], self.now())
        assert self.journal is not None
        ended(self.journal, side, usd, self.now())
        self.purse.settle(told(side), 0.0, usd)

    def _note(self, line: dict[str, Any]) -> None:
        assert self.journal is not None
        self.journal.append(line)


def _order(rules: dict[str, Any]) -> EndpointOrder:
    return EndpointOrder(
        repository=rules["repository"],
        vendor=rules["vendor"],
        region=rules["region"],
        accelerator=rules["accelerator"],
        instance_type=rules["instanceType"],
        instance_size=rules["instanceSize"],
        revision=rules["revision"],
        framework=rules["framework"],
        task=rules["task"],
        image=rules["image"],
        env=rules["env"],
        secrets=rules["secrets"],
        scale_to_zero_minutes=-(-int(rules["scaleToZero"]) // 60),
    )
