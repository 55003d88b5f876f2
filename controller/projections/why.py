"""The chain behind what runs now: state -> outcome -> started event -> plan -> commit -> line of YAML and its author.

Of a version that was trained and judged also the evaluation, the training and the approvals that let it be there: found by the
fields of their outcomes, in the one walk over the log that the chain needs anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.address import Address
from controller.clients.git import Repository
from controller.errors import NotFound
from controller.events import Event, sentence
from controller.projections.version_facts import cost_of, dataset_label, shortened

Link = tuple[str, str, str, int]
"""(what, sentence, commit, sequence)"""
Label = tuple[str, str]
"""An agent and a version of it."""
ROLES = ("rollout", "evaluation", "conversion", "training")
"""What brings a version about, latest first."""


@dataclass(slots=True)
class Walk:
    """What one walk over the log finds; of each version only the newest outcome of each role is kept."""

    address: Address
    mine: list[Event] = field(default_factory=list)
    plans: dict[str, Event] = field(default_factory=dict)
    related: list[Event] = field(default_factory=list)
    made: dict[tuple[str, Label], Event] = field(default_factory=dict)
    trainings: dict[str, Label] = field(default_factory=dict)
    approved: dict[str, Event] = field(default_factory=dict)

    def see(self, event: Event) -> None:
        if event.type == "turnout.approval.granted.v1":
            self.approved[event.subject] = event
        elif event.type == "turnout.action.succeeded.v1":
            self._outcome(event)
        if event.subject == self.address:
            self.mine.append(event)
        elif event.type == "turnout.plan.made.v1":
            self.plans[event.statecommit] = event
        elif _goes_with(self.address, event):
            self.related.append(event)

    def _outcome(self, event: Event) -> None:
        after = event.data.get("after")
        role, label = role_of(after) if isinstance(after, Mapping) else ("", ("", ""))
        if role == "conversion":
            assert isinstance(after, Mapping)
            label = self.trainings.get(str(_mapping(after.get("source")).get("training")), label)
        if role == "training":
            self.trainings[event.subject.partition("/")[2]] = label
        if role and all(label):
            self.made[role, label] = event


def chain(address: Address, events: Iterable[Event], repository: Repository, files: tuple[str, ...], head: str) -> list[Link]:
    """Newest first."""
    walk = Walk(address)
    for event in events:
        walk.see(event)
    if not walk.mine:
        raise NotFound(f"the log has no event about {address}", "it was never planned here; try `turnout plan`")
    return list(_links(walk, repository, files, head))


def _goes_with(address: Address, event: Event) -> bool:
    """Actions of what has the same name or works on the address, and write-backs that edit it."""
    if event.type.startswith("turnout.edits."):
        return address in (event.data.get("edits") or {})
    name = event.subject.partition("/")[2]
    return event.type.startswith("turnout.action.") and address.name in (_binding_of(event), name)


def _links(walk: Walk, repository: Repository, files: tuple[str, ...], head: str) -> Iterator[Link]:
    done = next((e for e in reversed(walk.mine) if e.type == "turnout.action.succeeded.v1"), None)
    after = done.data.get("after") if done else None
    yield "runs", _state(after) if after else "nothing: it is not there", "", done.sequence if done else 0
    for event in reversed(walk.mine[-12:]):
        yield "event", sentence(event), event.statecommit, event.sequence
    for event in reversed(walk.related[-6:]):
        yield "related", sentence(event), event.statecommit, event.sequence
    yield from _reasons(walk, after if isinstance(after, Mapping) else {})
    commit = done.statecommit if done else walk.mine[-1].statecommit
    if commit in walk.plans:
        yield "plan", sentence(walk.plans[commit]), commit, walk.plans[commit].sequence
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


# -- what let a version be there -------------------------------------------------------------------------------------


def role_of(after: Mapping[str, Any]) -> tuple[str, Label]:
    """What an outcome did for which version: by its fields, so that no kind has to be known."""
    agent, candidate = str(after.get("agent") or ""), _mapping(after.get("candidate"))
    version = str(candidate.get("version") or "")
    if after.get("verdict") and agent:
        return "evaluation", (agent, version)
    if after.get("binding") and candidate and after.get("phase") != "progressing":
        return "rollout", (str(after["binding"]), version)
    if after.get("phase") != "succeeded":
        return "", ("", "")
    if after.get("method") and agent:
        return "training", (agent, str(after.get("version") or ""))
    if after.get("files") and "source" in after:
        return "conversion", (agent, str(after.get("version") or ""))
    return "", ("", "")


def _reasons(walk: Walk, after: Mapping[str, Any]) -> Iterator[Link]:
    candidate = _mapping(after.get("candidate"))
    agent = after.get("agent") or after.get("binding") or walk.address.name
    label = (str(agent), str(candidate.get("version") or after.get("version") or ""))
    found = [(role, event) for role in ROLES if (event := walk.made.get((role, label))) is not None]
    for role, event in found:
        if event.subject != walk.address or role != "rollout":
            yield role, _told(role, event), event.statecommit, event.sequence
    for subject in dict.fromkeys((str(walk.address), *(event.subject for _, event in found))):
        if subject in walk.approved:
            event = walk.approved[subject]
            yield (
                "approval",
                f"{event.subject}: {sentence(event).partition(': ')[2]}",
                str(event.data.get("commit") or ""),
                event.sequence,
            )


def _told(role: str, event: Event) -> str:
    after = event.data["after"]
    name, usd = event.subject.partition("/")[2], cost_of(event.data)
    paid = f", {usd:.2f} USD" if usd is not None else ""
    if role == "evaluation":
        return f"{name}: {after['verdict']}{_score(after)} on {after.get('dataset') or 'its data set'}{paid}"
    if role == "training":
        base = f"{after.get('base_model') or 'its base model'}{_at(after.get('base_revision'))}"
        data = shortened(dataset_label(_mapping(after.get("dataset")))) or "its data set"
        result = f", result {after['result']}" if after.get("result") else ""
        where = f" at {after['repo']}{_at(after.get('revision'))}" if after.get("repo") else ""
        return f"{name}: {after['method']} of {base} on {data}{paid}{result}{where}"
    if role == "conversion":
        files = [each for each in after["files"] if isinstance(each, Mapping)]
        return f"{name}: {', '.join(str(each.get('name')) for each in files[:8])}{paid}"
    return f"{name}: {after.get('phase')}{', ' + str(after['verdict']) if after.get('verdict') else ''}"


def _score(after: Mapping[str, Any]) -> str:
    score = _mapping(after.get("score"))
    mine, theirs = score.get("candidate"), score.get("baseline")
    if mine is None:
        return ""
    return f", score {100 * mine:.1f}" + (f" against {100 * theirs:.1f}" if theirs is not None else "")


def _at(revision: Any) -> str:
    return f"@{str(revision)[:12]}" if revision else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
