"""Names for shell completion, from file names of the work tree alone: quick, and wrong at worst by an offer too many."""

from __future__ import annotations

from pathlib import Path

import click

from controller.cli.call import Call


def addresses(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of resources; where one name is there twice, the files too, because only they are unambiguous."""
    root = _root(context)
    if root is None:
        return []
    files = [path for folder in (root / "state", *root.glob("environments/*/state")) for path in sorted(folder.glob("*/*.yaml"))]
    stems = [path.stem for path in files]
    offers = {path.stem for path in files}
    offers |= {f"{path.parent.name}/{path.name}" for path in files if stems.count(path.stem) > 1}
    return sorted(offer for offer in offers if offer.startswith(incomplete))


def environments(context: click.Context) -> list[str]:
    root = _root(context)
    return sorted(path.parent.name for path in root.glob("environments/*/environment.yaml")) if root else []


def _root(context: click.Context) -> Path | None:
    call = context.find_object(Call)
    here = (call.repo if call else Path()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
