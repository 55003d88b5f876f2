"""Kinds that the double of a Kubernetes API server knows: their fields, defaults and rules, as far as we use them.

Written after the reference of the API (core/v1, Gateway API v1); the golden pairs of a real server judge the core kinds. A kind
more is an entry in KINDS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
YES_NO: dict[str, Any] = {"type": "boolean"}
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SECTION: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": f"^{SUBDOMAIN}$"}
_NAMESPACE: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
_NAME: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 253}
_GROUP: dict[str, Any] = {"type": "string", "maxLength": 253, "pattern": f"^$|^{SUBDOMAIN}$"}
_KIND: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}
_PORT: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": 65535}
_DURATION: dict[str, Any] = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def struct(required: tuple[str, ...] = (), checks: tuple[Any, ...] = (), **properties: Any) -> dict[str, Any]:
    """`checks` = (predicate, message) pairs, in place of the API's CEL."""
    return {"type": "object", "properties": properties, "required": required, "checks": checks}


def listed(items: Mapping[str, Any], most: int, least: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": most, "minItems": least, **more}


def mapped(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "values": values}


METADATA = struct(
    name=TEXT,
    generateName=TEXT,
    namespace=TEXT,
    uid=TEXT,
    resourceVersion=TEXT,
    generation={"type": "integer"},
    creationTimestamp=TEXT,
    deletionTimestamp=TEXT,
    deletionGracePeriodSeconds={"type": "integer"},
    labels=mapped(TEXT),
    annotations=mapped(TEXT),
    finalizers=listed(TEXT, 1000, list="set"),
    ownerReferences=listed(
        struct(
            apiVersion=TEXT, kind=TEXT, name=TEXT, uid=TEXT, controller={"type": "boolean"}, blockOwnerDeletion={"type": "boolean"}
        ),
        1000,
        list="map",
        keys=("uid",),
    ),
    managedFields={"type": "array"},
    selfLink=TEXT,
)


def whole(**properties: Any) -> dict[str, Any]:
    return struct(apiVersion=TEXT, kind=TEXT, metadata=METADATA, **properties)


# -- HTTPRoute -------------------------------------------------------------------------------------------------------

_HEADER_NAME = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$"}
_BACKEND_RULE = (
    lambda ref: ref.get("group", "") != "" or ref.get("kind", "Service") != "Service" or "port" in ref,
    "Must have port for Service reference",
)
_REFERENCE = {
    "group": {**_GROUP, "default": ""},
    "kind": {**_KIND, "default": "Service"},
    "name": _NAME,
    "namespace": _NAMESPACE,
    "port": _PORT,
}
_HEADERS = listed(struct(("name", "value"), name=_HEADER_NAME, value={"type": "string", "minLength": 1, "maxLength": 4096}), 16)
_MODIFIER = struct(set=_HEADERS, add=_HEADERS, remove=listed(TEXT, 16))
_FRACTION = struct(
    ("numerator",),
    ((lambda value: value["numerator"] <= value.get("denominator", 100), "numerator must be less than or equal to denominator"),),
    numerator={"type": "integer", "minimum": 0},
    denominator={"type": "integer", "minimum": 1, "default": 100},
)
_MIRROR = struct(
    ("backendRef",),
    ((lambda value: not ("percent" in value and "fraction" in value), "Only one of percent or fraction may be specified"),),
    backendRef=struct(("name",), (_BACKEND_RULE,), **_REFERENCE),
    percent={"type": "integer", "minimum": 0, "maximum": 100},
    fraction=_FRACTION,
)
_PATH_CHANGE = struct(
    ("type",),
    (
        (
            lambda value: value["type"] != "ReplacePrefixMatch" or "replacePrefixMatch" in value,
            "replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'",
        ),
        (
            lambda value: value["type"] != "ReplaceFullPath" or "replaceFullPath" in value,
            "replaceFullPath must be specified when type is set to 'ReplaceFullPath'",
        ),
    ),
    type={"type": "string", "enum": ("ReplaceFullPath", "ReplacePrefixMatch")},
    replaceFullPath={"type": "string", "maxLength": 1024},
    replacePrefixMatch={"type": "string", "maxLength": 1024},
)
_FILTERS = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "URLRewrite": "urlRewrite",
}


def _filter_rule(kind: str, field: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: (value["type"] == kind) == (field in value), f"filter.{field} must be specified for {kind} filter.type")


def _filters(checks: tuple[Any, ...]) -> dict[str, Any]:
    one = struct(
        ("type",),
        tuple(_filter_rule(kind, field) for kind, field in _FILTERS.items()),
        type={"type": "string", "enum": tuple(_FILTERS)},
        requestHeaderModifier=_MODIFIER,
        responseHeaderModifier=_MODIFIER,
        requestMirror=_MIRROR,
        urlRewrite=struct(hostname=_SECTION, path=_PATH_CHANGE),
    )
    return {**listed(one, 16), "checks": checks}


_ONCE = tuple(
    (lambda value, kind=kind: sum(each["type"] == kind for each in value) <= 1, f"{kind} filter cannot be repeated")
    for kind in ("RequestHeaderModifier", "ResponseHeaderModifier", "URLRewrite")
)


def _path_is_absolute(value: Mapping[str, Any]) -> bool:
    kind, path = value.get("type", "PathPrefix"), value.get("value", "/")
    if kind == "RegularExpression":
        return True
    return bool(path.startswith("/")) and not re.search(r"//|/\./|/\.\./|%2[fF]|#|/\.\.$|/\.$", path)


_MATCH = struct(
    path={
        **struct(
            (),
            ((_path_is_absolute, "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']"),),
            type={"type": "string", "enum": ("Exact", "PathPrefix", "RegularExpression"), "default": "PathPrefix"},
            value={"type": "string", "maxLength": 1024, "default": "/"},
        ),
        "default": {"type": "PathPrefix", "value": "/"},
    },
    headers=listed(
        struct(
            ("name", "value"),
            type={"type": "string", "enum": ("Exact", "RegularExpression"), "default": "Exact"},
            name=_HEADER_NAME,
            value={"type": "string", "minLength": 1, "maxLength": 4096},
        ),
        16,
    ),
    method={"type": "string", "enum": ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")},
)


def _one_prefix(rule: Mapping[str, Any]) -> bool:
    paths = [each["urlRewrite"].get("path", {}) for each in rule.get("filters", ()) if "urlRewrite" in each]
    if not any("replacePrefixMatch" in path for path in paths):
        return True
    matches = rule.get("matches", [])
    return len(matches) == 1 and matches[0].get("path", {}).get("type", "PathPrefix") == "PathPrefix"


_RULE = struct(
    (),
    ((_one_prefix, "When using URLRewrite filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified"),),
    name=_SECTION,
    matches={**listed(_MATCH, 64), "default": [{"path": {"type": "PathPrefix", "value": "/"}}]},
    filters=_filters(_ONCE),
    backendRefs=listed(
        struct(
            ("name",),
            (_BACKEND_RULE,),
            **_REFERENCE,
            weight={"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 1},
            filters=_filters(_ONCE),
        ),
        16,
    ),
    timeouts=struct(request=_DURATION, backendRequest=_DURATION),
)
_PARENT = struct(
    ("name",),
    group={**_GROUP, "default": "gateway.networking.k8s.io"},
    kind={**_KIND, "default": "Gateway"},
    namespace=_NAMESPACE,
    name=_NAME,
    sectionName=_SECTION,
    port=_PORT,
)
_HOSTNAME = {"type": "string", "minLength": 1, "maxLength": 253, "pattern": rf"^(\*\.)?{SUBDOMAIN}$"}
_CONDITION = struct(
    ("type", "status", "reason", "message", "lastTransitionTime"),
    type=TEXT,
    status={"type": "string", "enum": ("True", "False", "Unknown")},
    reason=TEXT,
    message=TEXT,
    lastTransitionTime=TEXT,
    observedGeneration={"type": "integer"},
)
HTTP_ROUTE = {
    **whole(
        spec=struct(
            parentRefs=listed(_PARENT, 32),
            hostnames=listed(_HOSTNAME, 16),
            rules={**listed(_RULE, 16, 1), "default": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]},
        ),
        status=struct(
            ("parents",),
            parents=listed(
                struct(
                    ("parentRef", "controllerName"),
                    parentRef=_PARENT,
                    controllerName=TEXT,
                    conditions=listed(_CONDITION, 8, list="map", keys=("type",)),
                ),
                32,
            ),
        ),
    ),
    "required": ("spec",),
}


@dataclass(frozen=True)
class ApiKind:
    """`custom`: a custom resource, of which lists name the kind of each item and `generation` counts changes of the spec."""

    group: str
    version: str
    plural: str
    kind: str
    schema: Mapping[str, Any]
    namespaced: bool = True
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def called(self) -> str:
        """As the server calls it in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def kind_called(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


KINDS = (
    ApiKind("", "v1", "namespaces", "Namespace", whole(spec=struct(finalizers=listed(TEXT, 10)), status=struct(phase=TEXT)), False),
    ApiKind("", "v1", "configmaps", "ConfigMap", whole(data=mapped(TEXT), binaryData=mapped(TEXT), immutable={"type": "boolean"})),
    ApiKind("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", HTTP_ROUTE, custom=True),
)


# -- defaults and faults ---------------------------------------------------------------------------------------------


def defaulted(value: Any, schema: Mapping[str, Any]) -> Any:
    """With the defaults that the server adds, in lists too."""
    if isinstance(value, Mapping) and "properties" in schema:
        missing = {key: each["default"] for key, each in schema["properties"].items() if "default" in each and key not in value}
        return {key: defaulted(child, schema["properties"].get(key, {})) for key, child in {**value, **missing}.items()}
    if isinstance(value, list) and "items" in schema:
        return [defaulted(child, schema["items"]) for child in value]
    return value


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "object": Mapping,
    "array": list,
}


def faults(value: Any, schema: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str, str]]:
    """(field, reason, text) of everything that the schema does not allow."""
    wanted = schema.get("type")
    if wanted and (not isinstance(value, _TYPES[wanted]) or (wanted == "integer" and isinstance(value, bool))):
        yield at, "FieldValueTypeInvalid", f"Invalid value: {_shown(value)}: {at} in body must be of type {wanted}: {_shown(value)}"
        return
    yield from _limits(value, schema, at)
    broken = False
    if isinstance(value, Mapping):
        for key in schema.get("required", ()):
            if key not in value:
                broken = True
                yield f"{at}.{key}".lstrip("."), "FieldValueRequired", "Required value"
        for key, child in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("values")
            for fault in faults(child, inner or {}, f"{at}.{key}".lstrip(".")):
                broken = True
                yield fault
    if isinstance(value, list):
        for i, child in enumerate(value):
            for fault in faults(child, schema.get("items", {}), f"{at}[{i}]"):
                broken = True
                yield fault
    for rule, text in () if broken else schema.get("checks", ()):
        if not rule(value):
            yield at, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {text}"


def _limits(value: Any, schema: Mapping[str, Any], at: str) -> Iterator[tuple[str, str, str]]:
    checks: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
        ("minimum", lambda limit: value >= limit, "should be greater than or equal to {}"),
        ("maximum", lambda limit: value <= limit, "should be less than or equal to {}"),
        ("minLength", lambda limit: len(value) >= limit, "should be at least {} chars long"),
        ("maxLength", lambda limit: len(value) <= limit, "should be at most {} chars long"),
        ("pattern", lambda limit: re.search(limit, value) is not None, "should match '{}'"),
    )
    for key, fine, text in checks:
        if key in schema and not fine(schema[key]):
            yield at, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {at} in body {text.format(schema[key])}"
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(f'"{each}"' for each in schema["enum"])
        yield at, "FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {allowed}"
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield at, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
    if "minItems" in schema and len(value) < schema["minItems"]:
        text = f"{at} in body should have at least {schema['minItems']} items"
        yield at, "FieldValueInvalid", f"Invalid value: {len(value)}: {text}"


def _shown(value: Any) -> str:
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else '"array"' if isinstance(value, list) else '"object"'
