"""The door to programs that have to be told that their file changed: a signal, an HTTP call, a container restart."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controller.errors import Temporary
from controller.settings import Settings

CALL_SECONDS = 10.0


class Reload:
    """Raises Temporary when the reader cannot be told; the file is in place by then."""

    def __init__(self, settings: Settings) -> None:
        self.data = settings.data

    def tell(self, how: Mapping[str, Any]) -> None:
        if how.get("signal"):
            self._signal(how["signal"])
        elif how.get("http"):
            self._http(how["http"])
        elif how.get("container"):
            self._container(how["container"]["name"])

    def _signal(self, how: Mapping[str, Any]) -> None:
        path = self.data / Path(how["pidFile"])
        try:
            os.kill(int(path.read_text().strip()), getattr(signal, f"SIG{how['signal']}"))
        except (OSError, ValueError) as error:
            raise Temporary(f"reload: SIG{how['signal']} to the process of {path} failed: {error}") from error

    def _http(self, how: Mapping[str, Any]) -> None:
        request = urllib.request.Request(how["url"], method=how["method"], data=b"" if how["method"] != "GET" else None)
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS):
                pass
        except (OSError, urllib.error.URLError) as error:
            raise Temporary(f"reload: {how['method']} {how['url']} failed: {error}") from error

    def _container(self, name: str) -> None:
        try:
            import docker
        except ImportError as error:
            raise Temporary("reload: install turnout[docker] to restart containers") from error
        try:
            docker.from_env(timeout=int(CALL_SECONDS)).containers.get(name).restart(timeout=5)
        except Exception as error:
            raise Temporary(f"reload: container {name} cannot be restarted: {error}") from error
