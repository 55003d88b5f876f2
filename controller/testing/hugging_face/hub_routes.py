"""The Hub of the double, reading and arranging: whoami, repositories, trees, commits, branches, tags, model cards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

import yaml

from controller.testing.hugging_face import accounts
from controller.testing.hugging_face.exchange import Answer, Refused, Request, Table
from controller.testing.hugging_face.repositories import (
    PREFIX,
    find_commit,
    history,
    lfs_info,
    repo_object_id,
    time_of,
)
from controller.testing.hugging_face.repository_access import kind_of, readable, seen, writable
from controller.testing.hugging_face.world import World

PAGE = 1000
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)


def whoami(world: World, request: Request) -> Answer:
    return Answer(content=accounts.whoami(accounts.required(request.account)))


def create_repo(world: World, request: Request) -> Answer:
    who, wanted = accounts.required(request.account), request.json()
    kind, name = wanted.get("type") or "model", wanted.get("name")
    if not isinstance(name, str) or not name:
        raise Refused(400, '"name" is required')
    namespace = wanted.get("organization") or who.name
    accounts.may_write(who, namespace, f"create a {kind}")
    repo = f"{namespace}/{name}"
    url = f"{world.url}/{PREFIX.get(kind, '')}{repo}"
    if world.repositories.get(kind, repo) is not None:
        message = f"You already created this {kind} repo: {repo}"
        return Answer(409, {"error": message, "url": url}, headers={"X-Error-Message": message})
    private = wanted.get("visibility") == "private" or wanted.get("private") is True
    world.repositories.create(kind, repo, private=private, author=who.name, now=world.clock.now())
    return Answer(content={"url": url, "name": repo, "id": repo})


def delete_repo(world: World, request: Request) -> Answer:
    who, wanted = accounts.required(request.account), request.json()
    repo = f"{wanted.get('organization') or who.name}/{wanted.get('name')}"
    world.repositories.remove(writable(world, request, wanted.get("type") or "model", repo))
    return Answer()


def info(world: World, request: Request, plural: str, ns: str, name: str, revision: str = "main") -> Answer:
    kind = kind_of(plural)
    record = seen(world, request, kind, f"{ns}/{name}")
    oid = find_commit(record, revision)
    tree = record["commits"][oid]["tree"]
    card = _card(world, tree)
    siblings = []
    for path, entry in tree.items():
        sibling: dict[str, Any] = {"rfilename": path}
        if request.flag("blobs"):
            sibling |= {"size": entry["size"], "blobId": entry["oid"]}
            if lfs := lfs_info(entry):
                sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
        siblings.append(sibling)
    content = {
        "_id": repo_object_id(record),
        "id": record["id"],
        "author": ns,
        "sha": oid,
        "lastModified": time_of(record["commits"][oid]["date"]),
        "createdAt": time_of(record["created"]),
        "private": record["private"],
        "gated": "manual" if record["gated"] else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [str(tag) for tag in card.get("tags") or []],
        "siblings": siblings,
        "usedStorage": sum(entry["size"] for entry in tree.values()),
        **({"cardData": card} if card else {}),
        **({"modelId": record["id"]} if kind == "model" else {}),
    }
    return Answer(content=content)


def tree(world: World, request: Request, plural: str, ns: str, name: str, revision: str, path: str = "") -> Answer:
    record = seen(world, request, kind_of(plural), f"{ns}/{name}")
    oid = find_commit(record, revision)
    entries = _entries(record["commits"][oid]["tree"], path.strip("/"), request.flag("recursive"))
    if path and not entries:
        raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
    return page(world, request, entries)


def paths_info(world: World, request: Request, plural: str, ns: str, name: str, revision: str) -> Answer:
    record = seen(world, request, kind_of(plural), f"{ns}/{name}")
    everything = {entry["path"]: entry for entry in _entries(record["commits"][find_commit(record, revision)]["tree"], "", True)}
    raw = request.body.read().decode()
    wanted = parse_qs(raw).get("paths", [])
    return Answer(content=[everything[path] for path in wanted if path in everything])


def commits(world: World, request: Request, plural: str, ns: str, name: str, revision: str) -> Answer:
    record = seen(world, request, kind_of(plural), f"{ns}/{name}")
    found = [
        {
            "id": oid,
            "title": body["title"],
            "message": body["message"],
            "date": time_of(body["date"]),
            "authors": [{"user": body["author"]}],
        }
        for oid, body in history(record, find_commit(record, revision))
    ]
    return page(world, request, found, size=50)


def refs(world: World, request: Request, plural: str, ns: str, name: str) -> Answer:
    record = seen(world, request, kind_of(plural), f"{ns}/{name}")
    return Answer(
        content={
            "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in record["branches"].items()],
            "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in record["tags"].items()],
            "converts": [],
        }
    )


def create_branch(world: World, request: Request, plural: str, ns: str, name: str, branch: str) -> Answer:
    record = writable(world, request, kind_of(plural), f"{ns}/{name}")
    start = find_commit(record, request.json().get("startingPoint") or "main")
    return _new_ref(world, record, "branches", branch, start)


def create_tag(world: World, request: Request, plural: str, ns: str, name: str, revision: str) -> Answer:
    record = writable(world, request, kind_of(plural), f"{ns}/{name}")
    tag = request.json().get("tag")
    if not isinstance(tag, str):
        raise Refused(400, '"tag" is required')
    return _new_ref(world, record, "tags", tag, find_commit(record, revision))


def delete_branch(world: World, request: Request, plural: str, ns: str, name: str, branch: str) -> Answer:
    record = writable(world, request, kind_of(plural), f"{ns}/{name}")
    if branch == "main":
        raise Refused(403, "The branch main cannot be deleted")
    if record["branches"].pop(branch, None) is None:
        raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    world.repositories.save(record)
    return Answer()


def auth_check(world: World, request: Request, plural: str, ns: str, name: str) -> Answer:
    readable(world, request, kind_of(plural), f"{ns}/{name}")
    return Answer(content={})


def validate_yaml(world: World, request: Request) -> Answer:
    """The metadata of a model card: it has to be YAML, an object, and the well-known fields have to have their types."""
    content = str(request.json().get("content", ""))
    match = _FRONT_MATTER.match(content)
    if match is None:
        return Answer(content={"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    problems = _card_problems(match[1])
    return Answer(400 if problems else 200, {"errors": [{"message": each} for each in problems], "warnings": []})


def page(world: World, request: Request, rows: list[Any], size: int = PAGE) -> Answer:
    """One page of a list; the next one is in the Link header, as everywhere at the vendor."""
    start = int(request.first("cursor", "0"))
    headers = {}
    if len(rows) > start + size:
        query = [(key, value) for key, values in request.query.items() for value in values if key != "cursor"]
        following = urlencode([*query, ("cursor", start + size)])
        headers["Link"] = f'<{world.url}{request.path}?{following}>; rel="next"'
    return Answer(content=rows[start : start + size], headers=headers)


def _new_ref(world: World, record: dict[str, Any], which: str, name: str, oid: str) -> Answer:
    if name in record["branches"] or name in record["tags"]:
        raise Refused(409, f"Reference already exists: {name}")
    record[which][name] = oid
    world.repositories.save(record)
    return Answer()


def _entries(tree: Mapping[str, Any], folder: str, recursive: bool) -> list[dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for path, entry in tree.items():
        if folder and not path.startswith(f"{folder}/"):
            continue
        inner = path[len(folder) + 1 if folder else 0 :]
        parts = inner.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(filter(None, [folder, *parts[:depth]]))
            if recursive or depth == 1:
                out.setdefault(parent, {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent})
        if recursive or len(parts) == 1:
            lfs = lfs_info(entry)
            out[path] = {"type": "file", "oid": entry["oid"], "size": entry["size"], "path": path, **({"lfs": lfs} if lfs else {})}
    return [out[path] for path in sorted(out)]


def _card(world: World, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of README.md, or nothing."""
    entry = tree.get("README.md")
    if entry is None:
        return {}
    match = _FRONT_MATTER.match(world.repositories.contents.path(entry["sha256"]).read_text(encoding="utf-8", errors="replace"))
    if match is None or _card_problems(match[1]):
        return {}
    found: dict[str, Any] = yaml.safe_load(match[1]) or {}
    return found


def _card_problems(text: str) -> list[str]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"YAML: {str(error).splitlines()[0]}"]
    if found is None:
        return []
    if not isinstance(found, dict):
        return ['"cardData" must be an object']
    wrong = [f'"{key}" must be a string' for key in ("library_name", "pipeline_tag") if not isinstance(found.get(key, ""), str)]
    wrong += [f'"{key}" must be an array' for key in ("tags", "model-index") if not isinstance(found.get(key, []), list)]
    return wrong


_REPO = "/api/{plural}/{ns}/{name}"
ROUTES: Table = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create_repo),
    ("DELETE", "/api/repos/delete", delete_repo),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", f"{_REPO}/revision/{{revision}}", info),
    ("GET", f"{_REPO}/tree/{{revision}}", tree),
    ("GET", f"{_REPO}/tree/{{revision}}/{{path:rest}}", tree),
    ("POST", f"{_REPO}/paths-info/{{revision}}", paths_info),
    ("GET", f"{_REPO}/commits/{{revision}}", commits),
    ("GET", f"{_REPO}/refs", refs),
    ("GET", f"{_REPO}/auth-check", auth_check),
    ("POST", f"{_REPO}/branch/{{branch}}", create_branch),
    ("DELETE", f"{_REPO}/branch/{{branch}}", delete_branch),
    ("POST", f"{_REPO}/tag/{{revision}}", create_tag),
    ("GET", _REPO, info),
]
