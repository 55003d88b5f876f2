"""Reading YAML: what a scalar means, where each value stands, and what is refused before it is built."""

import copy
import pickle
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller import document
from controller.document import DocumentError, Integer, Number, parse, plain


@pytest.fixture(autouse=True, params=["libyaml", "pure"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pure":
        monkeypatch.setattr(document, "_LOADER", yaml.SafeLoader)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML was built without libyaml")
    return str(request.param)


def refused(text: bytes) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert caught.value.line >= 1
    assert caught.value.column >= 1
    return caught.value


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", None), ("~", None), ("null", None), ("NULL", None), ("nULL", "nULL"),
        ("true", True), ("True", True), ("FALSE", False), ("on", "on"), ("no", "no"), ("yes", "yes"), ("y", "y"),
        ("12:30", "12:30"), ("1_000", "1_000"), ("2026-11-01", "2026-11-01"), ("1.4.0", "1.4.0"), ("v1", "v1"),
        ("0", 0), ("010", 10), ("+1", 1), ("-0", 0), ("0o17", 15), ("0x1F", 31), ("0b1", "0b1"),
        ("3.10", 3.1), ("1e3", 1000.0), ("1.", 1.0), (".5", 0.5), ("-1.5E-3", -0.0015), (".", "."), ("-", [None]),
        ("'1'", "1"), ('"null"', "null"), ("|\n  1\n", "1\n"), (">-\n  a\n  b", "a b"),
        ("!!str 010", "010"), ("!!int '3'", 3), ("!!float 3", 3.0), ("!!bool 'true'", True), ("!!null ''", None),
        ("! 5", "5"), ("!!map {}", {}), ("!!seq []", []), ('"\\u2028"', "\u2028"), ("é😀", "é😀"),
    ],
)  # fmt: skip
def test_a_scalar_means_what_yaml_1_2_says(written: str, meant: Any) -> None:
    found = parse(f"key: {written}\n".encode() if meant != [None] else b"key:\n  -\n").data["key"]
    assert found == meant
    assert type(plain(found)) is type(meant)


def test_numbers_keep_the_text_the_user_wrote() -> None:
    data = parse(b"version: 3.10\nid: 010\n").data
    assert (data["version"], data["version"].text) == (3.1, "3.10")
    assert (data["id"], data["id"].text) == (10, "010")
    assert isinstance(data["version"], Number)
    for clone in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert isinstance(clone["id"], Integer)
        assert clone["id"].text == "010"
    assert [type(value) for value in plain(data).values()] == [float, int]


def test_keys_are_the_text_the_user_wrote() -> None:
    assert parse(b"on: a\n1: b\n3.10: c\nnull: d\n").data == {"on": "a", "1": "b", "3.10": "c", "null": "d"}


@pytest.mark.parametrize("text", [b"", b"\n\n", b"# only a comment\n", b"---\n", b"---\n...\n", b"\xef\xbb\xbf"])
def test_an_empty_document_is_none(text: bytes) -> None:
    assert parse(text).data is None


def test_every_path_has_its_line() -> None:
    found = parse(b"\xef\xbb\xbf# c\na:\n  b: [1,\n    2]\r\n  c:\n  - x: 1\n    y:\n\n      2\n")
    assert found.data == {"a": {"b": [1, 2], "c": [{"x": 1, "y": 2}]}}
    assert found.lines == {
        (): 2, ("a",): 2, ("a", "b"): 3, ("a", "b", 0): 3, ("a", "b", 1): 4, ("a", "c"): 5,
        ("a", "c", 0): 6, ("a", "c", 0, "x"): 6, ("a", "c", 0, "y"): 7,
    }  # fmt: skip
    assert found.line(("a", "c", 0, "missing", "deeper")) == 6


def test_merge_keys_and_aliases_lead_to_the_lines_they_name() -> None:
    text = b"base: &base\n  x: 1\n  y: [2]\none:\n  <<: *base\n  x: 3\n"
    text += b"many:\n  <<: [{z: 4}, *base, {z: 5}]\nlist: [*base]\n"
    found = parse(text)
    assert found.data["one"] == {"x": 3, "y": [2]}
    assert found.data["many"] == {"x": 1, "y": [2], "z": 4}
    assert found.data["list"] == [{"x": 1, "y": [2]}]
    assert (found.lines["one", "x"], found.lines["one", "y"], found.lines["list", 0, "y", 0]) == (6, 3, 3)
    assert all("<<" not in str(step) for path in found.lines for step in path)
    found.data["one"]["y"].append(1)  # what two paths share in the file is two values in the data
    assert found.data["base"]["y"] == [2]
    assert parse(b'"<<": 1\n').data == {"<<": 1}
    assert parse(b"<<: &x {a: 1}\nb: *x\n").data == {"a": 1, "b": {"a": 1}}
    assert parse(b"&k key: v\nother: *k\n").data == {"key": "v", "other": "key"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (b"a: 1\nb: 2\na: 3\n", 3, 'the key "a" twice, first on line 1'),
        (b"1: a\n'1': b\n", 2, 'the key "1" twice'),
        (b"<<: {a: 1}\n<<: {b: 1}\n", 2, "twice"),
        (b"a: 1\n---\nb: 2\n", 2, "exactly one"),
        (b"a: 1\n---\n", 2, "exactly one"),
        (b"%YAML 1.1\n---\na: 1\n", 1, "YAML 1.2"),
        (b"a: &a [*a]\n", 1, "cyclic"),
        (b"a: &a {b: [{c: *a}]}\n", 1, "cyclic"),
        (b"a: *b\n", 1, 'no anchor "&b"'),
        (b"a: !python/object:os.system 1\n", 1, "!python/object:os.system"),
        (b"a: !!binary aGk=\n", 1, "binary"),
        (b"a: !!set {x}\n", 1, "set"),
        (b"a: !!int x\n", 1, "!!int"),
        (b"!!int a: x\n", 1, "a key is text"),
        (b"a: .inf\n", 1, '".inf"'),
        (b"a: -.INF\n", 1, "finite"),
        (b"a: .nan\n", 1, "finite"),
        (b"a: 1e999\n", 1, '"1e999"'),
        (b"a: " + b"9" * 301, 1, "300 digits"),
        (b"a: {{ value }}\n", 1, "a key is text"),
        (b"? [a]\n: b\n", 1, "a key is text"),
        (b"a: &a x\n*a : 1\n", 2, "a key is text"),
        (b"<<: 1\n", 1, "a mapping or a list of mappings"),
        (b"a: 1\nb: \x1b[2J\n", 2, "U+001B"),
        (b'a: "\\e[2J"\n', 1, "U+001B"),
        (b'a: "\\0"\n', 1, "U+0000"),
        ("a: \x85".encode(), 1, "U+0085"),
        ("a: \u2028".encode(), 1, "escape"),
        ("a: \ufeff".encode(), 1, "U+FEFF"),
        (b'a: "\\ud800"\n', 1, ""),
        (b'a: "\\UFFFFFFFF"\n', 1, ""),
        (b"a: 1\nb: \xff\n", 2, "0xff"),
        ("a: 1".encode("utf-16"), 1, "UTF-8"),
        (b"a: [1, 2\n", 2, "not YAML"),
        (b"a: b: c\n", 1, '"a: b: c"'),
        (b"a: 1\n\tb: 2\n", 2, "not YAML"),
    ],
)
def test_refused_with_line_and_reason(text: bytes, line: int, says: str) -> None:
    error = refused(text)
    assert says in error.message
    assert error.line == line


@pytest.mark.parametrize(
    "text",
    [
        b"a" * (document.MAX_BYTES + 1),
        b"[" * 100_000,
        b"{a: " * 65 + b"1" + b"}" * 65,
        b"- " * 500_000,
        b"? " * 500_000,
        b"- 1\n" * 20_001,
        b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
        b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 80)),
        b"a: &a " + b"x" * 100_000 + b"\nb: [" + b"*a, " * 11 + b"]\n",
        b"a: &a {? " + b"x" * 100_000 + b" : 1}\nb: [" + b"*a, " * 11 + b"]\n",
        b"{<<: " * 60 + b"{" + b", ".join(b"k%d: 1" % i for i in range(3000)) + b"}" + b"}" * 60,
    ],
)
def test_caps_hold_before_anything_large_is_built(text: bytes) -> None:
    refused(text)


def test_the_caps_themselves_are_allowed() -> None:
    assert parse(b"[" * 64 + b"]" * 64).data is not None
    assert len(parse(b"- 1\n" * 19_999).data) == 19_999
    assert parse(b"a: " + b"x" * (document.MAX_BYTES - 3)).data is not None


@given(st.binary(max_size=80) | st.text("ab1 \n\t:-?,[]{}#&*!|>'\"%@`<~.\\x\ufeffé", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        found = parse(text)
    except DocumentError:
        return
    assert all(1 <= line <= text.count(b"\n") + text.count(b"\r") + 1 for line in found.lines.values())
