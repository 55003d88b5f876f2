"""What was done becomes runs in LangSmith, beside the flow: after the passes, from the log, never in their way.

The log is the queue. After a settle `follow` reads what was appended since it last looked, folds it
(`projections/traces.py`) and offers as much as the tracer has room for; a daemon thread sends. `traced` in the cache's meta says
up to where everything has been sent or given up, so a restart begins there: nothing is lost that was appended meanwhile (also by
others), and what was sent and not noted yet is sent under the same id, which is one run. Where nothing is noted (a new data
folder, LangSmith just configured) it begins with what this process appends: years of history are not sent again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from controller.clients.cache import Cache
from controller.events import Event
from controller.loading import Flow, branch_of, settings_at
from controller.vendors import LangSmithSpec

if TYPE_CHECKING:
    from controller.clients.langsmith_trace import Tracer
    from controller.projections.traces import Traces

META = "traced"
CLOSE_SECONDS = 2.0


@dataclass
class Sender:
    """One tracer, and what it was given and has not settled: sequences of outcome and start."""

    spec: LangSmithSpec
    tracer: Tracer
    pending: deque[tuple[int, int]] = field(default_factory=deque)

    def settle(self) -> None:
        """Forgets what is sent or dropped; the tracer does that in order."""
        waiting = self.tracer.counts().waiting
        while len(self.pending) > waiting:
            self.pending.popleft()


class Tracing:
    """One per controller. No method raises or waits, except `close`, which waits 2 s at most."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.senders: list[Sender] = []  # the last is that of the settings; those before it finish what they were given
        self.position = -1  # up to where the log was read; -1 = not yet
        self.error = ""
        self._folds: Traces | None = None
        self._settings = ""
        self._spec: LangSmithSpec | None = None
        self._first = self._last = 0  # what this process has appended since it last looked whether it traces at all
        self._noted = ""
        self._dropped = 0  # before, and by senders that are gone
        self._told = False

    # -- around a settle -----------------------------------------------------------------------------------------

    def telling(self, tell: Callable[[Event], None]) -> Callable[[Event], None]:
        """`tell`, and a note of where this process began to append."""

        def noting(event: Event) -> None:
            self._first, self._last = self._first or event.sequence, event.sequence
            tell(event)

        return noting

    def follow(self) -> None:
        """Offers what is new in the log, as the settings of the newest commit say."""
        try:
            self._choose()
            if self._spec is not None:
                self._resume()
                self._offer()
                self._note()
            self._first = 0
        except Exception as error:  # whatever it is: tracing fails, the flow does not
            self.error = f"{type(error).__name__}: {error}"

    def _choose(self) -> None:
        """A tracer for what environment.yaml says now; looks only when that has changed."""
        kept = self.flow.cache.meta("settings")
        if not kept or kept == self._settings:
            return
        tip = branch_of(self.flow).tip()
        if tip is None:
            return
        found = settings_at(self.flow, tip)[0].spec.langsmith
        spec = found if found is not None and found.trace else None
        self._settings = kept
        if spec == self._spec:
            return
        for sender in self.senders:
            sender.tracer.close(0)
        self._spec = spec
        if spec is None:
            self._forget()
        else:
            self.senders.append(Sender(spec, self._tracer(spec)))

    def _tracer(self, spec: LangSmithSpec) -> Tracer:
        from controller.clients.langsmith_sdk import Access
        from controller.clients.langsmith_trace import Tracer

        return Tracer(Access(spec, self.flow.data))

    def _forget(self) -> None:
        """Not configured: what is done from now on is nobody's to trace later."""
        self.position, self._folds, self._noted = -1, None, ""
        if self.flow.cache.meta(META):
            self.flow.cache.set_meta(**{META: ""})

    # -- from the log to the tracer ------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Goes on from what is noted; another process of this clone may have gone further."""
        kept = self.flow.cache.meta(META)
        if self._folds is not None and kept in ("", self._noted):
            return
        noted = msgspec.json.decode(kept) if kept else None
        if self._folds is None or (noted and noted["position"] > self.position):
            self._begin(noted)

    def _begin(self, noted: dict[str, Any] | None) -> None:
        from controller.projections.traces import Traces

        newest, self._folds = self._newest(), Traces()
        if noted is None or noted["position"] > newest:  # nothing is noted, or it is of another log
            self.position = self._first - 1 if self._first else newest
            return
        self.position, self._dropped = noted["position"], max(self._dropped, noted["dropped"])
        self._folds.runs = {subject: (run[0], run[1], run[2]) for subject, run in noted["runs"].items()}
        for sequence in noted["starts"]:
            for event in self.flow.log.read(sequence - 1):
                self._folds.fold(event)
                break

    def _newest(self) -> int:
        return max(self.flow.folds.position, self._last)

    def _offer(self) -> None:
        assert self._folds is not None
        sender, room = self.senders[-1], self.senders[-1].tracer.room
        if self._newest() <= self.position or not room:
            return
        for event in self.flow.log.read(self.position):
            traced = self._folds.fold(event)
            self.position = event.sequence
            if traced is None:
                continue
            if sender.tracer.trace(traced):
                sender.pending.append((event.sequence, traced.metadata.get("started_sequence", 0)))
            room -= 1
            if not room:
                break  # the rest waits in the log

    # -- what is kept --------------------------------------------------------------------------------------------

    def _note(self) -> None:
        """Where a restart begins: everything before is sent or given up."""
        if self._folds is None:
            return
        for sender in self.senders:
            sender.settle()
        for gone in [each for each in self.senders[:-1] if not each.pending]:
            self._dropped += gone.tracer.counts().dropped
            self.senders.remove(gone)
        pending = [one for sender in self.senders for one in sender.pending]
        position = min((sequence for sequence, _ in pending), default=self.position + 1) - 1
        starts = {start for _, start in pending} | {event.sequence for event in self._folds.opened.values()}
        noted = {
            "position": position,
            "starts": sorted(start for start in starts if 0 < start <= position),
            "runs": self._folds.runs,
            "dropped": self.dropped,
            "reason": self._reason(),
        }
        text = msgspec.json.encode(noted).decode()
        if text != self._noted:
            self.flow.cache.set_meta(**{META: text})
            self._noted = text

    @property
    def dropped(self) -> int:
        """How many actions LangSmith will never see, since this data folder was made."""
        return self._dropped + sum(sender.tracer.counts().dropped for sender in self.senders)

    def _reason(self) -> str:
        return next((each for sender in reversed(self.senders) if (each := sender.tracer.counts().last_error)), self.error)

    def news(self) -> str:
        """One line the first time that something was not sent, else nothing."""
        if self._told or not (self.error or self.dropped > self._dropped):
            return ""
        self._told = True
        return told(self.dropped, self._reason())

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Gives what waits so long in all to be sent; the rest is sent by the next controller of this data folder."""
        try:
            end = time.monotonic() + seconds
            for sender in self.senders:
                sender.tracer.close(max(0.0, end - time.monotonic()))
            if self._spec is not None:
                self._note()
        except Exception as error:  # whatever it is: nothing fails for want of a trace
            self.error = f"{type(error).__name__}: {error}"


def told(dropped: int, reason: str) -> str:
    """What a person reads about traces that are missing."""
    what = f"{dropped} {'action is' if dropped == 1 else 'actions are'} not in LangSmith" if dropped else "actions are not traced"
    return f"{what}: {reason}; nothing else is affected, the log has everything"


def missing(cache: Cache) -> str:
    """The same from what was noted last, or nothing: for who does not trace itself."""
    kept = cache.meta(META)
    noted = msgspec.json.decode(kept) if kept else {}
    return told(noted["dropped"], noted["reason"]) if noted.get("dropped") else ""
