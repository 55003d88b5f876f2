"""Order and cycles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.address import Address
from controller.graph import order

A, B, C, D = (Address(f"K/{name}") for name in "abcd")


def test_needs_come_first_and_ties_go_by_address() -> None:
    assert order([C, A, B], {A: [C]}) == ([B, C, A], [])


def test_a_whole_kind() -> None:
    other = Address("Other/x")
    assert order([other, B, A], {other: [Address("K/*")]}) == ([A, B, other], [])


def test_a_cycle_is_named_and_the_rest_goes_on() -> None:
    ordered, cycles = order([A, B, C, D], {A: [B], B: [A], C: [A], D: []})
    assert cycles == [[A, B]]
    assert ordered == [C, D]


def test_an_unknown_target_does_not_matter() -> None:
    assert order([A], {A: [Address("K/nowhere")]}) == ([A], [])


nodes = [Address(f"K/n{number}") for number in range(8)]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_without_cycles_everything_is_ordered(edges: list[tuple[int, int]]) -> None:
    needs: dict[Address, list[Address]] = {}
    for high, low in edges:
        if high > low:
            needs.setdefault(nodes[high], []).append(nodes[low])
    ordered, cycles = order(nodes, needs)
    assert not cycles
    assert sorted(ordered) == sorted(nodes)
    place = {node: index for index, node in enumerate(ordered)}
    assert all(place[low] < place[high] for high, lows in needs.items() for low in lows)
