"""Asks each kind's provider what is really there: in bulk, bounded, side by side. An error becomes Unknown, never an exception."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from controller.address import Address
from controller.kind import Known, Observed, Provider, Unknown
from controller.pool import Pool


def observe(
    asked: Mapping[str, Sequence[Known[Any]]],
    provider: Callable[[str], Provider[Any, Any]],
    pool: Pool,
) -> dict[Address, Observed[Any] | Unknown]:
    """`asked` maps kinds to what is to be observed. What a provider does not name is not there."""
    kinds = [kind for kind, known in asked.items() if known]
    answers = pool.run([_question(provider, kind, asked[kind]) for kind in kinds])
    seen: dict[Address, Observed[Any] | Unknown] = {}
    for kind, answer in zip(kinds, answers, strict=True):
        if isinstance(answer, BaseException):
            reason = str(answer) or type(answer).__name__
            seen.update({known.address: Unknown(reason) for known in asked[kind]})
        else:
            seen.update(answer)
    return seen


def _question(provider: Callable[[str], Provider[Any, Any]], kind: str, known: Sequence[Known[Any]]) -> Callable[[], Any]:
    return lambda: provider(kind).observe(known)
