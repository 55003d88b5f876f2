"""The door to an OpenLineage server (Marquez and others): run events, one POST each, over HTTP.

Sending again is harmless, because the events' run ids follow from the log; so nothing is retried here, and nothing is remembered.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from controller.errors import TurnoutError

CALL_SECONDS = 20.0
PATH = "/api/v1/lineage"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key goes to the server that was named and to no other."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def endpoint(url: str) -> str:
    """Where to post: the address itself if it ends with /lineage, else the usual path below it. Raises TurnoutError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise TurnoutError(
            f"{parts._replace(netloc=parts.hostname or '').geturl()!r} is not the address of an OpenLineage server",
            "write it like http://marquez:5000, without user and password; a key goes into $OPENLINEAGE_API_KEY",
        )
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith("/lineage") else path + PATH))


def post(url: str, events: Sequence[bytes], key: str = "") -> None:
    """In their order; `key` is a bearer token. Raises TurnoutError at the first that is not taken."""
    where = endpoint(url)
    opener = urllib.request.build_opener(_NoRedirect())
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    for count, event in enumerate(events):
        which = f"event {count + 1} of {len(events)}"
        request = urllib.request.Request(where, event, headers, method="POST")
        try:
            with opener.open(request, timeout=CALL_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            with error:
                said = " ".join(error.read(300).decode(errors="replace").split())
            raise TurnoutError(f"{where} answered {error.code} to {which}: {said}", _sent(count)) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise TurnoutError(f"{where} could not be asked for {which}: {reason}", _sent(count)) from error


def _sent(count: int) -> str:
    return f"{count} were sent; sending all of them again is harmless"
