"""Which split a row belongs to, decided by the row alone: adding or removing rows moves no other.

Place in the flow: after `rows`. Why by the question's digest: the same question with another answer, or in another spelling,
stays on one side, so that an evaluation never asks what was trained. Why not a shuffle with a seed: one new row would move half
of the others, and every comparison with last month's evaluation would be broken.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

from controller.datasets.rows import Row


def divided(rows: Iterable[Row], shares: Mapping[str, float], *, salt: str = "") -> dict[str, list[Row]]:
    """Rows by split, in their order. `shares` sum to 1; small sets come out near them, not on them.

    Making the first share larger moves rows into it and moves none out of it. `salt` gives another, equally stable split.
    Raises ValueError for shares that do not sum to 1.
    """
    parts: dict[str, list[Row]] = {name: [] for name in shares}
    for row in rows:
        parts[side(row.key(), shares, salt=salt)].append(row)
    return parts


def side(key: str, shares: Mapping[str, float], *, salt: str = "") -> str:
    """The split of one key: its digest as a number from 0 to 1, laid against the shares in their order."""
    if not shares or any(not (math.isfinite(share) and share >= 0) for share in shares.values()):
        raise ValueError(f"shares are {dict(shares)}: allowed are numbers from 0 to 1, at least one")
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-9):
        raise ValueError(f"shares sum to {sum(shares.values()):g}: allowed is 1, such as train: 0.9, evaluation: 0.1")
    place = int.from_bytes(hashlib.sha256(f"{salt}\0{key}".encode()).digest()[:8], "big") / 2**64
    reached = 0.0
    for name, share in shares.items():
        reached += share
        if place < reached:
            return name
    return [name for name, share in shares.items() if share > 0][-1]  # the last, where the sum is a hair under 1
