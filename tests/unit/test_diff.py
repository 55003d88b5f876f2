"""Field diffs are reversible, and an equal pair has none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.diff import ABSENT, FieldDiff, diff, flat, patched, reversed_

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@given(mappings, mappings)
def test_patched_and_back(before: dict[str, object], after: dict[str, object]) -> None:
    found = diff(before, after)
    assert patched(before, found) == after
    assert patched(after, reversed_(found)) == before


def test_a_new_mapping_is_told_field_by_field() -> None:
    assert flat(diff(ABSENT, {"a": {"b": 1}})) == (FieldDiff(("a", "b"), ABSENT, 1),)


def test_true_is_not_one() -> None:
    assert diff({"a": True}, {"a": 1}) == (FieldDiff(("a",), True, 1),)


def test_lists_are_compared_as_a_whole() -> None:
    (only,) = diff({"a": [1, 2]}, {"a": [1, 3]})
    assert (only.field, only.old, only.new) == ("a", [1, 2], [1, 3])
