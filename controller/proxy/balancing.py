"""The data plane inside a program of one's own: `LoadBalancingProxy(config)`, `await proxy.start()`, `await proxy.stop()`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from .config import Config, compiled, load_config
from .server import Options, Server
from .table import RouteTable, encode


class LoadBalancingProxy:
    """A proxy in the running event loop (uvloop makes it fast). `config` is a Config, a mapping of the same form, or a path.

    `data` keeps figures and budgets over restarts; without it they live as long as the proxy. Raises CannotStart from
    `start`, ValueError for a config that means nothing.
    """

    def __init__(self, config: Config | dict[str, Any] | str | Path, *, data: str | Path | None = None) -> None:
        if isinstance(config, (str, Path)):
            config = load_config(config)
        elif isinstance(config, dict):
            config = msgspec.convert(config, Config)
        self.config = config
        self._table = compiled(config)
        self._temporary = tempfile.TemporaryDirectory(prefix="turnout-proxy-") if data is None else None
        self._data = Path(data if data is not None else self._temporary.name if self._temporary is not None else "")
        self._server: Server | None = None

    @property
    def port(self) -> int:
        """Where it listens, once it has started."""
        return self._server.port if self._server is not None else self.config.port

    async def start(self) -> None:
        """Serve; returns when the port is open."""
        self._data.mkdir(parents=True, exist_ok=True)
        routes = self._data / "config.json"
        routes.write_bytes(encode(self._table))
        self._server = Server(Options(data=self._data, host=self.config.host, port=self.config.port, fixed=routes))
        await self._server.start()

    async def stop(self) -> None:
        """Finish what is under way, and end."""
        if self._server is not None:
            await self._server.stop()
            self._server = None
        if self._temporary is not None:
            self._temporary.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()


__all__ = ["Config", "LoadBalancingProxy", "RouteTable", "load_config"]
