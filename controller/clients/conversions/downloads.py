"""One finished GGUF file, from where it was made or from the Hub, onto this disk: goes on where it was cut, checked by its events.

The sha256 in the events is what counts: neither the folder nor the Hub is believed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller.clients.hugging_face_repositories import CHUNK, sha256_of
from controller.clients.huggingface import Hub
from controller.errors import Permanent, Temporary

Told = Callable[[int, int], None]
"""Bytes that are there, and bytes in all."""


def fetch(
    file: Mapping[str, Any], to: Path, near: Path | None, hub: Callable[[], Hub], repo: str, revision: str, told: Told
) -> Path:
    """`file` has name, bytes and sha256; `near` is the folder where it may lie on this machine. Returns its path in `to`.

    Raises Temporary (what has arrived is kept, the next call goes on), Permanent.
    """
    target = to / str(file["name"])
    if target.is_file() and target.stat().st_size == file["bytes"] and sha256_of(target) == file["sha256"]:
        told(file["bytes"], file["bytes"])
        return target
    if near is not None and (near / file["name"]).is_file():
        try:
            _copy(near / file["name"], target, file, told)
        except OSError as error:
            raise Temporary(f"{target}: {error.strerror or error}; what has arrived is kept, the next call goes on") from error
        return target
    if not repo:
        where = f"{near} has no {file['name']} any more" if near else "it was made on another machine"
        raise Permanent(f"{file['name']} is not on the Hub, and {where}")
    _from_hub(hub(), repo, revision, target, file, told)
    return target


def _copy(source: Path, target: Path, file: Mapping[str, Any], told: Told) -> None:
    part = target.with_name(f".{target.name}.{file['sha256'][:16]}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as content, part.open("ab") as out:
        done = min(out.tell(), file["bytes"])
        out.truncate(done)
        content.seek(done)
        told(done, file["bytes"])
        while chunk := content.read(CHUNK):
            out.write(chunk)
            done += len(chunk)
            told(done, file["bytes"])
        out.flush()
        os.fsync(out.fileno())
    _checked(part, file, f"{source}")
    part.replace(target)


def _from_hub(hub: Hub, repo: str, revision: str, target: Path, file: Mapping[str, Any], told: Told) -> None:
    """What the Hub says of it is asked first, so that nothing is fetched that would be thrown away."""
    there = next((each for each in hub.repositories.files(repo, revision) if each.name == file["name"]), None)
    if there is None:
        raise Permanent(f"{file['name']} is not in {repo}@{revision[:10]} any more")
    if there.size != file["bytes"] or (there.sha256 and there.sha256 != file["sha256"]):
        raise Permanent(f"{file['name']} in {repo}@{revision[:10]} is not what was made: its sha256 is not that of the events")
    hub.repositories.download(repo, file["name"], target, revision=revision, progress=told)
    _checked(target, file, f"{repo}@{revision[:10]}")


def _checked(path: Path, file: Mapping[str, Any], where: str) -> None:
    found = sha256_of(path)
    if found != file["sha256"]:
        path.unlink()
        raise Permanent(f"{file['name']} of {where} has the sha256 {found}, its events say {file['sha256']}; it was thrown away")
