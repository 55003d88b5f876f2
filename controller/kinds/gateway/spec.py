"""What a user writes for a Gateway, and what can be observed of one."""

from __future__ import annotations

from typing import Any, Literal, Self

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


class GatewaySpec(Spec):
    """One writer for all targets; every ModelBinding and Rollout is rendered into each."""

    proxies: list[Name] = Field([], title="Proxies", description="Names from environment.yaml.", examples=[["main"]])
    files: list[FileTarget] = Field([], title="Files", description="Files to keep.", examples=[[{"path": "models.yaml"}]])


class GatewayState(Spec):
    """`routes` in words by agent; `endpoints` as they are routed to; `proxies` the digest that each serves (None = it cannot be
    seen); `files` the digest each has (None = not there)."""

    routes: dict[str, str] = {}
    endpoints: dict[str, Any] = {}
    proxies: dict[str, str | None] = {}
    files: dict[str, str | None] = {}
