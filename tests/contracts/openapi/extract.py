"""Makes the two files beside it from the vendors' published descriptions: only the routes that the doubles have, no prose.

python tests/contracts/openapi/extract.py langsmith.json openrouter.yaml
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
LANGSMITH = (
    "/api/v1/info",
    "/api/v1/info/health",
    "/api/v1/settings",
    "/api/v1/datasets",
    "/api/v1/datasets/comparative",
    "/api/v1/datasets/{dataset_id}",
    "/api/v1/datasets/{dataset_id}/comparative",
    "/api/v1/datasets/{dataset_id}/splits",
    "/api/v1/datasets/{dataset_id}/tags",
    "/api/v1/datasets/{dataset_id}/version",
    "/api/v1/datasets/{dataset_id}/versions",
    "/api/v1/examples",
    "/api/v1/examples/bulk",
    "/api/v1/examples/count",
    "/api/v1/examples/{example_id}",
    "/api/v1/feedback",
    "/api/v1/feedback/{feedback_id}",
    "/api/v1/runs/query",
    "/api/v1/runs/{run_id}",
    "/api/v1/sessions",
    "/api/v1/sessions/{session_id}",
    "/runs",
    "/runs/batch",
    "/runs/multipart",
    "/runs/{run_id}",
    "/v1/platform/datasets/{dataset_id}/examples",
)
OPENROUTER = ("/chat/completions", "/credits", "/generation", "/key", "/models")
PROSE = ("description", "summary", "example", "examples", "title", "tags", "operationId")


def bare(value: Any, names: bool = False) -> Any:
    """Without prose; `names`: the keys of this object are names of fields, whatever they are called."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if names or not (key in PROSE or key.startswith("x-"))}
    return {key: bare(one, names=key in ("properties", "schemas", "paths")) for key, one in kept.items()}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            if key == "$ref":
                yield one.rpartition("/")[2]
            else:
                yield from references(one)


def extract(whole: dict[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    kept = {path: whole["paths"][path] for path in paths}
    schemas: dict[str, Any] = {}
    todo = set(references(kept))
    while todo:
        name = todo.pop()
        schemas[name] = whole["components"]["schemas"][name]
        todo |= set(references(schemas[name])) - set(schemas)
    info = {name: whole["info"][name] for name in ("title", "version", "license") if name in whole["info"]}
    head = {"openapi": whole["openapi"], "info": info}
    return {**head, **bare({"paths": kept, "components": {"schemas": dict(sorted(schemas.items()))}})}


def main(langsmith: str, openrouter: str) -> None:
    for name, path, paths in (("langsmith", langsmith, LANGSMITH), ("openrouter", openrouter, OPENROUTER)):
        whole = yaml.load(Path(path).read_text(), Loader=yaml.CSafeLoader)
        (HERE / f"{name}.json").write_text(json.dumps(extract(whole, paths), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
