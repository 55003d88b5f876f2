"""Patches of the double of a Kubernetes API server, and its refusals. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """An answer that is no success: a Status object of the API."""

    def __init__(self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
        self.body |= {**({"reason": reason} if reason else {}), **({"details": dict(details)} if details is not None else {})}
        self.body["code"] = code


def merged(live: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    out = dict(live) if isinstance(live, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merged(out.get(key), value)
    return out


def json_patched(live: Any, operations: Any) -> Any:
    """RFC 6902, as far as it is used: add, replace, remove and test."""
    out = copy.deepcopy(live)
    bad = Refusal(422, "Invalid", "the server rejected our request due to an error in our request", {})
    for each in operations:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")[1:]]
        node = out
        for part in way:
            node = node[int(part)] if isinstance(node, list) else node.get(part)
            if node is None:
                raise bad
        key: Any = int(last) if isinstance(node, list) and last != "-" else last
        if each["op"] == "add" and isinstance(node, list):
            node.insert(len(node) if last == "-" else key, each["value"])
            continue
        there = key in range(len(node)) if isinstance(node, list) else key in node
        if each["op"] not in ("add", "replace", "remove", "test") or (each["op"] != "add" and not there):
            raise bad
        if each["op"] == "test":
            if node[key] != each["value"]:
                raise bad
        elif each["op"] == "remove":
            del node[key]
        else:
            node[key] = each["value"]
    return out
