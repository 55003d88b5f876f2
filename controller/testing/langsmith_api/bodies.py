"""What LangSmith's API accepts: bodies and queries as models, and a wrong one as the vendor's 422."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar, get_origin
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from ..vendor_http import Answer, Asked, Refused

Json = dict[str, Any]
RunType = Literal["tool", "chain", "llm", "retriever", "embedding", "prompt", "parser"]


class Body(BaseModel):
    """Unknown fields are ignored, as the vendor does; known ones have their type."""

    model_config = ConfigDict(extra="ignore")


M = TypeVar("M", bound=BaseModel)


class Page(Body):
    offset: int = Field(0, ge=0)
    limit: int = Field(100, ge=1, le=100)


class DatasetQuery(Page):
    id: list[UUID] = []
    name: str | None = None
    name_contains: str | None = None
    data_type: list[Literal["kv", "llm", "chat"]] = []
    metadata: str | None = None


class DatasetCreate(Body):
    name: str
    id: UUID | None = None
    description: str | None = None
    data_type: Literal["kv", "llm", "chat"] = "kv"
    created_at: datetime | None = None
    inputs_schema_definition: Json | None = None
    outputs_schema_definition: Json | None = None
    externally_managed: bool | None = False
    transformations: list[Json] | None = None
    extra: Json | None = None


class DatasetUpdate(Body):
    name: str | None = None
    description: str | None = None
    metadata: Json | None = None


class AsOf(Body):
    as_of: str = "latest"


class VersionQuery(Body):
    as_of: datetime | None = None
    tag: str | None = None


class TagBody(Body):
    as_of: str
    tag: str


class SplitsBody(Body):
    split_name: str
    examples: list[UUID]
    remove: bool = False


class ExampleQuery(Page):
    id: list[UUID] = []
    as_of: str = "latest"
    metadata: str | None = None
    splits: list[str] = []
    dataset: UUID | None = None
    select: list[str] = []
    exclude_default_fields: bool = False
    filter: str | None = None


class ExampleBody(Body):
    """One example, whole, or its main part in a multipart upload."""

    id: UUID | None = None
    dataset_id: UUID | None = None
    inputs: Json | None = None
    outputs: Json | None = None
    metadata: Json | None = None
    split: str | list[str] | None = None
    source_run_id: UUID | None = None
    created_at: datetime | None = None


class ExampleIds(Body):
    example_ids: list[UUID]


class SessionQuery(Page):
    id: list[UUID] = []
    name: str | None = None
    name_contains: str | None = None
    reference_dataset: list[UUID] = []
    reference_free: bool | None = None
    metadata: str | None = None
    include_stats: bool = False


class Upsert(Body):
    upsert: bool = False


class SessionCreate(Body):
    name: str = "default"
    id: UUID | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    description: str | None = None
    extra: Json | None = None
    default_dataset_id: UUID | None = None
    reference_dataset_id: UUID | None = None
    trace_tier: Literal["longlived", "shortlived"] | None = None


class SessionUpdate(Body):
    name: str | None = None
    description: str | None = None
    end_time: datetime | None = None
    extra: Json | None = None
    default_dataset_id: UUID | None = None
    trace_tier: Literal["longlived", "shortlived"] | None = None


class ComparativeCreate(Body):
    experiment_ids: Annotated[list[UUID], Field(min_length=1)]
    id: UUID | None = None
    name: str | None = None
    description: str | None = None
    created_at: datetime | None = None
    modified_at: datetime | None = None
    reference_dataset_id: UUID | None = None
    extra: Json | None = None


class ComparativeQuery(Page):
    name: str | None = None
    id: list[UUID] = []


class RunBody(Body):
    """A run, or the part of it that a patch changes."""

    id: UUID
    trace_id: UUID
    dotted_order: str
    name: str | None = None
    run_type: RunType | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    inputs: Json | None = None
    outputs: Json | None = None
    error: str | None = None
    extra: Json | None = None
    serialized: Json | None = None
    events: list[Json] | None = None
    tags: list[str] | None = None
    parent_run_id: UUID | None = None
    reference_example_id: UUID | None = None
    session_id: UUID | None = None
    session_name: str | None = None
    status: str | None = None


class RunsQuery(Body):
    id: list[UUID] | None = None
    trace: UUID | None = None
    parent_run: UUID | None = None
    run_type: RunType | None = None
    session: list[UUID] | None = None
    reference_example: list[UUID] | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    error: bool | None = None
    filter: str | None = None
    is_root: bool | None = None
    cursor: str | None = None
    limit: int = Field(100, ge=1, le=100)
    select: list[str] | None = None


def _finite(value: Any) -> Any:
    """bool stays bool and int stays int; LangSmith shows what it was given."""
    if value is not None and not isinstance(value, bool | int | float):
        raise ValueError("Input should be a valid number or boolean")
    return value


class FeedbackSource(Body):
    type: Literal["app", "api", "model", "auto_eval"]
    metadata: Json | None = None


class FeedbackCreate(Body):
    key: Annotated[str, Field(max_length=180)]
    id: UUID | None = None
    run_id: UUID | None = None
    trace_id: UUID | None = None
    session_id: UUID | None = None
    score: Annotated[Any, BeforeValidator(_finite)] = None
    value: Any = None
    comment: str | None = None
    correction: Json | str | None = None
    feedback_group_id: UUID | None = None
    comparative_experiment_id: UUID | None = None
    start_time: datetime | None = None
    feedback_source: FeedbackSource | None = None
    feedback_config: Json | None = None
    created_at: datetime | None = None
    modified_at: datetime | None = None
    error: bool | None = None
    extra: Json | None = None


class FeedbackQuery(Page):
    run: list[UUID] = []
    session: list[UUID] = []
    key: list[str] = []
    comparative_experiment_id: UUID | None = None


def body(model: type[M], value: Any) -> M:
    """Raises Refused (422) with every fault, in the vendor's form."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise unprocessable(error, "body") from error


def bodies(model: type[M], value: Any) -> list[M]:
    try:
        return TypeAdapter(list[model]).validate_python(value)  # type: ignore[valid-type]
    except ValidationError as error:
        raise unprocessable(error, "body") from error


def query(model: type[M], asked: Asked) -> M:
    """A parameter that is no list counts once, the last one."""
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in asked.query:
            many = get_origin(field.annotation) is list
            values[name] = asked.query[name] if many else asked.query[name][-1]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise unprocessable(error, "query") from error


def uuid_of(text: str, name: str) -> str:
    """A UUID in its usual form. Raises Refused (422)."""
    try:
        return str(UUID(text))
    except ValueError as error:
        detail = [{"type": "uuid_parsing", "loc": ["path", name], "msg": "Input should be a valid UUID", "input": text}]
        raise Refused(Answer(422, {"detail": detail})) from error


def unprocessable(error: ValidationError, place: str) -> Refused:
    detail = [
        {"type": one["type"], "loc": [place, *one["loc"]], "msg": one["msg"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return Refused(Answer(422, {"detail": detail}))


def not_found(what: str) -> Refused:
    return Refused(Answer(404, {"detail": f"{what} not found"}))


def conflict(message: str) -> Refused:
    return Refused(Answer(409, {"detail": message}))


def text(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC, with microseconds; a time without a zone is UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="microseconds")
