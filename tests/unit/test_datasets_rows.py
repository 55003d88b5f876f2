"""The forms rows come in, and every way in which one is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.datasets.rows import Fault, Message, Row, alike, normalised, read

USER = {"role": "user", "content": "Write f"}
SAID = {"role": "assistant", "content": "def f(): ..."}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["inputs", "outputs", "metadata", "messages", "prompt", "chosen", "rejected", "role", "content", "code", "x"]
)


def row(raw: Any, **options: Any) -> Row:
    found = normalised(raw, 1, **options)
    assert isinstance(found, Row), found
    return found


def fault(raw: Any) -> Fault:
    found = normalised(raw, 3)
    assert isinstance(found, Fault), found
    assert found.row == 3
    return found


def test_a_row_as_langsmith_keeps_it() -> None:
    found = row(
        {"inputs": {"task": "Write f"}, "outputs": {"code": "def f(): ...", "tests": "assert f"}, "metadata": {"success": True}}
    )
    assert found.format == "example"
    assert found.prompt == (Message("user", "Write f"),)
    assert found.answer == (Message("assistant", "def f(): ..."),)
    assert found.taken == {"prompt": "inputs.task", "answer": "outputs.code"}
    assert (found.metadata, found.outputs["tests"]) == ({"success": True}, "assert f")


def test_several_inputs_follow_each_other_under_their_names() -> None:
    found = row({"inputs": {"task": "Write f", "context": {"b": 1, "a": 2}}, "outputs": {"answer": 3}})
    assert found.prompt[0].content == 'task:\nWrite f\n\ncontext:\n{"a": 2, "b": 1}'
    assert found.answer[0].content == "3"


def test_the_answer_can_be_named() -> None:
    raw = {"inputs": {"task": "t"}, "outputs": {"code": "c", "patch": "p"}}
    assert row(raw, answer="patch").answer[0].content == "p"
    assert row(raw).answer[0].content == "c"


def test_a_chat_splits_before_the_last_answer_and_keeps_tool_calls() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    result = {"role": "tool", "content": "42", "tool_call_id": "1"}
    found = row({"messages": [{"role": "system", "content": ""}, USER, SAID, USER, call, result, SAID]})
    assert [message.role for message in found.prompt] == ["system", "user", "assistant", "user"]
    assert [message.role for message in found.answer] == ["assistant", "tool", "assistant"]
    assert found.answer[0].extra == {"tool_calls": [{"id": "1"}]}


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "Write "}, {"type": "text", "text": "f"}]
    assert row({"messages": [{"role": "user", "content": parts}, SAID]}).prompt[0].content == "Write f"


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt": "Write f", "chosen": "good", "rejected": "bad"},
        {
            "prompt": [USER],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        },
        {"chosen": [USER, {"role": "assistant", "content": "good"}], "rejected": [USER, {"role": "assistant", "content": "bad"}]},
        {"inputs": {"task": "Write f"}, "outputs": {"chosen": "good", "rejected": "bad"}},
    ],
)
def test_a_preference_in_its_four_spellings(raw: dict[str, Any]) -> None:
    found = row(raw)
    assert found.format == "preference"
    assert found.prompt == (Message("user", "Write f"),)
    assert (found.chosen, found.rejected) == ((Message("assistant", "good"),), (Message("assistant", "bad"),))


@pytest.mark.parametrize(
    ("raw", "code", "field", "said"),
    [
        (3, "NotAnObject", "", "found a number; allowed is an object"),
        (None, "NotAnObject", "", "found nothing"),
        ({}, "UnknownFormat", "", "found no fields"),
        ({"question": 1}, "UnknownFormat", "", 'allowed is {"inputs"'),
        ({"inputs": {"task": "t"}}, "MissingField", "outputs", "found inputs"),
        ({"inputs": [], "outputs": {}}, "NotAnObject", "inputs", "found an empty list"),
        ({"inputs": {}, "outputs": {"a": "b"}}, "Empty", "inputs", "nothing to answer"),
        ({"inputs": {"t": "x"}, "outputs": {}}, "Empty", "outputs", "nothing to learn"),
        ({"inputs": {"t": "  "}, "outputs": {"code": "c"}}, "Empty", "inputs.t", "empty"),
        ({"inputs": {"t": "x"}, "outputs": {"code": ""}}, "Empty", "outputs.code", "empty"),
        ({"inputs": {"t": "x"}, "outputs": {"a": 1, "b": 2}}, "WhichAnswer", "outputs", "which of a, b is the answer"),
        ({"inputs": {"t": "x"}, "outputs": {"code": float("nan")}}, "NotFinite", "outputs.code", "NaN"),
        ({"inputs": {"t": "x"}, "outputs": {"code": {1, 2}}}, "NotJson", "outputs.code", "found set"),
        ({"messages": []}, "NotMessages", "messages", "found an empty list"),
        ({"messages": "hello"}, "NotMessages", "messages", "found text"),
        ({"messages": ["hello"]}, "NotMessages", "messages[0]", "role and content"),
        ({"messages": [{"role": "human", "content": "x"}]}, "UnknownRole", "messages[0].role", "for human write user"),
        ({"messages": [{"content": "x"}]}, "UnknownRole", "messages[0].role", "found 'nothing'"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "Empty", "messages[1].content", "empty"),
        ({"messages": [USER, {"role": "assistant"}]}, "Empty", "messages[1].content", "empty"),
        ({"messages": [USER]}, "NoAnswer", "messages[0].role", "the last message is by user"),
        ({"messages": [SAID]}, "NoQuestion", "messages", "nothing to answer"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, SAID]}, "NotText", "messages[0].content[0]", "text"),
        ({"prompt": "p", "chosen": "c"}, "MissingField", "rejected", "found chosen, prompt"),
        ({"inputs": {"t": "x"}, "outputs": {"rejected": "c"}}, "MissingField", "outputs.chosen", "found rejected"),
        ({"chosen": "a", "rejected": "b"}, "NoQuestion", "prompt", "do not begin with the same"),
        ({"prompt": "p", "chosen": [USER], "rejected": "b"}, "NoAnswer", "chosen", "the last message is by user"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "Empty", "prompt", "empty"),
    ],
)
def test_what_is_refused_says_where_and_what_is_allowed(raw: Any, code: str, field: str, said: str) -> None:
    found = fault(raw)
    assert (found.code, found.field) == (code, field)
    assert said in found.message


def test_nesting_does_not_end_the_reading() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    good, bad = read([{"inputs": {"t": deep}, "outputs": {"code": "c"}}, {"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert [each.code for each in bad] == ["TooDeep"]
    assert [each.number for each in good] == [2]


@given(JSON | st.dictionaries(NAMES, JSON | st.dictionaries(NAMES, JSON, max_size=3), max_size=4))
@settings(deadline=None)
def test_no_row_makes_it_raise(raw: Any) -> None:
    found = normalised(raw, 1)
    assert isinstance(found, Row | Fault)
    if isinstance(found, Row):
        assert found.prompt
        assert found.answer or (found.chosen and found.rejected)
        assert found.text()
        assert found.longest()
        assert len(found.key()) == 64


def test_near_duplicates_are_alike_and_numbers_are_not() -> None:
    assert alike("Write  F, please!") == alike("write f please")
    assert alike("\uff37rite f") == alike("write f")  # full-width letters
    assert alike("add 1 and 2") != alike("add 1 and 3")
    assert alike("+") != alike("-")
    assert alike("") == alike("")


def test_the_key_is_that_of_the_question() -> None:
    one = row({"inputs": {"task": "Write f"}, "outputs": {"code": "a"}})
    two = row({"messages": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "write f!"}, SAID]})
    assert one.key() == two.key()
    assert one.key() != row({"inputs": {"task": "Write g"}, "outputs": {"code": "a"}}).key()


def test_the_longest_sequence_of_a_preference_is_one_of_its_two() -> None:
    found = row({"prompt": "p" * 10, "chosen": "c" * 5, "rejected": "r" * 50})
    assert found.longest() == "p" * 10 + "\n" + "r" * 50
