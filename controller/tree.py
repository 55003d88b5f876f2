"""The effective spec of every address at a commit, with file and line, and why: git, frozen or quarantined.

Read from git tree objects, never from a checkout. A spec that was read before is taken from the plan rows by the ids of its
blobs, so an unchanged repository is not parsed again. Nothing else in the flow chooses a spec.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import Field, ValidationError

from controller.address import NAME, NAME_RULE, Address
from controller.clients.git import Entry as Blob
from controller.document import Document, DocumentError, parse
from controller.errors import Problem, SettingsError, listed, nearest
from controller.kind import Kind, Past
from controller.model import Name, Spec, Text
from controller.plan import Effective, Entry, Row
from controller.resource import Resource, digest, encode_json
from controller.settings import Settings, line_of, load, spec_problems
from controller.source import FOLDER, SUBMODULE, SYMLINK, Source

MAX_FILE_BYTES = 1 << 20


class Metadata(Spec):
    """Who the resource is."""

    name: Name = Field(title="Name", description="The file's name without .yaml.", examples=["feature_dev"])
    environment: Name | None = Field(
        None,
        title="Environment",
        examples=["production"],
        description="In a shared folder: the only environment that this file is for.",
    )
    labels: dict[str, Text] = Field(
        {}, title="Labels", description="Free text for people and filters.", examples=[{"team": "platform"}]
    )


class Envelope(Spec):
    """What every file of desired state has around its spec."""

    api_version: Literal["turnout/v1"] = Field(
        alias="apiVersion", title="Version", description="Always turnout/v1.", examples=["turnout/v1"]
    )
    kind: str = Field(title="Kind", description="What it is.", examples=["ModelBinding"])
    metadata: Metadata = Field(title="Metadata", description="Name and labels.", examples=[{"name": "feature_dev"}])
    spec: dict[str, Any] = Field({}, title="Spec", description="Fields of the kind.", examples=[{}])


class Files:
    """The files of each address, in the order in which they merge."""

    def __init__(self, places: Mapping[Address, _Place], strays: Mapping[Address, str]) -> None:
        self._places, self._strays = places, strays

    def get(self, address: Address, otherwise: tuple[str, ...] = ()) -> tuple[str, ...]:
        if address in self._strays:
            return (self._strays[address],)
        place = self._places.get(address)
        return place.files if place else otherwise


@dataclass(frozen=True)
class Tree:
    """Desired state of one environment: an entry an address, problems of files that give no address, and the files."""

    settings: Settings
    entries: Mapping[Address, Entry]
    problems: tuple[Problem, ...]
    files: Files
    plurals: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Place:
    """The files of one address: the shared one and this environment's own."""

    base: Blob | None = None
    overlay: Blob | None = None

    def blobs(self, context: str) -> str:
        """What the spec is made of; `context` = the environments around it."""
        return f"{self.base.id if self.base else ''}+{self.overlay.id if self.overlay else ''}+{context}"

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(blob.path for blob in (self.base, self.overlay) if blob)


def environments_of(source: Source) -> list[str]:
    """Names of the environments in a tree."""
    names = {blob.path.split("/")[1] for blob in source.entries("environments") if blob.path.count("/") >= 2}
    return sorted(names)


def read_settings(source: Source, environment: str, data: Path) -> Settings:
    """environments/<environment>/*.yaml. Raises SettingsError."""
    folder = f"environments/{environment}"
    files = {
        blob.path: source.read(blob.id)
        for blob in source.entries(folder)
        if blob.path.endswith(".yaml") and blob.path.count("/") == 2 and source.size(blob.id) <= MAX_FILE_BYTES
    }
    return load(environment, files, data, tuple(environments_of(source)) if not files else ())


def readers_of_state(source: Source, settings: Settings) -> tuple[str, ...]:
    """Other environments of this tree that read the same folder of the same branch. One that is broken counts."""
    out = []
    for name in environments_of(source):
        if name == settings.environment:
            continue
        try:
            other = read_settings(source, name, settings.data).spec
        except SettingsError:
            out.append(name)
            continue
        same_branch = None in (other.branch, settings.spec.branch) or other.branch == settings.spec.branch
        if same_branch and other.state == settings.spec.state:
            out.append(name)
    return tuple(out)


def read(
    source: Source,
    settings: Settings,
    kinds: Mapping[str, Kind[Any, Any]],
    rows: Callable[[Address], Row | None],
    release: str,
    shared_with: tuple[str, ...] = (),
) -> Tree:
    """Finds every address; reads no file yet."""
    plurals = {kind.plural: kind for kind in kinds.values()}
    places: dict[Address, _Place] = {}
    strays: list[tuple[Blob, str]] = []
    problems: list[Problem] = []
    base = settings.spec.state
    overlay = f"environments/{settings.environment}/state"
    for folder, is_overlay in ((base, False), (overlay, True)):
        for blob in source.entries(folder):
            address = _address(blob, folder, plurals, problems)
            if address is None:
                strays.append((blob, folder))
                continue
            place = places.get(address, _Place())
            places[address] = _Place(place.base, blob) if is_overlay else _Place(blob, place.overlay)
    reader = _Reader(source, settings, kinds, rows, release, shared_with)
    entries: dict[Address, Entry] = {}
    kept_for: dict[Address, str] = {}
    for address, place in places.items():
        if place.overlay is None and place.base and reader.belongs_elsewhere(address, place):
            continue
        entries[address] = Entry(address, reader.blobs(address, place), reader.loader(address, place))
    for blob, folder in strays:
        guessed = _meant(blob, folder, plurals)
        told = next((problem for problem in problems if problem.path == blob.path), None)
        if guessed and told and guessed not in places:
            entries[guessed] = Entry(guessed, blob.id, reader.stray(guessed, told))
            kept_for[guessed] = blob.path
    return Tree(settings, entries, tuple(problems), Files(places, kept_for), {kind.name: kind.plural for kind in kinds.values()})


def _address(blob: Blob, folder: str, plurals: Mapping[str, Kind[Any, Any]], problems: list[Problem]) -> Address | None:
    """The path decides the address."""
    parts = blob.path[len(folder) + 1 :].split("/")
    if parts[-1].startswith(".") or parts[-1].lower().startswith("readme"):
        return None
    if len(parts) != 2:
        problems.append(Problem(blob.path, f"is not at {folder}/<kind>/<name>.yaml", code="Path"))
        return None
    plural, file = parts
    if plural not in plurals:
        hint = nearest(plural, plurals)
        problems.append(Problem(blob.path, f"unknown kind {plural!r}{hint}; allowed: {listed(plurals)}", code="UnknownKind"))
        return None
    if not file.endswith(".yaml"):
        problems.append(Problem(blob.path, "must end in .yaml", code="Path"))
        return None
    name = file[:-5]
    if not NAME.match(name):
        problems.append(Problem(blob.path, f"{name!r} is not a name: {NAME_RULE}", code="Path"))
        return None
    return Address.of(plurals[plural].name, name)


def _meant(blob: Blob, folder: str, plurals: Mapping[str, Kind[Any, Any]]) -> Address | None:
    """Which address a file at a wrong place was probably meant for: renaming it by mistake must not remove the resource."""
    parts = blob.path[len(folder) + 1 :].split("/")
    name = parts[-1].split(".")[0].lower()
    close = difflib.get_close_matches(parts[0], plurals, n=1, cutoff=0.6)
    return Address.of(plurals[close[0]].name, name) if len(parts) > 1 and close and NAME.match(name) else None


class _Reader:
    """Reads and validates the files of one address when asked."""

    def __init__(
        self,
        source: Source,
        settings: Settings,
        kinds: Mapping[str, Kind[Any, Any]],
        rows: Callable[[Address], Row | None],
        release: str,
        shared_with: tuple[str, ...] = (),
    ) -> None:
        self.source, self.settings, self.kinds, self.rows, self.release = source, settings, kinds, rows, release
        self.shared_with = shared_with
        self.loaded: dict[tuple[Address, str], Effective] = {}
        self.parsed: dict[str, Document] = {}
        self.known = environments_of(source)
        self.context = digest([self.known, shared_with])[:8]

    def loader(self, address: Address, place: _Place) -> Callable[[Past], Effective]:
        def load(past: Past) -> Effective:
            key = (address, f"{past.running}{past.spec_digest}{past.exists}{past.ended}")
            if key not in self.loaded:
                self.loaded[key] = self.load(address, place, past)
            return self.loaded[key]

        return load

    def stray(self, address: Address, problem: Problem) -> Callable[[Past], Effective]:
        """A file at a wrong place keeps what it was for, where that exists."""

        def load(past: Past) -> Effective:
            if not past.exists:
                return Effective(None)
            return Effective(self._from_log(self.kinds[address.kind], address, past, "quarantined"), "quarantined", (problem,))

        return load

    def belongs_elsewhere(self, address: Address, place: _Place) -> bool:
        """A shared file with `metadata.environment` of another environment is not there for this one."""
        row = self.rows(address)
        if row is not None and row.blobs.partition("\n")[0] == place.blobs(self.context) and row.release == self.release:
            return False
        try:
            assert place.base
            if self.source.size(place.base.id) > MAX_FILE_BYTES or place.base.mode in (SYMLINK, SUBMODULE):
                return False
            data = self._parsed(place.base).data
            wanted = data["metadata"]["environment"]
        except (DocumentError, KeyError, TypeError):
            return False
        return wanted != self.settings.environment and wanted in self.known

    def load(self, address: Address, place: _Place, past: Past) -> Effective:
        kind = self.kinds[address.kind]
        try:
            resource = self._cached(kind, address, place) or self._validated(kind, address, place)
            if kind.paths is not None and not (kind.once and (past.running or past.ended)):
                resource = self._with_paths(kind, place, resource)  # what has begun goes on with what it began with
        except SettingsError as error:
            return Effective(self._from_log(kind, address, past, "quarantined"), "quarantined", error.problems)
        if kind.once and past.running and past.spec is not None:
            return self._frozen(kind, address, past, resource)
        return Effective(resource)

    def _cached(self, kind: Kind[Any, Any], address: Address, place: _Place) -> Resource[Any] | None:
        row = self.rows(address)
        same = row is not None and row.blobs.partition("\n")[0] == place.blobs(self.context) and row.release == self.release
        if row is None or not same or not row.written:
            return None
        written = msgspec.json.decode(row.written)
        spec = kind.spec.model_validate(written, strict=False)
        return Resource(address, spec, written, digest(written), "git", place.files, msgspec.json.decode(row.labels))

    # -- the objects that a spec names -------------------------------------------------------------------------------

    def blobs(self, address: Address, place: _Place) -> str:
        """What the effective spec is made of: its own files and, after a line end, the objects that they name."""
        own = place.blobs(self.context)
        kind = self.kinds[address.kind]
        if kind.paths is None:
            return own
        row = self.rows(address)
        if row is not None and row.release == self.release and row.blobs.startswith(f"{own}\n"):
            named: list[str] = sorted(msgspec.json.decode(row.blobs.partition("\n")[2]))
        else:
            named = self._named(kind, address, place)
        found = {path: self.source.at(path) for path in named}
        return f"{own}\n{encode_json({path: blob.id if blob else '' for path, blob in found.items()}).decode()}"

    def _named(self, kind: Kind[Any, Any], address: Address, place: _Place) -> list[str]:
        """Of a file that has changed; it is read anyway."""
        try:
            return sorted(set(kind.paths(self._validated(kind, address, place).spec) if kind.paths else ()))
        except SettingsError:
            return []

    def _with_paths(self, kind: Kind[Any, Any], place: _Place, resource: Resource[Any]) -> Resource[Any]:
        """Each path resolved at this commit; the objects are part of the digest. Raises SettingsError."""
        named = dict.fromkeys(kind.paths(resource.spec) if kind.paths else ())
        if not named:
            return resource
        found: dict[str, str] = {}
        problems = []
        for path in named:
            blob = self.source.at(path.rstrip("/"))
            told = _unfit(path, blob)
            if told or blob is None:
                problems.append(self._naming(place, path, told))
            else:
                found[path] = blob.id
        if problems:
            raise SettingsError(problems)
        return replace(resource, paths=found, spec_digest=digest([resource.written, found]))

    def _naming(self, place: _Place, path: str, told: str) -> Problem:
        """At the line that names the path, in the narrowest file."""
        for blob in filter(None, (place.overlay, place.base)):
            document = self._document(blob)
            for where, line in document.lines.items():
                if _value_at(document.data, where) == path:
                    return Problem(blob.path, told, line, ".".join(map(str, where)))
        return Problem(place.files[-1], told)

    def _validated(self, kind: Kind[Any, Any], address: Address, place: _Place) -> Resource[Any]:
        documents = [(blob, self._document(blob)) for blob in (place.base, place.overlay) if blob]
        merged: Any = None
        for _, document in documents:
            merged = _merge(merged, document.data)
        envelope = self._envelope(address, kind, documents, merged)
        try:
            spec = kind.spec.model_validate(envelope.spec)
        except ValidationError as error:
            raise SettingsError(self._placed(documents, error, kind.spec, ("spec",))) from None
        written = spec.written()
        return Resource(address, spec, written, digest(written), "git", place.files, dict(envelope.metadata.labels))

    def _envelope(self, address: Address, kind: Kind[Any, Any], documents: list[tuple[Blob, Document]], merged: Any) -> Envelope:
        path, first = documents[-1][0].path, documents[-1][1]
        if not isinstance(merged, dict):
            raise SettingsError([Problem(path, f"a mapping is expected, found {type(merged).__name__}", 1)])
        try:
            envelope = Envelope.model_validate(merged)
        except ValidationError as error:
            raise SettingsError(self._placed(documents, error, Envelope, ())) from None
        problems = []
        if envelope.kind != kind.name:
            hint = f"{path.split('/')[-2]}/ holds {kind.name}"
            problems.append(Problem(path, f"is {envelope.kind!r}, but {hint}", line_of(first, ("kind",)), "kind"))
        if envelope.metadata.name != address.name:
            line = line_of(first, ("metadata", "name"))
            problems.append(Problem(path, f"is {envelope.metadata.name!r}, the file says {address.name!r}", line, "metadata.name"))
        wanted = envelope.metadata.environment
        if "environment" in merged["metadata"] and wanted != self.settings.environment:
            hint = f"{nearest(str(wanted), self.known)}; allowed: {listed(self.known)}"
            problems.append(
                Problem(
                    path,
                    f"there is no environment {wanted!r}{hint}",
                    line_of(first, ("metadata", "environment")),
                    "metadata.environment",
                )
            )
        if kind.once and self.shared_with and len(documents) == 1 and not envelope.metadata.environment:
            shared = documents[0][0].path.startswith(f"{self.settings.spec.state}/")
            others = ", ".join(self.shared_with)
            if shared:
                problems.append(
                    Problem(
                        path,
                        f"is a run in a folder that {others} read too; allowed: one of the environments",
                        line_of(first, ("metadata",)),
                        "metadata.environment",
                    )
                )
        if problems:
            raise SettingsError(problems)
        return envelope

    def _placed(
        self, documents: list[tuple[Blob, Document]], error: ValidationError, model: type[Spec], prefix: tuple[str, ...]
    ) -> list[Problem]:
        """Each problem in the narrowest file that has the field."""
        blob, document = documents[-1]
        if len(documents) == 1:
            return spec_problems(blob.path, document, error, model, prefix)
        out = []
        in_base = spec_problems(documents[0][0].path, documents[0][1], error, model, prefix)
        for one, other in zip(spec_problems(blob.path, document, error, model, prefix), in_base, strict=True):
            place = tuple(one.field.split("."))
            out.append(one if place in document.lines or place not in documents[0][1].lines else other)
        return out

    def _document(self, blob: Blob) -> Document:
        try:
            return self._parsed(blob)
        except DocumentError as error:
            raise SettingsError([Problem(blob.path, error.message, error.line)]) from None

    def _parsed(self, blob: Blob) -> Document:
        if blob.mode in (SYMLINK, SUBMODULE):
            what = "symbolic link" if blob.mode == SYMLINK else "submodule"
            raise DocumentError(f"is a {what}; only plain files are read", 1, 1)
        size = self.source.size(blob.id)
        if size > MAX_FILE_BYTES:
            raise DocumentError(f"has {size} bytes, at most {MAX_FILE_BYTES} are read", 1, 1)
        if blob.id not in self.parsed:
            self.parsed[blob.id] = parse(self.source.read(blob.id))
        return self.parsed[blob.id]

    def _frozen(self, kind: Kind[Any, Any], address: Address, past: Past, now: Resource[Any]) -> Effective:
        """What a running run started with, plus edits of the fields that its kind lets a person edit."""
        assert past.spec is not None
        started, wanted = dict(past.spec), dict(now.written)
        changed = sorted(key for key in {*started, *wanted} if started.get(key) != wanted.get(key))
        base = dict(past.frozen or started)
        effective = {**base, **{key: wanted[key] for key in changed if key in kind.mutable and key in wanted}}
        for key in changed:
            if key in kind.mutable and key not in wanted:
                effective.pop(key, None)
        refused = tuple(f"spec.{key}" for key in changed if key not in kind.mutable)
        frozen = self._resource(kind, address, effective, "frozen", past.spec_digest, now.files, now.labels)
        return Effective(frozen, "frozen", (), refused) if frozen else Effective(now)

    def _from_log(self, kind: Kind[Any, Any], address: Address, past: Past, why: str) -> Resource[Any] | None:
        if past.spec is None or not (past.exists or past.intents):
            return None
        return self._resource(kind, address, past.spec, why, past.spec_digest)

    def _resource(
        self,
        kind: Kind[Any, Any],
        address: Address,
        written: Mapping[str, Any],
        why: str,
        spec_digest: str,
        files: tuple[str, ...] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Resource[Any] | None:
        """From the log: lenient, because an older or newer release may have written it."""
        known = {f.alias or name for name, f in kind.spec.model_fields.items()}
        try:
            spec = kind.spec.model_validate({key: value for key, value in written.items() if key in known}, strict=False)
        except ValidationError:
            return None
        return Resource(address, spec, written, spec_digest, why, files, labels or {})


def _unfit(path: str, blob: Blob | None) -> str:
    """Why an object cannot be what a spec names; empty = it can. A path that ends in / is a folder."""
    wanted = "folder" if path.endswith("/") else "file"
    if blob is None:
        return f"names {path}, which is not in this commit; commit it, or correct the path"
    if blob.mode in (SYMLINK, SUBMODULE):
        return f"names {path}, a {'symbolic link' if blob.mode == SYMLINK else 'submodule'}; allowed is a plain {wanted}"
    if (blob.mode == FOLDER) != (wanted == "folder"):
        return f"names {path}, which is a {'folder' if blob.mode == FOLDER else 'file'}; a {wanted} is expected"
    return ""


def _value_at(data: Any, place: tuple[str | int, ...]) -> Any:
    for part in place:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _merge(base: Any, patch: Any) -> Any:
    """Maps merge, everything else replaces."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: _merge(base.get(key), value) for key, value in patch.items()}}
    return patch
