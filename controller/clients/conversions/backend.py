"""What every place that converts is to the flow: start once, find again, look, verify, cancel, price. As for trainings.

`start` is called under an intent. It starts one process or job for it, whatever crashes, or says that it cannot know
(`OutcomeUnknown`, where the vendor has no idempotency key); `find` tells later. Nothing here waits for a conversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from controller.clients.runs import Found, Prices, Stage


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt. `intent` is its label, `run` the intent under which the run as a whole is paid for: the program's claim.

    `request` is the program's, without source and output. `source` is `{repo, revision}` on the Hub, or `{job, digest}` of a
    training on this machine that was not pushed. `record` is kept beside the job for `find`; `timeout` in seconds.
    """

    intent: str
    run: str
    attempt: int
    request: Mapping[str, Any]
    source: Mapping[str, str]
    hardware: str
    timeout: float
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sight:
    """An attempt as it is. `code` and `message` say how it failed; `seconds` it has run, `since_end` since it ended (0 = it has
    not, or nobody knows); `cost_usd` None = not known; `progress` is `{step, steps, said}`.
    """

    stage: Stage
    code: str = ""
    message: str = ""
    seconds: float = 0.0
    since_end: float = 0.0
    cost_usd: float | None = 0.0
    progress: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verified:
    """What a conversion left, looked at. `files` have name, quantization, bytes, sha256; `digest` is over them; `revision` on the
    Hub, where it was pushed; `smoke` is what each file generated.
    """

    problems: tuple[str, ...] = ()
    files: tuple[Mapping[str, Any], ...] = ()
    digest: str = ""
    revision: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)


class ConversionBackend(Protocol):
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

    def verify(self, handle: str, repo: str, intent: str, quantizations: Sequence[str]) -> Verified:
        """The files that a finished attempt left, against its own list of them; on the Hub too where `repo` is not empty.

        Large files are read a few seconds at a time: Temporary says how far it is, the next call goes on.
        """
        ...

    def cancel(self, handle: str) -> None:
        """Also when it has ended already, or is not there any more."""
        ...

    def prices(self) -> Prices: ...
