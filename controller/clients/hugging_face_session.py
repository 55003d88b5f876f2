"""Calls to Hugging Face through its SDK, made safe for a controller: time-outs, no silent repeats, and errors as types.

The SDK has no HTTP time-out for most calls and repeats some for half a minute. Its HTTP client is replaced (the documented
`set_client_factory`) by one that, inside `Session.call`, bounds every request and turns what the SDK would repeat into an error
that it lets through. Outside of `Session.call` the client behaves as the SDK's own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from controller.clients.secrets import resolve
from controller.errors import Permanent, Temporary

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfApi

CALL_SECONDS = 20.0
"""No call may take longer: the lease of a controller that acts is 30 s."""
SILENCE_SECONDS = 60.0
"""Longest silence within a transfer, which as a whole may take as long as it takes."""
TOKEN_NAMES = ("HUGGINGFACE_HUB_TOKEN", "HF_TOKEN")
VENDOR_HOSTS = ("huggingface.co", "hf.co")

_HINTS = {
    401: "check the token and what it may do (huggingface.co/settings/tokens)",
    402: "add credits, or have them added, in the billing settings of the namespace",
    403: "the token needs the permission to do this there; a gated repository asks for access on its page",
    404: "check the name; a private repository is not shown to a token that may not read it",
    412: "somebody committed in between: look at what changed, then do it again",
}


class OutcomeUnknown(Exception):
    """A call that pays may have taken effect: neither Temporary nor Permanent, so it is not called again but looked for."""


class Unanswered(Exception):
    """No answer came. `sent`: the request may have arrived. Not of the SDK's family, so the SDK does not repeat it."""

    def __init__(self, reason: str, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Busy(Exception):
    """An answer that means: not now. Not of the SDK's family, so the SDK does not repeat it."""

    def __init__(self, status: int, retry_after: str, message: str) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class _Terms:
    """`until`: monotonic seconds at which the call as a whole is over. `quiet`: silence that ends an event stream."""

    until: float | None
    silence: float
    quiet: float | None

    def seconds(self) -> float:
        if self.until is None:
            return self.silence
        left = self.until - time.monotonic()
        if left <= 0:
            raise Unanswered("the time for this call is over", sent=False)
        return min(self.silence, left)


_TERMS: ContextVar[_Terms | None] = ContextVar("hugging_face_terms", default=None)
_PREPARING = threading.Lock()


class Session:
    """One Hub, one token, one namespace. Opens nothing until the first call."""

    def __init__(self, url: str, endpoints_url: str, namespace: str | None, token: str | None, data: Path) -> None:
        self.url, self.endpoints_url = url.rstrip("/"), endpoints_url.rstrip("/")
        self._namespace, self._token, self._data = namespace, token, data
        self.call_seconds = CALL_SECONDS

    @property
    def reference(self) -> str | None:
        """Where the token comes from: what the settings name, else the first of the known variables that is set."""
        return self._token or next((f"env:{name}" for name in TOKEN_NAMES if os.environ.get(name)), None)

    def token(self) -> str:
        """Raises Temporary when there is none (yet). For calls only; never to be told."""
        if self.reference is None:
            raise Temporary(
                f"Hugging Face: no token; set {' or '.join(TOKEN_NAMES)}, or name a reference to one in the environment's settings"
            )
        return resolve(self.reference, self._data)

    def secret(self, reference: str) -> str:
        """The value behind a reference, for a job or an endpoint. Raises Temporary or Permanent."""
        return resolve(reference, self._data)

    def namespace(self) -> str:
        """Of the settings, else the name of the token's user (asked once)."""
        if self._namespace is None:
            with self.call("ask whose token this is") as api:
                self._namespace = str(api.whoami()["name"])
        return self._namespace

    @contextlib.contextmanager
    def call(
        self,
        doing: str,
        *,
        anonymous: bool = False,
        pays: bool = False,
        transfer: bool = False,
        quiet: float | None = None,
        hide: Iterable[str] = (),
    ) -> Iterator[HfApi]:
        """The SDK, for what is done inside. Raises Temporary, Permanent, and OutcomeUnknown if it `pays`.

        `anonymous`: works without a token too. `transfer`: may take as long as it takes, while it is not silent.
        `hide`: values that no error may tell, besides the token.
        """
        token = self._token_or_nothing() if anonymous else self.token()
        _prepare(urlsplit(self.url).hostname or "")
        from huggingface_hub import HfApi

        until = None if transfer else time.monotonic() + self.call_seconds
        before = _TERMS.set(_Terms(until, SILENCE_SECONDS if transfer else self.call_seconds, quiet))
        try:
            yield HfApi(endpoint=self.url, token=token or False, library_name="turnout")
        except (Temporary, Permanent, OutcomeUnknown):
            raise
        except Exception as error:
            problem = self._problem(error, doing, pays)
            if problem is None:
                raise
            told = str(problem)
            for value in filter(None, (token, *hide)):
                told = told.replace(value, "***")
            raise type(problem)(told) from None  # the SDK's own texts hold signed addresses
        finally:
            _TERMS.reset(before)

    def _token_or_nothing(self) -> str:
        return self.token() if self.reference else ""

    def _problem(self, error: Exception, doing: str, pays: bool) -> Exception | None:
        """The type and the sentence for an error of the SDK; None for one that is a bug of ours."""
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        where = f"Hugging Face ({urlsplit(self.url).netloc}): {doing}"
        if isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__ if isinstance(error.__cause__, Exception) else error  # "Error while uploading ..."
        if isinstance(error, Unanswered):
            return _unanswered(where, str(error), error.sent, pays)
        if isinstance(error, Busy):
            return _busy(where, error, pays)
        if isinstance(error, HfHubHTTPError):
            return self._refusal(where, error)
        if isinstance(error, OfflineModeIsEnabled):
            return Permanent(f"{where}: HF_HUB_OFFLINE is set in this process; unset it to reach the Hub")
        if _is_transport(error):
            return _unanswered(where, type(error).__name__, True, pays)
        if isinstance(error, ValueError):
            return Permanent(f"{where}: {' '.join(str(error).split())[:500]}")
        if type(error).__module__.startswith("hf_xet"):
            return Temporary(f"{where}: the transfer failed ({type(error).__name__})")
        if isinstance(error, OSError):
            return Temporary(f"{where}: {error.strerror or type(error).__name__}")
        return None

    def _refusal(self, where: str, error: Any) -> Exception:
        status = error.response.status_code
        said = " ".join((error.server_message or type(error).__name__).split())[:500]
        if urlsplit(str(error.response.request.url)).netloc not in (self._host, urlsplit(self.endpoints_url).netloc):
            return Temporary(f"{where}: the storage answered {status} ({said}); the next attempt asks for a new address")
        hint = _HINTS.get(status)
        return Permanent(f"{where}: {status} {said}{f'; {hint}' if hint else ''}")

    @property
    def _host(self) -> str:
        return urlsplit(self.url).netloc


def _unanswered(where: str, reason: str, sent: bool, pays: bool) -> Exception:
    if pays and sent:
        return OutcomeUnknown(f"{where}: no answer ({reason}); it may have taken effect, look for it before doing it again")
    return Temporary(f"{where}: no answer ({reason})")


def _busy(where: str, error: Busy, pays: bool) -> Exception:
    later = f"; it asks to come back in {error.retry_after} s" if error.retry_after else ""
    said = f"{error.status} {' '.join(str(error).split())[:200]}{later}"
    if pays and error.status != 429:
        return OutcomeUnknown(f"{where}: {said}; it may have taken effect all the same, look for it before doing it again")
    return Temporary(f"{where}: {said}")


def _is_transport(error: Exception) -> bool:
    import httpx2

    return isinstance(error, httpx2.HTTPError)


def _prepare(host: str) -> None:
    """The SDK as a controller needs it; once a process, and again where another library has set a client of its own."""
    try:
        from huggingface_hub import constants, get_session, set_client_factory
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise Permanent(f"Hugging Face: its SDK is not installed ({error.name}); pip install 'huggingface_hub>=2.4'") from None

    with _PREPARING:
        # Telemetry asks huggingface.co for a list of agents, whatever the endpoint; an emulator or a mirror has no Xet.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        if not host.endswith(VENDOR_HOSTS):
            constants.HF_HUB_DISABLE_XET = True
        if not isinstance(get_session(), _client_type()):
            disable_progress_bars()
            hooks = get_session().event_hooks
            set_client_factory(lambda: _client_type()(event_hooks=hooks, follow_redirects=True, timeout=None))


@functools.cache
def _client_type() -> type[Any]:
    import httpx2

    class Client(httpx2.Client):
        """The SDK's client, with the terms of the call that it is used in."""

        def send(self, request: httpx2.Request, **how: Any) -> httpx2.Response:
            terms = _TERMS.get()
            if terms is None:
                return super().send(request, **how)
            limits = dict.fromkeys(("connect", "read", "write", "pool"), terms.seconds())
            request.extensions["timeout"] = limits
            try:
                response = super().send(request, **how)
            except httpx2.TransportError as error:
                unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.ProxyError)
                raise Unanswered(f"{type(error).__name__}: {error}", sent=not unsent) from None
            if response.status_code in (408, 429) or response.status_code >= 500:
                response.read()
                raise Busy(response.status_code, response.headers.get("Retry-After", ""), _said(response))
            if terms.quiet is not None:
                limits["read"] = terms.quiet  # from here on: what is left to say comes at once, the rest is silence
            return response

    return Client


def _said(response: httpx2.Response) -> str:
    """What the server said, without the page that a gateway shows instead."""
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
