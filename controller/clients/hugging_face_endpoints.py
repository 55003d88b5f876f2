"""Hugging Face Inference Endpoints: one per intent, found again by its name, stopped and deleted, its cost by the minute.

A name is unique in its namespace, so the intent's name is the key: creating twice finds what the first time made.
Billed is every minute in which an endpoint is initializing or running (huggingface.co/docs/inference-endpoints/support/pricing).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from controller.clients.hugging_face_session import Session
from controller.errors import Temporary
from controller.resource import digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi, InferenceEndpoint

BILLED = frozenset({"pending", "initializing", "running", "updating", "updateFailed"})
_POINTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class EndpointHardware:
    """What an endpoint can run on: US dollars per hour and replica. The first five fields are those of an order."""

    vendor: str
    region: str
    accelerator: str
    instance_type: str
    instance_size: str
    usd_per_hour: float
    gpu_memory_gb: int
    available: bool

    @property
    def place(self) -> str:
        """Its name in price lists."""
        return place_of(self.vendor, self.region, self.accelerator, self.instance_type, self.instance_size)


@dataclass(frozen=True, slots=True)
class EndpointOrder:
    """What to serve and on what. `secrets` are references; `image` None is the vendor's own choice of a server."""

    repository: str
    vendor: str
    region: str
    accelerator: str
    instance_type: str
    instance_size: str
    revision: str | None = None
    framework: str = "pytorch"
    task: str = "text-generation"
    image: Mapping[str, Any] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    scale_to_zero_minutes: int | None = 15


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is; `url` is empty until it serves, `updated` the last change of what is wanted of it."""

    name: str
    state: str
    message: str
    url: str
    repository: str
    revision: str
    created: datetime
    updated: datetime
    replicas: int

    @property
    def serves(self) -> bool:
        return self.state == "running" and bool(self.url)

    @property
    def billed(self) -> bool:
        return self.state in BILLED

    @property
    def failed(self) -> bool:
        return self.state in ("failed", "updateFailed")


def place_of(vendor: str, region: str, accelerator: str, instance_type: str, instance_size: str) -> str:
    """Hardware in one word, as price lists name it."""
    return "/".join((vendor, region, accelerator, instance_type, instance_size))


def endpoint_name(intent: str) -> str:
    """30 of the 32 characters that a name may have, lower-case letters, digits and '-'."""
    return f"turnout-{digest(intent)[:22]}"


def cost_usd(endpoint: Endpoint, usd_per_hour: float, until: datetime) -> float:
    """From its creation on; every started minute and kept replica counts.

    The vendor tells no bill and no history. `until` is now while it is `billed`, else when it was stopped: its `updated` where
    we stopped it, or when it was first seen stopped. Stops in between are not known and count as running: never too little.
    """
    return billed_usd(endpoint.created, until, usd_per_hour) * max(1, endpoint.replicas)


def billed_usd(since: datetime, until: datetime, usd_per_hour: float) -> float:
    """Of one replica that was initializing or running in between: every started minute counts."""
    return math.ceil(round(max(0.0, (until - since).total_seconds()), 3) / 60) * usd_per_hour / 60


class Endpoints:
    """Inference Endpoints of the session's namespace."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def hardware(self) -> list[EndpointHardware]:
        """With today's list prices. Raises Temporary, Permanent."""
        namespace = self._session.namespace()
        with self._call(f"read the hardware of Inference Endpoints for {namespace}") as api:
            return [
                EndpointHardware(
                    each.vendor, each.region, each.accelerator, each.instance_type, each.instance_size,
                    each.price_per_hour, each.gpu_memory_gb or 0, each.status in ("available", "low_availability"),
                )
                for each in api.list_inference_endpoints_hardware(namespace=namespace)
            ]  # fmt: skip

    def create(self, intent: str, order: EndpointOrder) -> Endpoint:
        """Makes the endpoint of an intent, or returns the one that is there under its name. Raises Temporary, Permanent."""
        name, namespace = endpoint_name(intent), self._session.namespace()
        secrets = {key: self._session.secret(reference) for key, reference in order.secrets.items()}
        with self._call(f"create the Inference Endpoint {name} in {namespace}", hide=secrets.values()) as api:
            from huggingface_hub.errors import HfHubHTTPError

            try:
                made = api.create_inference_endpoint(
                    name,
                    repository=order.repository,
                    framework=order.framework,
                    task=order.task,
                    accelerator=order.accelerator,
                    vendor=order.vendor,
                    region=order.region,
                    instance_type=order.instance_type,
                    instance_size=order.instance_size,
                    revision=order.revision,
                    custom_image=dict(order.image) if order.image else None,
                    env=dict(order.env) or None,
                    secrets=secrets or None,
                    min_replica=0 if order.scale_to_zero_minutes else 1,
                    max_replica=1,
                    scale_to_zero_timeout=order.scale_to_zero_minutes,
                    tags=["turnout"],
                    namespace=namespace,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                made = self._taken(api, name, namespace)
            return _endpoint(made)

    def _taken(self, api: HfApi, name: str, namespace: str) -> InferenceEndpoint:
        """The one that has the name. One that was just deleted keeps it for a moment, and is not shown: Temporary."""
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return api.get_inference_endpoint(name, namespace=namespace)
        except HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            raise Temporary(f"Hugging Face: the name {name} is taken in {namespace} by an endpoint that is not shown") from None

    def find(self, intent: str) -> Endpoint | None:
        """The endpoint of an intent; None when there is none."""
        return self.get(endpoint_name(intent))

    def get(self, name: str) -> Endpoint | None:
        """Raises Temporary, Permanent; None when there is none of this name."""
        namespace = self._session.namespace()
        with self._call(f"look at the Inference Endpoint {name} in {namespace}") as api:
            from huggingface_hub.errors import HfHubHTTPError

            try:
                return _endpoint(api.get_inference_endpoint(name, namespace=namespace))
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise
                return None

    def list(self) -> list[Endpoint]:
        """All of the namespace, by name."""
        namespace = self._session.namespace()
        with self._call(f"list the Inference Endpoints of {namespace}") as api:
            found = [_endpoint(each) for each in api.list_inference_endpoints(namespace)]
        return sorted(found, key=lambda each: each.name)

    def scale_to_zero(self, name: str) -> Endpoint:
        """Costs nothing from here on; the next request to it would start it again. Raises Temporary, Permanent."""
        namespace = self._session.namespace()
        with self._call(f"scale the Inference Endpoint {name} in {namespace} to zero") as api:
            return _endpoint(api.scale_to_zero_inference_endpoint(name, namespace=namespace))

    def pause(self, name: str) -> Endpoint:
        """Costs nothing from here on; only `resume` starts it again. Raises Temporary, Permanent."""
        namespace = self._session.namespace()
        with self._call(f"pause the Inference Endpoint {name} in {namespace}") as api:
            return _endpoint(api.pause_inference_endpoint(name, namespace=namespace))

    def resume(self, name: str) -> Endpoint:
        """Also when it runs already. Raises Temporary, Permanent."""
        namespace = self._session.namespace()
        with self._call(f"resume the Inference Endpoint {name} in {namespace}") as api:
            return _endpoint(api.resume_inference_endpoint(name, namespace=namespace))

    def delete(self, name: str) -> None:
        """Also when it is gone already. Raises Temporary, Permanent."""
        namespace = self._session.namespace()
        with self._call(f"delete the Inference Endpoint {name} in {namespace}") as api:
            from huggingface_hub.errors import HfHubHTTPError

            try:
                api.delete_inference_endpoint(name, namespace=namespace)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise

    @contextlib.contextmanager
    def _call(self, doing: str, hide: Iterable[str] = ()) -> Iterator[HfApi]:
        """The SDK knows one address of Inference Endpoints for the whole process: it is set for the length of a call."""
        with self._session.call(doing, hide=hide) as api:
            from huggingface_hub import constants

            with _POINTING:
                before, constants.INFERENCE_ENDPOINTS_ENDPOINT = constants.INFERENCE_ENDPOINTS_ENDPOINT, self._session.endpoints_url
                try:
                    yield api
                finally:
                    constants.INFERENCE_ENDPOINTS_ENDPOINT = before


def _endpoint(found: InferenceEndpoint) -> Endpoint:
    status = found.raw["status"]
    return Endpoint(
        name=found.name,
        state=str(getattr(found.status, "value", found.status)),
        message=status.get("message") or "",
        url=found.url or "",
        repository=found.repository,
        revision=found.revision or "",
        created=found.created_at,
        updated=found.updated_at,
        replicas=int(status.get("targetReplica") or 0),
    )
