"""What the training program has told so far: JSON lines -> one picture; and what it left, against its own list. Pure but for files.

Lines that are no events (a library's warnings in the log of a job) count for nothing; unknown events neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from controller.clients.hugging_face_repositories import sha256_of
from controller.clients.huggingface import Hub
from controller.clients.runs import Stage
from controller.clients.training.backend import Sight, Verified
from controller.errors import Permanent
from controller.resource import digest

CODES = {1: "unexpected", 2: "request_invalid", 3: "dataset_invalid", 4: "model_not_loaded", 5: "out_of_memory", 6: "hub_failed"}
CODES |= {
    7: "diverged",
    8: "result_broken",
    75: "preempted",
    76: "claim_lost",
    77: "timeout",
    137: "out_of_memory",
    143: "preempted",
}
"""Exit code of the program -> what it means here. 137: killed, on a machine of jobs for its memory."""
_NAMES = {"terminated": "preempted", "deadline": "timeout"}
CURVE_POINTS = 60


def events_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The program's events among other lines, in order."""
    found = []
    for line in lines:
        if line.startswith("{") and '"event"' in line:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a torn last line
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                found.append(event)
    return found


def sight_of(
    events: Iterable[Mapping[str, Any]], stage: Stage, *, code: str = "", message: str = "", seconds: float, cost_usd: float | None
) -> Sight:
    """One picture. `code` and `message` are what the backend knows; what the program said about its end is better.

    `progress` has the newest step, and `losses`: [step, loss] over all attempts that this backend can read, at most CURVE_POINTS.
    """
    progress: dict[str, Any] = {}
    losses: list[list[float]] = []
    batch = accumulation = 0
    last: Mapping[str, Any] = {}
    for event in events:
        name = event["event"]
        if name == "step":
            keys = ("step", "steps", "epoch", "loss", "learning_rate", "tokens_per_second", "eta_seconds")
            progress = {key: event[key] for key in keys if key in event}
            _add(losses, event.get("step"), event.get("loss"))
        elif name == "started":
            request = event.get("request", {})
            batch, accumulation, last = int(request.get("batch", 0)), int(request.get("accumulation", 0)), {}
            progress = {}  # an earlier attempt's, in a file that attempts share
        elif name == "out_of_memory":
            batch, accumulation = int(event["batch"]), int(event["accumulation"])
        elif name in ("failed", "stopped"):
            last = event
    if stage == "failed" and last:
        code = _NAMES.get(str(last["code"]), str(last["code"]))
        message = f"{last.get('message', '')} {last.get('what_to_do', '')}".strip()
    if losses:
        progress["losses"] = thinned(losses)
    return Sight(stage, code, message[:1000], seconds, cost_usd, progress, batch, accumulation)


def _add(losses: list[list[float]], step: Any, loss: Any) -> None:
    """An attempt that goes on from a checkpoint tells some steps again: what it says of them counts."""
    if not isinstance(step, int | float) or not isinstance(loss, int | float) or not math.isfinite(loss):
        return
    while losses and losses[-1][0] >= step:
        losses.pop()
    losses.append([step, loss])


def thinned(points: list[list[float]]) -> list[list[float]]:
    """At most CURVE_POINTS of them, evenly, the first and the last among them."""
    if len(points) <= CURVE_POINTS:
        return points
    last = len(points) - 1
    return [points[round(place * last / (CURVE_POINTS - 1))] for place in range(CURVE_POINTS)]


def metrics_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of result.json: with tokens a second, and a loss curve of at most 60 points."""
    metrics = dict(result.get("metrics", {}))
    curve = list(metrics.get("loss_curve", ()))
    every = -(-len(curve) // CURVE_POINTS) or 1
    metrics["loss_curve"] = curve[::every]
    if metrics.get("tokens") and metrics.get("seconds"):
        metrics["tokens_per_second"] = round(metrics["tokens"] / metrics["seconds"], 3)
    return metrics


def verified(result: Mapping[str, Any], problems: list[str], intent: str, revision: str = "") -> Verified:
    """`problems` with the files; whether the result is that of this intent is seen here."""
    files = result.get("files", [])
    whose = result.get("request", {}).get("intent")
    if whose != intent:
        problems = [*problems, f"result.json is that of intent {whose!r}, expected {intent!r}"]
    if not files:
        problems = [*problems, "result.json lists no file"]
    size = sum(int(each["size"]) for each in files)
    return Verified(tuple(problems[:5]), len(files), size, digest_of(result), revision, metrics_of(result))


def digest_of(result: Mapping[str, Any]) -> str:
    """Of names, sizes and sha256 of all files."""
    return digest(sorted([each["name"], each["size"], each["sha256"]] for each in result.get("files", [])))


def check_folder(folder: Path, result: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files that result.json lists."""
    problems = []
    for each in result.get("files", []):
        path = folder / each["name"]
        if not path.is_file():
            problems.append(f"{each['name']} is not there")
        elif path.stat().st_size != each["size"]:
            problems.append(f"{each['name']} has {path.stat().st_size} bytes, {each['size']} were written")
        elif sha256_of(path) != each["sha256"]:
            problems.append(f"{each['name']} has another sha256 than when it was written")
    return problems


def check_hub(hub: Hub, repo: str, revision: str, result: Mapping[str, Any]) -> list[str]:
    """The same for a repository: the merged model lies at its top. Of small files the Hub knows no sha256, so their size counts."""
    there = {each.name: each for each in hub.repositories.files(repo, revision)}
    problems = []
    for each in result.get("files", []):
        name = str(each["name"]).removeprefix("merged/")
        found = there.get(name)
        if found is None:
            problems.append(f"{name} is not in {repo}@{revision[:10]}")
        elif found.size != each["size"] or (found.sha256 and found.sha256 != each["sha256"]):
            problems.append(f"{name} in {repo}@{revision[:10]} is not what was written")
    return problems


def result_on_hub(hub: Hub, repo: str, to: Path) -> tuple[str, dict[str, Any]]:
    """Commit and result.json of a repository. Raises Permanent when there is none."""
    revision = hub.repositories.revision(repo)
    if revision is None:
        raise Permanent(f"Hugging Face: {repo} is not there")
    hub.repositories.download(repo, "result.json", to, revision=revision)
    found: dict[str, Any] = json.loads(to.read_text())
    return revision, found
