"""Datasets of LangSmith's double: by name and id, their splits, versions and tags."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked
from . import bodies
from .bodies import body, conflict, not_found, query, text, uuid_of
from .identity import TENANT

if TYPE_CHECKING:
    from .api import LangSmithApi


def find(api: LangSmithApi, dataset_id: str) -> dict[str, Any]:
    """Raises Refused (404, 422)."""
    found = api.tables.get("datasets", uuid_of(dataset_id, "dataset_id"))
    if found is None:
        raise not_found("Dataset")
    return found


def shown(api: LangSmithApi, dataset: dict[str, Any]) -> dict[str, Any]:
    sessions = [one for one in api.tables.all("sessions") if one["reference_dataset_id"] == dataset["id"]]
    examples = [one for one in api.tables.all("examples") if one["dataset_id"] == dataset["id"]]
    return {
        **dataset,
        "tenant_id": TENANT,
        "example_count": len(examples),
        "session_count": len(sessions),
        "last_session_start_time": max((one["start_time"] for one in sessions), default=None),
    }


def changed(api: LangSmithApi, dataset_id: str, stamp: str) -> None:
    """A new version of the dataset, made at `stamp`."""
    dataset = find(api, dataset_id)
    api.tables.put("datasets", dataset_id, {**dataset, "modified_at": stamp})
    api.tables.put("versions", f"{dataset_id} {stamp}", {"dataset_id": dataset_id, "as_of": stamp})


def versions(api: LangSmithApi, dataset_id: str) -> list[str]:
    """Stamps, newest first."""
    return sorted((one["as_of"] for one in api.tables.all("versions") if one["dataset_id"] == dataset_id), reverse=True)


def version_of(api: LangSmithApi, dataset_id: str, as_of: str) -> str:
    """The stamp that `latest`, a tag or a time means. Raises Refused (404)."""
    found = versions(api, dataset_id)
    if as_of == "latest":
        return found[0]
    tag = api.tables.get("tags", f"{dataset_id} {as_of}")
    if tag is not None:
        return str(tag["as_of"])
    try:
        moment = text(datetime.fromisoformat(as_of)) or ""
    except ValueError as error:
        raise not_found(f"Dataset version {as_of!r}") from error
    earlier = [stamp for stamp in found if stamp <= moment]
    if not earlier:
        raise not_found(f"Dataset version as of {as_of!r}")
    return earlier[0]


def _version(api: LangSmithApi, dataset_id: str, stamp: str) -> dict[str, Any]:
    tags = [one["tag"] for one in api.tables.all("tags") if one["dataset_id"] == dataset_id and one["as_of"] == stamp]
    latest = ["latest"] if stamp == versions(api, dataset_id)[0] else []
    return {"as_of": stamp, "tags": latest + tags}


def holds(metadata: dict[str, Any] | None, asked: str | None) -> bool:
    """Whether metadata contain every pair of a JSON object that was asked for."""
    wanted = json.loads(asked) if asked else {}
    return all((metadata or {}).get(name) == value for name, value in wanted.items())


def _list(api: LangSmithApi, asked: Asked) -> Answer:
    wanted = query(bodies.DatasetQuery, asked)
    ids = {str(one) for one in wanted.id}
    found = [
        one
        for one in api.tables.all("datasets")
        if (not ids or one["id"] in ids)
        and (wanted.name is None or one["name"] == wanted.name)
        and (wanted.name_contains is None or wanted.name_contains.lower() in one["name"].lower())
        and (not wanted.data_type or one["data_type"] in wanted.data_type)
        and holds(one["metadata"], wanted.metadata)
    ]
    return Answer(200, [shown(api, one) for one in found[wanted.offset : wanted.offset + wanted.limit]])


def _create(api: LangSmithApi, asked: Asked) -> Answer:
    given = body(bodies.DatasetCreate, asked.json())
    if any(one["name"] == given.name for one in api.tables.all("datasets")):
        raise conflict("Dataset with this name already exists.")
    stamp = api.stamp()
    dataset_id = str(given.id or api.identify("dataset", given.name))
    dataset = {
        "id": dataset_id,
        "name": given.name,
        "description": given.description,
        "data_type": given.data_type,
        "created_at": text(given.created_at) or stamp,
        "modified_at": stamp,
        "inputs_schema_definition": given.inputs_schema_definition,
        "outputs_schema_definition": given.outputs_schema_definition,
        "externally_managed": given.externally_managed,
        "transformations": given.transformations,
        "metadata": (given.extra or {}).get("metadata"),
        "baseline_experiment_id": None,
    }
    api.tables.put("datasets", dataset_id, dataset)
    changed(api, dataset_id, stamp)
    return Answer(200, shown(api, find(api, dataset_id)))


def _read(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    return Answer(200, shown(api, find(api, dataset_id)))


def _update(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset = find(api, dataset_id)
    given = body(bodies.DatasetUpdate, asked.json()).model_dump(exclude_none=True)
    if any(one["name"] == given.get("name") and one["id"] != dataset["id"] for one in api.tables.all("datasets")):
        raise conflict("Dataset with this name already exists.")
    api.tables.put("datasets", dataset["id"], {**dataset, **given})
    return Answer(200, shown(api, find(api, dataset_id)))


def _delete(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset = find(api, dataset_id)
    api.tables.drop("datasets", dataset["id"])
    for table in ("examples", "sessions"):
        for one in api.tables.all(table):
            if dataset["id"] in (one.get("dataset_id"), one.get("reference_dataset_id")):
                api.tables.drop(table, one["id"])
    return Answer(200, None)


def _list_versions(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset, page = find(api, dataset_id), query(bodies.Page, asked)
    found = versions(api, dataset["id"])[page.offset : page.offset + page.limit]
    return Answer(200, [_version(api, dataset["id"], stamp) for stamp in found])


def _read_version(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset, wanted = find(api, dataset_id), query(bodies.VersionQuery, asked)
    as_of = wanted.tag or text(wanted.as_of) or "latest"
    return Answer(200, _version(api, dataset["id"], version_of(api, dataset["id"], as_of)))


def _tag(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset, given = find(api, dataset_id), body(bodies.TagBody, asked.json())
    stamp = version_of(api, dataset["id"], given.as_of)
    tag = {"dataset_id": dataset["id"], "tag": given.tag, "as_of": stamp}
    api.tables.put("tags", f"{dataset['id']} {given.tag}", tag)
    return Answer(200, _version(api, dataset["id"], stamp))


ROUTES = (
    Route("GET", "/datasets", _list),
    Route("POST", "/datasets", _create),
    Route("GET", "/datasets/{dataset_id}/versions", _list_versions),
    Route("GET", "/datasets/{dataset_id}/version", _read_version),
    Route("PUT", "/datasets/{dataset_id}/tags", _tag),
    Route("GET", "/datasets/{dataset_id}", _read),
    Route("PATCH", "/datasets/{dataset_id}", _update),
    Route("DELETE", "/datasets/{dataset_id}", _delete),
)
