"""Reports from data alone: what they say, that nothing hostile gets through, that they stay small and the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.judgement.hostile import clipped, code_span, line, page, visible
from controller.judgement.page import html_page
from controller.judgement.plots import curves, forest, steps
from controller.judgement.record import Record
from controller.judgement.report import markdown
from controller.judgement.results import Answer, Example, Judged, Scoring
from controller.judgement.rules import Rules
from controller.judgement.verdict import evaluated

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> \"'><svg onload=1> </pre></details> &lt; \x1b[31mred\x1b[0m \x07 "
    "\u202eevil\u202c | `code` ``` \n\n# head\n[x](javascript:alert(1)) ![i](http://e.x/p.png) @everyone #1 http://e.x -->"
    " ]]> \ud800"
)
TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "span",
    "p",
    "b",
    "br",
    "a",
    "ul",
    "li",
    "div",
    "table",
    "tr",
    "th",
}
TAGS |= {"td", "details", "summary", "small", "pre", "svg", "line", "text", "circle", "rect", "polyline"}


def record(text: str = "fine", n: int = 60, **fields: Any) -> Record:
    answers, judged = [], []
    for number in range(n):
        name = f"e{number}{text if text == HOSTILE else ''}"
        for side, every in (("candidate", 10), ("baseline", 3)):
            passed = float(number % every > 0)
            answers.append(
                Answer(name, side, text=text, seconds=1 + number / 9, cost_usd=0.001, tokens_out=9, scores={"tests": passed})  # type: ignore[arg-type]
            )
        judged.append(
            Judged(
                name, "tie", number % 3 > 0, candidate={"completeness": 0.5}, baseline={"completeness": 0.5}, reasons=(text, text)
            )
        )
    rules = Rules(draws=200)
    made = {
        "name": text,
        "agent": text,
        "candidate": text,
        "baseline": text,
        "dataset": text,
        "judge": text,
        "examples": tuple(Example(answer.example, {"task": text}, {"code": text}) for answer in answers[::2]),
        "answers": tuple(answers),
        "judged": tuple(judged),
        "scoring": Scoring(),
        "verdict": evaluated(answers, judged, Scoring(), rules, seed=1),
        "seed": 1,
        "links": {text: "https://smith.example/x?a=1&b=2", "bad": "javascript:alert(1)"},
        "cost_usd": 1.5,
    }
    return Record(**(made | fields))


class Reader(HTMLParser):
    """What a browser would see: tags, attributes, text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "line", "circle", "rect", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_the_markdown_has_the_verdict_the_reasons_the_table_and_what_changed() -> None:
    text = markdown(record())
    found = record().verdict
    assert text.startswith("### ")
    assert all(reason in text for reason in found.reasons)
    assert "| **Weighted score (judge)** |" in text
    assert "**Examples that changed** (accuracy): 18 better, 4 worse, of 60." in text
    assert "in at most 2.5 % of evaluations" in text
    assert len(text) < 8000


def test_the_page_has_everything_and_loads_nothing() -> None:
    text = html_page(record())
    reader = read(text)
    assert reader.tags.count("svg") == 4
    assert reader.tags.count("details") == 60
    assert "default-src 'none'" in text
    assert not [name for name, _ in reader.attributes if name.startswith("on") or name in ("src", "srcset", "style")]
    assert [value for name, value in reader.attributes if name == "href"] == ["https://smith.example/x?a=1&b=2"]
    assert reader.open == []


def test_nothing_hostile_reaches_the_page() -> None:
    text = html_page(record(HOSTILE))
    reader = read(text)
    assert set(reader.tags) <= TAGS
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert [value for name, value in reader.attributes if name == "href"] == ["https://smith.example/x?a=1&b=2"]
    assert reader.open == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    text.encode()  # a lone surrogate would raise


def test_nothing_hostile_reaches_the_pull_request() -> None:
    text = markdown(record(HOSTILE))
    text.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)  # what is not in a code span
    for bad in ("<script", "<img", "@everyone", "javascript:", "http://", "![", "](", "#1", "alert"):
        assert bad not in outside
    assert all(row.count("|") - row.count("\\|") == 8 for row in text.splitlines() if row.startswith("|"))


def test_a_megabyte_an_answer_stays_a_page_that_opens() -> None:
    big = record(n=40, examples=())
    answers = tuple(msgspec.structs.replace(answer, text="x" * 1_000_000) for answer in big.answers)
    huge = msgspec.structs.replace(big, answers=answers)
    assert len(html_page(huge)) < 6_000_000
    assert "980,000 more characters" in html_page(huge)
    assert len(markdown(huge)) < 8000


def test_many_examples_are_cut_to_those_that_differ_most() -> None:
    text = html_page(record(n=260))
    assert text.count("<details>") == 200
    assert "Shown are the 200 with the largest differences of 260" in text


def test_an_evaluation_without_data_has_reports_too() -> None:
    empty = record(n=0)
    assert "Not enough data" in markdown(empty)
    assert "Nothing was measured on both sides" in html_page(empty)
    assert read(html_page(empty)).open == []


def test_failed_calls_and_uneven_repetitions_are_shown() -> None:
    base = record(n=30)
    more = (*base.answers, Answer("e1", "candidate", 1, error="503 <b>down</b>"), Answer("e2", "baseline", 1, text=""))
    text = html_page(msgspec.structs.replace(base, answers=more))
    assert "failed: 503 &lt;b&gt;down&lt;/b&gt;" in text
    assert "<p>not asked</p>" in text
    assert "(empty)" in text


def test_reports_are_the_same_from_the_log() -> None:
    first = record()
    again = msgspec.json.decode(msgspec.json.encode(first), type=Record)
    assert again == first
    assert markdown(again) == markdown(first)
    assert html_page(again) == html_page(first)
    json.loads(msgspec.json.encode(first))


def test_measures_that_are_no_numbers_do_not_break_a_report() -> None:
    base = record(n=40)
    answers = tuple(msgspec.structs.replace(answer, seconds=float("nan"), cost_usd=float("inf")) for answer in base.answers)
    found = evaluated(answers, (), Scoring(), Rules(draws=200), seed=1)
    broken = msgspec.structs.replace(base, answers=answers, verdict=found)
    for text in (markdown(broken), html_page(broken)):
        assert not re.search(r"\b(nan|inf)\b", text)


@pytest.mark.parametrize(
    "plot",
    [
        forest(record().verdict.evidence[:4], HOSTILE),
        steps([0.1, -0.5, 0.0, 1.0], HOSTILE),
        steps([0.001 * number for number in range(5000)], "many"),
        steps([0.0, 0.0], "none"),
        curves([1, 2, 3], [2, 2, 9], HOSTILE, "s"),
        curves([1], [1], "one", "s"),
    ],
)
def test_plots_are_well_formed_and_small(plot: str) -> None:
    root = ElementTree.fromstring(plot)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert len(plot) < 60_000
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in ("x", "x1", "x2", "cx", "width"):
                assert 0 <= float(value) <= 720


def test_plots_of_nothing_are_nothing() -> None:
    assert (forest([], "t"), steps([], "t"), curves([], [1], "t", "s")) == ("", "", "")


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_a_code_span_is_one_line_that_its_text_cannot_end(text: str) -> None:
    span = code_span(text)
    assert "\n" not in span
    if span == "(empty)":
        return
    ticks = re.match("`+", span)
    assert ticks is not None
    runs = [len(run) for run in re.findall("`+", span)]
    assert runs[0] == runs[-1] == len(ticks[0])
    assert len(ticks[0]) not in runs[1:-1]


@given(st.text())
@settings(deadline=None)
def test_a_cell_has_no_pipe_of_its_own(text: str) -> None:
    assert not re.search(r"(?<!\\)\|", code_span(text, cell=True))


@given(st.text())
@settings(deadline=None)
def test_what_is_shown_has_no_invisible_characters(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]", shown)
    assert visible(shown) == shown
    assert not re.search("[<>\"']", page(text))


def test_cut_text_says_how_much_is_missing() -> None:
    assert clipped("abcdef", 4) == "abcd [2 more characters]"
    assert line("  a\n b\t c ") == "a b c"
