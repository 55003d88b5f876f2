"""What of an environment and its state is another in a rehearsal. Pure: plain data in, plain data out.

Vendors, endpoints and proxies move to this machine; targets that a rehearsal must not touch (files, HAProxies, clusters) go; waits
of hours shrink to seconds. Names, prices, budgets, rules and everything else stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.judgement.rules import WATCH

HOLD_SECONDS = 6.0
SAMPLES = 30
RESYNC_SECONDS = 5.0
ELSEWHERE = ("remote", "haproxies", "clients", "huggingface", "langsmith", "endpoints", "proxies")
"""Settings that name what is outside, or who may use it."""
WAITS = ("hold", "preview", "slowStart")


def environment(spec: Mapping[str, Any], port: Callable[[], int], langsmith: bool) -> dict[str, Any]:
    """`spec` as it is written; `port` gives a free one each time; `langsmith` whether anything needs one."""
    out = {key: value for key, value in spec.items() if key not in ELSEWHERE}
    out["writeBack"] = "direct"
    out["resync"] = RESYNC_SECONDS
    hub = f"http://127.0.0.1:{port()}"
    named = spec.get("huggingface", {}).get("namespace") or spec.get("training", {}).get("org") or "acme"
    out["huggingface"] = {
        "url": hub,
        "inferenceEndpointsUrl": f"{hub}/v2",
        "namespace": named,
        "token": "file:huggingface.token",
        "simulated": True,
    }
    if langsmith or spec.get("langsmith"):
        url = f"http://127.0.0.1:{port()}"
        out["langsmith"] = {"url": url, "apiKey": "file:langsmith.key", "simulated": True}
    out["training"] = {**spec.get("training", {}), "org": spec.get("training", {}).get("org") or named}
    out["training"].pop("token", None)
    out["endpoints"] = {name: _endpoint(endpoint, port) for name, endpoint in spec.get("endpoints", {}).items()}
    if not any("url" in endpoint for endpoint in out["endpoints"].values()):
        out["endpoints"]["rehearsal"] = _endpoint({}, port)
    out["proxies"] = {
        name: {"url": f"http://127.0.0.1:{port()}", "token": f"file:{name}.token"} for name in spec.get("proxies", {})
    }
    return out


def _endpoint(written: Mapping[str, Any], port: Callable[[], int]) -> dict[str, Any]:
    """One that an evaluation creates stays what it is, because its vendor is a double too; it is given no secret."""
    if "inferenceEndpoint" in written:
        given = {key: value for key, value in written["inferenceEndpoint"].items() if key != "secrets"}
        return {**written, "inferenceEndpoint": given}
    kept = {key: written[key] for key in ("fallback",) if key in written}
    return {"url": f"http://127.0.0.1:{port()}/v1", "simulated": True, **kept}


def gateway(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """Proxies only; None when it has none."""
    return {"proxies": list(spec["proxies"])} if spec.get("proxies") else None


def rollout(spec: Mapping[str, Any]) -> dict[str, Any]:
    """In seconds instead of days, judged on few requests."""
    short = _short(spec)
    analysis = dict(short.get("analysis") or {})
    analysis["minimumSamples"] = min(int(analysis.get("minimumSamples", SAMPLES)), SAMPLES)
    strategy = short.get("strategy")
    named = {"canary_20pct": {"canary": [{"weight": 20, "hold": HOLD_SECONDS}]}, "canary": {"canary": _steps()}}
    if isinstance(strategy, str):
        short["strategy"] = named.get(strategy, strategy)
    elif isinstance(strategy, dict):
        short["strategy"] = {name: _held(given) for name, given in strategy.items()}
    return {**short, "analysis": analysis}


def _steps() -> list[dict[str, float]]:
    return [{"weight": weight, "hold": HOLD_SECONDS} for weight in (20, 50)]


def _held(given: Any) -> Any:
    """Where a hold is not written, its default is a day."""
    if isinstance(given, list):
        return [{**step, "hold": step.get("hold", HOLD_SECONDS)} if isinstance(step, dict) else step for step in given]
    return given


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: HOLD_SECONDS if key in WAITS and each is not None else _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list) else value


def evaluation(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Without its watch over latency: milliseconds of doubles on a busy machine say nothing about models."""
    thresholds = dict(spec.get("thresholds") or {})
    watched = thresholds.get("watch", WATCH)
    thresholds["watch"] = {name: limit for name, limit in watched.items() if not name.startswith("latency")}
    return {**spec, "thresholds": thresholds}


CHANGED: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "Evaluation": evaluation,
    "Gateway": gateway,
    "Rollout": rollout,
}
"""By kind; all others are rehearsed as they are."""


# -- what has to be there ----------------------------------------------------------------------------------------------


def base_models(specs: Mapping[str, Iterable[Mapping[str, Any]]], default: str | None) -> set[str]:
    """Hub ids that trainings and conversions start from, and that candidates on endpoints of their own are."""
    found = {str(spec.get("baseModel") or default or "") for spec in specs.get("TrainingRequest", ())}
    found |= {str((spec.get("source") or {}).get("repo") or "") for spec in specs.get("Conversion", ())}
    return {name for name in found if name.count("/") == 1 and not name.startswith((".", "/"))}


def baselines(specs: Mapping[str, Iterable[Mapping[str, Any]]]) -> set[str]:
    """Models that answer as what is used now: all that are bound or compared with, and no candidate."""
    found = {str(spec["model"]) for spec in specs.get("ModelBinding", ())}
    sides = [(spec.get("baseline") or {}, spec.get("candidate") or {}) for spec in specs.get("Evaluation", ())]
    found |= {str(baseline["model"]) for baseline, _ in sides if baseline.get("model")}
    return found - {str(candidate.get("model")) for _, candidate in sides}


def data_sets(specs: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, str]:
    """Sources elsewhere (`ls://NAME`, `hf://ORG/NAME`, without a revision) -> what they are for: sft, preferences or evaluation."""
    found: dict[str, str] = {}
    for spec in specs.get("TrainingRequest", ()):
        _note(found, spec.get("dataset"), "sft" if spec.get("method") == "sft" else "preferences")
        _note(found, spec.get("evaluation"), "evaluation")
    for spec in specs.get("Evaluation", ()):
        _note(found, spec.get("dataset"), "evaluation")
    return found


def _note(found: dict[str, str], dataset: Any, role: str) -> None:
    written = dataset if isinstance(dataset, Mapping) else {"source": dataset}
    source = written.get("source") or (f"ls://{written['langsmith']}" if written.get("langsmith") else "")
    if source:
        found.setdefault(str(source).partition("@")[0], role)
