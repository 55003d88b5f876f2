"""The door to Turnout's proxies: their route tables and figures, over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from controller.clients.secrets import resolve
from controller.errors import Permanent, Temporary
from controller.settings import Settings

CALL_SECONDS = 5.0


class Gateways:
    """Every proxy of an environment by name. Raises Temporary when one does not answer."""

    def __init__(self, settings: Settings) -> None:
        self.proxies, self.data = settings.spec.proxies, settings.data
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def names(self) -> list[str]:
        return sorted(self.proxies)

    def table(self, name: str, unless: str = "") -> dict[str, Any] | None:
        """The table that a proxy serves; None when it has none yet, or when its digest is `unless`."""
        headers = {"If-None-Match": f'"{unless}"'} if unless else {}
        status, body = self._call(name, "GET", "/-/routes", headers=headers)
        if status == 304:
            return None
        if status in (401, 403):
            raise Temporary(f"proxy {name} refuses the admin token ({status})")
        if status in (404, 503) and not unless:
            return None
        if status in (404, 503):
            return {"digest": "", "serial": 0, "routes": {}}
        found: dict[str, Any] = json.loads(body)
        return found if found.get("digest") else None

    def put(self, name: str, table: dict[str, Any]) -> None:
        status, body = self._call(name, "PUT", "/-/routes", json.dumps(table).encode())
        if status == 422:
            raise Permanent(f"proxy {name} refuses the routes: {body.decode(errors='replace')[:500]}")
        if status != 200:
            raise Temporary(f"proxy {name} answered {status}: {body.decode(errors='replace')[:200]}")

    def stats(self, name: str) -> dict[str, Any]:
        status, body = self._call(name, "GET", "/stats")
        if status != 200:
            raise Temporary(f"proxy {name} answered {status} to /stats")
        found: dict[str, Any] = json.loads(body)
        return found

    def _call(
        self, name: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        proxy = self.proxies[name]
        token = resolve(proxy.token, self.data)
        request = urllib.request.Request(
            proxy.url.rstrip("/") + path,
            data=body,
            method=method,
            headers={
                "Content-Type": "application/json",
                **({"Authorization": f"Bearer {token}"} if token else {}),
                **(headers or {}),
            },
        )
        try:
            with self._open(request, timeout=CALL_SECONDS) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Temporary(f"proxy {name} at {proxy.url} does not answer ({reason})") from error


def connect(settings: Settings) -> Gateways:
    return Gateways(settings)
