"""Gateway: everything that renders bindings and rollouts as routes: proxies, and files that an orchestrator reads."""

from typing import Any

from controller.kind import Clients, Kind, Provider
from controller.kinds.gateway.plan import plan, references
from controller.kinds.gateway.spec import GatewaySpec, GatewayState


def _provider(clients: Clients) -> Provider[Any, Any]:
    from controller.kinds.gateway.provider import GatewayProvider

    return GatewayProvider(clients)


KIND: Kind[GatewaySpec, GatewayState] = Kind(
    name="Gateway",
    plural="gateways",
    spec=GatewaySpec,
    state=GatewayState,
    plan=plan,
    references=references,
    provider=_provider,
    summary="Renders bindings and rollouts as routes: proxies and files.",
)
