"""Who refers to whom: dependency order, and cycles told by name. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from controller.address import Address


def order(nodes: Iterable[Address], needs: Mapping[Address, Iterable[Address]]) -> tuple[list[Address], list[list[Address]]]:
    """Nodes with everything they need before them, ties by address; and the cycles that had to be cut out.

    `needs[x]` may name a whole kind (`Kind/*`) and addresses that are not nodes (ignored). A member of a cycle is not in
    the order; what needs it is, after the rest.
    """
    known = sorted(nodes)
    present = set(known)
    kinds: dict[str, list[Address]] = {}
    for node in known:
        kinds.setdefault(node.kind, []).append(node)
    missing: dict[Address, int] = dict.fromkeys(known, 0)
    after: dict[Address, list[Address]] = {}
    for node, wanted in needs.items():
        if node not in present:
            continue
        for target in set(_expand(wanted, kinds)):
            if target in present and target != node:
                missing[node] += 1
                after.setdefault(target, []).append(node)
    ready = [node for node in known if not missing[node]]
    done: list[Address] = []
    while ready:
        node = heapq.heappop(ready)
        done.append(node)
        for dependant in after.get(node, ()):
            missing[dependant] -= 1
            if not missing[dependant]:
                heapq.heappush(ready, dependant)
    if len(done) == len(known):
        return done, []
    return _cut_cycles(known, needs, kinds, done)


def _expand(wanted: Iterable[Address], kinds: Mapping[str, list[Address]]) -> Iterable[Address]:
    for target in wanted:
        if target.is_wildcard:
            yield from kinds.get(target.kind, ())
        else:
            yield target


def _cut_cycles(
    known: list[Address],
    needs: Mapping[Address, Iterable[Address]],
    kinds: Mapping[str, list[Address]],
    done: list[Address],
) -> tuple[list[Address], list[list[Address]]]:
    """Names each cycle once, leaves its members out, and orders the rest again."""
    left = set(known) - set(done)
    edges = {node: sorted(set(_expand(needs.get(node, ()), kinds)) & left) for node in left}
    cycles: list[list[Address]] = []
    members: set[Address] = set()
    for start in sorted(left):
        if start in members:
            continue
        cycle = _cycle_through(start, edges)
        if cycle:
            cycles.append(cycle)
            members.update(cycle)
    rest = [node for node in known if node not in members]
    kept = {node: [target for target in needs.get(node, ()) if target not in members] for node in rest}
    ordered, _ = order(rest, kept)
    return ordered, cycles


def _cycle_through(start: Address, edges: Mapping[Address, list[Address]]) -> list[Address]:
    """The path from `start` back to itself, or nothing."""
    trail: dict[Address, Address] = {}
    queue = [start]
    for node in queue:
        for target in edges.get(node, ()):
            if target == start:
                path = [node]
                while path[-1] != start:
                    path.append(trail[path[-1]])
                return path[::-1]
            if target not in trail and target != start:
                trail[target] = node
                queue.append(target)
    return []
