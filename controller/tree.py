"""The effective spec of every address at a commit, with file and line, and why: git, frozen or quarantined.

Read from git tree objects, never from a checkout. A spec that was read before is taken from the plan rows by the ids of its
blobs, so an unchanged repository is not parsed again. Nothing else in the flow chooses a spec.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from pydantic import Field, ValidationError

from controller.address import NAME, NAME_RULE, Address
from controller.clients.git import Entry as Blob
from controller.clients.git import Repository
from controller.document import Document, DocumentError, parse
from controller.errors import Problem, SettingsError, listed, nearest
from controller.kind import Kind, Past
from controller.model import Name, Spec, Text
from controller.plan import Effective, Entry, Row
from controller.resource import Resource, digest
from controller.settings import Settings, line_of, load, spec_problems

MAX_FILE_BYTES = 1 << 20
_SYMLINK, _SUBMODULE = 0o120000, 0o160000


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


class Source(Protocol):
    """Where blobs come from: a commit, or the files of a work tree (a preview)."""

    def entries(self, folder: str) -> list[Blob]: ...

    def read(self, blob: str) -> bytes: ...

    def size(self, blob: str) -> int: ...


@dataclass(frozen=True)
class CommitSource:
    """Tree objects at a commit."""

    repository: Repository
    commit: str

    def entries(self, folder: str) -> list[Blob]:
        return self.repository.entries(self.commit, folder)

    def read(self, blob: str) -> bytes:
        return self.repository.read(blob)

    def size(self, blob: str) -> int:
        return self.repository.size(blob)


@dataclass
class FilesSource:
    """Files instead of objects: a work tree for a preview, or a tree with edits that is not written yet."""

    files: Mapping[str, bytes]
    _ids: dict[str, bytes] = field(default_factory=dict)

    def entries(self, folder: str) -> list[Blob]:
        out = []
        for path in sorted(self.files):
            if path.startswith(f"{folder}/"):
                blob = digest(self.files[path].hex())
                self._ids[blob] = self.files[path]
                out.append(Blob(path, blob, 0o100644))
        return out

    def read(self, blob: str) -> bytes:
        return self._ids[blob]

    def size(self, blob: str) -> int:
        return len(self._ids[blob])

    @staticmethod
    def of_work_tree(root: Path, folders: tuple[str, ...]) -> FilesSource:
        """Plain files below some folders; links are not followed."""
        found = {}
        for folder in folders:
            for path in sorted((root / folder).rglob("*")):
                if path.is_file() and not path.is_symlink():
                    found[path.relative_to(root).as_posix()] = path.read_bytes()
        return FilesSource(found)


@dataclass(frozen=True)
class EditedSource:
    """Another source with some files written or (None) removed: a tree that is not written yet."""

    base: Source
    files: Mapping[str, bytes | None]

    def entries(self, folder: str) -> list[Blob]:
        kept = [blob for blob in self.base.entries(folder) if blob.path not in self.files]
        new = [
            Blob(path, f"edit:{path}", 0o100644)
            for path, data in self.files.items()
            if data is not None and path.startswith(f"{folder}/")
        ]
        return sorted([*kept, *new])

    def read(self, blob: str) -> bytes:
        data = self.files[blob[5:]] if blob.startswith("edit:") else self.base.read(blob)
        assert data is not None
        return data

    def size(self, blob: str) -> int:
        return len(self.read(blob)) if blob.startswith("edit:") else self.base.size(blob)


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
        entries[address] = Entry(address, place.blobs(reader.context), reader.loader(address, place))
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
            key = (address, f"{past.running}{past.spec_digest}{past.exists}")
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
        if row is not None and row.blobs == place.blobs(self.context) and row.release == self.release:
            return False
        try:
            assert place.base
            if self.source.size(place.base.id) > MAX_FILE_BYTES or place.base.mode in (_SYMLINK, _SUBMODULE):
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
        except SettingsError as error:
            return Effective(self._from_log(kind, address, past, "quarantined"), "quarantined", error.problems)
        if kind.once and past.running and past.spec is not None:
            return self._frozen(kind, address, past, resource)
        return Effective(resource)

    def _cached(self, kind: Kind[Any, Any], address: Address, place: _Place) -> Resource[Any] | None:
        row = self.rows(address)
        if row is None or row.blobs != place.blobs(self.context) or row.release != self.release or not row.written:
            return None
        written = msgspec.json.decode(row.written)
        spec = kind.spec.model_validate(written, strict=False)
        return Resource(address, spec, written, row.spec_digest, "git", place.files, msgspec.json.decode(row.labels))

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
        if blob.mode in (_SYMLINK, _SUBMODULE):
            what = "symbolic link" if blob.mode == _SYMLINK else "submodule"
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


def _merge(base: Any, patch: Any) -> Any:
    """Maps merge, everything else replaces."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: _merge(base.get(key), value) for key, value in patch.items()}}
    return patch
