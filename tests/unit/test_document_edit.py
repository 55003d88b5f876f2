"""Write-back: only the lines that must change do, and the data changes by exactly what was asked."""

import re
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from controller.document import MAX_BYTES, DocumentError, Integer, Number, parse, plain
from controller.document_edit import DELETE, CannotEdit, dump, edit, render

BINDING = b"""\
# who answers for the feature team
apiVersion: turnout/v1
kind: ModelBinding   # kept
metadata: {name: feature_dev}
spec:
  model: 'anthropic/claude-3.5-sonnet'   # the model
  version: v1.4.0

  # what comes next
  fallbacks: [code_review, other]
  prompt: |
    You are
    kind.
  limits:
    - name: rpm
      value: 10
      # trailing
"""


@pytest.mark.parametrize(
    ("path", "value", "old", "new"),
    [
        (("spec", "version"), "v2.0.0", b"version: v1.4.0", b"version: v2.0.0"),
        (("spec", "version"), "3.10", b"version: v1.4.0", b'version: "3.10"'),
        (("spec", "version"), Number(3.1, "3.10"), b"version: v1.4.0", b"version: 3.10"),
        (("spec", "version"), "on", b"version: v1.4.0", b'version: "on"'),
        (("spec", "version"), None, b"version: v1.4.0", b"version: null"),
        (("spec", "version"), "a\nb", b"version: v1.4.0", b'version: "a\\nb"'),
        (("spec", "version"), ["a", 1], b"version: v1.4.0", b"version: [a, 1]"),
        (("spec", "model"), "it's", b"'anthropic/claude-3.5-sonnet' ", b"'it''s' "),
        (("spec", "model"), 5, b"'anthropic/claude-3.5-sonnet' ", b"5 "),
        (("spec", "fallbacks", 1), "a, b", b"other]", b'"a, b"]'),
        (("spec", "fallbacks"), [], b"[code_review, other]", b"[]"),
        (("metadata", "name"), "é😀", b"feature_dev}", "é😀}".encode()),
        (("metadata", "labels", "team"), "x", b"feature_dev}", b"feature_dev, labels: {team: x}}"),
        (("spec", "limits", 0, "value"), 20, b"value: 10", b"value: 20"),
        (("spec", "limits", 0, "unit"), "s", b"value: 10\n", b"value: 10\n      unit: s\n"),
        (("spec", "limits"), {"rpm": 1}, b":\n    - name: rpm\n      value: 10\n", b": {rpm: 1}\n"),
        (("spec", "endpoint"), "x", b"value: 10\n", b"value: 10\n  endpoint: x\n"),
        (("spec", "version"), DELETE, b"  version: v1.4.0\n", b""),
        (("metadata", "name"), DELETE, b"{name: feature_dev}", b"{}"),
        (("spec", "limits"), DELETE, b"  limits:\n    - name: rpm\n      value: 10\n      # trailing\n", b""),
        (("spec", "prompt"), DELETE, b"  prompt: |\n    You are\n    kind.\n", b""),
        (("spec", "prompt"), "Be brief.\nThanks.\n", b"You are\n    kind.", b"Be brief.\n    Thanks."),
        (("spec", "prompt"), "Be brief.", b"|\n    You are\n    kind.", b"Be brief."),
        (("new",), {"a": []}, b"# trailing\n", b"# trailing\n"),
    ],
)
def test_a_change_is_one_splice(path: tuple[str | int, ...], value: Any, old: bytes, new: bytes) -> None:
    for newline in (b"\n", b"\r\n"):
        for bom in (b"", b"\xef\xbb\xbf"):
            before = bom + BINDING.replace(b"\n", newline)
            expected = bom + BINDING.replace(old, new, 1).replace(b"\n", newline)
            if path == ("new",):
                expected = before.replace(b"value: 10" + newline, b"value: 10" + newline + b"new: {a: []}" + newline)
            assert edit(before, {path: value}) == expected


@pytest.mark.parametrize(
    ("text", "changes", "result"),
    [
        (b"a: 1", {("b",): 2}, b"a: 1\nb: 2"),
        (b"a: 1\r\nb: 2", {("b",): 3}, b"a: 1\r\nb: 3"),
        (b"a: 1\nb: 2", {("b",): DELETE}, b"a: 1\n"),
        (b"a:\nb: # c\n", {("a",): 1, ("b",): 2}, b"a: 1\nb: 2 # c\n"),
        (b"a:\n", {("a", "b"): 1}, b"a: {b: 1}\n"),
        (b"a:   # c\n  # d\n  x: 1\nb: 1\n", {("a",): [1]}, b"a: [1]   # c\n  # d\nb: 1\n"),
        (b"a:\n  x: 1 # c\n", {("a", "x"): DELETE}, b"a: {}\n"),
        (b"x: 1 # c\n", {("x",): DELETE}, b"{} # c\n"),
        (b"{a: 1, b: 2}\n", {("a",): DELETE}, b"{b: 2}\n"),
        (b"{a: 1, b: 2}\n", {("b",): DELETE, ("c",): 3}, b"{a: 1, c: 3}\n"),
        (b"{a: 1, # c\n}", {("b",): 2}, b"{a: 1, b: 2 # c\n}"),
        (b"{a: 1 # c, d\n}", {("b",): 2}, b"{a: 1, b: 2 # c, d\n}"),
        (b"{a, b: [c]}", {("a",): "x"}, b"{a: x, b: [c]}"),
        (b'{"a":1,"b":"x"}', {("a",): True, ("b",): "y z"}, b'{"a":true,"b":"y z"}'),
        (b"- a: 1\n- b: [1, 2]\n", {(1, "b", 0): "x", (0, "c"): 1}, b"- a: 1\n  c: 1\n- b: [x, 2]\n"),
        (b"a:\n- x\n- y\nb: 1\n", {("a",): ["z"]}, b"a: [z]\nb: 1\n"),
        (b"-\n- b\n", {(0,): 1}, b"- 1\n- b\n"),
        (b"a: >\n  folded\n  text\n\n\nb: 1\n", {("a",): "short"}, b"a: short\n\n\nb: 1\n"),
        (b"a: |\n  text\n\n# c\n", {("b",): 1}, b"a: |\n  text\nb: 1\n\n# c\n"),
        (b"a: |+\n  text\n\n", {("b",): 1}, b"a: |+\n  text\n\nb: 1\n"),
        (b"a: long\n  text # c\nb: 'x\n  y'\n", {("a",): "s", ("b",): "t"}, b"a: s # c\nb: 't'\n"),
        (b"a: |\n  x\n", {("a",): 8}, b"a: 8\n"),
        (b"", {("a", "b"): 1}, b"a: {b: 1}\n"),
        (b"# c", {("a",): 1}, b"# c\na: 1"),
        (b"--- # c\n", {("a",): 1}, b"--- # c\na: 1\n"),
        (b"---\n...\n", {("a",): 1}, b"---\na: 1\n...\n"),
        (b"~\n", {("a",): 1}, b"{a: 1}\n"),
        (b"a:\n  x: 1\n  # of x\n# of b\nb: 1\n", {("a",): DELETE}, b"# of b\nb: 1\n"),
        (b"a: 010\n", {("a",): 10, ("b",): DELETE, ("c", "d"): DELETE}, b"a: 010\n"),
        (b"a: 0xA # ten\n", {("a",): 11}, b"a: 11 # ten\n"),
        (b"x: &x {k: 1}\na: 1\nb: *x\n", {("a",): 2, ("b",): DELETE, ("b2",): 3}, b"x: &x {k: 1}\na: 2\nb2: 3\n"),
        (b"a: &a {k: 1}\nb:\n  <<: *a\n  l: 1\n", {("b", "l"): 2, ("b", "m"): 3},
         b"a: &a {k: 1}\nb:\n  <<: *a\n  l: 2\n  m: 3\n"),
        (b"? a\n: b\n", {("a",): "c"}, b"? a\n: c\n"),
        (b"", {("a",): DELETE}, b""),
    ],
)  # fmt: skip
def test_shapes_that_people_write(text: bytes, changes: Any, result: bytes) -> None:
    assert edit(text, changes) == result


@pytest.mark.parametrize(
    ("text", "path", "value", "says"),
    [
        (b"a: &x 1\nb: *x\n", ("a",), 2, "an anchor"),
        (b"a: &x {k: 1}\n", ("a", "k"), 2, "an anchor"),
        (b"a: &x 1\nb: *x\n", ("b",), 2, "an alias"),
        (b"a: &x {k: 1}\nb: *x\n", ("b", "k"), 2, "an alias"),
        (b"a: !!str 1\n", ("a",), "x", "a tag"),
        (b"a: &x {k: 1}\nb: {<<: *x}\n", ("b", "k"), 2, "a merge key"),
        (b"a: &x {k: 1}\nb: {<<: *x, k: 2}\n", ("b", "k"), DELETE, "something else"),
        (b"a: &x 1\nb: *x\n", ("a",), DELETE, "could not be read"),
        (b"a: &x {k: 1}\nb: {<<: *x, l: 1}\n", ("b",), 1, None),
        (b"a: text\n", ("a", "b"), 1, '"text"'),
        (b"a: [1]\n", ("a", 1), 1, "1 items"),
        (b"a: [1]\n", ("a", 0), DELETE, "whole list"),
        (b"a: [1]\n", ("a", "x"), 1, "items"),
        (b"a: 1\n", (), 1, "whole file"),
        (b"a: 1\n", (1,), 1, "the key 1"),
        (b"a: 1\n", ("a",), object(), "object"),
        (b"a: 1\n", ("a",), float("nan"), "finite"),
        (b"a: 1\n", ("a",), "\x1b", "U+001B"),
        (b"a: 1\n", ("a",), "\ud800", "U+D800"),
        (b"a: 1\n", ("k" * 2000,), 1, "900"),
        (b"a: | # c\n  x\n", ("a",), "y", "a comment"),
        (b"- a: 1\n  b: 2\n", (0, "a"), DELETE, "its line"),
        (b"{a: 1, # c\n b: 2}\n", ("a",), DELETE, "a comment"),
        (b"-\n  a: 1\n", (0,), 1, "its dash"),
        (b"a: |\n  x", ("b",), 1, None),
    ],
)
def test_left_to_a_person_with_a_reason(text: bytes, path: Any, value: Any, says: str | None) -> None:
    if says is None:  # either way is right, as long as nothing else changes
        try:
            assert parse(edit(text, {path: value})).data is not None
        except CannotEdit:
            return
        return
    with pytest.raises(CannotEdit, match=re.escape(says)) as caught:
        edit(text, {path: value})
    assert caught.value.line >= 1
    assert "\n" not in str(caught.value)


def test_overlapping_changes_are_refused_and_equal_values_cost_nothing() -> None:
    with pytest.raises(CannotEdit, match="another path"):
        edit(b"a: {b: 1}\n", {("a",): 1, ("a", "b"): 2})
    anchored = b"a: &x [1,   2]\nb: *x\n"
    assert edit(anchored, {("a",): [1, 2], ("b",): [1, 2]}) == anchored
    assert edit(b"a: 1\n", {("a",): True}) == b"a: true\n"
    assert edit(b"a: 1\n", {("a",): 1.0}) == b"a: 1.0\n"
    with pytest.raises(DocumentError):
        edit(b"a: [\n", {("a",): 1})


def test_a_comment_full_of_hashes_costs_no_time() -> None:
    assert edit(b"{a: 1 " + b"# " * 5000 + b"\n}", {("b",): 2}).startswith(b"{a: 1, b: 2 # #")


# -- properties ------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), max_size=12).filter(
    lambda text: not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
)
WORDS = (
    "on no y ~ null <<  = 010 0x1 0o7 1e3 1e999 .inf .NaN 3.10 1_000 1,000 12:30 2026-11-01 0b1 - -- ? : a: a:b #a "
    "[x {x *x &x !x |x >x %x @x `x ... --- 1.4.0 v1 http://x/y 24h 1% .5 5. +1 a#b 'x \"x x' \\"
)
LINES = ["a # b", "a: b", " a", "a ", "a\nb", "a\n", "\n", "\n\na", "a\n b\n", "a\n\nb\n", "\ta", "a\r\nb"]
TRICKY = st.sampled_from(WORDS.split(" ")) | st.sampled_from(LINES)
SCALAR = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUE = SCALAR | TEXT | TRICKY
KEY = st.sampled_from(["name", "spec", "on", "1", "a b", "é", "x.y/z", "#k", "k:", ""]) | TEXT
DATA = st.recursive(
    VALUE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY | TRICKY, inner, max_size=4), max_leaves=20
)


def same(one: Any, other: Any) -> bool:
    return repr(plain(one)) == repr(plain(other)) and one == other


@given(DATA)
def test_what_is_dumped_is_read_back(data: Any) -> None:
    found = parse(dump(data)).data
    assert same(found, data)
    assert dump(found) == dump(data)


@given(TEXT | TRICKY, st.booleans(), st.sampled_from(["", "'", '"']))
def test_text_stays_text_in_tools_that_read_yaml_1_1(text: str, flow: bool, style: str) -> None:
    written = render(text, flow, style)
    document = f"key: [{written}, {{a: {written}}}]\n" if flow else f"key: {written}\n"
    found = yaml.safe_load(document)["key"]
    assert found == ([text, {"a": text}] if flow else text)
    assert "\n" not in written


def test_only_what_needs_quotes_gets_them() -> None:
    for text in ("v1.4.0", "1.4.0", "24h", "1%", "anthropic/claude-3.5-sonnet", "http://x:80/y", "a b", "Grüße", "3 x"):
        assert render(text) == text
    for text in ("", "1", "on", "Yes", "n", "1_000", "12:30", "2026-11-01", "1e3", "a: b", "a #b", "- a", "~", "<<"):
        assert render(text) == f'"{text}"'
    assert render("a,b") == "a,b"
    assert render("a,b", flow=True) == '"a,b"'
    assert (render(1e16), render(1e-7), render(Integer(8, "010")), render(Number(3.0, "3"))) == (
        "1.0e+16", "1.0e-07", "010", "3.0",
    )  # fmt: skip


def test_a_new_file_reads_well() -> None:
    steps = [{"weight": 20, "hold": "24h"}, [1, []]]
    data = {"kind": "Rollout", "spec": {"steps": steps, "prompt": "a\n\nb\n", "off": {}}}
    assert dump(data).decode() == (
        'kind: Rollout\nspec:\n  steps:\n    - weight: 20\n      hold: 24h\n    - - 1\n      - []\n'
        '  prompt: |\n    a\n\n    b\n  "off": {}\n'
    )  # fmt: skip
    for bad in (float("inf"), {"a": "\x00"}, {"k" * 1000: 1}):
        with pytest.raises(ValueError):
            dump(bad)
    with pytest.raises(TypeError):
        dump({1: 2})
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="64"):
        dump(endless)


class Written:
    """A random document as a person might write it: comments, blank lines, quotes, flow collections, odd indents."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rows: list[str] = []
        self.scalars: list[tuple[str | int, ...]] = []
        self.mappings: list[tuple[str | int, ...]] = []
        self.keys: list[tuple[str | int, ...]] = []
        self.data = self.mapping((), "")
        self.newline = draw(st.sampled_from(["\n", "\r\n"]))
        end = self.newline * draw(st.integers(0, 2))
        self.text = (draw(st.sampled_from(["", "\ufeff"])) + self.newline.join(self.rows) + end).encode()

    def mapping(self, path: tuple[str | int, ...], indent: str) -> dict[str, Any]:
        self.mappings.append(path)
        data: dict[str, Any] = {}
        for key in self.draw(st.lists(st.sampled_from(["a", "b", "über", "on", "1", "k k"]), min_size=1, unique=True)):
            for comment in self.draw(st.lists(st.sampled_from(["", "# é: 'x", "  # b: [1", "#"]), max_size=2)):
                self.rows.append(comment)
            here = (*path, key)
            self.keys.append(here)
            head = indent + self.draw(st.sampled_from([key, f'"{key}"'])) + ":"
            note = self.draw(st.sampled_from(["", " ", " # é {c: d}", "   #"]))
            shapes = ["scalar"] * 4 + ["mapping", "list", "flow"] * (len(path) < 3)
            shape = self.draw(st.sampled_from(shapes))
            if shape == "mapping":
                self.rows.append(head + note)
                data[key] = self.mapping(here, indent + self.draw(st.sampled_from([" ", "  ", "    "])))
            elif shape == "list":
                self.rows.append(head + note)
                data[key] = self.list(here, indent + self.draw(st.sampled_from(["", "  "])))
            elif shape == "flow":
                self.mappings.append(here)
                self.keys.append((*here, "q"))
                self.scalars += [(*here, "p", 0), (*here, "q")]
                self.rows.append(head + self.draw(st.sampled_from([" {p: [1],q: 'x'}", " { p: [ 1 ], q: x, }"])) + note)
                data[key] = {"p": [1], "q": "x"}
            else:
                data[key] = self.scalar(here, head, note)
        return data

    def list(self, path: tuple[str | int, ...], indent: str) -> Any:
        return [self.scalar((*path, at), indent + "-", "") for at in range(self.draw(st.integers(1, 3)))]

    def scalar(self, path: tuple[str | int, ...], head: str, note: str) -> Any:
        self.scalars.append(path)
        written, value = self.draw(st.sampled_from([
            (" v1", "v1"), (" 'it''s'", "it's"), (' "\\u00e9 #"', "é #"), (" 010", 10), (" 3.10", 3.1), ("", None),
            (" true", True), (" on", "on"), (" a b  c", "a b  c"), ("   😀", "😀"), (" ~", None), (" {}", {}),
        ]))  # fmt: skip
        self.rows.append(head + written + note)
        return value


written = st.composite(lambda draw: Written(draw))()


def lines(text: bytes) -> list[bytes]:
    return text.replace(b"\r\n", b"\n").split(b"\n")


@given(written, st.data())
def test_one_new_value_changes_one_line(document: Written, data: st.DataObject) -> None:
    assert parse(document.text).data == document.data
    path = data.draw(st.sampled_from(document.scalars))
    value = data.draw(VALUE | DATA)
    after = edit(document.text, {path: value})
    assert same_at(parse(after).data, document.data, path, value)
    before_lines, after_lines = document.text.splitlines(True), after.splitlines(True)
    assert len(before_lines) == len(after_lines)
    assert sum(one != other for one, other in zip(before_lines, after_lines, strict=True)) <= 1


@given(written, st.data())
def test_a_new_key_adds_one_line(document: Written, data: st.DataObject) -> None:
    path = (*data.draw(st.sampled_from(document.mappings)), data.draw(KEY.filter(lambda key: len(key) < 50)))
    assume(path not in document.keys and path[-1] not in ("p", "q", "a", "b", "über", "on", "1", "k k"))
    value = data.draw(VALUE)
    after = edit(document.text, {path: value})
    assert same_at(parse(after).data, document.data, path, value)
    before_lines, after_lines = lines(document.text), lines(after)
    assert len(after_lines) - len(before_lines) in (0, 1)
    if len(after_lines) > len(before_lines):
        at = next((i for i, (one, two) in enumerate(zip(before_lines, after_lines, strict=False)) if one != two), -1)
        assert at == -1 or after_lines[:at] + after_lines[at + 1 :] == before_lines
    assert after.endswith(b"\n") == document.text.endswith(b"\n")


@given(written, st.data())
def test_a_removed_key_takes_its_lines_only(document: Written, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(document.keys))
    after = edit(document.text, {path: DELETE})
    assert same_at(parse(after).data, document.data, path, DELETE)
    added = Counter(filter(None, lines(after))) - Counter(lines(document.text))
    assert added.total() <= 1  # the line of a parent that is empty now


def same_at(after: Any, before: Any, path: tuple[str | int, ...], value: Any) -> bool:
    expected = plain(before)
    holder = expected
    for step in path[:-1]:
        holder = holder[step]
    if value is DELETE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = plain(value)
    return bool(after == expected)


@given(st.text("ab1 \n:-?,[]{}#&*|>'\"<~", max_size=40), st.sampled_from([1, "x", "a\nb", [1, {"k": "#"}], DELETE]))
def test_any_edit_is_exact_or_refused(text: str, value: Any) -> None:
    try:
        before = parse(text.encode())
    except DocumentError:
        return
    for path in [*(path for path in before.lines if path), ("new",), ("a", "new")]:
        try:
            after = parse(edit(text.encode(), {path: value})).data
        except CannotEdit:
            continue
        if value is not DELETE:
            found = after
            for step in path:
                found = found[step]
            assert same(found, value)


def test_an_edit_that_would_outgrow_the_caps_is_refused() -> None:
    with pytest.raises(CannotEdit, match="read after"):
        edit(b"a: 1\n", {("a",): "x" * MAX_BYTES})
