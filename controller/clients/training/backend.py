"""What every place that trains is to the flow: start once, find again, look, cancel, price. Small, so that others can be added.

`start` is called under an intent. It starts one process or job for it, whatever crashes, or says that it cannot know
(`OutcomeUnknown`, where the vendor has no idempotency key); `find` tells later. Nothing here waits for a training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from controller.clients.runs import Found, Hardware, Prices, Stage

__all__ = ["Found", "Hardware", "Order", "Prices", "Sight", "Stage", "TrainingBackend", "Verified"]


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt. `intent` is its label, `run` the intent under which the run as a whole is paid for: the program's claim.

    `request` is the program's, without its output and data; `record` is kept beside the job for `find`; `rows` is a JSON-lines
    file of this machine, named by its content; `timeout` in seconds.
    """

    intent: str
    run: str
    attempt: int
    request: Mapping[str, Any]
    rows: Path
    hardware: str
    timeout: float
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sight:
    """An attempt as it is. `code` and `message` say how it failed; `seconds` it has run; `cost_usd` None = not known."""

    stage: Stage
    code: str = ""
    message: str = ""
    seconds: float = 0.0
    cost_usd: float | None = 0.0
    progress: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 0
    accumulation: int = 0


@dataclass(frozen=True, slots=True)
class Verified:
    """What an attempt left, looked at: `digest` of names, sizes and sha256; `revision` on the Hub, where it was pushed."""

    problems: tuple[str, ...] = ()
    files: int = 0
    bytes: int = 0
    digest: str = ""
    revision: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


class TrainingBackend(Protocol):
    """Every method raises Temporary or Permanent, and takes seconds."""

    def start(self, order: Order) -> str:
        """The handle of the one job of this intent. May raise OutcomeUnknown."""
        ...

    def find(self, intent: str) -> Found | None:
        """None = there is none, as far as this backend lists."""
        ...

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        """Every handle, or why it cannot be seen."""
        ...

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        """The files that a finished attempt left, against its own list of them; on the Hub too where `repo` is not empty."""
        ...

    def cancel(self, handle: str) -> None:
        """Also when it has ended already, or is not there any more."""
        ...

    def prices(self) -> Prices: ...
