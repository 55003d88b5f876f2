"""The chain behind what runs now: state -> outcome -> started event -> plan -> commit -> line of YAML and its author."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from controller.address import Address
from controller.clients.git import Repository
from controller.errors import NotFound
from controller.events import Event, sentence

Link = tuple[str, str, str, int]
"""(what, sentence, commit, sequence)"""


def chain(address: Address, events: Iterable[Event], repository: Repository, files: tuple[str, ...], head: str) -> list[Link]:
    """Newest first."""
    mine: list[Event] = []
    plans: dict[str, Event] = {}
    related: list[Event] = []
    for event in events:
        if event.subject == address:
            mine.append(event)
        elif event.type == "turnout.plan.made.v1":
            plans[event.statecommit] = event
        elif _goes_with(address, event):
            related.append(event)
    if not mine:
        raise NotFound(f"the log has no event about {address}", "it was never planned here; try `turnout plan`")
    return list(_links(address, mine, related, plans, repository, files, head))


def _goes_with(address: Address, event: Event) -> bool:
    """Actions of what has the same name or works on the address, and write-backs that edit it."""
    if event.type.startswith("turnout.edits."):
        return address in (event.data.get("edits") or {})
    name = event.subject.partition("/")[2]
    return event.type.startswith("turnout.action.") and address.name in (_binding_of(event), name)


def _links(
    address: Address,
    mine: list[Event],
    related: list[Event],
    plans: dict[str, Event],
    repository: Repository,
    files: tuple[str, ...],
    head: str,
) -> Iterator[Link]:
    done = next((e for e in reversed(mine) if e.type == "turnout.action.succeeded.v1"), None)
    after = done.data.get("after") if done else None
    yield "runs", _state(after) if after else "nothing: it is not there", "", done.sequence if done else 0
    for event in reversed(mine[-12:]):
        yield "event", sentence(event), event.statecommit, event.sequence
    for event in reversed(related[-6:]):
        yield "related", sentence(event), event.statecommit, event.sequence
    commit = done.statecommit if done else mine[-1].statecommit
    if commit in plans:
        yield "plan", sentence(plans[commit]), commit, plans[commit].sequence
    for path in files:
        for info in repository.history(head, path):
            yield "commit", f'"{info.subject}" by {info.author} <{info.email}> changed {path}', info.id, 0
            for trailer in ("Reviewed-by", "Approved-by", "Event", "Intent"):
                for line in info.message.splitlines():
                    if line.startswith(f"{trailer}: "):
                        yield "review" if trailer.endswith("-by") else "cause", line, info.id, 0
            break
        yield "file", path, head, 0


def _state(after: dict[str, Any]) -> str:
    keys = [key for key in ("phase", "model", "version", "endpoint", "weight") if key in after]
    return ", ".join(f"{key} {after[key]}" for key in keys) or "as planned"


def _binding_of(event: Event) -> str:
    after = event.data.get("after")
    return str(after.get("binding", "")) if isinstance(after, dict) else ""
