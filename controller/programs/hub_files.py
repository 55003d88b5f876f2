# /// script
# requires-python = ">=3.11"
# dependencies = ["huggingface_hub>=2.4"]
# ///
"""Files of a model repository on the Hugging Face Hub: listed, downloaded with progress and resume, uploaded in one commit.

    python hub_files.py list '{"repo": "acme/fox"}'
    python hub_files.py get '{"repo": "acme/fox-GGUF", "folder": "models", "names": ["*-Q4_K_M.gguf"]}'
    python hub_files.py put '{"repo": "acme/fox-GGUF", "files": ["out/fox-F16.gguf"], "message": "GGUF of acme/fox"}'
    python hub_files.py claim '{"repo": "acme/fox-GGUF", "file": "conversion-1.json", "claim": {"attempt": 1, "holder": "me"}}'

convert.py, which lies beside this file, runs these steps; a person or a front end fetches finished files with `get`. It exists
because huggingface_hub (2.4) begins a download anew in each process, and a model of 15 GB is not to be fetched twice. Every byte is
checked against the digest that the Hub tells. stdout has JSON lines: progress (`event`), and last `result`, or `failure`: [code,
what was found, what to do] with exit code 1. The token is HF_TOKEN (or HUGGINGFACE_HUB_TOKEN), the address HF_ENDPOINT.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import hashlib
import importlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[..., None]
CLAIM_TRIES = 5


class Stop(Exception):
    """This step ends: a stable code, a sentence, what to do next."""


class Growing(io.BufferedWriter):
    """A part file that is continued, and tells how far it is at most once in two seconds."""

    def __init__(self, file: Path, grown: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(file, "ab"))
        self.grown, self.due = grown, time.monotonic() + 2

    def write(self, data: Any) -> int:
        if time.monotonic() > self.due:
            self.due = time.monotonic() + 2
            self.grown(self.tell())
        return super().write(data)


def listed(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """The commit behind `revision`, and of every file (or those that fit one of `names`) its size in bytes and its digest."""
    info = hub().HfApi().model_info(job["repo"], revision=job.get("revision", "main"), files_metadata=True)
    names = job.get("names", ["*"])
    fits = [one for one in info.siblings if any(fnmatch.fnmatchcase(one.rfilename, name) for name in names)]
    return {"revision": info.sha, "files": {one.rfilename: (one.size, digest_of(one)) for one in fits}}


def digest_of(file: Any) -> str:
    """sha256 of what is in LFS, git's blob id of what is not."""
    return str(file.lfs.sha256 if file.lfs else file.blob_id)


def get(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Downloads what `listed` lists into `folder`. What is there with the right digest stays; a part file is continued."""
    found, folder = listed(job, say), Path(job["folder"])
    if not found["files"]:
        raise Stop("hub_refused", f"{job['repo']}: no file fits {job.get('names')}", "list the repository's files")
    missing = {name: what for name, what in found["files"].items() if not same(folder / name, *what)}
    parts = {name: folder / f".{digest}.part" for name, (_, digest) in missing.items()}
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(size for size, _ in missing.values()) - sum(part.stat().st_size for part in parts.values() if part.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Stop("disk_full", f"{folder}: {needed / 1e9:.2f} GB to download, {free / 1e9:.2f} GB free", "free some space")
    for name, (size, digest) in missing.items():
        fetch(hub().hf_hub_url(job["repo"], name, revision=found["revision"]), parts[name], size, name, say)
        if not same(parts[name], size, digest):
            parts[name].unlink()
            raise Stop(
                "download_damaged", f"{name} of {job['repo']} is not what the Hub tells, {digest}", "run the same request again"
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parts[name].replace(folder / name)
    return {**found, "downloaded": sorted(missing)}


def fetch(url: str, part: Path, size: int, name: str, say: Say) -> None:
    say("downloading", name=name, bytes=part.stat().st_size if part.exists() else 0, of=size)
    with Growing(part, lambda done: say("downloading", name=name, bytes=done, of=size)) as file:
        headers = hub().utils.build_hf_headers()
        hub().file_download.http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=size)
        file.flush()
        os.fsync(file.fileno())


def same(file: Path, size: int, digest: str) -> bool:
    """By sha256, or by git's blob id for small files that are not in LFS."""
    if not file.exists() or file.stat().st_size != size:
        return False
    with file.open("rb") as content:
        if len(digest) == 64:
            return digest == hashlib.file_digest(content, "sha256").hexdigest()
        return digest == hashlib.sha1(b"blob %d\0" % size + content.read(), usedforsecurity=False).hexdigest()


def put(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Uploads `files` in one commit. What the repository has with the same content is not sent: a repeated call adds no commit.

    Of `first`, a list of names, what is there is left as it is: a model card that a person wrote.
    """
    api, repo = hub().HfApi(), job["repo"]
    url = api.create_repo(repo, private=job.get("private", True), exist_ok=True)
    files = {Path(file).name: Path(file) for file in job["files"]}
    there = {one.path: (one.size, digest_of(one)) for one in api.get_paths_info(repo, list(files))}
    first = set(job.get("first", ()))
    new = [name for name, file in files.items() if name not in there or (name not in first and not same(file, *there[name]))]
    say("uploading", repo=repo, names=new, bytes=sum(files[name].stat().st_size for name in new))
    operations = [hub().CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(files[name])) for name in new]
    if operations:
        api.create_commit(repo, operations, commit_message=job["message"], commit_description=job.get("description", ""))
    return {"repo": repo, "url": str(url), "commit": api.model_info(repo).sha, "new": new, "already": sorted(files.keys() - new)}


def claim(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Creates `file`, which only one can create (compare-and-swap of the branch), with `claim` in it: {attempt, holder, ...}.

    A restart of its holder goes on, and so does a later attempt: it is started only when those before it are known to have ended.
    """
    api, repo, file, mine = hub().HfApi(), job["repo"], job["file"], job["claim"]
    api.create_repo(repo, private=job.get("private", True), exist_ok=True)
    for left in reversed(range(CLAIM_TRIES)):
        head = api.model_info(repo).sha
        found = content_of(repo, file, head)
        if found and (found.get("attempt"), found.get("holder")) != (mine["attempt"], mine["holder"]):
            if not isinstance(found.get("attempt"), int) or found["attempt"] >= mine["attempt"]:
                raise Stop(
                    "claimed",
                    f"{file} of {repo} belongs to {found.get('holder')!r}, attempt {found.get('attempt')}",
                    "follow that one",
                )
        elif found:
            return {"repo": repo, "commit": head, "new": False}
        operation = hub().CommitOperationAdd(path_in_repo=file, path_or_fileobj=json.dumps(mine).encode())
        try:
            made = api.create_commit(repo, [operation], commit_message=job["message"], parent_commit=head)
            return {"repo": repo, "commit": made.oid, "new": True}
        except importlib.import_module("huggingface_hub.errors").HfHubHTTPError as error:
            if error.response.status_code not in (409, 412) or not left:  # else somebody committed in between: look again
                raise
    raise AssertionError("the last try raises or returns")


def content_of(repo: str, name: str, revision: str) -> dict[str, Any] | None:
    """A small JSON file of a repository; None when there is none, {} when it is no object."""
    found = [one for one in hub().HfApi().get_paths_info(repo, [name], revision=revision) if one.path == name]
    if not found:
        return None
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part"
        fetch(hub().hf_hub_url(repo, name, revision=revision), part, found[0].size, name, lambda *_, **__: None)
        try:
            content = json.loads(part.read_text(encoding="utf-8"))
        except ValueError:
            return {}
    return content if isinstance(content, dict) else {}


def hub() -> Any:
    """Imported when first used; typed as Any, so that a type checker does not need it."""
    return importlib.import_module("huggingface_hub")


def told(error: Exception, doing: str) -> tuple[str, str, str]:
    """An error of huggingface_hub: will it stay, or may it pass?"""
    status = getattr(getattr(error, "response", None), "status_code", None) or 0
    text = f"{doing}: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk_full", text, "free some space, or name another output folder"
    if (400 <= status < 500 and status not in (408, 409, 412, 429)) or "Validation" in type(error).__name__:
        return "hub_refused", text, "check the repository's name and revision, and that HF_TOKEN may read or write it"
    return "hub_unreachable", text, "run the same request again: what is finished is kept, a download goes on where it was"


def main(step: str, given: str) -> int:
    def say(event: str, **data: Any) -> None:
        print(json.dumps({"event": event, **data}), flush=True)

    job = json.loads(given)
    if sys.platform == "linux" and "parent" in job:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive a killed parent
        if os.getppid() != job["parent"]:
            return 1
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "HUGGINGFACE_HUB_TOKEN" in os.environ:
        os.environ.setdefault("HF_TOKEN", os.environ["HUGGINGFACE_HUB_TOKEN"])
    try:
        last: dict[str, Any] = {"result": {"list": listed, "get": get, "put": put, "claim": claim}[step](job, say)}
    except Stop as stop:
        last = {"failure": stop.args}
    except (LookupError, TypeError, AttributeError):
        raise  # a fault here, or a wrong JSON: not the Hub's
    except Exception as error:
        last = {"failure": told(error, f"{step} {job.get('repo')}")}
    print(json.dumps(last), flush=True)
    return 1 if "failure" in last else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
