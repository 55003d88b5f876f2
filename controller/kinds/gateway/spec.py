"""What a user writes for a Gateway, and what can be observed of one."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from controller.model import Name, Spec, Text


class SignalReload(Spec):
    """Sends a signal to a process."""

    pid_file: Text = Field(alias="pidFile", title="PID file", description="File with the process id.", examples=["/run/orch.pid"])
    signal: Literal["HUP", "USR1", "USR2", "TERM"] = Field("HUP", title="Signal", description="Which one.", examples=["HUP"])


class HttpReload(Spec):
    """Calls an address."""

    url: Text = Field(
        title="URL",
        description="Called after the file is in place.",
        pattern=r"^https?://[^\s/]+",
        examples=["http://127.0.0.1:8001/reload"],
    )
    method: Literal["POST", "PUT", "GET"] = Field("POST", title="Method", description="HTTP method.", examples=["POST"])


class ContainerReload(Spec):
    """Restarts a container."""

    name: Text = Field(title="Name", description="Name of a Docker container.", examples=["orchestrator"])


class Reload(Spec):
    """How the reader of a file is told. Exactly one."""

    signal: SignalReload | None = Field(None, title="Signal", description="By signal.", examples=[{"pidFile": "/run/orch.pid"}])
    http: HttpReload | None = Field(
        None, title="HTTP", description="By a call.", examples=[{"url": "http://127.0.0.1:8001/reload"}]
    )
    container: ContainerReload | None = Field(None, title="Container", description="By a restart.", examples=[{"name": "orch"}])

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(each is not None for each in (self.signal, self.http, self.container)) != 1:
            raise ValueError("exactly one of signal, http, container is needed")
        return self


class FileTarget(Spec):
    """A file that another program reads: written atomically, with a backup of what was there."""

    path: Text = Field(
        title="Path",
        description="Absolute, or relative to the environment's data folder.",
        examples=["/etc/orchestrator/config/agents/models.yaml"],
    )
    format: Literal["models.yaml", "json"] = Field(
        "models.yaml",
        title="Format",
        examples=["models.yaml"],
        description="`agents: {name: {model, endpoint, version}}` as YAML or JSON.",
    )
    reload: Reload | None = Field(
        None, title="Reload", description="How the reader is told.", examples=[{"http": {"url": "http://127.0.0.1:8001/reload"}}]
    )


Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")]
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
_DNS = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
DnsName = Annotated[str, Field(pattern="^" + _DNS, max_length=253)]
Hostname = Annotated[str, Field(pattern=r"^(\*\.)?" + _DNS, max_length=253)]
ModelNames = dict[Name, Literal["agent", "header"]]
MODEL_NAMES = (
    "How an endpoint learns the model, as the body cannot be rewritten: `agent`: it answers to the agent's name; "
    "`header`: it reads `X-Turnout-Model`. Others get only models that are named like their agent."
)


class HaproxyTarget(Spec):
    """An HAProxy that serves the same routes: Turnout owns one configuration file of it, and a map of routes beside it."""

    name: Name = Field(title="Name", description="Name from `haproxies` of environment.yaml.", examples=["edge"])
    config: Text = Field(
        title="Configuration",
        description="File that HAProxy is started with, written whole. Absolute, or relative to the environment's data folder.",
        pattern=r"^[A-Za-z0-9_./-]+$",
        examples=["/etc/haproxy/turnout.cfg"],
    )
    bind: Text = Field(
        title="Bind",
        description="Address and port that it listens on.",
        pattern=r"^(\*|[A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}$",
        examples=["*:5810"],
    )
    reload: Reload | None = Field(
        None,
        title="Reload",
        description="How it is told to read its file again; none = through the environment's `masterSocket`.",
        examples=[{"signal": {"pidFile": "/run/haproxy.pid", "signal": "USR2"}}],
    )
    agent_header: Header = Field(
        "X-Turnout-Agent",
        alias="agentHeader",
        title="Agent header",
        description="Names the agent of a request to /v1/...; paths /agents/<agent>/v1/... need none.",
        examples=["X-Turnout-Agent"],
    )
    session_header: Header = Field(
        "X-Session-ID",
        alias="sessionHeader",
        title="Session header",
        description="Names the session; a session keeps its variant.",
        examples=["X-Session-ID"],
    )
    ca_file: Text = Field(
        "@system-ca",
        alias="caFile",
        title="CA file",
        description="Certificates that https endpoints are verified with; `@system-ca` = those of the system.",
        pattern=r"^[A-Za-z0-9@_./-]+$",
        examples=["/etc/ssl/certs/ca-certificates.crt"],
    )
    model_names: ModelNames = Field(
        {}, alias="modelNames", title="Model names", description=MODEL_NAMES, examples=[{"vllm": "agent", "litellm": "header"}]
    )


class ParentRef(Spec):
    """The Gateway of the cluster that a route is attached to."""

    name: DnsName = Field(title="Name", description="Name of the Gateway object.", examples=["inference"])
    namespace: Label | None = Field(None, title="Namespace", description="Its namespace; none = the routes'.", examples=["infra"])
    section_name: DnsName | None = Field(
        None, alias="sectionName", title="Section", description="One of its listeners; none = all.", examples=["https"]
    )
    port: int | None = Field(None, ge=1, le=65535, title="Port", description="Only listeners on this port.", examples=[443])


class BackendRef(Spec):
    """The Service of the cluster that stands for an endpoint."""

    service: Label = Field(title="Service", description="Name of the Service.", examples=["vllm-a"])
    port: int = Field(ge=1, le=65535, title="Port", description="Port of the Service.", examples=[8000])
    namespace: Label | None = Field(
        None,
        title="Namespace",
        description="Its namespace; another one than the routes' needs a ReferenceGrant there.",
        examples=["models"],
    )


class HttpRouteTarget(Spec):
    """A cluster whose Gateway serves the same routes: one HTTPRoute object an agent."""

    name: Name = Field(title="Name", description="Of this target, in conditions and labels.", examples=["cluster"])
    context: Text | None = Field(
        None,
        title="Context",
        description="Of the kubeconfig; none = the current one, or the pod's service account.",
        examples=["production"],
    )
    namespace: Label = Field(title="Namespace", description="Where the HTTPRoutes lie.", examples=["agents"])
    parent_refs: list[ParentRef] = Field(
        alias="parentRefs",
        title="Parents",
        min_length=1,
        max_length=32,
        description="The Gateways that serve the routes.",
        examples=[[{"name": "inference", "namespace": "infra"}]],
    )
    hostnames: list[Hostname] = Field(
        [], title="Host names", max_length=16, description="Only requests to these.", examples=[["models.example.org"]]
    )
    match: Literal["path", "header"] = Field(
        "path",
        title="Match",
        description="How an agent is named: `path` = /agents/<agent>/v1/...; `header` = /v1/... with the agent header.",
        examples=["path"],
    )
    agent_header: Header = Field(
        "X-Turnout-Agent", alias="agentHeader", title="Agent header", description="With `header`.", examples=["X-Turnout-Agent"]
    )
    backends: dict[Name, BackendRef] = Field(
        title="Backends",
        description="By endpoint: `{service, port, namespace}` of the Service that stands for it.",
        examples=[{"vllm": {"service": "vllm", "port": 8000}}],
    )
    model_names: ModelNames = Field(
        {}, alias="modelNames", title="Model names", description=MODEL_NAMES, examples=[{"vllm": "agent"}]
    )


class GatewaySpec(Spec):
    """One writer for all targets; every ModelBinding and Rollout is rendered into each."""

    proxies: list[Name] = Field([], title="Proxies", description="Names from environment.yaml.", examples=[["main"]])
    files: list[FileTarget] = Field([], title="Files", description="Files to keep.", examples=[[{"path": "models.yaml"}]])
    haproxy: list[HaproxyTarget] = Field(
        [],
        title="HAProxy",
        description="HAProxy processes that serve the same routes.",
        examples=[[{"name": "edge", "config": "/etc/haproxy/turnout.cfg", "bind": "*:5810"}]],
    )
    http_routes: list[HttpRouteTarget] = Field(
        [],
        alias="httpRoutes",
        title="HTTPRoutes",
        description="Clusters whose Gateway serves the same routes.",
        examples=[[{"name": "cluster", "namespace": "agents", "parentRefs": [{"name": "inference"}], "backends": {}}]],
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for field, targets in (("haproxy", self.haproxy), ("httpRoutes", self.http_routes)):
            names = [each.name for each in targets]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{field} names {', '.join(twice)} twice")
        return self


class GatewayState(Spec):
    """`routes` in words by agent; `endpoints` as they are routed to; by target: `proxies` the digest that each serves, `haproxy`
    the digests of its files and of what its process runs, `httpRoutes` the digest of its objects (None = it cannot be seen);
    `files` the digest each has (None = not there)."""

    routes: dict[str, str] = {}
    endpoints: dict[str, Any] = {}
    proxies: dict[str, str | None] = {}
    files: dict[str, str | None] = {}
    haproxy: dict[str, dict[str, str | None] | None] = {}
    http_routes: dict[str, str | None] = Field({}, alias="httpRoutes")
