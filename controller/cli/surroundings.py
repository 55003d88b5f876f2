"""What teams have in their process environment about training: `init` writes it down, `validate` and `plan` say what is not.

Desired state comes from git alone, so nothing of this is read when something runs; two machines with other variables would
otherwise want different things of one commit. Tokens are secrets: of them only the name is ever written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from controller.app import Controller
    from controller.environment import TrainingDefaults

JOBS = "HUGGINGFACE_JOBS_ENABLED"
TEXTS = {"baseModel": "MODELOPS_DEFAULT_BASE_MODEL", "org": "MODELOPS_HUB_ORG"}
TOKENS = ("HUGGINGFACE_HUB_TOKEN", "HF_TOKEN")
"""In the order in which the door to Hugging Face looks for them."""
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def found(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Field of `spec.training` -> the variable that says it, and what it says; of empty and unreadable ones nothing."""
    out = {}
    jobs = environ.get(JOBS, "").strip().lower()
    if jobs in YES + NO:
        out["backend"] = (JOBS, "hf_jobs" if jobs in YES else "local")
    for field, name in TEXTS.items():
        if value := environ.get(name, "").strip():
            out[field] = (name, value)
    return out


def training(environ: Mapping[str, str]) -> tuple[str, str]:
    """The `training:` of a new environment.yaml, and the sentence that says where it comes from; empty where nothing is set."""
    said = found(environ)
    if not said:
        return "", ""
    fields = {field: value for field, (_, value) in said.items()}
    names = [name for name, _ in said.values()]
    token = next((name for name in TOKENS if environ.get(name)), "")
    if token:
        fields["token"] = f"env:{token}"
        names.append(f"{token} (its name only)")
    lines = "".join(f"    {field}: {_scalar(value)}\n" for field, value in fields.items())
    sentence = f"training: {_inline(fields)} is from {', '.join(names)} of this process; from now on the file counts"
    return f"  training:{' ' * 28}# from the process environment of `turnout init`\n{lines}", sentence


def differing(environ: Mapping[str, str], says: TrainingDefaults) -> dict[str, tuple[str, str]]:
    """Of `found`, what environment.yaml does not say."""
    written = {"backend": says.backend, "baseModel": says.base_model, "org": says.org}
    return {field: each for field, each in found(environ).items() if written[field] != each[1]}


def warning(controller: Controller, environ: Mapping[str, str], *, worktree: bool, commit: str) -> str:
    """One line about variables of this process that environment.yaml does not repeat, or nothing."""
    from controller.errors import TurnoutError

    if not found(environ):
        return ""
    try:
        says = controller.settings(worktree=worktree, commit=commit).spec.training
    except TurnoutError:
        return ""  # said by whoever was called
    left = differing(environ, says)
    if not left:
        return ""
    names = ", ".join(name for name, _ in left.values())
    wanted = _inline({field: value for field, (_, value) in left.items()})
    where = f"environments/{controller.environment}/environment.yaml"
    return f"warning: {names} of this process changes nothing; if it is meant, write `training: {wanted}` under spec of {where}"


def _inline(fields: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{field}: {_scalar(value)}" for field, value in fields.items()) + "}"


def _scalar(value: str) -> str:
    """Plain where YAML takes nothing else from it, else quoted; JSON strings are YAML too."""
    plain = value.replace("-", "").replace("_", "").replace("/", "").replace(".", "").replace(":", "")
    safe = value[:1].isalpha() and plain.isalnum() and value.isascii() and not value.endswith(":")
    return value if safe and value.lower() not in ("true", "false", "null", *YES, *NO) else json.dumps(value)
