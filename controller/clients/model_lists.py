"""What endpoints list and what hardware costs, as an evaluation needs it before it starts: dated, and kept for ten minutes.

Place in the flow: behind the door to evaluations, for `observe`. Nothing here may hold a pass up: what cannot be read is told as
unknown, what was read before stays with its date, and nobody is asked again for a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from controller.clients.huggingface import Hub
from controller.clients.model_records import Listed
from controller.clients.models import Models
from controller.errors import Permanent, Temporary
from controller.pool import ThreadPool

FRESH_SECONDS = 600.0
AGAIN_SECONDS = 60.0
CALL_SECONDS = 8.0
HARDWARE = ""
"""The key of the hardware list, among names of endpoints."""

Seen = Mapping[str, Any]


class ModelLists:
    """Of one environment. `clock` is monotonic, `now` dates what is read."""

    def __init__(
        self,
        models: Models,
        hub: Callable[[], Hub],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._models, self._hub, self._clock, self._now = models, hub, clock, now
        self._kept: dict[str, tuple[float, Seen]] = {}  # until when, and what

    def of(self, endpoints: Iterable[str], hardware: bool) -> dict[str, Any]:
        """`lists`: by endpoint `{asOf, models: {id: {input, output} or None}}`, USD per million tokens, or `{unknown: why}`.

        `hardware`: `{asOf, usdPerHour: {vendor/region/accelerator/type/size: USD}}` of Inference Endpoints, or `{unknown: why}`.
        """
        names = sorted(set(endpoints))
        wanted = [*names, *([HARDWARE] if hardware else [])]
        due = [name for name in wanted if name not in self._kept or self._kept[name][0] <= self._clock()]
        answers = ThreadPool(len(due), CALL_SECONDS).run([partial(self._read, name) for name in due])
        for name, answer in zip(due, answers, strict=True):
            self._keep(name, answer)
        found: dict[str, Any] = {"lists": {name: self._kept[name][1] for name in names}} if names else {}
        return found | ({"hardware": self._kept[HARDWARE][1]} if hardware else {})

    def _read(self, name: str) -> Seen:
        today = self._now().date().isoformat()
        if name == HARDWARE:
            rows = self._hub().endpoints.hardware()
            return {"asOf": today, "usdPerHour": {each.place: each.usd_per_hour for each in rows}}
        return {"asOf": today, "models": {one.id: _price(one) for one in self._models.listed(name, CALL_SECONDS)}}

    def _keep(self, name: str, answer: Any) -> None:
        now = self._clock()
        if not isinstance(answer, BaseException):
            self._kept[name] = (now + FRESH_SECONDS, answer)
        elif isinstance(answer, Temporary | Permanent | TimeoutError):
            before = self._kept.get(name, (0.0, {}))[1]
            self._kept[name] = (now + AGAIN_SECONDS, before if "asOf" in before else {"unknown": str(answer)})
        else:
            raise answer


def _price(one: Listed) -> dict[str, float] | None:
    if one.input_usd is None or one.output_usd is None:
        return None
    return {"input": round(one.input_usd * 1e6, 9), "output": round(one.output_usd * 1e6, 9)}
