"""What the log knows of an evaluation, as the pages that people read. From events alone: no file of the machine that ran it.

Place in the flow: a front end gives it the events of one address; `judgement` makes the page. The report is the evidence of the
event that ended the run (in a blob of the same commit where it is large).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from controller.errors import LogDamaged, NotFound
from controller.events import Event
from controller.judgement.page import html_page
from controller.judgement.record import Record
from controller.judgement.report import markdown

ENDED = "turnout.action.started.v1"


def record_of(events: Iterable[Event], address: str) -> Record:
    """The newest report among the events of one address. Raises NotFound where there is none yet, LogDamaged."""
    found: Event | None = None
    told = ""
    for event in events:
        if event.subject != address:
            continue
        told = str(event.data.get("reason") or told)
        if event.type == ENDED and "report" in (event.data.get("evidence") or {}):
            found = event
    if found is None:
        raise NotFound(
            f"{address} has no report yet", f"it is written when the evaluation ends; so far: {told or 'it has not started'}"
        )
    try:
        return msgspec.convert(found.data["evidence"]["report"], Record)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise LogDamaged(f"event {found.sequence} of {address} has a report that cannot be read: {error}") from error


def as_markdown(record: Record) -> str:
    """For a pull request."""
    return markdown(record)


def as_html(record: Record) -> str:
    """One file that needs nothing else: plots, answers side by side."""
    return html_page(record)
