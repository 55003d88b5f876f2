"""Rollout: a run that moves a binding to a candidate, step by step, judged by what the gateways measure. Declared."""

from typing import Any

from controller.kind import Clients, Kind, Provider
from controller.kinds.rollout.plan import plan, references
from controller.kinds.rollout.spec import RolloutSpec, RolloutState


def _provider(clients: Clients) -> Provider[Any, Any]:
    from controller.kinds.rollout.provider import RolloutProvider

    return RolloutProvider(clients)


KIND: Kind[RolloutSpec, RolloutState] = Kind(
    name="Rollout",
    plural="rollouts",
    spec=RolloutSpec,
    state=RolloutState,
    plan=plan,
    references=references,
    provider=_provider,
    declared=True,
    once=True,
    mutable=frozenset({"paused"}),
    summary="Moves a binding to a candidate version, step by step, and judges it on the way.",
)
