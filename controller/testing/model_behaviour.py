"""How each simulated model behaves (`model_server.py`): set over HTTP, validated, kept in a file if asked."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

_LONGEST_MS = 600_000
_MOST_TOKENS = 100_000


@dataclass(frozen=True)
class Behaviour:
    """What a model does. A `status` without an `error_rate` is the answer to every request."""

    error_rate: float | None = None
    latency_ms: float = 0
    output_tokens: int = 12
    status: int | None = None
    hang: bool = False
    die_mid_stream: bool = False

    def fails(self, number: int) -> bool:
        """Whether the request of this number (from 1) fails. Errors are spread evenly: 0.1 is every tenth."""
        if self.error_rate is None:
            return self.status is not None
        rate = Fraction(str(self.error_rate))
        return int(number * rate) > int((number - 1) * rate)


def changed(behaviour: Behaviour, patch: Any) -> tuple[Behaviour, list[str]]:
    """The behaviour with this patch (null resets a field or the whole), and all that is wrong with the patch."""
    if patch is None:
        return Behaviour(), []
    if not isinstance(patch, dict):
        return behaviour, ["is neither an object nor null"]
    known = {field.name: field.default for field in fields(Behaviour)}
    values: dict[str, Any] = {}
    found: list[str] = []
    for name, value in patch.items():
        if name not in known:
            found.append(f"{name} is not known; there are {', '.join(known)}")
        elif value is None:
            values[name] = known[name]
        elif (problem := _problem(name, value)) is not None:
            found.append(f"{name} {problem}, not {json.dumps(value)}")
        else:
            values[name] = value
    return (behaviour, found) if found else (replace(behaviour, **values), [])


def _problem(name: str, value: Any) -> str | None:
    if name in ("hang", "die_mid_stream"):
        return None if isinstance(value, bool) else "is true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    if name == "error_rate":
        return None if number and 0 <= value <= 1 else "is a number from 0 to 1"
    if name == "latency_ms":
        return None if number and 0 <= value <= _LONGEST_MS else f"is a number from 0 to {_LONGEST_MS}"
    if name == "output_tokens":
        return None if whole and 1 <= value <= _MOST_TOKENS else f"is a whole number from 1 to {_MOST_TOKENS}"
    return None if whole and 400 <= value <= 599 else "is a whole number from 400 to 599"


class Behaviours:
    """The behaviours of all endpoints of the process, by endpoint and model."""

    def __init__(self, state: Path | None) -> None:
        self._state = state
        self._all: dict[str, dict[str, Behaviour]] = {}
        if state is not None and state.exists():
            for endpoint, models in json.loads(state.read_text(encoding="utf-8")).items():
                self.merge(endpoint, models)

    def of(self, endpoint: str, model: str) -> Behaviour:
        return self._all.get(endpoint, {}).get(model, Behaviour())

    def shown(self, endpoint: str) -> dict[str, dict[str, Any]]:
        return {
            model: {name: value for name, value in asdict(behaviour).items() if value is not None}
            for model, behaviour in self._all.get(endpoint, {}).items()
        }

    def merge(self, endpoint: str, patch: Any) -> list[str]:
        """Apply a patch `{model: {field: value}}` as a whole, or nothing of it; returns what is wrong with it."""
        if not isinstance(patch, dict):
            return ["The body is an object: {model: {field: value}}"]
        models = dict(self._all.get(endpoint, {}))
        found: list[str] = []
        for model, fields_ in patch.items():
            behaviour, problems = changed(models.get(model, Behaviour()), fields_)
            found += [f"{model}: {problem}" for problem in problems]
            models[model] = behaviour
        if not found:
            self._all[endpoint] = {model: behaviour for model, behaviour in models.items() if behaviour != Behaviour()}
        return found

    def keep(self) -> None:
        if self._state is None:
            return
        self._state.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._state.with_name(self._state.name + ".tmp")
        temporary.write_text(json.dumps({name: self.shown(name) for name in self._all}, indent=1), encoding="utf-8")
        os.replace(temporary, self._state)
