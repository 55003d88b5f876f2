"""Commits to the double: preupload says which files are large and which are there already, commit takes them as NDJSON."""

from __future__ import annotations

import base64
import binascii
import json
import re
from fnmatch import fnmatch
from typing import Any

from controller.testing.hugging_face import accounts
from controller.testing.hugging_face.exchange import Answer, Refused, Request, Table
from controller.testing.hugging_face.repositories import PREFIX, find_commit
from controller.testing.hugging_face.repository_access import kind_of, writable
from controller.testing.hugging_face.world import World

LARGEST_REGULAR = 10 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


def preupload(world: World, request: Request, plural: str, ns: str, name: str, revision: str) -> Answer:
    record = writable(world, request, kind_of(plural), f"{ns}/{name}")
    oid = find_commit(record, revision)
    tree, wanted = record["commits"][oid]["tree"], request.json()
    files = wanted.get("files")
    if not isinstance(files, list) or len(files) > 256:
        raise Refused(400, '"files" must be an array of at most 256 files')
    ignored = str(wanted.get("gitIgnore") or "").splitlines()
    large = _large_patterns(world, tree)
    return Answer(content={"commitOid": oid, "files": [_upload(each, tree, ignored, large) for each in files]})


def _upload(wanted: Any, tree: dict[str, Any], ignored: list[str], large: list[str]) -> dict[str, Any]:
    try:
        path, size, sample = wanted["path"], int(wanted["size"]), base64.b64decode(wanted["sample"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Refused(400, f'"files" must have path, sample (base64) and size: {error!r}') from None
    is_large = size > LARGEST_REGULAR or b"\0" in sample or any(_matches(path, pattern) for pattern in large)
    there = tree.get(path)
    out = {
        "path": path,
        "uploadMode": "lfs" if is_large else "regular",
        "shouldIgnore": any(_matches(path, line.strip()) for line in ignored if line.strip() and not line.startswith("#")),
    }
    if there is not None:
        out["oid"] = there["sha256"] if there["lfs"] else there["oid"]
    return out


def commit(world: World, request: Request, plural: str, ns: str, name: str, revision: str) -> Answer:
    kind = kind_of(plural)
    record = writable(world, request, kind, f"{ns}/{name}")
    if request.flag("create_pr"):
        raise Refused(501, "The double has no pull requests")
    head = find_commit(record, revision)
    if revision not in record["branches"]:
        raise Refused(400, f"{revision} is not a branch")
    header, operations = _parsed(request)
    if (parent := header.get("parentCommit")) and find_commit(record, str(parent)) != head:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(record["commits"][head]["tree"])
    for key, value in operations:
        _operate(world, tree, key, value)
    author = accounts.required(request.account).name
    message = str(header.get("description") or "")
    oid = world.repositories.commit(record, revision, tree, header["summary"], message, author, world.clock.now())
    url = f"{world.url}/{PREFIX[kind]}{record['id']}/commit/{oid}"
    return Answer(content={"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


def _parsed(request: Request) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Header and operations. Raises Refused (400) for anything that is not as the vendor documents it."""
    if "application/x-ndjson" not in request.headers.get("content-type", ""):
        raise Refused(400, "Expected content-type application/x-ndjson")
    rows: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(request.body.read().splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append((row["key"], dict(row["value"])))
        except (ValueError, TypeError, KeyError):
            raise Refused(400, f'Line {number} of the commit is not {{"key": ..., "value": {{...}}}}') from None
    if not rows or rows[0][0] != "header" or not rows[0][1].get("summary"):
        raise Refused(400, "The first line of a commit is its header, with a summary that is not empty")
    if len(rows) == 1:
        raise Refused(400, "The commit has no operation")
    return rows[0][1], rows[1:]


def _operate(world: World, tree: dict[str, Any], key: str, value: dict[str, Any]) -> None:
    path = _path(value.get("path"))
    if key == "file":
        try:
            content = base64.b64decode(value["content"], validate=True) if value.get("encoding") == "base64" else None
        except (KeyError, ValueError, binascii.Error):
            content = None
        if content is None:
            raise Refused(400, f"The content of {path} is not base64")
        if len(content) > LARGEST_REGULAR:
            raise Refused(400, f"{path} is larger than 10 MiB: it has to be uploaded as a large file")
        tree[path] = world.repositories.regular(content)
    elif key == "lfsFile":
        oid = value.get("oid")
        if value.get("algo") != "sha256" or not isinstance(oid, str) or not _SHA256.fullmatch(oid):
            raise Refused(400, f"{path} needs algo sha256 and an oid of 64 hexadecimal digits")
        entry = world.repositories.large(oid)
        if value.get("size", entry["size"]) != entry["size"]:
            raise Refused(400, f"{path} has {entry['size']} bytes, not {value['size']}")
        tree[path] = entry
    elif key == "deletedFile":
        if tree.pop(path, None) is None:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        inside = [each for each in tree if each.startswith(f"{path.rstrip('/')}/")]
        if not inside:
            raise Refused(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for each in inside:
            del tree[each]
    else:
        raise Refused(400, f"Unknown operation {key!r}")


def _path(path: Any) -> str:
    parts = path.split("/") if isinstance(path, str) else []
    if not parts or any(part in ("..", ".", ".git") for part in parts) or not parts[0] or len(path) > 1000:
        raise Refused(400, f"Invalid path {path!r}")
    return str(path)


def _large_patterns(world: World, tree: dict[str, Any]) -> list[str]:
    entry = tree.get(".gitattributes")
    if entry is None:
        return []
    text = world.repositories.contents.path(entry["sha256"]).read_text(encoding="utf-8", errors="replace")
    return [line.split()[0] for line in text.splitlines() if "filter=lfs" in line]


def _matches(path: str, pattern: str) -> bool:
    return fnmatch(path, pattern) or fnmatch(path.rpartition("/")[2], pattern)


_REPO = "/api/{plural}/{ns}/{name}"
ROUTES: Table = [
    ("POST", f"{_REPO}/preupload/{{revision}}", preupload),
    ("POST", f"{_REPO}/commit/{{revision}}", commit),
]
