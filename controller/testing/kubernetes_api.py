"""A double of a Kubernetes API server: it validates, and refuses what a real server refuses (over HTTP: `kubernetes_server.py`).

It knows the kinds of `kubernetes_schemas.py` with get, list, create, update, delete and the patches `apply` (server-side, with
managed fields, conflicts, force and dry run), merge and JSON. Judged by answers recorded from a real server, replayed in a test.
It has no watch, no tables, no strategic merge and no controllers: what it does not know it answers with 501, never with a guess.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from controller.testing import kubernetes_fields as ownership
from controller.testing.kubernetes_fields import Manager
from controller.testing.kubernetes_patches import Refusal, json_patched, merged
from controller.testing.kubernetes_schemas import KINDS, SUBDOMAIN, ApiKind, defaulted, faults
from controller.testing.kubernetes_selectors import BadSelector, chosen

ADMIN = "admin"
"""A token with every right."""
_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_APPLY, _MERGE, _JSON = "application/apply-patch+yaml", "application/merge-patch+json", "application/json-patch+json"


@dataclass(frozen=True)
class Call:
    """One request, taken apart."""

    method: str
    kind: ApiKind
    namespace: str
    name: str
    sub: str
    params: Mapping[str, str]
    content_type: str
    body: bytes
    manager: str

    @property
    def dry(self) -> bool:
        return self.params.get("dryRun") == "All"

    @property
    def where(self) -> dict[str, Any]:
        group = {"group": self.kind.group} if self.kind.group else {}
        return {"name": self.name, **group, "kind": self.kind.plural}


@dataclass
class Answer:
    status: int
    body: Any
    warnings: list[str] = field(default_factory=list)


Rights = Callable[[str, str, str], bool]
"""(verb, plural, namespace) -> whether a user may."""


class KubernetesApi:
    """Objects of one cluster. `users` = token -> (name, rights); `calls` = what was asked, for tests that count."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC), kinds: tuple[ApiKind, ...] = KINDS) -> None:
        self.now, self.kinds = now, {(each.group, each.version, each.plural): each for each in kinds}
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.managers: dict[str, list[Manager]] = {}
        self.users: dict[str, tuple[str, Rights]] = {ADMIN: ("admin", lambda verb, plural, namespace: True)}
        self.calls: list[tuple[str, str]] = []
        self.version = 1
        self.down = ""  # text of the 503 that every call gets
        self._lock = threading.RLock()

    # -- by tests ------------------------------------------------------------------------------------------------

    def namespace(self, name: str) -> None:
        self.handle("POST", "/api/v1/namespaces", json.dumps({"metadata": {"name": name}}).encode())

    def see(self, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
        """An object as it is stored, for assertions."""
        found = self.objects.get((plural, namespace, name))
        return None if found is None else self._shown(found)

    def handle(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        content_type: str = "application/json",
        token: str = ADMIN,
        agent: str = "tests/1",
    ) -> Answer:
        """One request, as it comes over HTTP. Never raises: refusals are answers."""
        with self._lock:
            self.calls.append((method, target))
            try:
                if self.down:
                    raise Refusal(503, "ServiceUnavailable", self.down)
                if token not in self.users:
                    raise Refusal(401, "Unauthorized", "Unauthorized")
                return self._route(method, target, body, content_type, token, agent)
            except Refusal as refusal:
                return Answer(refusal.code, refusal.body)

    # -- finding out what is asked -------------------------------------------------------------------------------

    def _route(self, method: str, target: str, body: bytes, content_type: str, token: str, agent: str) -> Answer:
        url = urlsplit(target)
        found = _PATH.fullmatch(url.path)
        group, version = (found["group"] or "", found["version"] or "v1") if found else ("", "")
        kind = self.kinds.get((group, version, found["plural"])) if found else None
        if found is None or kind is None:
            return Answer(404, "404 page not found\n")
        params = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        call = Call(
            method,
            kind,
            found["namespace"] or "",
            found["name"] or "",
            found["sub"] or "",
            params,
            content_type.partition(";")[0].strip(),
            body,
            params.get("fieldManager") or agent.partition("/")[0],
        )
        self._allowed(call, token)
        if call.params.get("watch") or (call.sub and call.sub != "status"):
            raise Refusal(501, "NotImplemented", f"the double does not know {call.sub or 'watch'}")
        if not call.name:
            whole = {"GET": self._list, "POST": self._create, "DELETE": self._delete_all}
            return self._verb(whole, call)
        return self._verb({"GET": self._get, "PUT": self._put, "PATCH": self._patch, "DELETE": self._delete}, call)

    def _allowed(self, call: Call, token: str) -> None:
        user, rights = self.users[token]
        verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete" if call.name else "deletecollection"}
        verb = verbs.get(call.method, "get" if call.name else "list")
        if rights(verb, call.kind.plural, call.namespace):
            return
        details = {**({"name": call.name} if call.name else {}), **({"group": call.kind.group} if call.kind.group else {})}
        target = f'{call.kind.called} "{call.name}" is' if call.name else f"{call.kind.called} is"
        where = f'in API group "{call.kind.group}" in the namespace "{call.namespace}"'
        text = f'{target} forbidden: User "{user}" cannot {verb} resource "{call.kind.plural}" {where}'
        raise Refusal(403, "Forbidden", text, {**details, "kind": call.kind.plural})

    def _verb(self, verbs: Mapping[str, Callable[[Call], Answer]], call: Call) -> Answer:
        if call.method not in verbs:
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})
        return verbs[call.method](call)

    # -- reading -------------------------------------------------------------------------------------------------

    def _found(self, call: Call) -> dict[str, Any]:
        found = self.objects.get((call.kind.plural, call.namespace, call.name))
        if found is None:
            raise Refusal(404, "NotFound", f'{call.kind.called} "{call.name}" not found', call.where)
        return found

    def _get(self, call: Call) -> Answer:
        return Answer(200, self._shown(self._found(call)))

    def _list(self, call: Call) -> Answer:
        asked = call.params.get("resourceVersion", "")
        if asked.isdigit() and int(asked) > self.version:
            text = f"Timeout: Too large resource version: {asked}, current: {self.version}"
            causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
            raise Refusal(504, "Timeout", text, {"causes": causes})
        names = self._selected(call)
        metadata: dict[str, Any] = {"resourceVersion": str(self.version)}
        start = self._start(call.params.get("continue", ""))
        names = [name for name in names if name >= start]
        limit = int(call.params.get("limit") or 0)
        if limit and len(names) > limit:
            token = json.dumps({"v": "meta.k8s.io/v1", "rv": self.version, "start": names[limit - 1] + "\0"}, separators=(",", ":"))
            metadata["continue"] = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
            metadata["remainingItemCount"] = len(names) - limit
            names = names[:limit]
        items = [self._shown(self.objects[call.kind.plural, call.namespace, name]) for name in names]
        if not call.kind.custom:
            items = [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in items]
        listed = {"kind": f"{call.kind.kind}List", "apiVersion": call.kind.api_version, "metadata": metadata, "items": items}
        return Answer(200, listed)

    def _selected(self, call: Call) -> list[str]:
        there = {key[2]: each for key, each in self.objects.items() if key[:2] == (call.kind.plural, call.namespace)}
        try:
            return sorted(chosen(there, call.params.get("labelSelector", ""), call.params.get("fieldSelector", "")))
        except BadSelector as error:
            raise Refusal(400, "BadRequest", str(error)) from error

    @staticmethod
    def _start(token: str) -> str:
        if not token:
            return ""
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        if not raw.startswith(b"{"):
            shown = f"\\x{raw[0]:02x}" if raw and raw[0] > 126 else chr(raw[0]) if raw else ""
            text = f"invalid continue token: continue key is not valid: invalid character '{shown}' looking for beginning of value"
            raise Refusal(400, "BadRequest", text)
        return str(json.loads(raw)["start"])

    # -- writing -------------------------------------------------------------------------------------------------

    def _create(self, call: Call) -> Answer:
        made, warnings = self._decoded(call)
        metadata = made.setdefault("metadata", {})
        if call.namespace and metadata.get("namespace", call.namespace) != call.namespace:
            raise Refusal(
                400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"
            )
        name = str(metadata.get("name", ""))
        self._may_be_made(call, name)
        if (call.kind.plural, call.namespace, name) in self.objects:
            details = {"name": name, **({"group": call.kind.group} if call.kind.group else {}), "kind": call.kind.plural}
            raise Refusal(409, "AlreadyExists", f'{call.kind.called} "{name}" already exists', details)
        born = self._complete(call, self._born(call, made, name))
        blank: dict[str, Any] = {"metadata": {}}
        given = {key: value for key, value in self._bare(born).items() if call.kind.plural != "namespaces" or key == "metadata"}
        managers = ownership.update([], self._who(call, "Update"), blank, given, call.kind.schema)
        return Answer(201, self._store(call, None, born, managers), warnings)

    def _may_be_made(self, call: Call, name: str) -> None:
        home = self.objects.get(("namespaces", "", call.namespace))
        if call.namespace and home is None:
            details = {"name": call.namespace, "kind": "namespaces"}
            raise Refusal(404, "NotFound", f'namespaces "{call.namespace}" not found', details)
        if home is not None and "deletionTimestamp" in home["metadata"]:
            cause = f"namespace {call.namespace} is being terminated"
            text = f"unable to create new content in namespace {call.namespace} because it is being terminated"
            details = {"name": name, **({"group": call.kind.group} if call.kind.group else {}), "kind": call.kind.plural}
            causes = [{"reason": "NamespaceTerminating", "message": cause, "field": "metadata.namespace"}]
            raise Refusal(403, "Forbidden", f'{call.kind.called} "{name}" is forbidden: {text}', {**details, "causes": causes})
        if not re.fullmatch(SUBDOMAIN, name) or len(name) > 253:
            raise self._invalid(call, name, [("metadata.name", "FieldValueInvalid", f'Invalid value: "{name}": {_NAME_RULE}')])

    def _born(self, call: Call, made: Mapping[str, Any], name: str) -> dict[str, Any]:
        given = {key: value for key, value in made["metadata"].items() if key not in ownership.SYSTEM}
        place = {"namespace": call.namespace} if call.namespace else {}
        system = {"name": name, **place, "uid": str(uuid.uuid4()), "creationTimestamp": self._time()}
        born = {**made, "apiVersion": call.kind.api_version, "kind": call.kind.kind, "metadata": {**given, **system}}
        if call.kind.plural == "namespaces":
            born["metadata"]["labels"] = {**given.get("labels", {}), "kubernetes.io/metadata.name": name}
            born |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        return born

    def _put(self, call: Call) -> Answer:
        live = self._found(call)
        body, warnings = self._decoded(call)
        given = body.get("metadata", {}).get("resourceVersion")
        if given not in (None, live["metadata"]["resourceVersion"]):
            raise self._stale(call)
        return Answer(200, self._replaced(call, live, body), warnings)

    def _replaced(self, call: Call, live: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        """Any write but an apply: what it changes belongs to whoever wrote."""
        metadata = {key: value for key, value in body.get("metadata", {}).items() if key not in ownership.SYSTEM}
        kept = {key: live["metadata"][key] for key in ownership.SYSTEM if key in live["metadata"]}
        new = {**body, "apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": {**metadata, **kept}}
        if call.sub == "status":
            new = {**live, **({"status": body["status"]} if "status" in body else {})}
        elif call.kind.custom:
            status = {"status": live["status"]} if "status" in live else {}
            new = {**{key: value for key, value in new.items() if key != "status"}, **status}
        if body.get("metadata", {}).get("managedFields") == []:
            self.managers[live["metadata"]["uid"]] = []
        before = self.managers[live["metadata"]["uid"]]
        clean = self._complete(call, new)
        managers = ownership.update(before, self._who(call, "Update"), self._bare(live), self._bare(clean), call.kind.schema)
        return self._store(call, live, clean, managers)

    def _patch(self, call: Call) -> Answer:
        if call.content_type == _APPLY:
            return self._apply(call)
        if call.content_type not in (_MERGE, _JSON):
            if call.content_type == "application/strategic-merge-patch+json":
                raise Refusal(501, "NotImplemented", "the double does not know strategic merge")
            raise Refusal(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        live = self._found(call)
        body = self._parsed(call)
        given = self._bare(live) | {"metadata": copy.deepcopy(live["metadata"])}
        new = merged(given, body) if call.content_type == _MERGE else json_patched(given, body)
        if new.get("metadata", {}).get("resourceVersion") != live["metadata"]["resourceVersion"]:
            raise self._stale(call)
        return Answer(200, self._replaced(call, live, self._checked(call, new)[0]))

    def _apply(self, call: Call) -> Answer:
        if not call.params.get("fieldManager"):
            text = "Required value: is required for apply patch"
            causes = [{"reason": "FieldValueRequired", "message": text, "field": "fieldManager"}]
            details = {"group": "meta.k8s.io", "kind": "PatchOptions", "causes": causes}
            raise Refusal(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: fieldManager: {text}', details)
        config = self._parsed(call)
        metadata = config.get("metadata", {})
        if metadata.get("name", call.name) != call.name:
            text = f"the name of the object ({metadata['name']}) does not match the name on the URL ({call.name})"
            raise Refusal(400, "BadRequest", text)
        if metadata.get("managedFields"):
            raise Refusal(400, "BadRequest", "metadata.managedFields must be nil")
        try:
            ownership.declared(config, call.kind.schema)
        except ownership.Undeclared as error:
            place = f"{metadata.get('namespace', '')}/{call.name}; {call.kind.api_version}, Kind={call.kind.kind}"
            place = place if call.kind.group else place.replace("; v1", "; /v1")
            text = f"failed to create typed patch object ({place}): {error}: field not declared in schema"
            raise Refusal(500, "", text) from error
        live = self.objects.get((call.kind.plural, call.namespace, call.name))
        if live is None:
            self._may_be_made(call, call.name)
        elif metadata.get("resourceVersion", live["metadata"]["resourceVersion"]) != live["metadata"]["resourceVersion"]:
            raise self._stale(call)
        return self._applied(call, live, config)

    def _applied(self, call: Call, live: dict[str, Any] | None, config: dict[str, Any]) -> Answer:
        before = self.managers[live["metadata"]["uid"]] if live else []
        bare = self._bare(live) if live else {"metadata": {}}
        given = {key: value for key, value in config.items() if key not in ("apiVersion", "kind")}
        system = {key: value for key, value in config.get("metadata", {}).items() if key not in ownership.SYSTEM}
        given["metadata"] = system
        force = call.params.get("force") == "true"
        who = self._who(call, "Apply")
        found, managers, conflicts = ownership.apply(before, who, bare, given, call.kind.schema, force=force)
        if conflicts:
            raise _conflicting(conflicts)
        base = live or self._born(call, {"metadata": {}}, call.name)
        kept = {key: base["metadata"][key] for key in ownership.SYSTEM if key in base["metadata"]}
        new = {"apiVersion": base["apiVersion"], "kind": base["kind"], **found, "metadata": {**found.get("metadata", {}), **kept}}
        return Answer(200 if live else 201, self._store(call, live, self._complete(call, new), managers))

    def _delete(self, call: Call) -> Answer:
        live = self._found(call)
        metadata = live["metadata"]
        wanted = (self._parsed(call) if call.body else {}).get("preconditions") or {}
        for key, word, hint in (("uid", "UID", "deleted and then recreated"), ("resourceVersion", "ResourceVersion", "modified")):
            if wanted.get(key) not in (None, metadata[key]):
                text = f"the {word} in the precondition ({wanted[key]}) does not match the {word} in record ({metadata[key]})"
                on = f'Operation cannot be fulfilled on {call.kind.kind_called} "{call.name}"'
                text = f"{on}: {text}. The object might have been {hint}"
                group = {"group": call.kind.group} if call.kind.group else {}
                raise Refusal(409, "Conflict", text, {"name": call.name, **group, "kind": call.kind.kind})
        if metadata.get("finalizers") or call.kind.plural == "namespaces":
            return Answer(200, self._dying(call, live))
        if not call.dry:
            del self.objects[call.kind.plural, call.namespace, call.name]
            self.version += 1
        done = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Answer(200, {**done, "details": {**call.where, "uid": metadata["uid"]}})

    def _dying(self, call: Call, live: dict[str, Any]) -> dict[str, Any]:
        """What has finalizers stays until the last one is gone."""
        new = copy.deepcopy(live)
        new["metadata"].setdefault("deletionTimestamp", self._time())
        if call.kind.plural == "namespaces":
            new["status"] = {"phase": "Terminating"}
        else:
            new["metadata"]["deletionGracePeriodSeconds"] = 0
        return self._store(call, live, new, self.managers[live["metadata"]["uid"]])

    def _delete_all(self, call: Call) -> Answer:
        listed = self._list(call).body
        for name in [item["metadata"]["name"] for item in listed["items"]]:
            self._delete(Call(**{**call.__dict__, "name": name, "body": b""}))
        listed["metadata"]["resourceVersion"] = str(self.version)
        return Answer(200, listed)

    # -- bodies --------------------------------------------------------------------------------------------------

    def _parsed(self, call: Call) -> Any:
        try:
            return yaml.safe_load(call.body) if call.content_type == _APPLY else json.loads(call.body)
        except (ValueError, yaml.YAMLError) as error:
            text = call.body.decode(errors="replace")
            odd = f"json parse error: invalid character '{text[1:2]}' looking for beginning of object key string ({text})"
            must = f"the object provided is unrecognized (must be of type {call.kind.kind}): couldn't get version/kind; {odd}"
            raise Refusal(400, "BadRequest", must) from error

    def _decoded(self, call: Call) -> tuple[dict[str, Any], list[str]]:
        return self._checked(call, self._parsed(call))

    def _checked(self, call: Call, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Without the fields that the kind does not have: refused, warned of, or dropped in silence, as was asked."""
        clean, unknown = ownership.known(body, call.kind.schema)
        how = call.params.get("fieldValidation", "Warn")
        if unknown and how == "Strict":
            said = ", ".join(f'unknown field "{each}"' for each in unknown)
            where = f'{call.kind.kind} in version "{call.kind.version}" cannot be handled as a {call.kind.kind}: '
            raise Refusal(400, "BadRequest", f"{where}strict decoding error: {said}")
        warnings = [json.dumps(f'unknown field "{each}"') for each in unknown] if how == "Warn" else []
        return clean, [f"299 - {text}" for text in warnings]

    def _complete(self, call: Call, new: dict[str, Any]) -> dict[str, Any]:
        """With defaults, or without empty maps: custom and built-in kinds differ in that."""
        if call.kind.custom:
            return dict(defaulted(new, call.kind.schema))
        return {key: value for key, value in new.items() if value != {} or key == "metadata"}

    def _store(self, call: Call, live: dict[str, Any] | None, new: dict[str, Any], managers: list[Manager]) -> dict[str, Any]:
        """Validates and keeps it (unless dry); the object as it is answered. What changes nothing makes no new version."""
        new = self._complete(call, copy.deepcopy(new))
        found = list(faults(new, call.kind.schema))
        if found:
            raise self._invalid(call, new["metadata"]["name"], found)
        uid = new["metadata"]["uid"]
        same = live is not None and {**new, "metadata": _bare_metadata(new)} == {**live, "metadata": _bare_metadata(live)}
        if same and managers == self.managers.get(uid):
            return self._shown(new)
        if call.kind.custom:
            moved = live is None or live.get("spec") != new.get("spec")
            new["metadata"]["generation"] = new["metadata"].get("generation", 0) + moved
        gone = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers") and call.kind.plural != "namespaces"
        if gone and live is not None:
            if not call.dry:
                del self.objects[call.kind.plural, call.namespace, new["metadata"]["name"]]
            return self._shown(new, managers)
        version = self.version if call.dry else self.version + 1
        old = live["metadata"]["resourceVersion"] if live else ""
        new["metadata"]["resourceVersion"] = (old or str(version)) if call.dry else str(version)
        if not call.dry:
            self.version = version
            self.objects[call.kind.plural, call.namespace, new["metadata"]["name"]] = new
            self.managers[uid] = managers
        return self._shown(new, managers)

    def _shown(self, thing: Mapping[str, Any], managers: list[Manager] | None = None) -> dict[str, Any]:
        """With its managedFields, as answers have them."""
        owners = self.managers.get(thing["metadata"]["uid"], []) if managers is None else managers
        entries = [
            {
                "manager": each.name,
                "operation": each.operation,
                "apiVersion": each.version,
                "time": each.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": ownership.written(each.fields),
                **({"subresource": each.subresource} if each.subresource else {}),
            }
            for each in owners
        ]
        metadata = {key: value for key, value in thing["metadata"].items() if value not in ({}, [])}
        shown = {**thing, "metadata": {**metadata, **({"managedFields": entries} if entries else {})}}
        return copy.deepcopy({"kind": shown.pop("kind"), "apiVersion": shown.pop("apiVersion"), **shown})

    @staticmethod
    def _bare(thing: Mapping[str, Any]) -> dict[str, Any]:
        """What can be owned of an object."""
        metadata = {key: value for key, value in thing["metadata"].items() if key not in ownership.SYSTEM}
        return {**{key: value for key, value in thing.items() if key not in ("apiVersion", "kind")}, "metadata": metadata}

    def _who(self, call: Call, operation: str) -> Manager:
        return Manager(call.manager, operation, call.kind.api_version, self._time(), frozenset(), call.sub)

    def _time(self) -> str:
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    # -- refusals ------------------------------------------------------------------------------------------------

    def _stale(self, call: Call) -> Refusal:
        text = "the object has been modified; please apply your changes to the latest version and try again"
        return Refusal(409, "Conflict", f'Operation cannot be fulfilled on {call.kind.called} "{call.name}": {text}', call.where)

    def _invalid(self, call: Call, name: str, found: list[tuple[str, str, str]]) -> Refusal:
        said = [f"{place}: {text}" for place, _, text in found]
        text = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
        causes = [{"reason": reason, "message": message, "field": place} for place, reason, message in found]
        group = {"group": call.kind.group} if call.kind.group else {}
        details = {"name": name, **group, "kind": call.kind.kind, "causes": causes}
        return Refusal(422, "Invalid", f'{call.kind.kind_called} "{name}" is invalid: {text}', details)


def _bare_metadata(thing: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in thing["metadata"].items() if value not in ({}, [])}


def _conflicting(conflicts: list[ownership.Conflict]) -> Refusal:
    count = f"{len(conflicts)} conflict{'s' if len(conflicts) > 1 else ''}"
    if len(conflicts) == 1:
        said = f"{conflicts[0].who}: {ownership.dotted(conflicts[0].path)}"
    else:
        whos = list(dict.fromkeys(each.who for each in conflicts))
        places = {who: [f"- {ownership.dotted(each.path)}" for each in conflicts if each.who == who] for who in whos}
        said = "\n".join("\n".join([f"{who.replace('conflict with', 'conflicts with', 1)}:", *places[who]]) for who in whos)
    causes = [{"reason": "FieldManagerConflict", "message": each.who, "field": ownership.dotted(each.path)} for each in conflicts]
    return Refusal(409, "Conflict", f"Apply failed with {count}: {said}", {"causes": causes})
