"""A registry.json of before becomes one event. Facts need no lease; nothing of the desired state changes.

Place in the flow: beside `rollback`, called by the facade. The file is read and checked whole before the log is touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller import loading, reconcile
from controller.errors import LostRace
from controller.loading import Flow
from controller.projections.registry import IMPORTS, REGISTRY
from controller.registry_file import Form, read

TRIES = 5
"""A lost race means that a pass appended meanwhile: look again."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of it: `sequence` of the event that has this content, and whether it was there `already`."""

    source: str
    form: Form
    digest: str
    agents: int
    versions: int
    sequence: int
    already: bool


def import_registry(flow: Flow, content: bytes, source: str, by: str) -> Imported:
    """Once per content. Raises InvalidState with every problem of the file, LostRace, RemoteDown."""
    found = read(content, source)
    agents = found.agents
    versions = sum(len(told["history"]) for told in agents.values())
    with flow.cache.lock():
        for attempt in range(TRIES):
            loaded = loading.load(flow)
            known = flow.folds.state(REGISTRY.name, IMPORTS).get(found.digest)
            if known:
                return Imported(source, found.form, found.digest, len(agents), versions, int(known[0]), already=True)
            writer = reconcile.open_writer(flow, loaded.commit)
            data = {"source": source, "digest": found.digest, "form": found.form, "versions": versions, "agents": agents, "by": by}
            try:
                writer.facts([writer.event("registry.imported", "", data)])
            except LostRace:
                if attempt == TRIES - 1:
                    raise
                continue
            flow.folds.catch_up()
            return Imported(source, found.form, found.digest, len(agents), versions, writer.position, already=False)
    raise AssertionError("every try returns or raises")
