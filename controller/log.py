"""The event log: `append(events, expect=position)` and `read(after=position)`, in memory or on a branch of the repository.

One append is one commit that adds one JSON-lines segment; `git log events/<environment>` is the audit trail. A position is the
sequence of the last event (0 = empty). An append is a compare-and-swap: `expect` is the position that was looked at, and a
different one raises LostRace. With a remote the log is the remote: an append returns when it is pushed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from controller.clients.git import Identity, Repository
from controller.clients.git_remote import Remote
from controller.errors import LogDamaged, LogRewritten, LostRace
from controller.events import MAX_EVENT_BYTES, Event, decode, encode, sentence
from controller.resource import digest, encode_json

SUBJECT_ORDER = ("edits.", "action.failed", "action.", "condition.", "retry.", "plan.", "log.", "lease.")


class EventLog(Protocol):
    """What every store promises (tests/contracts/test_log.py holds them to it)."""

    def refresh(self, *, remote: bool = True) -> int:
        """Looks at the newest state (only at what is here, without `remote`) and returns its position.

        Raises RemoteDown, LogRewritten.
        """
        ...

    def append(self, events: Sequence[Event], expect: int) -> tuple[Event, ...]:
        """All or nothing, deferred ones first; they come back with their sequence. Raises LostRace, RemoteDown."""
        ...

    def read(self, after: int = 0) -> Iterator[Event]:
        """Events with a higher sequence, in order."""
        ...

    def defer(self, events: Sequence[Event]) -> None:
        """Keeps facts that cannot be appended now; the next append carries them, marked `reportedlate`."""
        ...

    def deferred(self) -> list[Event]:
        """What waits for the next append."""
        ...

    def follow(self, remote: Remote | None) -> None:
        """From now on the log is that of this remote; None = of this repository."""
        ...


class MemoryLog:
    """For tests and the simulation; several controllers may share one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.outbox: list[Event] = []
        self.appends = 0

    def refresh(self, *, remote: bool = True) -> int:
        return len(self.events)

    def append(self, events: Sequence[Event], expect: int) -> tuple[Event, ...]:
        if expect != len(self.events):
            raise LostRace(f"the log is at {len(self.events)}, not at {expect}")
        late, self.outbox = self.outbox, []
        batch = _numbered([*late, *events], expect)
        self.events.extend(batch)
        self.appends += bool(batch)
        return batch

    def read(self, after: int = 0) -> Iterator[Event]:
        return iter(self.events[after:])

    def defer(self, events: Sequence[Event]) -> None:
        self.outbox.extend(msgspec.structs.replace(event, reportedlate=True) for event in events)

    def deferred(self) -> list[Event]:
        return list(self.outbox)

    def follow(self, remote: Remote | None) -> None:
        assert remote is None, "a log in memory has no remote"


@dataclass(frozen=True, slots=True)
class Segment:
    """One commit of the chain: segment `number` from 0, holding the events `first`..`last`."""

    commit: str
    number: int
    first: int
    last: int


_TRAILERS = re.compile(r"^Sequence: (\d+)-(\d+)\nSegment: (\d+)$", re.MULTILINE)


def segment_path(number: int) -> str:
    """Three levels of at most 100 entries, so that the cost of an append does not grow with history."""
    return f"segments/{number // 10_000:02d}/{number // 100 % 100:02d}/{number % 100:02d}.jsonl"


class GitLog:
    """The log on branch `events/<environment>`. `data` keeps the journal of the last append and the outbox."""

    def __init__(
        self,
        repository: Repository,
        environment: str,
        data: Path,
        identity: Identity,
        now: Callable[[], float],
        remote: Remote | None = None,
    ) -> None:
        self.repository, self.remote, self.identity, self.now = repository, remote, identity, now
        self.branch = f"events/{environment}"
        self.ref = f"refs/heads/{self.branch}"
        self.data = data
        self.journal = data / "journal.json"
        self.outbox = data / "outbox"
        self._tip: str | None = None
        self._segment: Segment | None = None

    # -- position ------------------------------------------------------------------------------------------------

    @property
    def tip(self) -> str:
        """Commit of the newest segment that was looked at."""
        return self._tip or ""

    def continue_from(self, tip: str) -> None:
        """What an earlier process read: the log has to contain it, or `refresh` raises LogRewritten."""
        self._tip = tip or None

    def refresh(self, *, remote: bool = True) -> int:
        tip = self._remote_tip() if self.remote and remote else self.repository.tip(self.ref)
        if tip != self._tip or (tip and self._segment is None):
            if self._tip and not (tip and self.repository.is_ancestor(self._tip, tip)):
                raise LogRewritten(
                    f"{self.branch} no longer contains {self._tip[:7]}, which was read from it",
                    "somebody rewrote the event log; look at `git reflog` before anything else runs",
                )
            self._segment = self._read_tip(tip) if tip else None
            self._tip = str(self._segment.commit) if self._segment else None
        return self._segment.last if self._segment else 0

    def _remote_tip(self) -> str | None:
        assert self.remote
        theirs, ours = self.remote.fetch(self.branch), self.repository.tip(self.ref)
        if theirs and theirs != ours and (ours is None or self.repository.is_ancestor(ours, theirs)):
            self.repository.move(self.ref, theirs, ours)
        elif ours and theirs is None:
            self.remote.push(ours, self.branch, None)
            return ours
        elif ours and theirs and not self.repository.is_ancestor(theirs, ours):
            raise LogRewritten(f"{self.branch} here and on {self.remote.name} went different ways", "compare them with git log")
        return theirs

    def _read_tip(self, tip: str) -> Segment | None:
        """The tip's segment; a tip that cannot be read (a power cut) is rolled back and its events appended again."""
        try:
            found = self._segment_of(tip)
            self.repository.read(self._blob(found))
            return found
        except LogDamaged:
            raise
        except Exception as error:
            return self._recover(tip, error)

    def _recover(self, tip: str, error: Exception) -> Segment | None:
        kept = json.loads(self.journal.read_text()) if self.journal.exists() else {}
        good = next((commit for commit in self._candidates(tip, kept) if self._readable(commit)), None)
        if good is None and kept.get("parent", "") is not None:
            raise LogDamaged(f"{self.branch} cannot be read ({error})", "restore it from a clone: git fetch <clone> " + self.branch)
        self.repository.drop_damaged()
        (self.repository.common_dir / self.ref).unlink(missing_ok=True)
        if good:
            self.repository.run("update-ref", self.ref, good)
        self._segment = self._segment_of(good) if good else None
        self._tip = good
        last = self._segment.last if self._segment else 0
        lost = [decode(line.encode()) for line in kept.get("lines", ()) if decode(line.encode()).sequence > last]
        if lost:
            self._write(lost)
        return self._segment

    def _candidates(self, tip: str, kept: Mapping[str, Any]) -> Iterator[str]:
        for commit in (kept.get("parent"), *self.repository.last_known(self.ref)):
            if commit and commit != tip and commit.strip("0"):
                yield commit

    def _readable(self, commit: str) -> bool:
        try:
            self.repository.read(self._blob(self._segment_of(commit)))
        except Exception:
            return False
        return True

    def _segment_of(self, commit: str) -> Segment:
        found = _TRAILERS.search(self.repository.git[commit].message)
        if not found:
            raise LogDamaged(f"commit {commit[:7]} on {self.branch} is not a segment: no Sequence and Segment trailers")
        return Segment(commit, int(found[3]), int(found[1]), int(found[2]))

    def _blob(self, segment: Segment, at: str = "") -> str:
        blob = self.repository.blob_at(at or segment.commit, segment_path(segment.number))
        if blob is None:
            raise LogDamaged(f"commit {segment.commit[:7]} on {self.branch} lacks {segment_path(segment.number)}")
        return blob

    # -- writing -------------------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], expect: int) -> tuple[Event, ...]:
        if self.remote or self.repository.tip(self.ref) != self._tip:
            self.refresh()
        position = self._segment.last if self._segment else 0
        if position != expect:
            raise LostRace(f"{self.branch} is at {position}, not at {expect}")
        late = self._late()
        batch = _numbered([*late, *events], position)
        if not batch:
            return ()
        self._write(batch)
        for name in sorted(self.outbox.glob("*.json")) if self.outbox.exists() else ():
            name.unlink()
        return batch

    def _write(self, batch: Sequence[Event]) -> None:
        number = self._segment.number + 1 if self._segment else 0
        files, lines = self._files(number, batch)
        parents = [self._tip] if self._tip else []
        _durable(self.journal, json.dumps({"parent": self._tip, "lines": lines}).encode())
        tree = self.repository.write_tree(self._tip, files)
        message = segment_message(batch, number)
        if self.remote:
            commit = self.repository.write_commit(tree, parents, message, self.identity, self.now())
            self.remote.push(commit, self.branch, self._tip)
            self.repository.move(self.ref, commit, self._tip)
        else:
            commit = self.repository.write_commit(tree, parents, message, self.identity, self.now(), self.ref)
        self._tip, self._segment = commit, Segment(commit, number, batch[0].sequence, batch[-1].sequence)

    def _files(self, number: int, batch: Sequence[Event]) -> tuple[dict[str, bytes | None], list[str]]:
        """The segment and, for values that would make an event too large, blobs named by digest."""
        files: dict[str, bytes | None] = {}
        lines: list[bytes] = []
        for event in batch:
            line = encode(event)
            if len(line) > MAX_EVENT_BYTES:
                event, blobs = _slimmed(event)
                files.update(blobs)
                line = encode(event)
            lines.append(line)
        files[segment_path(number)] = b"\n".join(lines) + b"\n"
        return files, [line.decode() for line in lines]

    def defer(self, events: Sequence[Event]) -> None:
        position = self._segment.last if self._segment else 0
        number = len(self._kept())
        for event in events:
            late = encode(msgspec.structs.replace(event, reportedlate=True, sequence=0)).decode()
            number += 1
            _durable(self.outbox / f"{position:012d}-{number:06d}.json", json.dumps({"after": position, "line": late}).encode())

    def follow(self, remote: Remote | None) -> None:
        self.remote = remote

    def deferred(self) -> list[Event]:
        return [decode(item["line"].encode()) for item in self._kept()]

    def _kept(self) -> list[dict[str, Any]]:
        """Files of the outbox, oldest first."""
        return [json.loads(path.read_text()) for path in sorted(self.outbox.glob("*.json"))] if self.outbox.exists() else []

    def _late(self) -> list[Event]:
        """Deferred events that are not in the log yet (a crash may have come between append and clean-up)."""
        kept = self._kept()
        if not kept:
            return []
        seen = {event.id for event in self.read(min(item["after"] for item in kept))}
        return [event for event in (decode(item["line"].encode()) for item in kept) if event.id not in seen]

    # -- reading -------------------------------------------------------------------------------------------------

    def read(self, after: int = 0) -> Iterator[Event]:
        for segment, at in self.segments(after):
            for line in self.repository.read(self._blob(segment, at)).splitlines():
                event = decode(line)
                if event.sequence > after:
                    yield self._whole(event, at) if b'"blob":' in line else event

    def segments(self, after: int = 0) -> list[tuple[Segment, str]]:
        """Segments that hold events after a position, in order, each with the commit to read it from."""
        out: list[tuple[Segment, str]] = []
        commit = self._tip
        while commit:
            found = self._segment_of(commit)
            if found.last <= after:
                break
            out.append((found, commit))
            parents = self.repository.git[commit].parent_ids
            if not parents:  # the first one, or where a shallow clone ends: then the tree has what the history lacks
                out.extend(self._from_tree(commit, found))
                break
            commit = str(parents[0])
        return out[::-1]

    def _from_tree(self, commit: str, newest: Segment) -> list[tuple[Segment, str]]:
        return [(Segment(commit, number, 0, newest.first - 1), commit) for number in range(newest.number - 1, -1, -1)]

    def _whole(self, event: Event, commit: str) -> Event:
        """With the values that were too large for the line, from the blobs of its commit."""
        data = dict(event.data)
        for key, value in event.data.items():
            if isinstance(value, dict) and set(value) == {"blob", "bytes"}:
                found = self.repository.blob_at(commit, f"blobs/{value['blob'][:2]}/{value['blob']}.json")
                data[key] = json.loads(self.repository.read(found)) if found else value
        return msgspec.structs.replace(event, data=data)

    def verify(self) -> int:
        """Walks the whole chain trusting no cache; returns the number of events. Raises LogDamaged."""
        self.refresh()
        commit, expected, count = self._tip, None, 0
        seen: set[str] = set()
        while commit:
            info = self.repository.info(commit)
            segment = self._segment_of(commit)
            if len(info.parents) > 1:
                raise LogDamaged(f"commit {commit[:7]} on {self.branch} is a merge")
            if expected is not None and segment.last != expected:
                raise LogDamaged(f"commit {commit[:7]} ends at {segment.last}, the next one starts at {expected + 1}")
            parent = info.parents[0] if info.parents else None
            count += self._verify_segment(segment, parent, seen)
            expected = segment.first - 1
            commit = parent
        if expected not in (None, 0):
            hint = "this clone is shallow: git fetch --unshallow" if self.repository.git.is_shallow else ""
            raise LogDamaged(f"{self.branch} begins at {(expected or 0) + 1}, not at 1", hint)
        return count

    def _verify_segment(self, segment: Segment, parent: str | None, seen: set[str]) -> int:
        where = f"commit {segment.commit[:7]} on {self.branch}"
        mine = {entry.path: entry.id for entry in self._changed(segment.commit, parent)}
        extra = [path for path in mine if path != segment_path(segment.number) and not path.startswith("blobs/")]
        if extra:
            raise LogDamaged(f"{where} touches {', '.join(sorted(extra))}: a segment only adds")
        events = [decode(line) for line in self.repository.read(self._blob(segment)).splitlines()]
        if [event.sequence for event in events] != list(range(segment.first, segment.last + 1)):
            raise LogDamaged(f"{where} says {segment.first}-{segment.last} and holds other events")
        for event in events:
            if event.id in seen:
                raise LogDamaged(f"{where} repeats event {event.id}")
            seen.add(event.id)
        return len(events)

    def _changed(self, commit: str, parent: str | None) -> list[Any]:
        """Paths that differ from the parent; a changed or removed old segment shows up here."""
        git = self.repository.git
        tree = git[commit].tree
        delta = git[parent].tree.diff_to_tree(tree, swap=False) if parent else tree.diff_to_tree(swap=True)
        return [_Path(each.new_file.path, str(each.new_file.id)) for each in delta.deltas]


@dataclass(frozen=True, slots=True)
class _Path:
    path: str
    id: str


def _numbered(events: Sequence[Event], position: int) -> tuple[Event, ...]:
    return tuple(msgspec.structs.replace(event, sequence=position + i) for i, event in enumerate(events, 1))


def _slimmed(event: Event) -> tuple[Event, dict[str, bytes]]:
    """Moves the largest values of an event's data into blobs of the same commit until it fits."""
    data, blobs = dict(event.data), {}
    by_size = sorted(data, key=lambda key: len(encode_json(data[key])), reverse=True)
    for key in by_size:
        if len(encode(msgspec.structs.replace(event, data=data))) <= MAX_EVENT_BYTES:
            break
        name = digest(data[key])
        body = encode_json(data[key])
        blobs[f"blobs/{name[:2]}/{name}.json"] = body
        data[key] = {"blob": name, "bytes": len(body)}
    return msgspec.structs.replace(event, data=data), blobs


def _durable(path: Path, data: bytes) -> None:
    """Atomic and on the disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def segment_message(batch: Sequence[Event], number: int) -> str:
    """A commit message that a person can read: range and main sentence, then a line an event, then trailers."""
    first, last = batch[0].sequence, batch[-1].sequence
    span = f"{first:04d}" if first == last else f"{first:04d}-{last:04d}"
    main = min(enumerate(batch), key=lambda item: (_rank(item[1]), item[0]))[1]
    others = len({event.subject for event in batch if event.subject and _rank(event) <= 3} - {main.subject})
    more = f" (and {others} more)" if others else ""
    lines = [f"{event.sequence:04d} {_verb(event)} {_one_line(sentence(event), 400)}" for event in batch[:50]]
    if len(batch) > 50:
        lines.append(f"... and {len(batch) - 50} more events")
    states = sorted({event.statecommit for event in batch if event.statecommit})
    actors = sorted({event.actor for event in batch if event.actor})
    trailers = [f"Sequence: {first}-{last}", f"Segment: {number}"]
    trailers += [f"State: {state}" for state in states] + [f"Actor: {actor}" for actor in actors]
    return "\n".join([f"{span} {_one_line(sentence(main), 160)}{more}", "", *lines, "", *trailers, ""])


def _rank(event: Event) -> int:
    name = event.type.removeprefix("turnout.")
    return next((i for i, prefix in enumerate(SUBJECT_ORDER) if name.startswith(prefix)), len(SUBJECT_ORDER))


def _verb(event: Event) -> str:
    return event.type.removeprefix("turnout.").rpartition(".v")[0]


def _one_line(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 3] + "..."
