"""The stock clients of OpenAI and Anthropic, told to validate strictly, accept all that the simulated endpoints answer."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from controller.testing.fleet import Fleet

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
TWELVE = "Simulated answer of m at replica-0: word1 word2 word3 word4 word5 word6"
FOUR = "Simulated answer of m"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("apis"), 1) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared: Fleet) -> Iterator[Fleet]:
    yield shared
    shared.behave(0, {"m": None, "*": None})


@pytest.fixture
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=fleet.urls[0], api_key="any", max_retries=0, timeout=30, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def claude(fleet: Fleet) -> Iterator[anthropic.Anthropic]:
    url = fleet.urls[0].removesuffix("/v1")
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=30, _strict_response_validation=True) as client:
        yield client


def post(fleet: Fleet, path: str, content: Any, **headers: str) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.ports[0], timeout=30)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, content if isinstance(content, bytes) else json.dumps(content), names)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


# OpenAI


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=HELLO)
    assert answer.choices[0].message.content == TWELVE
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    short = client.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=4)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == (FOUR, "length")


def test_a_streamed_chat_has_usage_only_when_asked(client: openai.OpenAI, fleet: Fleet) -> None:
    plain = list(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in plain) == TWELVE
    assert len(plain) == 1 + 12 + 1
    assert not any("usage" in chunk.model_fields_set for chunk in plain)
    asked = list(client.chat.completions.create(model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage is None for chunk in asked] == [True] * 14 + [False]
    assert all("usage" in chunk.model_fields_set for chunk in asked)
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert asked[-1].usage.completion_tokens == 12
    declined = {"model": "m", "messages": HELLO, "stream": True, "stream_options": {"include_usage": False}}
    _, _, raw = post(fleet, "/v1/chat/completions", declined)
    assert b"usage" not in raw
    assert raw.endswith(b"data: [DONE]\n\n")


def test_the_chat_stream_helper_accumulates(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=HELLO, stream_options={"include_usage": True}) as stream:
        whole = stream.get_final_completion()
    assert whole.choices[0].message.content == TWELVE
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12


def test_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model="m", prompt="Hello").choices[0].text == TWELVE
    options: Any = {"include_usage": True}
    events: Any = client.completions.create(model="m", prompt="Hello", stream=True, stream_options=options)
    # The type of the client says that each event has a reason, which is true of no server; hence not strictly.
    client._strict_response_validation = False
    chunks = list(events)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == TWELVE
    assert chunks[-1].usage.completion_tokens == 12


def test_embeddings(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="m", input=["a", "bb"], encoding_format="float", dimensions=16)
    client._strict_response_validation = False  # it looks before it has unpacked
    packed = client.embeddings.create(model="m", input=["a", "bb"], dimensions=16)
    assert [len(one.embedding) for one in floats.data] == [16, 16]
    assert packed.data[1].embedding == pytest.approx(floats.data[1].embedding)
    assert floats.data[0].embedding != floats.data[1].embedding
    assert len(client.embeddings.create(model="m", input=[1, 2, 3], encoding_format="float").data) == 1


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="m", input="Hello")
    assert (answer.output_text, answer.status) == (TWELVE, "completed")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + 12
    short = client.responses.create(model="m", input="Hello", max_output_tokens=4)
    assert (short.output_text, short.status) == (FOUR, "incomplete")
    events = list(client.responses.create(model="m", input="Hello", stream=True))
    assert [event.sequence_number for event in events] == list(range(20))
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TWELVE
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 12
    with client.responses.stream(model="m", input="Hello") as stream:
        assert stream.get_final_response().output_text == TWELVE


def test_models(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    client.chat.completions.create(model="acme/v1", messages=HELLO)
    assert "acme/v1" in [model.id for model in client.models.list()]
    assert client.models.retrieve("acme/v1").owned_by == "replica-0"
    assert "acme/v1" in [model.id for model in claude.models.list()]


def test_transcriptions(client: openai.OpenAI) -> None:
    sound = bytes(range(256)) * 300 + b"\r\n--\r\n\n"
    digest = hashlib.sha256(sound).hexdigest()
    answer = client.audio.transcriptions.create(model="m", file=("a.wav", sound))
    assert answer.text == f"{TWELVE} ({len(sound)} bytes, sha256 {digest})"
    plain: Any = client.audio.transcriptions.create(model="m", file=("a.wav", sound), response_format="text")
    assert digest in plain
    verbose = client.audio.transcriptions.create(model="m", file=("a.wav", sound), response_format="verbose_json")
    assert digest in verbose.text
    events = list(client.audio.transcriptions.create(model="m", file=("a.wav", sound), stream=True))
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == TWELVE
    assert events[-1].type == "transcript.text.done"


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"{}", "application/json", "multipart/form-data"),
        (b"--b\r\n", "multipart/form-data; boundary=b", "no end"),
        (b"--b\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", "no head"),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--', 'multipart/form-data; boundary="b"', "`file`"),
    ],
)
def test_a_bad_form_is_refused(fleet: Fleet, content: bytes, kind: str, said: str) -> None:
    status, _, body = post(fleet, "/v1/audio/transcriptions", content, content_type=kind)
    assert status == 400
    assert said in json.loads(body)["error"]["message"]


def test_refusals_have_the_form_of_the_vendor(fleet: Fleet, client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    fleet.behave(0, {"m": {"status": 429, "retry_after": 7}})
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="m", messages=HELLO)
    assert limited.value.response.headers["retry-after"] == "7"
    assert limited.value.code == "simulated_failure"
    with pytest.raises(anthropic.RateLimitError) as slower:
        claude.messages.create(model="m", max_tokens=9, messages=HELLO)
    assert slower.value.response.headers["retry-after"] == "7"
    body: Any = slower.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
    fleet.behave(0, {"m": {"status": 529, "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}})
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        claude.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True)
    assert overloaded.value.response.headers["retry-after"].startswith("Wed, 21 Oct")
    body = overloaded.value.body
    assert body["error"]["type"] == "overloaded_error"


# Anthropic


def test_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="m", max_tokens=100, messages=HELLO)
    assert answer.content[0].type == "text"
    assert answer.content[0].text == TWELVE
    assert (answer.stop_reason, answer.usage.output_tokens) == ("end_turn", 12)
    short = claude.messages.create(model="m", max_tokens=4, messages=HELLO)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 4)
    assert claude.messages.count_tokens(model="m", messages=HELLO).input_tokens == answer.usage.input_tokens


def test_streamed_messages(claude: anthropic.Anthropic) -> None:
    events = list(claude.messages.create(model="m", max_tokens=100, messages=HELLO, stream=True))
    kinds = ["message_start", "content_block_start", *["content_block_delta"] * 12]
    assert [event.type for event in events] == [*kinds, "content_block_stop", "message_delta", "message_stop"]
    first, change = events[0], events[-2]
    assert first.type == "message_start"
    assert first.message.usage.input_tokens > 0
    assert change.type == "message_delta"
    assert (change.usage.output_tokens, change.delta.stop_reason) == (12, "end_turn")
    with claude.messages.stream(model="m", max_tokens=100, messages=HELLO) as stream:
        assert stream.get_final_text() == TWELVE
        assert stream.get_final_message().usage.output_tokens == 12


MESSAGE = {"model": "m", "max_tokens": 9, "messages": HELLO}
KEY = {"x_api_key": "any", "anthropic_version": "2023-06-01"}


@pytest.mark.parametrize(
    ("content", "headers", "status", "kind"),
    [
        (MESSAGE, {"anthropic_version": "2023-06-01"}, 401, "authentication_error"),
        (MESSAGE, {"x_api_key": "any"}, 400, "invalid_request_error"),
        ({**MESSAGE, "max_tokens": 0}, KEY, 400, "invalid_request_error"),
        ({**MESSAGE, "messages": "Hello"}, KEY, 400, "invalid_request_error"),
        (b"{", KEY, 400, "invalid_request_error"),
        (MESSAGE, KEY, 200, None),
        (MESSAGE, {"authorization": "Bearer any", "anthropic_version": "2023-06-01"}, 200, None),
    ],
)
def test_what_a_message_needs(fleet: Fleet, content: Any, headers: dict[str, str], status: int, kind: str | None) -> None:
    got, _, body = post(fleet, "/v1/messages", content, **headers)
    answer = json.loads(body)
    assert got == status
    assert answer.get("error", {}).get("type") == kind


def test_an_error_in_the_middle_of_a_stream(fleet: Fleet, client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    fleet.behave(0, {"m": {"fault": "error_event"}})
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match="simulated"):
        seen.extend(client.chat.completions.create(model="m", messages=HELLO, stream=True))
    assert 1 < len(seen) < 14
    with pytest.raises(anthropic.APIStatusError, match="simulated"):
        list(claude.messages.create(model="m", max_tokens=100, messages=HELLO, stream=True))
    assert list(client.responses.create(model="m", input="Hello", stream=True))[-1].type == "error"


@pytest.mark.parametrize(
    "behaviour",
    [
        {"gzip": True},
        {"gzip": True, "framing": "length"},
        {"framing": "chunked"},
        {"framing": "eof"},
        {"framing": "http10"},
        {"drip_ms": 0},
        {"fault": "chunk_extension"},
        {"header_kb": 10, "informational": [102, 103]},
        {"first_token_ms": 2, "token_ms": 1, "latency_ms": 2, "speed": 2},
    ],
)
def test_what_is_odd_but_right_is_accepted(
    fleet: Fleet, client: openai.OpenAI, claude: anthropic.Anthropic, behaviour: dict[str, Any]
) -> None:
    fleet.behave(0, {"m": behaviour})
    assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == TWELVE
    chunks = client.chat.completions.create(model="m", messages=HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TWELVE
    with claude.messages.stream(model="m", max_tokens=100, messages=HELLO) as stream:
        assert stream.get_final_text() == TWELVE
