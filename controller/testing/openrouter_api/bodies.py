"""What OpenRouter's chat accepts, as models; a wrong body is the vendor's 400."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError


class _Body(BaseModel):
    """Numbers as text are refused; what the double does not know is passed over, as the vendor does."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class TextPart(_Body):
    type: Literal["text"]
    text: str


class OtherPart(_Body):
    type: Literal["image_url", "input_audio", "input_video", "video_url", "file"]


Content = str | list[TextPart | OtherPart]


class SystemMessage(_Body):
    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(_Body):
    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(_Body):
    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ToolMessage(_Body):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class JsonSchema(_Body):
    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class PlainFormat(_Body):
    type: Literal["text", "json_object", "python"]


class GrammarFormat(_Body):
    type: Literal["grammar"]
    grammar: str


class SchemaFormat(_Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(_Body):
    include_usage: StrictBool | None = None


class ChatRequest(_Body):
    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    models: list[str] | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: int | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    response_format: Annotated[PlainFormat | GrammarFormat | SchemaFormat, Field(discriminator="type")] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    tools: list[dict[str, Any]] | None = None
    provider: dict[str, Any] | None = None


def problems(value: Any) -> str:
    """Everything that is wrong with a body, or nothing."""
    try:
        ChatRequest.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
    return ""
