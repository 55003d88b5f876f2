"""Deterministic evaluators, with answers that nobody wants."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.judgement import evaluators
from controller.judgement.evaluators import Check, score
from controller.judgement.fences import code_in, unfenced
from controller.judgement.results import Example

ROW = Example("a", {"task": "t"}, {"answer": "Paris", "list": ["a", "b"], "number": 4, "schema": {"type": "integer"}, "empty": ""})


def marked(text: str, kind: Any, expected: Any = None, **more: Any) -> float | None:
    return score(Check("c", kind, expected=expected, **more), text, ROW).score


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("Paris", {}, 1),
        ("  Paris\r\n", {}, 1),
        ("paris", {}, 0),
        ("PARIS", {"fold": True}, 1),
        ("Paris.", {}, 0),
        ("", {}, 0),
    ],
)
def test_exact(text: str, more: dict[str, Any], expected: float) -> None:
    assert marked(text, "exact", field="outputs.answer", **more) == expected


def test_exact_reads_data_as_json() -> None:
    assert marked("4", "exact", field="outputs.number") == 1
    assert marked("4.0", "exact", field="outputs.number") == 1
    assert marked('["b", "a"]', "exact", field="outputs.list") == 0
    assert marked('```json\n["a","b"]\n```', "exact", field="outputs.list") == 1
    assert marked("true", "exact", expected=1) == 0  # true is not 1
    assert marked("NaN", "exact", expected=1) == 0


def test_exact_takes_either_form_of_an_accent() -> None:
    assert marked("caf\u00e9", "exact", expected="cafe\u0301") == 1


def test_contains_all_one_or_a_share() -> None:
    assert marked("a and b", "contains", field="outputs.list") == 1
    assert marked("a only", "contains", field="outputs.list") == 0  # no b
    assert marked("a only", "contains", field="outputs.list", any_of=True) == 1
    assert marked("a only", "contains", field="outputs.list", partial=True) == 0.5
    assert marked("in PARIS", "contains", expected="paris", fold=True) == 1


def test_regex_searches_by_lines() -> None:
    assert marked("x\nanswer: 42\n", "regex", expected=r"^answer: \d+$") == 1
    assert marked("answer: none", "regex", expected=r"^answer: \d+$") == 0
    assert marked("ANSWER", "regex", expected="answer", fold=True) == 1


def test_a_pattern_that_runs_for_ever_is_stopped_and_not_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "REGEX_SECONDS", 0.5)
    found = score(Check("c", "regex", expected=r"(a+)+$"), "a" * 40 + "b", ROW)
    assert found.score is None
    assert "simplify it" in found.why


def test_a_pattern_that_is_none_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        Check("c", "regex", expected="(")
    row = Example("a", {}, {"pattern": "("})
    assert score(Check("c", "regex", field="outputs.pattern"), "x", row).score is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 1),
        ("```json\n3\n```", 1),
        ("three", 0),
        ('"3"', 0),
        ("NaN", 0),
        ("Infinity", 0),
        ("", 0),
        ("[" * 200_000, 0),
        ("9" * 10_000, 0),
    ],
)
def test_json_schema(text: str, expected: float) -> None:
    assert marked(text, "json_schema", field="outputs.schema") == expected


def test_nan_does_not_pass_a_limit() -> None:
    assert marked('{"x": NaN}', "json_schema", expected={"properties": {"x": {"minimum": 0, "maximum": 1}}}) == 0


def test_a_schema_fetches_nothing_and_a_bad_one_is_not_a_mark() -> None:
    for schema in ({"$ref": "http://127.0.0.1:1/x.json"}, {"type": "wrong"}):
        found = score(Check("c", "json_schema", expected=schema), "{}", ROW)
        assert found.score is None
        assert "the schema cannot be used" in found.why


def test_the_reason_says_where() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    assert "$.a[1]" in score(Check("c", "json_schema", expected=schema), '{"a": [1, "x"]}', ROW).why


@pytest.mark.parametrize("field", ["outputs.nothing", "outputs.empty", "outputs.answer.deeper", "inputs.x", "what"])
def test_a_row_without_the_reference_is_not_measured(field: str) -> None:
    found = score(Check("c", "exact", field=field), "x", ROW)
    assert found.score is None
    assert field in found.why


def test_a_check_has_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="nothing to compare with"):
        Check("c", "exact")


@given(st.text())
@settings(deadline=None)
def test_no_answer_makes_a_check_raise(text: str) -> None:
    for check in (
        Check("c", "exact", field="outputs.answer"),
        Check("c", "exact", field="outputs.list"),
        Check("c", "contains", expected="x"),
    ):
        assert score(check, text, ROW).score in (0.0, 1.0)
    assert score(Check("c", "json_schema", expected={"type": "integer"}), text, ROW).score in (0.0, 1.0)


def test_a_huge_answer_is_wrong_and_not_slow() -> None:
    assert marked("Paris" * 300_000, "exact", field="outputs.answer") == 0
    assert marked("a" * 1_000_000, "contains", field="outputs.list") == 0


def test_code_is_taken_out_of_its_fences() -> None:
    assert code_in("Here:\n```python\na = 1\n```\nand\n```py\nb = 2\n```\n```json\n{}\n```\nbye") == "a = 1\nb = 2"
    assert code_in("a = 1") == "a = 1"
    assert code_in("```python\nnever closed") == "```python\nnever closed"
    assert code_in("```\n") == "```\n"
    assert unfenced("```json\n{}\n```") == "{}"
    assert unfenced("``````") == ""


def test_fences_of_a_hostile_megabyte_are_read_in_one_pass() -> None:
    assert code_in("```x\n" * 200_000).startswith("```x")
    assert unfenced("```" + " " * 1_000_000 + "x").startswith("```")
