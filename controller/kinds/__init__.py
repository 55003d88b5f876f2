"""One folder a kind, always the same four files; adding one touches nothing else. Found by looking, never by a list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from controller.kind import Kind


def find(paths: Iterable[str] | None = None, package: str = __name__) -> dict[str, Kind[Any, Any]]:
    """Every folder here that has a KIND, by the kind's name. Raises ValueError where two claim one name or plural."""
    found: dict[str, Kind[Any, Any]] = {}
    for module in pkgutil.iter_modules(list(paths) if paths is not None else list(__path__)):
        if not module.ispkg:
            continue
        kind = importlib.import_module(f"{package}.{module.name}").KIND
        clash = next((other for other in found.values() if other.plural == kind.plural or other.name == kind.name), None)
        if clash:
            raise ValueError(f"kinds {clash.name} and {kind.name} share a name or the folder state/{kind.plural}/")
        found[kind.name] = kind
    return found
