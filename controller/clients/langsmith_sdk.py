"""How the LangSmith door uses the SDK: bounded retries, repeatable ids, nothing personal sent, its errors as ours.

The SDK is made for tracing, where losing something is fine and retrying for minutes too. Here an evaluation must be the same
after a crash and must know whether its results arrived. So a run is posted once and complete, under an id that follows from
its experiment and example; feedback likewise; and what the SDK would only log is collected in `failures`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from controller.clients.secrets import resolve
from controller.errors import Permanent, Temporary
from controller.vendors import LangSmithSpec

NAMESPACE = UUID("6f1d2f4e-7475-726e-6f75-740000000001")
"""Of every id that is made from a name; never change it: results logged before would be logged again."""

RETRIES = 2
PERSONAL = ("author_name", "author_email")
"""What the SDK reads from git and puts into an experiment's metadata, and what does not belong there."""


class Access:
    """Address and key of one LangSmith. The key is read when it is needed, and taken out of every text that could show it."""

    def __init__(self, spec: LangSmithSpec, data: Path) -> None:
        self.spec, self._data = spec, data
        self.url = spec.url.rstrip("/")
        self._keys: set[str] = set()

    def key(self) -> str:
        """Raises Temporary when it is not there yet."""
        key = resolve(self.spec.api_key, self._data)
        self._keys = self._keys | {key} if key else self._keys
        return key

    def masked(self, text: str) -> str:
        """Without any key that was ever used."""
        for key in sorted(self._keys, key=len, reverse=True):
            text = text.replace(key, "***")
        return text

    def client(self, background: bool, retries: int = RETRIES) -> Any:
        """An SDK client; `background` batches runs and feedback, which must then be flushed. Raises Temporary, Permanent.

        Runs are tried three times by the SDK already when the connection breaks or the answer is 500.
        """
        try:
            import langsmith  # noqa: F401
            from urllib3 import Retry
        except ImportError as error:
            raise Permanent(f"LangSmith needs the Python package langsmith ({error}); pip install langsmith") from None

        # The SDK falls back to a poorer protocol for good when its first look at /info fails; so it is looked at here.
        info = self._info()
        again = Retry(
            total=retries,
            backoff_factor=0.2,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
            respect_retry_after_header=False,  # it may say an hour; the executor waits, not this call
        )
        milliseconds = round(self.spec.timeout * 1000)
        return _client_type()(
            api_url=self.url,
            api_key=self.key(),
            workspace_id=self.spec.workspace,
            web_url=self.spec.web,
            timeout_ms=(min(milliseconds, 5000), milliseconds),
            retry_config=again,
            info=info,
            auto_batch_tracing=background,
            tracing_sampling_rate=1.0,
            tracing_mode="langsmith",
            omit_traced_runtime_info=True,
        )

    def _info(self) -> dict[str, Any]:
        opener = urllib.request.build_opener()
        with self.translated("reading /info"):
            with opener.open(f"{self.url}/info", timeout=self.spec.timeout) as answer:
                found: dict[str, Any] = json.loads(answer.read())
            return found

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong inside as Temporary or Permanent, with what was being done and what to do next."""
        try:
            yield
        except Exception as error:
            if not from_outside(error):
                raise
            raise self.as_ours(doing, error) from None

    def as_ours(self, doing: str, error: BaseException) -> Temporary | Permanent:
        where = f"LangSmith at {self.url}"
        status, said = refusal(error)
        said = self.masked(said)[:300]
        if status in (401, 403):
            hint = f"check {self.spec.api_key} (spec.langsmith.apiKey) and spec.langsmith.workspace"
            return Permanent(f"{where} refuses the key while {doing} ({status}); {hint}")
        if status == 429:
            return Temporary(f"{where} limits the rate while {doing} (429)")
        if status is not None and status < 500 and status != 408:
            return Permanent(f"{where} refuses {doing} ({status}): {said}")
        if status is not None:
            return Temporary(f"{where} failed while {doing} ({status})")
        if isinstance(error, json.JSONDecodeError | KeyError) or (isinstance(error, ValueError) and not isinstance(error, OSError)):
            return Temporary(f"{where} answered something else than expected while {doing} ({type(error).__name__})")
        return Temporary(f"{where} does not answer while {doing} ({type(innermost(error)).__name__})")


def from_outside(error: BaseException) -> bool:
    """Whether an exception comes from the network, the vendor or its SDK; what is left is a fault of ours and stays what it is."""
    return isinstance(error, OSError | ValueError | KeyError | HTTPException) or type(error).__module__.startswith("langsmith.")


def refusal(error: BaseException) -> tuple[int | None, str]:
    """Status and text of the answer that is behind an SDK's error, through everything that wraps it."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code, error.reason
    for one in chain(error):
        response = getattr(one, "response", None)
        if response is not None and isinstance(getattr(response, "status_code", None), int):
            return response.status_code, str(getattr(response, "text", ""))
    names = {"LangSmithNotFoundError": 404, "LangSmithConflictError": 409, "LangSmithAuthError": 401}
    names |= {"LangSmithRateLimitError": 429, "LangSmithAPIError": 500, "LangSmithRequestTimeout": 408}
    for one in chain(error):
        if type(one).__name__ in names:
            return names[type(one).__name__], str(one)
    return None, ""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def innermost(error: BaseException) -> BaseException:
    return list(chain(error))[-1]


def named_id(*parts: object) -> UUID:
    """The same id for the same parts, always."""
    return uuid5(NAMESPACE, "\n".join(str(part) for part in parts))


def timed_id(moment: datetime, *parts: object) -> UUID:
    """The same as a UUIDv7 (the form that LangSmith wants for runs): 48 bits of time in milliseconds, the rest from the parts."""
    digest = hashlib.blake2b("\n".join(str(part) for part in parts).encode(), digest_size=10).digest()
    value = (round(moment.timestamp() * 1000) & (1 << 48) - 1) << 80 | int.from_bytes(digest)
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def dotted(moment: datetime, run_id: UUID, parent: str = "") -> str:
    """Where a run stands in its trace, in LangSmith's form; `moment` is in UTC."""
    own = f"{moment.strftime('%Y%m%dT%H%M%S%fZ')}{run_id}"
    return f"{parent}.{own}" if parent else own


def without_persons(metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Metadata without the name and e-mail that the SDK takes from git."""
    if metadata is None:
        return None
    git = metadata.get("git")
    if not isinstance(git, Mapping):
        return dict(metadata)
    return {**metadata, "git": {name: value for name, value in git.items() if name not in PERSONAL}}


@functools.cache
def _client_type() -> type[Any]:
    """The SDK's client with this door's habits. Made when it is first needed: importing the SDK takes a second."""
    import langsmith
    from langsmith.evaluation import _runner

    # The SDK logs what it could not send; it is raised here. Without a handler Python would print it.
    logging.getLogger("langsmith").addHandler(logging.NullHandler())
    # `evaluate` prints an address to stdout, which belongs to whoever runs us; only that module's print is silenced.
    vars(_runner)["print"] = lambda *_, **__: None

    class Client(langsmith.Client):
        """Posts runs complete, makes feedback repeatable, strips persons, keeps what failed."""

        def __init__(self, **more: Any) -> None:
            self.failures: list[BaseException] = []
            self.extra: dict[str, Mapping[str, Any]] = {}
            self.aborted: Callable[[], bool] = lambda: False
            self._begun: dict[str, dict[str, Any]] = {}
            self._begun_lock = threading.Lock()
            super().__init__(**more, tracing_error_callback=self.failures.append)

        def create_project(self, project_name: str, *, metadata: dict[str, Any] | None = None, **more: Any) -> Any:
            return super().create_project(project_name, metadata=without_persons(metadata), **more)

        def update_project(self, project_id: Any, *, metadata: dict[str, Any] | None = None, **more: Any) -> Any:
            # A PATCH replaces `extra` as a whole: what stands beside the metadata (tags) has to be sent again.
            extra = {**self.extra.get(str(project_id), {}), **(more.pop("project_extra", None) or {})}
            return super().update_project(project_id, metadata=without_persons(metadata), project_extra=extra or None, **more)

        def create_run(self, name: str, inputs: dict[str, Any], run_type: Any, **more: Any) -> None:
            if more.get("end_time") is not None:
                super().create_run(name, inputs, run_type, **more)
                return
            with self._begun_lock:
                self._begun[str(more["id"])] = {"name": name, "inputs": inputs, "run_type": run_type, **more}

        def update_run(self, run_id: Any, **more: Any) -> None:
            with self._begun_lock:
                begun = self._begun.pop(str(run_id), None)
            if begun is None:
                super().update_run(run_id, **more)
            elif more.get("error") is None or not self.aborted():  # a run cut short must not look finished to the next attempt
                ended = {name: value for name, value in more.items() if value is not None and name != "run_id"}
                super().create_run(**{**begun, **ended})

        def create_feedback(self, run_id: Any = None, key: str = "unnamed", **more: Any) -> Any:
            about = run_id or more.get("trace_id") or more.get("project_id")
            more["feedback_id"] = more.get("feedback_id") or named_id(about, key, more.get("comparative_experiment_id"))
            more["stop_after_attempt"] = RETRIES
            try:
                return super().create_feedback(run_id, key, **more)
            except Exception as error:
                self.failures.append(error)  # the SDK calls this in a pool and never looks at the result
                raise

    return Client
