"""How versions look in a terminal: the table of an agent's, one in full, two side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from controller.cli.text import moment, rows, short, styled, write

if TYPE_CHECKING:
    from rich.console import Console

    from controller.clients.git import Repository

STYLE = {
    "deployed": "green",
    "canary": "cyan",
    "promoted": "cyan",
    "trained": "blue",
    "aborted": "red",
    "failed": "red",
    "rolled_back": "yellow",
    "retired": "dim",
    "imported": "dim",
}
TITLES = (
    *("AGENT", "VERSION", "ALIAS", "STATUS", "MODEL", "ENDPOINT", "DEPLOYED", "BY"),
    *("COMMIT", "ROLLOUT", "SCORE", "VERDICT", "COST"),
)
Version = Mapping[str, Any]


def table(console: Console, repository: Repository, agents: Mapping[str, Mapping[str, Any]]) -> None:
    """Newest first."""
    from controller.projections.version_views import aliases_of, cost_of, versions_of

    lines = [[styled(title, "bold") for title in TITLES]]
    for agent, state in sorted(agents.items()):
        for each in reversed(versions_of(state)):
            score, cost, commit = each.get("evaluation_score"), cost_of(each), str(each.get("commit") or "")
            cells = (
                (agent, "bold"),
                (str(each["version"]), ""),
                (", ".join(aliases_of(state, each)), "cyan"),
                (str(each["status"]), STYLE.get(str(each["status"]), "")),
                (str(each["model"]), ""),
                (str(each["endpoint"]), ""),
                (_when(each.get("deployed_at")), ""),
                (_author(repository, commit), ""),
                (short(commit), "dim"),
                (str(each.get("rollout") or ""), ""),
                ("" if score is None else f"{score:.3g}", ""),
                (str(each.get("verdict") or ""), ""),
                (f"{cost:.2f}" if cost else "", ""),
            )
            lines.append([styled(text, style) for text, style in cells])
    rows(console, lines)


def one(console: Console, repository: Repository, agent: str, version: Version) -> None:
    """Everything of one version."""
    named = f" ({', '.join(version['aliases'])})" if version["aliases"] else ""
    write(console, styled(f"{agent} {version['version']}{named}", "bold"))
    commit = str(version.get("commit") or "")
    by = f"{short(commit)} by {_author(repository, commit)}" if commit else ""
    rows(console, [(title, text) for title, text in [*_facts(version), ("commit", by)] if text], indent=2)
    for title, lines in (
        ("Scores", _scores(version)),
        ("Deployments", [_deployment(each) for each in version.get("deployments", ())]),
        ("Rollouts", [_rollout(each) for each in version.get("rollouts", ())]),
        ("Evaluations", [_evaluation(each) for each in version.get("evaluations", ())]),
        ("Files", [_file(each) for each in version.get("files", ())]),
        ("Cost", [(address, f"{usd:.2f} USD") for address, usd in sorted(version.get("costs", {}).items())]),
    ):
        if lines:
            write(console, styled(title, "bold cyan"), indent=2)
            rows(console, lines, indent=4)


def two(console: Console, both: Mapping[str, Any]) -> None:
    """Side by side; what differs stands out."""
    first, second = both["versions"]
    left, right = dict(_facts(first)), dict(_facts(second))
    mine, theirs = ({row[0]: row[1] for row in _scores(each)} for each in (first, second))
    titles = [*left, *(name for name in right if name not in left)]
    lines = [[styled(cell, "bold") for cell in ("", str(first["version"]), str(second["version"]))]]
    for title in titles:
        lines.append(_pair(title, left.get(title, ""), right.get(title, "")))
    for name in dict.fromkeys((*mine, *theirs)):
        lines.append(_pair(name, mine.get(name, ""), theirs.get(name, "")))
    write(console, styled(str(both["agent"]), "bold"))
    rows(console, [line for line in lines if line], indent=2)


def _pair(title: str, left: str, right: str) -> list[Any]:
    if not left and not right:
        return []
    style = "" if left == right else "yellow"
    return [styled(title, "dim"), styled(left or "-", style), styled(right or "-", style)]


# -- the parts of a version ------------------------------------------------------------------------------------------


def _facts(version: Version) -> list[tuple[str, str]]:
    """Title and text of everything that is one value."""
    from controller.projections.version_facts import shortened

    get = version.get
    scores = get("eval_scores") or {}
    latency, per_1k = scores.get("avg_latency_ms"), scores.get("cost_per_1k")
    dataset = get("dataset") or {}
    size = f" ({dataset['rows']} rows)" if dataset.get("rows") else ""
    score = get("evaluation_score")
    return [
        ("status", str(version["status"])),
        ("model", str(get("model") or "")),
        ("endpoint", str(get("endpoint") or "")),
        ("base model", _at(get("base_model"), get("base_revision"))),
        ("method", str(get("training_method") or "")),
        ("data set", f"{shortened(str(get('training_dataset')))}{size}" if get("training_dataset") else ""),
        ("data digest", str(dataset.get("digest") or "")),
        ("training", str(get("training") or "")),
        ("trained", _when(get("trained_at"))),
        ("result", str(get("result") or "")),
        ("repository", _at(get("hub_repo"), get("hub_revision"))),
        ("losses", _losses(get("metrics") or {})),
        ("evaluation", str(get("evaluation") or "")),
        ("evaluated on", _examples(version)),
        ("compared with", str(get("compared_with") or "")),
        ("verdict", str(get("verdict") or "")),
        ("score", "" if score is None else f"{100 * score:.1f} of 100"),
        ("improvement", str(scores.get("baseline_improvement") or "")),
        ("latency", "" if latency is None else f"{latency:.0f} ms on average"),
        ("cost per 1k", "" if per_1k is None else f"{per_1k:.6g} USD"),
        ("cost", f"{version['cost_usd']:.2f} USD" if version["cost_usd"] else ""),
        ("deployed", _when(get("deployed_at"))),
        ("deployments", str(len(get("deployments", ())) or "")),
        ("rollbacks", str(version["rollbacks"] or "")),
        ("files", str(len(get("files", ())) or "")),
        ("imported as", str(get("imported_status") or "")),
    ]


def _examples(version: Version) -> str:
    count = version.get("eval_examples")
    return f"{version.get('eval_dataset') or ''}{f' ({count} examples)' if count else ''}".strip()


def _scores(version: Version) -> list[tuple[str, str]]:
    """Each measure: both figures, the difference and its interval."""
    from controller.judgement.rules import RELATIVE
    from controller.judgement.words import change, label, measured_as, span

    confidence = version.get("confidence")
    out = []
    for name, found in sorted((version.get("scores") or {}).items()):
        relative = name in RELATIVE
        text = measured_as(name, found["candidate"]) if "candidate" in found else "not known"
        if "baseline" in found:
            text += f" against {measured_as(name, found['baseline'])}"
        if "difference" in found:
            text += f", {change(found['difference'], relative)}"
        if "low" in found and "high" in found:
            level = f"{100 * confidence:g} % " if confidence else ""
            text += f" ({level}{span(found['low'], found['high'], relative)})"
        out.append((label(name), text))
    return out


def _deployment(each: Mapping[str, Any]) -> tuple[str, str]:
    text = f"at {each['endpoint']}, commit {short(each['commit'])}"
    if each.get("rollout"):
        text += f", promoted by {each['rollout']}"
    if each.get("until"):
        to = f", {each['to']} instead" if each.get("to") else ""
        text += f"; {each['ended'].replace('_', ' ')} {_when(each['until'])}{to} ({short(each['ended_commit'])})"
    else:
        text += "; answers now"
    return _when(each["at"]), text


def _rollout(each: Mapping[str, Any]) -> tuple[str, str]:
    said = f": {each['said']}" if each.get("said") else ""
    return _when(each["at"]), f"{each['name']} {each['phase']}{said}"


def _evaluation(each: Mapping[str, Any]) -> tuple[str, str]:
    score = "" if each.get("score") is None else f", score {100 * each['score']:.1f}"
    return _when(each["at"]), f"{each['name']}: {each['verdict']}{score}"


def _file(each: Mapping[str, Any]) -> tuple[str, str]:
    size = f"{each['bytes']:,} bytes" if "bytes" in each else ""
    told: Iterable[str] = (str(each.get("quantization") or ""), size, f"sha256 {each['sha256'][:12]}" if each.get("sha256") else "")
    return str(each.get("name", "")), ", ".join(part for part in told if part)


def _losses(metrics: Mapping[str, Any]) -> str:
    """Held-out loss before and after; else the figures as they are."""
    before, after = (metrics.get(key) for key in ("before", "after"))
    if isinstance(before, Mapping) and isinstance(after, Mapping) and {"loss"} <= before.keys() & after.keys():
        return f"{before['loss']:.4g} -> {after['loss']:.4g}"
    return json.dumps(metrics, sort_keys=True) if metrics else ""


def _at(what: Any, revision: Any) -> str:
    return f"{what}@{str(revision)[:12]}" if what and revision else str(what or "")


def _when(text: Any) -> str:
    from controller.events import parse_time

    try:
        return moment(parse_time(str(text))) if text else ""
    except ValueError:
        return str(text)


def _author(repository: Repository, commit: str) -> str:
    """Who wrote the commit; a shallow clone may not have it."""
    from controller.errors import TurnoutError

    if not commit:
        return ""
    try:
        return repository.info(commit).author
    except (TurnoutError, KeyError, ValueError):
        return "?"
