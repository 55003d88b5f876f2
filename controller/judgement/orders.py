"""Which call comes when: both sides interleaved in an order that is random, fixed by a seed, and the same for ever.

Place in the flow: before the first call. A provider walks the list, skips what it has already, and so resumes after a crash.
Why both sides of an example stand together and take turns at going first: a vendor that slows down at noon, or a cache that warms
up, then hits both sides alike. Why hashes and not a generator: a later Python may shuffle otherwise, and a resumed evaluation
must not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from controller.judgement.results import Side


class Call(NamedTuple):
    example: str
    side: Side
    repetition: int


def interleaved(examples: Iterable[str], *, repetitions: int = 1, seed: int = 0) -> list[Call]:
    """Every (example, side, repetition) once. Raises ValueError for no repetition or for an example that is named twice.

    Of each two neighbouring pairs one begins with the candidate and one with the baseline; which, a coin of the seed decides.
    """
    names = list(examples)
    if repetitions < 1:
        raise ValueError(f"repetitions is {repetitions}: allowed is 1 or more")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"examples named more than once: {', '.join(twice[:5])}; give each its own id")
    blocks = sorted(((name, again) for name in names for again in range(repetitions)), key=lambda block: _draw(seed, *block))
    calls: list[Call] = []
    coin = False
    for place, (name, again) in enumerate(blocks):
        coin = not coin if place % 2 else bool(_draw(seed, name, again)[-1] & 1)
        sides: tuple[Side, Side] = ("candidate", "baseline") if coin else ("baseline", "candidate")
        calls += [Call(name, side, again) for side in sides]
    return calls


def _draw(seed: int, name: str, repetition: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{repetition}\0{name}".encode("utf-8", "surrogatepass")).digest()
