"""The data plane: its own process, which relays agents' requests to the model that the route table names.

It imports nothing of the control plane; the two meet in the route table (`table.py`) and in the figures of `/stats`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .balancing import LoadBalancingProxy, load_config

__all__ = ["LoadBalancingProxy", "load_config"]


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: the process itself needs neither."""
    if name in __all__:
        from . import balancing

        return getattr(balancing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
