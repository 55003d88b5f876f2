"""Rows of a data set -> the questions that both sides are asked, and what was left out and why.

Place in the flow: first. Which rows are chosen depends on the rows and the seed alone, so that a resumed run asks the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from controller.clients.datasets import objects_of
from controller.clients.evaluation_work import Order, Work
from controller.clients.huggingface import Hub
from controller.clients.langsmith import LangSmith
from controller.datasets.rows import Fault, Row, normalised
from controller.errors import Permanent
from controller.judgement.results import Example
from controller.settings import Settings

LANGSMITH, HUB = "ls://", "hf://"
BROKEN_MOST = 0.1
"""Share of rows that may be unusable; beyond it the data set is not what somebody thinks it is."""


class Question(NamedTuple):
    """One question. `messages` are the chat; `reference` is what a judge is told is expected."""

    example: Example
    messages: tuple[dict[str, Any], ...]
    reference: str


class Questions(NamedTuple):
    """All of them by id. `notes` are sentences for the report; `source` says where they are from.

    That is a revision, of LangSmith also id and url; nothing for files.
    """

    by_id: dict[str, Question]
    notes: tuple[str, ...]
    source: dict[str, str]


def gathered(order: Order, work: Work, settings: Settings, langsmith: LangSmith | None, hub: Hub) -> Questions:
    """Raises Permanent for a data set that cannot be used, Temporary where it cannot be reached."""
    raw, source = rows_of(order, work, langsmith, hub)
    trained: set[str] = set()
    unread: list[str] = []
    for each in order.trained_on:
        found = keys_of(each, settings, langsmith, hub)
        trained |= found or set()
        unread += (
            [f"Whether questions are among those of {each['source']}, which was trained on, is not known."] if found is None else []
        )
    spec = order.spec
    chosen, notes = chosen_of(
        raw, most=spec["examples"], longest=spec["maxInputTokens"], seed=spec["seed"], trained=trained, system=spec["system"] or ""
    )
    if not chosen:
        raise Permanent(f"{order.state['dataset']} has no question that can be asked: {'; '.join(notes) or 'it is empty'}")
    return Questions({one.example.id: one for one in chosen}, (*notes, *unread), source)


def rows_of(order: Order, work: Work, langsmith: LangSmith | None, hub: Hub) -> tuple[list[Any], dict[str, str]]:
    """As they were when the evaluation started: what lies elsewhere is kept at its revision before the first call."""
    path, source = work.path("dataset.jsonl"), work.read("source.json")
    elsewhere = order.dataset.get("langsmith") or order.dataset.get("huggingface")
    if not path.exists() or (elsewhere and source is None):
        rows, source = _from_hub(order, hub) if order.dataset.get("huggingface") else _from_langsmith(order, langsmith)
        work.write("dataset.jsonl", b"\n".join(msgspec.json.encode(row) for row in rows))
        work.write("source.json", json.dumps(source).encode())
    return parsed(path.read_bytes(), str(order.state["dataset"])), source or {}


def _from_langsmith(order: Order, langsmith: LangSmith | None) -> tuple[list[Any], dict[str, str]]:
    if langsmith is None:
        raise Permanent("spec.dataset is in LangSmith, and environment.yaml has no spec.langsmith; add it, or use files")
    found = langsmith.dataset(order.dataset["langsmith"], order.dataset.get("revision") or "latest", order.dataset.get("split"))
    rows = [{"id": one.id, **one.row()} for one in found.examples]
    return rows, {"id": found.id, "revision": found.revision, "digest": found.digest, "url": found.url}


def _from_hub(order: Order, hub: Hub) -> tuple[list[Any], dict[str, str]]:
    """Whatever branch or tag is written, the rows are those of one commit."""
    name, revision = order.dataset["huggingface"], order.dataset.get("revision") or "main"
    found = hub.repositories.rows(name, revision=revision, split=order.dataset.get("split"))
    return list(found.rows), {"repository": name, "revision": found.revision}


def parsed(content: bytes, name: str) -> list[Any]:
    """JSON lines. Raises Permanent that names the line."""
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(msgspec.json.decode(line))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Permanent(f"{name}, line {number}: not JSON ({error}); every line is one JSON object") from None
    return rows


def keys_of(each: Mapping[str, str | None], settings: Settings, langsmith: LangSmith | None, hub: Hub) -> set[str] | None:
    """Digests of the questions of a data set that a side was trained on; None where it cannot be read.

    `revision` is the one that was trained on; of files the objects, of the Hub the commit.
    """
    source, split, revision = each["source"] or "", each["split"], each.get("revision") or ""
    found: Sequence[Any] | None
    try:
        if source.startswith(LANGSMITH):
            found = langsmith.dataset(source.removeprefix(LANGSMITH), split=split).rows() if langsmith else None
        elif source.startswith(HUB):
            found = hub.repositories.rows(source.removeprefix(HUB), revision=revision or "main", split=split).rows
        elif "://" in source:
            found = None
        else:
            read = objects_of(settings)
            named = zip(source.split(", "), revision.split(), strict=False)
            found = [row for path, at in named for row in parsed(read(path, at), path)] if revision else None
    except Permanent:  # it was there when it was trained on
        found = None
    if found is None:
        return None
    return {row.key() for row in (question_of(raw, number) for number, raw in enumerate(found, 1)) if isinstance(row, Row)}


def chosen_of(
    raw: Sequence[Any], *, most: int, longest: int, seed: int, trained: Collection[str] = (), system: str = ""
) -> tuple[list[Question], list[str]]:
    """At most `most` questions of at most `longest` tokens (bytes / 4), each once, and notes. Raises Permanent for broken rows."""
    read = [(row, question_of(row, number)) for number, row in enumerate(raw, 1)]
    bad = [found for _, found in read if isinstance(found, Fault)]
    good = [(row, found) for row, found in read if isinstance(found, Row)]
    if len(bad) > BROKEN_MOST * len(raw):
        raise Permanent(f"{len(bad)} of {len(raw)} rows of the data set cannot be used, the first: {bad[0]}; correct them")
    questions: dict[str, Question] = {}
    long = seen = again = 0
    for row, found in good:
        name = str(row["id"]) if isinstance(row.get("id"), str) else found.key()[:16]
        if found.key() in trained:
            seen += 1
        elif sum(len(part.content.encode("utf-8", "surrogatepass")) for part in found.prompt) > 4 * longest:
            long += 1
        elif name in questions:
            again += 1
        else:
            questions[name] = _question(name, row, found, system)
    ordered = sorted(questions, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogatepass")).digest())
    told = [
        (len(bad), f"cannot be used (the first: {bad[0]})" if bad else ""),
        (seen, "were left out: the candidate or the baseline was trained on them"),
        (long, f"were left out: longer than {longest} tokens"),
        (again, "were left out: the same question as another"),
        (max(0, len(ordered) - most), f"were left out: the seed chose {most}"),
    ]
    return [questions[name] for name in ordered[:most]], [f"{count} of {len(raw)} rows {why}." for count, why in told if count]


def question_of(raw: Any, number: int) -> Row | Fault:
    """The question alone has to be there: what is expected may have any form, evaluators say where they look."""
    if isinstance(raw, Mapping) and isinstance(raw.get("inputs"), Mapping):
        return normalised({"inputs": raw["inputs"], "outputs": {"answer": "-"}}, number)
    return normalised(raw, number)


def _question(name: str, raw: Mapping[str, Any], row: Row, system: str) -> Question:
    outputs = raw.get("outputs")
    if isinstance(raw.get("inputs"), Mapping):
        inputs, expected = dict(raw["inputs"]), dict(outputs) if isinstance(outputs, Mapping) else {}
    else:
        inputs = {"prompt": _text(row.prompt)}
        expected = {"answer": _text(row.answer or row.chosen)}
    metadata = raw.get("metadata")
    example = Example(name, inputs, expected, dict(metadata) if isinstance(metadata, Mapping) else {})
    head = ({"role": "system", "content": system},) if system else ()
    messages = (*head, *({"role": part.role, "content": part.content, **part.extra} for part in row.prompt))
    return Question(example, messages, json.dumps(expected, ensure_ascii=False, default=str) if expected else "")


def _text(parts: Iterable[Any]) -> str:
    return "\n".join(part.content for part in parts)
