"""The forms that rows come in, and the one form that everything after works with.

Place in the flow: first; `validate` and `split` take what this gives. Forms that are recognised, by their fields:

- example: `{"inputs": {...}, "outputs": {...}, "metadata": {...}}`, as LangSmith keeps them
- chat: `{"messages": [{"role": ..., "content": ...}]}`, the last by the assistant
- preference: `{"prompt": ..., "chosen": ..., "rejected": ...}`, each text or messages; without a prompt, chosen and rejected
  share their beginning; the same inside `inputs` and `outputs`

Fields are never guessed silently: `Row.taken` says which became the question and which the answer.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

Format = Literal["example", "chat", "preference"]
ROLES = ("system", "developer", "user", "assistant", "tool")
ANSWERS = (
    "answer",
    "output",
    "response",
    "completion",
    "text",
    "content",
    "code",
    "result",
)  # the first that is there is the answer
FORMS = '{"inputs", "outputs", "metadata"}, {"messages"} or {"prompt", "chosen", "rejected"}'


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """`extra` holds what else the message had (tool_calls, name, tool_call_id), unchanged."""

    role: str
    content: str
    extra: dict[str, Any] = {}


class Fault(msgspec.Struct, frozen=True):
    """One thing that makes a row unusable. `row` counts from 1, like lines."""

    row: int
    field: str
    message: str
    code: str

    def __str__(self) -> str:
        return f"row {self.row}{f', {self.field}' if self.field else ''}: {self.message}"


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that can be used. `answer` for supervised training; `chosen` and `rejected` for preferences.

    `taken`: which field became the prompt and which the answer.
    """

    number: int
    format: Format
    prompt: tuple[Message, ...]
    answer: tuple[Message, ...] = ()
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    metadata: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    taken: dict[str, str] = {}

    def text(self) -> str:
        """All of it, for counting and hashing."""
        parts = [*self.prompt, *self.answer, *self.chosen, *self.rejected]
        return "\n".join(f"{part.role}: {part.content}{_canonical(part.extra) if part.extra else ''}" for part in parts)

    def longest(self) -> str:
        """The text of the longest sequence that training sees: a preference is two sequences with one prompt."""
        ends = [self.answer] if self.answer else [self.chosen, self.rejected]
        sequences = ["\n".join(part.content for part in (*self.prompt, *end)) for end in ends]
        return max(sequences, key=len)

    def key(self) -> str:
        """Digest of the question, near-duplicates alike: what decides the split and the overlap of two sets."""
        return alike("\n".join(part.content for part in self.prompt if part.role != "system") or self.text())


class _Refused(Exception):
    def __init__(self, field: str, message: str, code: str) -> None:
        super().__init__(message)
        self.field, self.message, self.code = field, message, code


def read(rows: Iterable[Any], *, answer: str = "") -> tuple[list[Row], list[Fault]]:
    """Every row in its one form, and what is wrong with the others. `answer` names the output field that is the answer."""
    good: list[Row] = []
    bad: list[Fault] = []
    for number, raw in enumerate(rows, 1):
        found = normalised(raw, number, answer=answer)
        if isinstance(found, Row):
            good.append(found)
        else:
            bad.append(found)
    return good, bad


def normalised(raw: Any, number: int, *, answer: str = "") -> Row | Fault:
    """One row, or the first thing that is wrong with it."""
    try:
        if not isinstance(raw, Mapping):
            raise _Refused("", f"found {_kind(raw)}; allowed is an object: {FORMS}", "NotAnObject")
        return _recognised(raw, number, answer)
    except _Refused as refused:
        return Fault(number, refused.field, refused.message, refused.code)
    except RecursionError:
        return Fault(number, "", "nested too deeply", "TooDeep")


def _recognised(raw: Mapping[str, Any], number: int, answer: str) -> Row:
    if "messages" in raw:
        return _chat(raw, number)
    if "chosen" in raw or "rejected" in raw:
        return _preference(raw, number, "", raw.get("prompt"), _metadata(raw))
    if "inputs" in raw or "outputs" in raw:
        return _example(raw, number, answer)
    names = ", ".join(sorted(map(str, raw))[:8]) or "no fields"
    raise _Refused("", f"found {names}; allowed is {FORMS}", "UnknownFormat")


def _example(raw: Mapping[str, Any], number: int, answer: str) -> Row:
    inputs, outputs = _object(raw, "inputs"), _object(raw, "outputs")
    if "chosen" in outputs or "rejected" in outputs:
        prompt, _ = _question(inputs)
        return _preference(outputs, number, "outputs.", prompt, _metadata(raw))
    prompt, asked = _question(inputs)
    name = answer or _answer_field(outputs)
    if name not in outputs:
        raise _Refused(f"outputs.{name}", f"not there; found {_names(outputs)}", "MissingField")
    if name == "messages":
        said = _messages(outputs["messages"], "outputs.messages")
    else:
        said = (Message("assistant", _text(outputs[name], f"outputs.{name}")),)
    return Row(
        number=number,
        format="example",
        prompt=prompt,
        answer=said,
        metadata=_metadata(raw),
        outputs=dict(outputs),
        taken={"prompt": asked, "answer": f"outputs.{name}"},
    )


def _chat(raw: Mapping[str, Any], number: int) -> Row:
    messages = _messages(raw["messages"], "messages")
    last = len(messages) - 1
    if messages[last].role != "assistant":
        raise _Refused(f"messages[{last}].role", f"the last message is by {messages[last].role}; allowed is assistant", "NoAnswer")
    if not any(message.role == "user" for message in messages):
        raise _Refused("messages", "no message is by the user: there is nothing to answer", "NoQuestion")
    first = last
    while first and messages[first - 1].role in ("assistant", "tool"):
        first -= 1
    taken = {"prompt": f"messages[:{first}]", "answer": f"messages[{first}:]"}
    return Row(number, "chat", messages[:first], answer=messages[first:], metadata=_metadata(raw), taken=taken)


def _preference(raw: Mapping[str, Any], number: int, at: str, asked: Any, metadata: dict[str, Any]) -> Row:
    for name in ("chosen", "rejected"):
        if name not in raw:
            raise _Refused(f"{at}{name}", f"not there; found {_names(raw)}", "MissingField")
    chosen, rejected = _turns(raw["chosen"], f"{at}chosen"), _turns(raw["rejected"], f"{at}rejected")
    if asked is None:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        if not shared:
            raise _Refused("prompt", "not there, and chosen and rejected do not begin with the same messages", "NoQuestion")
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        taken = {"prompt": "the messages that chosen and rejected share"}
    else:
        prompt = asked if isinstance(asked, tuple) else _turns(asked, "prompt", role="user")
        taken = {"prompt": "inputs" if at else "prompt"}
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise _Refused(f"{at}{name}", f"the last message is by {turns[-1].role}; allowed is assistant", "NoAnswer")
    taken |= {"chosen": f"{at}chosen", "rejected": f"{at}rejected"}
    return Row(number, "preference", prompt, chosen=chosen, rejected=rejected, metadata=metadata, taken=taken)


# -- parts -------------------------------------------------------------------------------------------------------------


def _question(inputs: Mapping[str, Any]) -> tuple[tuple[Message, ...], str]:
    """One field is the question as it is; several follow each other under their names."""
    if not inputs:
        raise _Refused("inputs", "empty: there is nothing to answer", "Empty")
    if "messages" in inputs:
        return _messages(inputs["messages"], "inputs.messages"), "inputs.messages"
    if len(inputs) == 1:
        ((name, value),) = inputs.items()
        return (Message("user", _text(value, f"inputs.{name}")),), f"inputs.{name}"
    parts = [f"{name}:\n{_text(value, f'inputs.{name}', empty=True)}" for name, value in inputs.items()]
    return (Message("user", "\n\n".join(parts)),), "all inputs, under their names"


def _answer_field(outputs: Mapping[str, Any]) -> str:
    if not outputs:
        raise _Refused("outputs", "empty: there is nothing to learn", "Empty")
    for name in ("messages", *ANSWERS):
        if name in outputs:
            return name
    if len(outputs) == 1:
        return next(iter(outputs))
    raise _Refused("outputs", f"cannot tell which of {_names(outputs)} is the answer; name one of them answer", "WhichAnswer")


def _turns(value: Any, field: str, role: str = "assistant") -> tuple[Message, ...]:
    return (Message(role, _text(value, field)),) if isinstance(value, str) else _messages(value, field)


def _messages(value: Any, field: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise _Refused(field, f"found {_kind(value)}; allowed is a list of messages, at least one", "NotMessages")
    return tuple(_message(each, f"{field}[{place}]") for place, each in enumerate(value))


def _message(value: Any, field: str) -> Message:
    if not isinstance(value, Mapping):
        raise _Refused(field, f"found {_kind(value)}; allowed is an object with role and content", "NotMessages")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        shown = role[:40] if isinstance(role, str) else _kind(role)
        raise _Refused(f"{field}.role", f"found {shown!r}; allowed are {', '.join(ROLES)}{_hint(shown)}", "UnknownRole")
    extra = {str(name): each for name, each in value.items() if name not in ("role", "content")}
    if isinstance(content, list):
        content = "".join(_part(part, f"{field}.content[{place}]") for place, part in enumerate(content))
    if content is None and extra.get("tool_calls"):
        return Message(role, "", extra)
    return Message(role, _text(content, f"{field}.content", empty=role == "system"), extra)


def _hint(role: str) -> str:
    known = {"human": "user", "gpt": "assistant", "model": "assistant", "ai": "assistant", "bot": "assistant", "function": "tool"}
    return f" (for {role} write {known[role.lower()]})" if role.lower() in known else ""


def _part(part: Any, field: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise _Refused(field, 'only parts of type "text" can be trained on', "NotText")


def _text(value: Any, field: str, *, empty: bool = False) -> str:
    if value is None or (isinstance(value, str) and not value.strip() and not empty):
        raise _Refused(field, "empty; write what belongs there or remove the row", "Empty")
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except ValueError:
        raise _Refused(field, "holds NaN or an infinite number, which is not JSON", "NotFinite") from None
    except TypeError:
        raise _Refused(field, f"found {_kind(value)}; allowed is what JSON can hold", "NotJson") from None


def _object(raw: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    if field not in raw:
        raise _Refused(field, f"not there; found {_names(raw)}", "MissingField")
    value = raw[field]
    if not isinstance(value, Mapping):
        raise _Refused(field, f"found {_kind(value)}; allowed is an object", "NotAnObject")
    return value


def _metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    value = raw.get("metadata")
    return dict(value) if isinstance(value, Mapping) else {}


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "nothing",
    }
    return "an empty list" if value == [] else names.get(type(value), type(value).__name__)


def _names(found: Mapping[str, Any]) -> str:
    return ", ".join(str(name)[:40] for name in sorted(map(str, found))[:8]) or "no fields"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def exactly(text: str) -> str:
    """Digest of the text as it is."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def alike(text: str) -> str:
    """Digest that near-duplicates share: case, spaces, punctuation and Unicode forms do not count, letters and digits do."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(char for char in plain if char.isalnum())
    return exactly(kept or plain)  # a text of signs only is its signs
