"""environments/<environment>/*.yaml of a commit -> Settings. Fails fast and names every missing or wrong key at once.

Only the repository, the name of the environment and the values behind secret references come from the process; everything
else is in git, is planned and diffed like any other file, and enters planning as `refs.environment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from controller.document import Document, DocumentError, parse
from controller.errors import Problem, SettingsError, listed, nearest
from controller.model import LocalSecret, Name, Percent, Seconds, Spec, Text
from controller.resource import digest


class Endpoint(Spec):
    """Where models answer."""

    url: Text = Field(
        title="Base URL",
        description="OpenAI-compatible base URL, with /v1.",
        examples=["https://openrouter.ai/api/v1"],
        pattern=r"^https?://[^\s/@]+(/|$)",
    )
    api_key: LocalSecret | None = Field(
        None,
        alias="apiKey",
        title="Key",
        examples=["env:OPENROUTER_API_KEY"],
        description="Reference to the key; resolved by the proxy, never stored.",
    )
    timeout: Seconds = Field(300.0, gt=0, title="Time-out", description="Longest silence of one request.", examples=["300s"])
    simulated: bool = Field(
        False, title="Simulated", examples=[True], description="`turnout up` starts a simulated endpoint on this URL's port."
    )


class Price(Spec):
    """Dated price of a model, US dollars per million tokens."""

    input: float = Field(ge=0, title="Input", description="USD per million input tokens.", examples=[3.0])
    output: float = Field(ge=0, title="Output", description="USD per million output tokens.", examples=[15.0])
    as_of: Text | None = Field(None, alias="asOf", title="As of", description="When it was read.", examples=["2026-11-01"])


class ProxyAddress(Spec):
    """A data plane that this environment drives."""

    url: Text = Field(
        title="URL", description="Where the proxy listens.", examples=["http://127.0.0.1:5800"], pattern=r"^https?://[^\s/@]+(/|$)"
    )
    token: LocalSecret | None = Field(
        None, title="Token", description="Reference to the admin token.", examples=["file:gateway.token"]
    )


class HaproxyAddress(Spec):
    """An HAProxy that this environment drives: where its process is asked what it serves and has counted."""

    socket: Text = Field(
        title="Socket",
        description="Its runtime socket (`stats socket`), made by the configuration that Turnout writes.",
        pattern=r"^/[A-Za-z0-9_./-]+$",
        max_length=90,
        examples=["/run/haproxy/turnout.sock"],
    )
    master_socket: Text | None = Field(
        None,
        alias="masterSocket",
        title="Master socket",
        description="That of its master process (`haproxy -W -S PATH`), by which it is reloaded.",
        pattern=r"^/[A-Za-z0-9_./-]+$",
        max_length=90,
        examples=["/run/haproxy/master.sock"],
    )


class Author(Spec):
    """Who the controller's commits are from."""

    name: Text = Field("Turnout", title="Name", description="Author of commits.", examples=["Turnout"])
    email: Text = Field("turnout@localhost", title="E-mail", description="Author's address.", examples=["turnout@acme.dev"])


class Rule(Spec):
    """One policy rule over changes."""

    match: Text = Field("*", title="Match", description="Pattern over addresses.", examples=["ModelBinding/*"])
    actions: tuple[Literal["create", "update", "replace", "delete", "run", "step"], ...] = Field(
        (), title="Actions", description="Which actions; empty = all.", examples=[["delete"]], strict=False
    )
    reason: Text = Field("policy", title="Reason", description="Shown to whoever waits.", examples=["frozen for the release"])


class Brake(Spec):
    """How much may be removed at once."""

    fraction: Percent = Field(30.0, title="Fraction", description="Percent of what exists.", examples=["30%"])
    population: int = Field(10, ge=1, title="Population", description="From how many resources on it counts.", examples=[10])


class Rules(Spec):
    """Policy of the environment."""

    deny: tuple[Rule, ...] = Field((), title="Deny", description="Changes that never go.", examples=[[]], strict=False)
    brake: Brake = Field(Brake(), title="Brake", description="Against mass removal.", examples=[{"fraction": "30%"}])


class EnvironmentSpec(Spec):
    """One environment: what it reads, what it drives, and its rules."""

    branch: Text | None = Field(
        None, title="Branch", description="Branch of the desired state; default: the one HEAD names.", examples=["main"]
    )
    state: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")] = Field(
        "state", title="State", description="Folder of the shared desired state.", examples=["state"]
    )
    remote: Text | None = Field(
        None, title="Remote", description="git remote that holds the truth; none = this repository.", examples=["origin"]
    )
    resync: Seconds = Field(
        60.0, gt=0, title="Resync", description="How often reality is looked at although nothing moved.", examples=["60s"]
    )
    poll: Seconds = Field(30.0, title="Poll", description="How often the remote is asked.", examples=["30s"])
    write_back: Literal["direct", "hold"] = Field(
        "direct",
        alias="writeBack",
        title="Write-back",
        examples=["direct"],
        description="direct: commit promotions and reverts; hold: say what to merge.",
    )
    author: Author = Field(Author(), title="Author", description="Of the controller's commits.", examples=[{"name": "Turnout"}])
    endpoints: dict[str, Endpoint] = Field(
        {},
        title="Endpoints",
        description="Where models answer, by name.",
        examples=[{"openrouter": {"url": "https://openrouter.ai/api/v1"}}],
    )
    prices: dict[str, Price] = Field(
        {}, title="Prices", description="Dated prices by model.", examples=[{"acme/small": {"input": 0.2, "output": 0.6}}]
    )
    proxies: dict[str, ProxyAddress] = Field(
        {}, title="Proxies", description="Data planes by name.", examples=[{"main": {"url": "http://127.0.0.1:5800"}}]
    )
    haproxies: dict[str, HaproxyAddress] = Field(
        {},
        title="HAProxies",
        description="HAProxy processes by name.",
        examples=[{"edge": {"socket": "/run/haproxy/turnout.sock"}}],
    )
    rules: Rules = Field(Rules(), title="Rules", description="Policy.", examples=[{"approvalAboveUsd": 10}])


class EnvironmentMetadata(Spec):
    """Which environment."""

    name: Name = Field(title="Name", description="The folder's name.", examples=["local"])


class EnvironmentFile(Spec):
    """environments/<name>/environment.yaml"""

    api_version: Literal["turnout/v1"] = Field(
        alias="apiVersion", title="Version", description="Always turnout/v1.", examples=["turnout/v1"]
    )
    kind: Literal["Environment"] = Field(title="Kind", description="Always Environment.", examples=["Environment"])
    metadata: EnvironmentMetadata = Field(title="Metadata", description="Name.", examples=[{"name": "local"}])
    spec: EnvironmentSpec = Field(EnvironmentSpec(), title="Spec", description="Settings.", examples=[{"branch": "main"}])


@dataclass(frozen=True)
class Settings:
    """One environment at one commit, and where this process keeps its data."""

    environment: str
    spec: EnvironmentSpec
    data: Path

    @cached_property
    def as_refs(self) -> dict[str, Any]:
        """What planning sees: plain, without anything of this process."""
        return {"name": self.environment, **self.spec.full()}

    @cached_property
    def digest(self) -> str:
        return digest(self.as_refs)


def load(environment: str, files: Mapping[str, bytes], data: Path, known: tuple[str, ...] = ()) -> Settings:
    """Merges the files of environments/<environment>/ (path -> content). Raises SettingsError with every problem."""
    folder = f"environments/{environment}"
    main = f"{folder}/environment.yaml"
    if main not in files:
        hint = f"environments here: {listed(known)}{nearest(environment, known)}; `turnout init` makes one"
        raise SettingsError([Problem(main, "is missing", code="Missing")], hint)
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    for path in sorted(files):
        document = _document(path, files[path], problems)
        if document is None:
            continue
        part = _validated(environment, path, document, problems)
        for key, value in part.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            elif key in merged:
                problems.append(Problem(path, "is set in another file of this folder already", field=f"spec.{key}"))
            else:
                merged[key] = value
    if problems:
        raise SettingsError(problems)
    return Settings(environment, EnvironmentSpec.model_validate(merged, strict=False), data)


def _document(path: str, content: bytes, problems: list[Problem]) -> Document | None:
    try:
        return parse(content)
    except DocumentError as error:
        problems.append(Problem(path, error.message, error.line))
        return None


def _validated(environment: str, path: str, document: Document, problems: list[Problem]) -> dict[str, Any]:
    found: EnvironmentFile | None
    try:
        found = EnvironmentFile.model_validate(document.data)
    except ValidationError as error:
        problems.extend(spec_problems(path, document, error, EnvironmentFile))
        found = None
    data = document.data if isinstance(document.data, dict) else {}
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(name, str) and name != environment:
        line = document.lines.get(("metadata", "name"), 0)
        problems.append(Problem(path, f"is {name!r}, the folder says {environment!r}", line, "metadata.name"))
    return found.spec.written() if found else {}


def spec_problems(
    path: str, document: Document, error: ValidationError, model: type[Spec], prefix: tuple[str, ...] = ()
) -> list[Problem]:
    """pydantic's errors as Problems with line, what was found, what is allowed and the nearest name."""
    out = []
    for each in error.errors(include_url=False):
        loc = tuple(part for part in each["loc"] if not (isinstance(part, str) and "[" in part))
        place = (*prefix, *loc)
        out.append(Problem(path, _message(each, model, loc), line_of(document, place), ".".join(map(str, place))))
    return out


def line_of(document: Document, place: tuple[str | int, ...]) -> int:
    """Line of the nearest thing that is really there."""
    for size in range(len(place), -1, -1):
        if place[:size] in document.lines:
            return document.lines[place[:size]]
    return 1


def _message(each: Any, model: type[Spec], loc: tuple[Any, ...]) -> str:
    if each["type"] == "extra_forbidden":
        allowed = _fields_at(model, loc[:-1])
        return f"unknown field{nearest(str(loc[-1]), allowed)}; allowed: {listed(allowed, 20)}"
    if each["type"] == "missing":
        return "is required"
    found = each.get("input")
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    return f"{str(each['msg']).removeprefix('Value error, ')}{shown if 'Value error' not in each['msg'] else ''}"


def _fields_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """Names that may stand where an unknown one was found, through nested models, lists and maps."""
    current: list[Any] = [model]
    for part in loc:
        nxt: list[Any] = []
        for each in current:
            for name, field in getattr(each, "model_fields", {}).items():
                if part in (name, field.alias):
                    nxt.extend(_models_in(field.annotation))
        current = nxt or current
    return [field.alias or name for each in current for name, field in getattr(each, "model_fields", {}).items()]


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
