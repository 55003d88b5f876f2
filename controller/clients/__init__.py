"""The only doors out of the process: one file a system, SDKs imported when a door is first opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

DOORS: Mapping[str, tuple[str, str]] = {
    "evaluations": ("controller.clients.evaluations", "connect"),
    "gateway": ("controller.clients.gateway", "connect"),
    "files": ("controller.clients.files", "Files"),
    "haproxy": ("controller.clients.haproxy", "Haproxies"),
    "kubernetes": ("controller.clients.kubernetes", "Kubernetes"),
    "reload": ("controller.clients.reload", "Reload"),
    "conversions": ("controller.clients.conversions", "connect"),
    "training": ("controller.clients.training", "connect"),
    "datasets": ("controller.clients.datasets", "connect"),
}
"""Name of a door -> the module and the callable that opens it with (settings)."""


class Clients:
    """Opens each door once. `given` replaces doors: tests and the simulation put their doubles there."""

    def __init__(self, settings: Any, given: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._open: dict[str, Any] = dict(given or {})

    def open(self, name: str) -> Any:
        if name not in self._open:
            module, attribute = DOORS[name]
            factory: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
            self._open[name] = factory(self._settings)
        return self._open[name]
