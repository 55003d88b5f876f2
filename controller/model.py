"""What every file a user writes is validated with: strict pydantic, and the few scalar types that specs share."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from controller.address import NAME, NAME_RULE


class Spec(BaseModel):
    """Strict: unknown fields, numbers as text and non-finite numbers are refused. Aliases are what users write."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    def written(self) -> dict[str, Any]:
        """What the user wrote, normalised, without defaults; `type(self)(**written)` gives the same spec."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def full(self) -> dict[str, Any]:
        """With defaults."""
        return self.model_dump(mode="json", by_alias=True)


def _text(value: Any) -> Any:
    """A plain YAML number in a text field is the text that the user wrote (`3.10` stays 3.10)."""
    return getattr(value, "text", value)


def _name(value: Any) -> Any:
    value = _text(value)
    if isinstance(value, str) and not NAME.match(value):
        raise ValueError(f"{value!r} is not a name: {NAME_RULE}")
    return value


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"^(?:\d+(?:\.\d+)?[smhdw])+$")


def seconds(value: Any) -> Any:
    """`24h`, `1h30m`, `45s`, `7d`, or a number of seconds."""
    if isinstance(value, str):
        if not _DURATION.match(value):
            raise ValueError(f"{value!r} is not a duration: write 30s, 10m, 24h, 7d or a number of seconds")
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhdw])", value))
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def percent(value: Any) -> Any:
    """`20%`, `0.5 %` or a number of percent."""
    if isinstance(value, str):
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)
        if not number:
            raise ValueError(f"{value!r} is not a percentage: write 20 or 20%")
        return float(number[1])
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Text = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=2048)]
Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME.pattern})]
Seconds = Annotated[
    float,
    BeforeValidator(seconds),
    Field(ge=0, le=366 * 86400),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": _DURATION.pattern}, {"type": "number", "minimum": 0}]}),
]
Percent = Annotated[
    float,
    BeforeValidator(percent),
    Field(ge=0, le=100),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}, {"type": "number", "minimum": 0, "maximum": 100}]}
    ),
]
Worsening = Annotated[
    float,
    BeforeValidator(percent),
    Field(ge=0, le=1000),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}, {"type": "number", "minimum": 0}]}),
]
LocalSecret = Annotated[
    str,
    BeforeValidator(_text),
    Field(
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$",
        description="Where the secret is: env:NAME or file:PATH. Never the value.",
    ),
]


def spoken(duration: float) -> str:
    """Seconds for people: `24h`, `1h30m`, `45s`, `0.5s`."""
    if duration < 60:
        return f"{duration:g}s"
    out, left = "", round(duration)
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(_UNITS[unit]))
        out += f"{count}{unit}" if count else ""
    return out
