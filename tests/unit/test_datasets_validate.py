"""The report on a data set: each finding, its severity, what it tells to collect; and what it never shows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.datasets.tell import as_markdown, as_text
from controller.datasets.validate import ENOUGH, MINIMUM, Finding, Needs, Report, estimated_tokens, validate


def examples(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"inputs": {"task": f"task {n}"}, "outputs": {"code": f"code {n}"}, **more} for n in range(count)]


def preferences(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"task {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(count)]


def finding(report: Report, code: str) -> Finding:
    found = [each for each in report.findings if each.code == code]
    assert len(found) == 1, report.findings
    return found[0]


def test_enough_good_rows_pass_without_a_word() -> None:
    report = validate(examples(600), Needs())
    assert (report.findings, report.stops, report.distinct) == ((), False, 600)
    assert as_text(report).endswith("Training can start.\n")


def test_nothing_says_what_to_collect() -> None:
    report = validate([], Needs())
    assert report.stops
    assert report.more == 50
    assert finding(report, "TooFew").advice == "collect 50 more examples"
    assert "at least 50 more rows are needed" in as_text(report)
    assert "at least 50 more rows are needed" in as_markdown(report)


@pytest.mark.parametrize("method", ["sft", "dpo", "orpo"])
def test_each_method_has_its_minimum(method: Any) -> None:
    rows = examples if method == "sft" else preferences
    least, enough = MINIMUM[method], ENOUGH[method]
    short = validate(rows(least - 1), Needs(method=method))
    assert (short.stops, short.more) == (True, 1)
    start = validate(rows(least), Needs(method=method))
    assert not start.stops
    assert f"collect about {enough - least} more" in finding(start, "Few").advice
    assert validate(rows(3), Needs(method=method, minimum=5)).more == 2


def test_repeated_rows_do_not_count_twice() -> None:
    report = validate(examples(45) + examples(10) + [{"inputs": {"task": "TASK  1!"}, "outputs": {"code": "Code 1."}}], Needs())
    assert (report.rows, report.distinct, report.more) == (56, 45, 5)
    assert finding(report, "Duplicates").count == 10
    assert finding(report, "Duplicates").places[0] == "row 46 as row 1"
    assert finding(report, "NearDuplicates").places == ("row 56 as row 2",)


def test_broken_rows_stop_with_row_and_field_and_are_grouped() -> None:
    broken: list[Any] = [{"messages": [{"role": "user", "content": "x"}]} for _ in range(7)]
    report = validate(examples(600) + broken + [None], Needs())
    assert report.stops
    assert finding(report, "NoAnswer").count == 7
    assert finding(report, "NoAnswer").places[0] == "row 601, messages[0].role"
    assert len(finding(report, "NoAnswer").places) == 5
    assert "and 2 more" in as_text(report)
    assert finding(report, "NotAnObject").places == ("row 608",)


@pytest.mark.parametrize(("method", "rows"), [("sft", preferences(600)), ("dpo", examples(600))])
def test_rows_of_the_other_kind_stop(method: Any, rows: list[Any]) -> None:
    report = validate(rows, Needs(method=method))
    assert finding(report, "WrongForMethod").count == 600
    assert report.usable == 0


def test_long_rows_warn_and_many_of_them_stop() -> None:
    long = [{"inputs": {"task": f"task {n}"}, "outputs": {"code": "x" * 500}} for n in range(700, 720)]
    few = validate(examples(600) + long, Needs(sequence_length=100))
    assert (finding(few, "TooLong").severity, finding(few, "TooLong").count) == ("warn", 20)
    assert finding(few, "TooLong").places[0] == "row 601: about 128 tokens"
    many = validate(examples(600) + long * 4, Needs(sequence_length=100))
    assert finding(many, "TooLong").severity == "stop"


def test_tokens_are_counted_by_the_models_tokenizer_where_there_is_one() -> None:
    exact = validate(examples(600), Needs(), count_tokens=lambda text: len(text.split()))
    assert exact.lengths is not None
    assert (exact.lengths.longest, exact.lengths.total, exact.lengths.estimated) == (4, 2400, False)
    assert "estimated" not in as_text(exact)
    assert "estimated as bytes / 4" in as_text(validate(examples(600), Needs()))
    assert [estimated_tokens(text) for text in ("", "abcd", "abcde", "\u00e9\u00e9\u00e9", "\ud800")] == [0, 1, 2, 2, 1]


def test_an_evaluation_on_what_was_trained_stops() -> None:
    evaluation = [
        {"inputs": {"task": "TASK 7!"}, "outputs": {"code": "other"}},
        {"inputs": {"task": "new"}, "outputs": {"code": "c"}},
    ]
    report = validate(examples(600), Needs(), evaluation=evaluation)
    assert finding(report, "Overlap").severity == "stop"
    assert finding(report, "Overlap").places == ("evaluation row 1 as training row 8",)
    assert not validate(examples(600), Needs(), evaluation=evaluation[1:]).stops


def test_secrets_stop_personal_data_warns_and_no_value_is_shown() -> None:
    secret, person = "gh" + "p_" + "aB3dE5gH7jK9" * 3, "ada@lovelace.org"
    rows = [*examples(600), {"inputs": {"task": secret}, "outputs": {"code": person}}]
    report = validate(
        rows, Needs(), evaluation=[{"inputs": {secret: secret}, "outputs": {"code": "c"}}, {"messages": [{"role": secret}]}]
    )
    secrets = [each for each in report.findings if each.code == "Secret"]
    assert {(each.severity, each.message) for each in secrets} == {
        ("stop", "GitHub token in 1 field of the training set"),
        ("stop", "GitHub token in 3 fields of the evaluation set"),
    }
    assert finding(report, "PersonalData").severity == "warn"
    assert finding(report, "PersonalData").places == ("row 601, outputs.code",)
    for text in (as_text(report), as_markdown(report), str(report)):
        assert secret not in text
        assert person not in text


def test_failures_are_not_to_be_imitated() -> None:
    rows = examples(500, metadata={"success": True}) + [
        {"inputs": {"task": f"failed {n}"}, "outputs": {"code": "c"}, "metadata": {"success": False}} for n in range(20)
    ]
    report = validate(rows, Needs())
    assert (finding(report, "Failures").severity, finding(report, "Failures").count) == ("warn", 20)
    many = validate(rows[-20:] + rows[:10], Needs())
    assert finding(many, "Failures").severity == "stop"
    assert "collect 40 more that succeeded" in finding(many, "Failures").advice
    assert finding(validate(rows + examples(3), Needs()), "SuccessUnknown").count == 3
    text_values = validate(examples(600, metadata={"success": "yes"}), Needs())
    assert text_values.findings == ()  # only true and false are a class


def test_a_preference_for_the_same_answer_stops() -> None:
    rows = [*preferences(600), {"prompt": "p", "chosen": "Same answer.", "rejected": "same  answer"}]
    report = validate(rows, Needs(method="dpo"))
    assert finding(report, "NoPreference").places == ("row 601, rejected",)
    assert report.stops


def test_it_says_what_it_read_as_the_answer() -> None:
    assert "Read as: answer from outputs.code, prompt from inputs.task." in as_text(validate(examples(600), Needs()))


def test_hostile_rows_do_not_drive_a_terminal_or_a_pull_request() -> None:
    evil = "\x1b[2J<img src=x>|`@everyone`\u202e"
    rows: list[Any] = [
        {evil: 1},
        {"messages": [{"role": evil, "content": "x"}]},
        {"inputs": {evil: ""}, "outputs": {evil: 1, "b": 2}},
    ]
    report = validate(rows, Needs())
    for text in (as_text(report), as_markdown(report)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    for row in as_markdown(report).splitlines():
        if row.startswith("|"):
            assert row.count("|") - row.count("\\|") == 5


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["inputs", "outputs", "messages", "chosen", "prompt", "rejected"]), st.text(max_size=5)),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_no_data_set_makes_it_raise(rows: list[Any]) -> None:
    report = validate(rows, Needs(), evaluation=rows)
    assert report.stops
    assert as_text(report)
    assert as_markdown(report)
