"""OpenLineage run events as a graph, and what a resource came from and led to as a tree. Pure: no log, no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.projections.lineage import PARENT, RunEvent
from controller.projections.lineage_data import OURS

Key = tuple[str, str]
DECISIONS = frozenset({"rollouts", "evaluations", "agents"})
"""Datasets that say no more than the run that made them: a tree shows the run alone."""
MOST_TEXT = 200  # of what a run says of itself


@dataclass(slots=True)
class Node:
    """A run, with what is known of it last. `inputs` and `outputs` are datasets by namespace and name, with their version."""

    id: str
    job: str
    first: int
    state: str = ""
    facets: Mapping[str, Any] = field(default_factory=dict)
    inputs: dict[Key, str] = field(default_factory=dict)
    outputs: dict[Key, str] = field(default_factory=dict)

    @property
    def told(self) -> Mapping[str, Any]:
        found = self.facets.get("turnout_run", {})
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a tree: how deep, what, and which run or dataset it is about. `seen`: its branch is shown further up."""

    depth: int
    what: str  # run, data
    text: str
    state: str = ""
    commit: str = ""
    sequence: int = 0
    seen: bool = False


class Graph:
    """Runs, and which of them read and made a dataset."""

    def __init__(self, events: Iterable[RunEvent]) -> None:
        self.runs: dict[str, Node] = {}
        self.made: dict[Key, list[Node]] = {}
        self.read: dict[Key, list[Node]] = {}
        for place, event in enumerate(events):
            if event["job"]["name"] != PARENT:
                self._add(place, event)
        for node in self.runs.values():
            for key in node.outputs:
                self.made.setdefault(key, []).append(node)
            for key in node.inputs:
                self.read.setdefault(key, []).append(node)

    def _add(self, place: int, event: RunEvent) -> None:
        run = event["run"]
        node = self.runs.setdefault(run["runId"], Node(run["runId"], event["job"]["name"], place))
        node.state, node.facets = event["eventType"], run["facets"]
        node.inputs |= {(each["namespace"], each["name"]): _version(each) for each in event["inputs"]}
        node.outputs |= {(each["namespace"], each["name"]): _version(each) for each in event["outputs"]}

    def newest(self, job: str) -> Node | None:
        """The last run of a job that counts: one that failed to begin does not hide the one before."""
        found = [node for node in self.runs.values() if node.job == job]
        return next((node for node in reversed(found) if node.state not in ("FAIL", "ABORT")), found[-1] if found else None)

    def jobs(self, kind: str) -> list[str]:
        return sorted({node.job for node in self.runs.values() if node.job.startswith(f"{kind}/")})

    def upstream(self, start: Node) -> Iterator[Line]:
        """What it came from, depth first; each branch once."""
        yield from self._walk(start, 0, set(), up=True)

    def downstream(self, start: Node) -> Iterator[Line]:
        """What it led to, without the run itself."""
        for line in self._walk(start, 0, set(), up=False):
            if line.depth:
                yield line

    def connected(self, start: Node) -> set[str]:
        """Ids of all runs up and down from this one."""
        out = {start.id}
        for up in (True, False):
            left = [start]
            while left:
                for each in self._beyond(left.pop(), up):
                    if each.id not in out:
                        out.add(each.id)
                        left.append(each)
        return out

    def _beyond(self, node: Node, up: bool) -> Iterator[Node]:
        for key in node.inputs if up else node.outputs:
            yield from self._next(node, key, up)

    def _next(self, node: Node, key: Key, up: bool) -> list[Node]:
        """The run that had made a dataset when it was read, or all that read it after it was made."""
        if up:
            before = [each for each in self.made.get(key, ()) if each.first < node.first]
            good = [each for each in before if each.state not in ("FAIL", "ABORT")]
            return (good or before)[-1:]
        return [each for each in self.read.get(key, ()) if each.first > node.first]

    def _walk(self, node: Node, depth: int, seen: set[str], *, up: bool) -> Iterator[Line]:
        again = node.id in seen
        told = node.told
        yield Line(depth, "run", _told(node), node.state, str(told.get("commit", "")), int(told.get("sequence", 0)), again)
        if again:
            return
        seen.add(node.id)
        for key, version in (node.inputs if up else node.outputs).items():
            decided = key[0] == OURS and key[1].partition("/")[0] in DECISIONS
            if not decided:
                yield Line(depth + 1, "data", shown(key, version))
            for each in self._next(node, key, up):
                yield from self._walk(each, depth + (1 if decided else 2), seen, up=up)


def _told(node: Node) -> str:
    reason, cost = clipped(str(node.told.get("reason", ""))), node.told.get("costUsd")
    paid = f" ({cost:.2f} USD)" if isinstance(cost, int | float) and cost and "USD" not in reason else ""
    return f"{node.job}: {reason}{paid}" if reason else f"{node.job}{paid}"


def clipped(text: str) -> str:
    """The first sentences that fit."""
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT].rpartition(" ")[0] + " ..."


def shown(key: Key, version: str) -> str:
    """A dataset for people: `https://huggingface.co/acme/docs@c0ffee`."""
    namespace, name = key
    where = f"{namespace}/{name}" if namespace.startswith("http") else name if namespace == "turnout" else f"{namespace}:{name}"
    return f"{where}@{version[:12]}" if version else where


def _version(dataset: Mapping[str, Any]) -> str:
    return str(dataset.get("facets", {}).get("version", {}).get("datasetVersion", ""))
