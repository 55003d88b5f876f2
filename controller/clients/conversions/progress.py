"""What the conversion program has told so far, as one picture; and what it left, against its own list. Pure but for files.

`docs/conversion-program.md` lists the events. A step is a file that is whole, or a file that has generated.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.clients.conversions.backend import Sight, Verified
from controller.clients.huggingface import Hub
from controller.clients.runs import Stage
from controller.errors import Permanent, Temporary
from controller.resource import digest

CODES = {1: "unexpected", 2: "request_invalid", 3: "source_invalid", 4: "claimed", 5: "disk_full", 6: "smoke_test_failed"}
CODES |= {7: "hub_unreachable", 8: "packages_missing", 9: "hub_refused", 76: "claimed", 137: "out_of_memory", 143: "preempted"}
"""Exit code of the program -> what it means here. 137: killed, on a machine of jobs for its memory."""
_NAMES = {"cancelled": "preempted", "fault": "unexpected"}
MAGIC = b"GGUF"
CHUNK = 4 << 20
EXCERPT = 200
_FACTS = ("architecture", "model_class", "parameters", "context_length", "tokenizer", "pre_tokenizer", "packages")


def sight_of(
    events: Iterable[Mapping[str, Any]],
    stage: Stage,
    *,
    code: str = "",
    message: str = "",
    seconds: float,
    since_end: float,
    cost_usd: float | None,
) -> Sight:
    """One picture. `code` and `message` are what the backend knows; what the program said about its end is better."""
    made: set[str] = set()
    tested: set[str] = set()
    wanted: list[str] = []
    last: dict[str, Any] = {}
    said = ""
    for event in events:
        name, kind = event["event"], str(event.get("type", ""))
        if name == "started":
            made, tested, last, wanted = set(), set(), {}, [str(each) for each in event.get("quantizations", ())]
        elif name in ("kept", "converted", "quantized"):
            made.add(kind)
        elif name == "tested":
            tested.add(kind)
        elif name == "failed":
            last = dict(event)
        said = _said(event) or said
    if stage == "failed" and last:
        code = _NAMES.get(str(last["code"]), str(last["code"]))
        message = f"{last.get('message', '')}; {last.get('todo', '')}"
    steps = len({"F16", *wanted}) + len(wanted) if wanted else 0
    done = steps if stage == "succeeded" else len(made) + len(tested)
    progress = {"step": min(done, steps), "steps": steps, "said": said} if steps else {}
    return Sight(stage, code, message[:1000], seconds, since_end, cost_usd, progress)


def _said(event: Mapping[str, Any]) -> str:
    """For people: what it does since this event."""
    name, kind = event["event"], event.get("type", "")
    if name == "downloading":
        return f"downloads {event.get('name', '')}, {_share(event.get('bytes', 0), event.get('of', 0))}"
    if name == "quantizing":
        return f"makes {kind}, {_share(event.get('tensors', 0), event.get('of', 0))}"
    if name == "uploading":
        return f"uploads {event.get('bytes', 0) / 1e9:.2f} GB"
    texts = {"started": "begins", "downloaded": "makes F16", "converting": f"makes F16, {event.get('bytes', 0) / 1e9:.2f} GB"}
    texts |= {"kept": f"kept {kind}", "converted": f"made {kind}", "quantized": f"made {kind}", "tested": f"{kind} has generated"}
    return {**texts, "uploaded": "uploaded", "torn": f"makes {kind} again", "finished": "finished"}.get(name, "")


def _share(done: float, of: float) -> str:
    return f"{100 * done / of:.0f} %" if of else "0 %"


# -- what it left ------------------------------------------------------------------------------------------------------


class Digests:
    """sha256 of files that may be tens of gigabytes: so many seconds a call at most, and the next call goes on."""

    def __init__(self, seconds: float = 6.0) -> None:
        self.seconds = seconds
        self._open: dict[tuple[str, int, int], tuple[Any, int]] = {}

    def of(self, path: Path) -> str:
        """Raises Temporary while it is not read to its end."""
        about = path.stat()
        key = (str(path), about.st_size, about.st_mtime_ns)
        found, done = self._open.setdefault(key, (hashlib.sha256(), 0))
        until = time.monotonic() + self.seconds
        with path.open("rb") as source:
            source.seek(done)
            while chunk := source.read(CHUNK):
                found.update(chunk)
                done += len(chunk)
                if time.monotonic() > until and done < about.st_size:
                    self._open[key] = (found, done)
                    raise Temporary(f"{path.name} is being read: {_share(done, about.st_size)}")
        self._open[key] = (found, done)
        return str(found.hexdigest())


def record_name(intent: str) -> str:
    """The program's file on the Hub: first the claim of a conversion, in the end its result."""
    return f"conversion-{hashlib.sha256(intent.encode()).hexdigest()[:12]}.json"


def verified(
    result: Mapping[str, Any], problems: Sequence[str], intent: str, quantizations: Sequence[str], revision: str = ""
) -> Verified:
    """`problems` with the files; whether the result is that of this intent, and has all that was asked for, is seen here."""
    found = list(problems)
    if result.get("intent") != intent:
        found.append(f"the result is that of intent {result.get('intent')!r}, expected {intent!r}")
    files = tuple(
        {"name": each["name"], "quantization": each["type"], "bytes": each["size"], "sha256": each["sha256"]}
        for each in result.get("files", ())
    )
    lacking = [each for each in quantizations if each not in {file["quantization"] for file in files}]
    if lacking:
        found.append(f"the result lists no {', '.join(lacking)}")
    silent = [each["type"] for each in result.get("files", ()) if not each.get("test", {}).get("tokens")]
    if silent:
        found.append(f"{', '.join(silent)} did not generate")
    metadata = {key: result[key] for key in _FACTS if key in result}
    return Verified(tuple(found[:5]), files, digest(list(files)), revision, metadata, _smoke(result))


def _smoke(result: Mapping[str, Any]) -> dict[str, Any]:
    tests = {each["type"]: each["test"] for each in result.get("files", ()) if each.get("test")}
    answers = {name: {"text": test["text"][:EXCERPT], "tokens": test["tokens"]} for name, test in tests.items()}
    return {"prompt": next((test["prompt"] for test in tests.values()), ""), "answers": answers}


def check_folder(folder: Path, result: Mapping[str, Any], digests: Digests) -> list[str]:
    """What is wrong with the files that a result lists. Raises Temporary while they are being read."""
    problems = []
    for each in result.get("files", ()):
        path = folder / each["name"]
        if not path.is_file():
            problems.append(f"{each['name']} is not there")
        elif path.stat().st_size != each["size"]:
            problems.append(f"{each['name']} has {path.stat().st_size} bytes, {each['size']} were written")
        elif _head(path) != MAGIC:
            problems.append(f"{each['name']} is no GGUF file: it begins with {_head(path)!r}")
        elif digests.of(path) != each["sha256"]:
            problems.append(f"{each['name']} has another sha256 than when it was written")
    return problems


def _head(path: Path) -> bytes:
    with path.open("rb") as source:
        return source.read(len(MAGIC))


def check_hub(hub: Hub, repo: str, revision: str, result: Mapping[str, Any]) -> list[str]:
    """The same for a repository, by the sizes and hashes that the Hub lists."""
    there = {each.name: each for each in hub.repositories.files(repo, revision)}
    problems = []
    for each in result.get("files", ()):
        found = there.get(each["name"])
        if found is None:
            problems.append(f"{each['name']} is not in {repo}@{revision[:10]}")
        elif found.size != each["size"] or (found.sha256 and found.sha256 != each["sha256"]):
            problems.append(f"{each['name']} in {repo}@{revision[:10]} is not what was written")
    return problems


def head_of(hub: Hub, repo: str) -> str:
    """The commit of a repository. Raises Permanent when there is none."""
    revision = hub.repositories.revision(repo)
    if revision is None:
        raise Permanent(f"Hugging Face: {repo} is not there")
    return revision
