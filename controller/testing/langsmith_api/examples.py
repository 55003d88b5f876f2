"""Examples of LangSmith's double. Every change makes a version of the dataset, and old versions can be read for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked, Refused
from . import bodies, datasets
from .bodies import bodies as many
from .bodies import body, conflict, not_found, query, uuid_of
from .multipart import Part, bad, parts

if TYPE_CHECKING:
    from .api import LangSmithApi

SELECTED = ("id", "created_at", "modified_at", "name", "dataset_id", "source_run_id", "metadata", "inputs", "outputs")


def _put(api: LangSmithApi, example: dict[str, Any], stamp: str, gone: bool = False) -> None:
    """The newest form under its id, and this form for ever under its stamp."""
    whole = {**example, "modified_at": stamp}
    api.tables.put("history", f"{example['id']} {stamp}", {**whole, "gone": gone})
    if gone:
        api.tables.drop("examples", example["id"])
    else:
        api.tables.put("examples", example["id"], whole)


def as_of(api: LangSmithApi, dataset_id: str, stamp: str) -> list[dict[str, Any]]:
    """The examples that a dataset had at that version, in the order in which they were made."""
    newest: dict[str, dict[str, Any]] = {}
    for one in api.tables.all("history"):
        if one["dataset_id"] == dataset_id and one["modified_at"] <= stamp:
            newest[one["id"]] = one
    return [{name: one[name] for name in SELECTED} for one in newest.values() if not one["gone"]]


def _splits(example: dict[str, Any]) -> list[str]:
    found = (example["metadata"] or {}).get("dataset_split")
    return list(found) if isinstance(found, list) else ["base"]


def _made(api: LangSmithApi, given: bodies.ExampleBody, dataset_id: str, stamp: str) -> dict[str, Any]:
    example_id = str(given.id or api.identify("example", dataset_id))
    if api.tables.get("examples", example_id):
        raise conflict(f"Example {example_id} already exists")
    if given.inputs is None:
        detail = [{"type": "missing", "loc": ["body", example_id, "inputs"], "msg": "Field required"}]
        raise Refused(Answer(422, {"detail": detail}))
    split = [given.split] if isinstance(given.split, str) else given.split
    return {
        "id": example_id,
        "name": f"#{example_id[:4]}",
        "dataset_id": dataset_id,
        "inputs": given.inputs,
        "outputs": given.outputs,
        "metadata": {**(given.metadata or {}), "dataset_split": split or ["base"]},
        "source_run_id": str(given.source_run_id) if given.source_run_id else None,
        "created_at": bodies.text(given.created_at) or stamp,
    }


def _add(api: LangSmithApi, given: list[bodies.ExampleBody], dataset_id: str) -> tuple[list[dict[str, Any]], str]:
    """All of them or none, as one version."""
    stamp = api.stamp()
    made = [_made(api, one, dataset_id, stamp) for one in given]
    if len({one["id"] for one in made}) < len(made):
        raise conflict("The same example is there twice")
    for one in made:
        _put(api, one, stamp)
    if made:
        datasets.changed(api, dataset_id, stamp)
    return made, stamp


def _gathered(found: list[Part]) -> dict[str, dict[str, Any]]:
    """Example id -> its body, from `ID`, `ID.inputs`, `ID.outputs`, `ID.attachment.NAME`."""
    gathered: dict[str, dict[str, Any]] = {}
    for part in found:
        example_id, _, field = part.name.partition(".")
        key = uuid_of(example_id, "example_id")
        if not field:
            value = part.json()
            if not isinstance(value, dict):
                raise bad(f"part {part.name!r} is not an object", 422)
            gathered.setdefault(key, {}).update(value)
        elif field in ("inputs", "outputs"):
            gathered.setdefault(key, {})[field] = part.json()
        elif not field.startswith(("attachment.", "attachments_operations")):
            raise bad(f"part {part.name!r} is not known", 422)
    return {key: {**value, "id": key} for key, value in gathered.items()}


def _upload(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset = datasets.find(api, dataset_id)
    given = [body(bodies.ExampleBody, one) for one in _gathered(parts(asked, lengths=False)).values()]
    made, stamp = _add(api, given, dataset["id"])
    return Answer(201, {"as_of": stamp, "count": len(made), "example_ids": [one["id"] for one in made]})


def _upload_updates(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset = datasets.find(api, dataset_id)
    given = [body(bodies.ExampleBody, one) for one in _gathered(parts(asked, lengths=False)).values()]
    stamp = api.stamp()
    for example in [_update_of(api, str(one.id), one) for one in given]:
        _put(api, example, stamp)
    if given:
        datasets.changed(api, dataset["id"], stamp)
    return Answer(201, {"as_of": stamp, "count": len(given), "example_ids": [str(one.id) for one in given]})


def _update_of(api: LangSmithApi, example_id: str, given: bodies.ExampleBody) -> dict[str, Any]:
    example = _find(api, example_id)
    new = {name: value for name in ("inputs", "outputs") if (value := getattr(given, name)) is not None}
    metadata = example["metadata"] if given.metadata is None else {**given.metadata, "dataset_split": _splits(example)}
    if given.split is not None:
        metadata = {**metadata, "dataset_split": [given.split] if isinstance(given.split, str) else given.split}
    return {**example, **new, "metadata": metadata}


def _find(api: LangSmithApi, example_id: str) -> dict[str, Any]:
    found = api.tables.get("examples", uuid_of(example_id, "example_id"))
    if found is None:
        raise not_found("Example")
    return found


def _wanted(api: LangSmithApi, wanted: bodies.ExampleQuery) -> list[dict[str, Any]]:
    if wanted.filter is not None:
        raise Refused(Answer(400, {"detail": "The double does not know filters of examples"}))
    if wanted.dataset is not None:
        dataset = datasets.find(api, str(wanted.dataset))
        found = as_of(api, dataset["id"], datasets.version_of(api, dataset["id"], wanted.as_of))
    elif wanted.id:
        found = api.tables.all("examples")
    else:
        raise Refused(Answer(422, {"detail": [{"type": "missing", "loc": ["query", "dataset"], "msg": "dataset or id"}]}))
    ids = {str(one) for one in wanted.id}
    return [
        one
        for one in found
        if (not ids or one["id"] in ids)
        and (not wanted.splits or set(wanted.splits) & set(_splits(one)))
        and datasets.holds(one["metadata"], wanted.metadata)
    ]


def _list(api: LangSmithApi, asked: Asked) -> Answer:
    wanted = query(bodies.ExampleQuery, asked)
    page = _wanted(api, wanted)[::-1][wanted.offset : wanted.offset + wanted.limit]  # newest first, as the vendor lists
    extra = {"attachment_urls": None} if "attachment_urls" in wanted.select else {}
    kept = {"id", *wanted.select} if wanted.exclude_default_fields else {*SELECTED, *extra}
    return Answer(200, [{name: value for name, value in {**one, **extra}.items() if name in kept} for one in page])


def _count(api: LangSmithApi, asked: Asked) -> Answer:
    return Answer(200, len(_wanted(api, query(bodies.ExampleQuery, asked))))


def _read(api: LangSmithApi, asked: Asked, example_id: str) -> Answer:
    return Answer(200, _find(api, example_id))


def _create(api: LangSmithApi, asked: Asked) -> Answer:
    made = _create_all(api, [body(bodies.ExampleBody, asked.json())])
    return Answer(200, _find(api, made[0]))


def _create_bulk(api: LangSmithApi, asked: Asked) -> Answer:
    made = _create_all(api, many(bodies.ExampleBody, asked.json()))
    return Answer(200, [_find(api, one) for one in made])


def _create_all(api: LangSmithApi, given: list[bodies.ExampleBody]) -> list[str]:
    made: list[str] = []
    for dataset_id in dict.fromkeys(str(one.dataset_id) for one in given):
        dataset = datasets.find(api, dataset_id)
        made += [one["id"] for one in _add(api, [one for one in given if str(one.dataset_id) == dataset_id], dataset["id"])[0]]
    return made


def _update(api: LangSmithApi, asked: Asked, example_id: str) -> Answer:
    stamp, example = api.stamp(), _update_of(api, example_id, body(bodies.ExampleBody, asked.json()))
    _put(api, example, stamp)
    datasets.changed(api, example["dataset_id"], stamp)
    return Answer(200, {"message": f"{example['id']} updated"})


def _delete_one(api: LangSmithApi, asked: Asked, example_id: str) -> Answer:
    return _delete_all(api, [_find(api, example_id)])


def _delete(api: LangSmithApi, asked: Asked) -> Answer:
    return _delete_all(api, [_find(api, str(one)) for one in query(bodies.ExampleIds, asked).example_ids])


def _delete_all(api: LangSmithApi, gone: list[dict[str, Any]]) -> Answer:
    stamp = api.stamp()
    for one in gone:
        _put(api, one, stamp, gone=True)
    for dataset_id in {one["dataset_id"] for one in gone}:
        datasets.changed(api, dataset_id, stamp)
    return Answer(200, None)


def _list_splits(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset, wanted = datasets.find(api, dataset_id), query(bodies.AsOf, asked)
    found = as_of(api, dataset["id"], datasets.version_of(api, dataset["id"], wanted.as_of))
    return Answer(200, sorted({split for one in found for split in _splits(one)}))


def _update_splits(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset, given = datasets.find(api, dataset_id), body(bodies.SplitsBody, asked.json())
    stamp, found = api.stamp(), [_find(api, str(one)) for one in given.examples]
    for one in found:
        left = [split for split in _splits(one) if split != given.split_name]
        new = left if given.remove else [*left, given.split_name]
        _put(api, {**one, "metadata": {**one["metadata"], "dataset_split": new}}, stamp)
    if found:
        datasets.changed(api, dataset["id"], stamp)
    return Answer(200, [one["id"] for one in found])


ROUTES = (
    Route("GET", "/examples", _list),
    Route("GET", "/examples/count", _count),
    Route("POST", "/examples", _create),
    Route("POST", "/examples/bulk", _create_bulk),
    Route("DELETE", "/examples", _delete),
    Route("GET", "/examples/{example_id}", _read),
    Route("PATCH", "/examples/{example_id}", _update),
    Route("DELETE", "/examples/{example_id}", _delete_one),
    Route("GET", "/datasets/{dataset_id}/splits", _list_splits),
    Route("PUT", "/datasets/{dataset_id}/splits", _update_splits),
    Route("POST", "/v1/platform/datasets/{dataset_id}/examples", _upload),
    Route("PATCH", "/v1/platform/datasets/{dataset_id}/examples", _upload_updates),
    Route("POST", "/platform/datasets/{dataset_id}/examples", _upload),
    Route("PATCH", "/platform/datasets/{dataset_id}/examples", _upload_updates),
)
