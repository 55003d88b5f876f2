"""The pure parts of an evaluation's work: which questions are asked, what may be spent, what of it the log keeps."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from controller.clients.evaluation_work import Journal, Order, Work
from controller.errors import Permanent, Temporary
from controller.evaluating.asking import Crew, Halt, Outage, Purse
from controller.evaluating.checking import checks_of
from controller.evaluating.questions import Question, Questions, chosen_of, parsed, question_of
from controller.evaluating.result import MOST_CHARACTERS, MOST_PAIRS, concluded, rules_of, scoring_of
from controller.judgement.judge import schema
from controller.judgement.results import Answer, Example, Judged
from controller.kinds.evaluation.spec import EvaluationSpec

ROWS = [{"inputs": {"task": f"question {n}"}, "outputs": {"answer": str(n), "tests": "x"}} for n in range(100)]


def spec(**more: Any) -> EvaluationSpec:
    written = {
        "agent": "docs",
        "candidate": {"model": "m", "endpoint": "e", "version": "v2"},
        "dataset": "ls://docs",
        "evaluators": [{"name": "tests", "kind": "exact", "field": "outputs.answer", "feeds": "accuracy"}],
        "judge": {"model": "j", "endpoint": "e", "preference": "completeness"},
        **more,
    }
    return EvaluationSpec.model_validate(written)


def names(questions: list[Question]) -> list[str]:
    return [one.example.id for one in questions]


# -- questions ---------------------------------------------------------------------------------------------------------


def test_the_seed_chooses_and_more_rows_move_few() -> None:
    some, notes = chosen_of(ROWS, most=20, longest=100, seed=1)
    assert names(chosen_of(list(reversed(ROWS)), most=20, longest=100, seed=1)[0]) == names(some)
    assert names(chosen_of(ROWS, most=20, longest=100, seed=2)[0]) != names(some)
    assert set(names(chosen_of(ROWS, most=30, longest=100, seed=1)[0])) > set(names(some))
    assert notes == ["80 of 100 rows were left out: the seed chose 20."]


def test_what_is_left_out_is_said() -> None:
    trained = question_of(ROWS[0], 1)
    rows = [*ROWS[:20], ROWS[3], {"inputs": {"task": "long " * 1000}, "outputs": {}}, {"inputs": {}}]
    found, notes = chosen_of(rows, most=50, longest=100, seed=0, trained={trained.key()})  # type: ignore[union-attr]
    assert len(found) == 19
    assert [note.partition(":")[0] for note in notes] == [
        "1 of 23 rows cannot be used (the first",
        "1 of 23 rows were left out",
        "1 of 23 rows were left out",
        "1 of 23 rows were left out",
    ]


def test_many_broken_rows_are_another_data_set() -> None:
    with pytest.raises(Permanent, match=r"12 of 22 rows of the data set cannot be used, the first: row 11"):
        chosen_of([*ROWS[:10], *[{"text": "x"}] * 12], most=50, longest=100, seed=0)


def test_a_line_that_is_no_json_is_named() -> None:
    with pytest.raises(Permanent, match=r"e\.jsonl, line 3: not JSON"):
        parsed(b'{"inputs": {"task": "a"}}\n\n{oops}\n', "e.jsonl")


def test_outputs_may_have_any_form_and_chats_work() -> None:
    rows = [
        {"inputs": {"task": "a"}, "outputs": {"x": 1, "y": 2}},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
    ]
    found, notes = chosen_of(rows, most=5, longest=100, seed=0, system="Be brief.")
    by = {one.messages[-1]["content"]: one for one in found}
    assert by["a"].example.outputs == {"x": 1, "y": 2}
    assert by["hi"].example.outputs == {"answer": "ho"}
    assert all(one.messages[0] == {"role": "system", "content": "Be brief."} for one in found)
    assert notes == []


# -- money and stop signs ----------------------------------------------------------------------------------------------


def crew(purse: Purse, done: list[int], **more: Any) -> Crew[int, int]:
    given: dict[str, Any] = {
        "do": lambda task: task,
        "purse": purse,
        "worst": lambda task: ("it", 1.0),
        "before": lambda task: None,
        "after": lambda task, result: done.append(result) or 0.5,
        "stop": lambda: "",
        "concurrency": 3,
    }
    return Crew(**{**given, **more})


def test_nothing_goes_over_the_ceiling() -> None:
    done: list[int] = []
    purse = Purse(10.0)
    halt = crew(purse, done).run(range(100))
    assert halt is not None
    assert halt.ceiling
    assert purse.spent <= 10.0
    assert purse.reserved == pytest.approx(0.0)
    assert len(done) == 19  # the 20th could cost 1.0, and 9.5 are spent


def test_without_a_price_the_dearest_so_far_is_the_guess() -> None:
    done: list[int] = []
    purse = Purse(2.0)
    assert crew(purse, done, worst=lambda task: ("it", None), concurrency=1).run(range(100)) is not None
    assert purse.spent == 2.0


def test_what_is_under_way_finishes_and_is_noted() -> None:
    done: list[int] = []
    gate = threading.Event()

    def do(task: int) -> int:
        if task == 0:
            raise Permanent("wrong key")
        gate.wait(10)
        return task

    def after(task: int, result: int) -> float:
        done.append(result)
        return 0.0

    threading.Timer(0.3, gate.set).start()
    halt = crew(Purse(100.0), done, do=do, after=after).run(range(50))
    assert halt == Halt("wrong key", halt.error if halt else None)
    assert isinstance(halt.error if halt else None, Permanent)
    assert sorted(done) == [1, 2]


def test_an_error_of_ours_is_not_swallowed() -> None:
    def broken(task: int) -> int:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        crew(Purse(9.0), [], do=broken).run(range(3))


def test_an_outage_is_calls_in_a_row() -> None:
    outage = Outage(3)
    for text in ("a", "b", "", "c", "d"):
        outage.note(text)
    with pytest.raises(Temporary, match="3 calls in a row were not answered, the last: e"):
        outage.note("e")


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_line_that_was_cut_does_not_count_and_hurts_no_other(tmp_path: Any) -> None:
    work = Work(tmp_path)
    journal = Journal(work.path("calls.jsonl"))
    journal.append({"a": 1})
    journal.close()
    with work.path("calls.jsonl").open("ab") as file:
        file.write(b'{"b": 2, "c"')
    journal = Journal(work.path("calls.jsonl"))
    journal.append({"d": "\ud800"})
    journal.close()
    assert [sorted(line) for line in work.lines("calls.jsonl")] == [["a"], ["d"]]


def test_once_is_once(tmp_path: Any) -> None:
    work = Work(tmp_path / "new")
    assert work.write("order.json", b"1", once=True)
    assert not work.write("order.json", b"2", once=True)
    assert work.path("order.json").read_bytes() == b"1"
    assert sorted(each.name for each in work.folder.iterdir()) == ["order.json"]


# -- result ------------------------------------------------------------------------------------------------------------


def test_the_spec_as_data_says_the_same_as_the_spec() -> None:
    own = spec(thresholds={"gains": {"accuracy": 0.1}, "alpha": 0.01}, minimumExamples=40)
    assert rules_of(own.full()) == own.rules
    assert scoring_of(own.full()) == own.scoring
    assert [check.name for check in checks_of(own.full())] == ["tests"]


def test_the_form_that_a_judge_is_asked_for_is_the_one_that_is_read() -> None:
    from controller.clients.model_shape import response_format
    from controller.evaluating.judging import JudgeReply

    asked = response_format(JudgeReply)["json_schema"]["schema"]
    assert set(asked["properties"]) == set(schema()["properties"])
    assert set(asked["$defs"]["Marks"]["properties"]) == set(schema()["properties"]["first"]["properties"])


def order_of(own: EvaluationSpec) -> Order:
    return Order(
        intent="a" * 32,
        name="docs-v2",
        agent="docs",
        candidate={"model": "m", "endpoint": "e", "version": "v2"},
        baseline={"model": "m", "endpoint": "e", "version": "v1"},
        state={"dataset": "ls://docs", "judge": ""},
        dataset={},
        trained_on=[],
        spec=own.full(),
        worst={},
        ceiling=1.0,
        data="",
        environment={},
    )


def test_what_goes_into_the_log_is_bounded_and_says_so() -> None:
    count, long = 450, "x" * 50_000
    answers = [
        Answer(f"q{n:03}", side, text=long, seconds=1.0, cost_usd=0.01, scores={"tests": float(n % 3 > 0 or side == "baseline")})
        for n in range(count)
        for side in ("candidate", "baseline")
    ]
    judged = [Judged(f"q{n:03}", "tie", reasons=(long, long)) for n in range(count)]
    by_id = {f"q{n:03}": Question(Example(f"q{n:03}", {"task": long}), (), "") for n in range(count)}
    result = concluded(order_of(spec()), Questions(by_id, (), {}), answers, judged, 1.0, ["One note."])
    report = result.report
    kept = {answer.example for answer in report.answers if answer.text}
    assert len(kept) == MOST_PAIRS
    assert {example.id for example in report.examples} == kept
    assert len(report.answers) == 2 * count
    assert len(msgspec.json.encode(report)) < 4 * MOST_PAIRS * (MOST_CHARACTERS + 500) + 1_000_000
    assert any(f"The texts of {MOST_PAIRS} of {count} examples are kept" in note for note in report.verdict.notes)
    assert any("answers are cut to" in note for note in report.verdict.notes)
    assert "One note." in report.verdict.notes
    assert kept >= {f"q{n:03}" for n in range(0, count, 3)}  # those that changed come first
    assert msgspec.convert(result.as_json()["report"], type(report)) == report
