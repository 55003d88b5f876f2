"""Contents of the double: Git LFS batches and uploads, downloads by /resolve/ and from the storage behind it.

As at the vendor the storage is another origin (here another port) that knows no tokens, only the addresses that the Hub gave out.
A large file goes up in one piece or in parts; a piece that is cut off leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.testing.hugging_face.exchange import Answer, Refused, Request, Table
from controller.testing.hugging_face.repositories import PREFIX, Contents, find_commit
from controller.testing.hugging_face.repository_access import readable, writable
from controller.testing.hugging_face.world import World

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Upload:
    """An address that was given out for one content; `parts` are what has arrived (number -> path, etag)."""

    sha256: str
    size: int
    chunk: int = 0
    parts: dict[int, tuple[Path, str]] = field(default_factory=dict)

    def size_of(self, part: int) -> int:
        return min(self.chunk, self.size - self.chunk * (part - 1))


def batch(world: World, request: Request, ns: str, name: str, kind: str = "model") -> Answer:
    writable(world, request, kind, f"{ns}/{name}")
    wanted = request.json()
    if wanted.get("operation") != "upload" or wanted.get("hash_algo", "sha256") != "sha256":
        raise Refused(400, "The double takes only uploads with sha256")
    transfers = wanted.get("transfers") or ["basic"]
    multipart = "multipart" in transfers
    objects = [_upload_of(world, each, multipart, f"{PREFIX[kind]}{ns}/{name}") for each in wanted.get("objects") or []]
    return Answer(content={"transfer": "multipart" if multipart else "basic", "objects": objects})


def _upload_of(world: World, wanted: Any, multipart: bool, repo: str) -> dict[str, Any]:
    try:
        oid, size = str(wanted["oid"]), int(wanted["size"])
    except (KeyError, TypeError, ValueError):
        raise Refused(400, '"objects" must have oid and size') from None
    out: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
    there = world.repositories.contents.size(oid)
    if there is not None and there != size:
        return {**out, "error": {"code": 422, "message": f"the content {oid} has {there} bytes"}}
    if there is not None:
        return out
    ticket, chunk = os.urandom(16).hex(), world.options.part_bytes
    upload = Upload(oid, size, chunk if multipart and size > chunk else 0)
    world.uploads[ticket] = upload
    action: dict[str, Any] = {"href": f"{world.storage_url}/upload/{ticket}"}
    if upload.chunk:
        count = -(-size // upload.chunk)
        parts = {f"{number:05d}": f"{world.storage_url}/upload/{ticket}/{number}" for number in range(1, count + 1)}
        action = {"href": f"{world.url}/api/complete_multipart/{ticket}", "header": {"chunk_size": str(upload.chunk), **parts}}
    verify = {"href": f"{world.url}/{repo}.git/info/lfs/objects/verify"}
    return {**out, "actions": {"upload": action, "verify": verify}}


def verify(world: World, request: Request, ns: str, name: str, kind: str = "model") -> Answer:
    writable(world, request, kind, f"{ns}/{name}")
    wanted = request.json()
    size = world.repositories.contents.size(str(wanted.get("oid")))
    if size is None or size != wanted.get("size"):
        raise Refused(404, f"The content {wanted.get('oid')} with {wanted.get('size')} bytes has not arrived")
    return Answer(content={})


def put_whole(world: World, request: Request, ticket: str) -> Answer:
    upload = _ticket(world, ticket)
    if request.size != upload.size:
        return _storage_error(400, "IncompleteBody", f"{request.size} bytes arrived, {upload.size} were announced")
    try:
        world.repositories.contents.keep(request.body, upload.sha256)
    except ValueError as error:
        return _storage_error(400, "BadDigest", str(error))
    return Answer(headers={"ETag": f'"{upload.sha256[:32]}"'})


def put_part(world: World, request: Request, ticket: str, number: str) -> Answer:
    upload, part = _ticket(world, ticket), int(number)
    if request.size != upload.size_of(part):
        return _storage_error(400, "IncompleteBody", f"{request.size} bytes arrived, {upload.size_of(part)} were expected")
    content = request.body.read()
    path = world.folder / "parts" / f"{ticket}-{part}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
    upload.parts[part] = (path, etag)
    return Answer(headers={"ETag": f'"{etag}"'})


def complete(world: World, request: Request, ticket: str) -> Answer:
    upload = _ticket(world, ticket)
    given = {row.get("partNumber"): str(row.get("etag")).strip('"') for row in request.json().get("parts") or []}
    have = {number: etag for number, (_, etag) in upload.parts.items()}
    if given != have or len(have) != -(-upload.size // upload.chunk):
        raise Refused(400, f"The parts {sorted(given)} do not match those that arrived, {sorted(have)}")
    whole = world.folder / "parts" / f"{ticket}-whole"
    with whole.open("wb") as out:
        for number in sorted(upload.parts):
            out.write(upload.parts[number][0].read_bytes())
            upload.parts[number][0].unlink()
    upload.parts.clear()
    try:
        with whole.open("rb") as source:
            world.repositories.contents.keep(source, upload.sha256)
    except ValueError as error:
        raise Refused(400, f"BadDigest: {error}") from None
    finally:
        whole.unlink()
    return Answer(content={})


def resolve(world: World, request: Request, ns: str, name: str, revision: str, path: str, kind: str = "model") -> Answer:
    """A regular file itself, or for a large one the way to the storage; the headers tell what it is either way."""
    record = readable(world, request, kind, f"{ns}/{name}")
    oid = find_commit(record, revision)
    entry = record["commits"][oid]["tree"].get(path)
    if entry is None:
        raise Refused(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": oid})
    filename = path.rpartition("/")[2]
    headers = {
        "X-Repo-Commit": oid,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"inline; filename*=UTF-8''{filename}; filename=\"{filename}\";",
    }
    if not entry["lfs"]:
        return _content(world.repositories.contents, entry["sha256"], request, {**headers, "ETag": f'"{entry["oid"]}"'})
    linked = {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{entry["sha256"]}"', "ETag": f'"{entry["sha256"]}"'}
    return Answer(302, headers={**headers, **linked, "Location": f"{world.storage_url}/object/{entry['sha256']}"})


def get_object(world: World, request: Request, sha256: str) -> Answer:
    return _content(world.repositories.contents, sha256, request, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def _content(contents: Contents, sha256: str, request: Request, headers: Mapping[str, str]) -> Answer:
    """Whole, or the range that was asked for (206); 416 beyond its end."""
    size = contents.size(sha256)
    if size is None:
        return _storage_error(404, "NoSuchKey", f"The content {sha256} is not there")
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None:
        return Answer(file=(contents.path(sha256), 0, size), headers=dict(headers))
    first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if first >= size:
        return Answer(416, text=b"", headers={**headers, "Content-Range": f"bytes */{size}"})
    told = {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
    return Answer(206, file=(contents.path(sha256), first, last - first + 1), headers=told)


def _ticket(world: World, ticket: str) -> Upload:
    if ticket not in world.uploads:
        raise Refused(403, "Request has expired")
    return world.uploads[ticket]


def _storage_error(status: int, code: str, message: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, text=text.encode(), headers={"Content-Type": "application/xml"})


def _of_kind(handle: Any, kind: str) -> Any:
    return lambda world, request, **parts: handle(world, request, kind=kind, **parts)


ROUTES: Table = [
    (method, f"/{PREFIX[kind]}{{ns}}/{{name}}{rest}", _of_kind(handle, kind))
    for kind in ("dataset", "space", "model")
    for method, rest, handle in (
        ("POST", ".git/info/lfs/objects/batch", batch),
        ("POST", ".git/info/lfs/objects/verify", verify),
        ("GET", "/resolve/{revision}/{path:rest}", resolve),
    )
] + [("POST", "/api/complete_multipart/{ticket}", complete)]

STORAGE_ROUTES: Table = [
    ("PUT", "/upload/{ticket}", put_whole),
    ("PUT", "/upload/{ticket}/{number}", put_part),
    ("GET", "/object/{sha256}", get_object),
]
