"""Who may see and write a repository of the double. The vendor tells strangers that a private one does not exist."""

from __future__ import annotations

from typing import Any

from controller.testing.hugging_face.accounts import Account, may_write
from controller.testing.hugging_face.exchange import Refused, Request
from controller.testing.hugging_face.world import World

PLURALS = {"models": "model", "datasets": "dataset", "spaces": "space"}


def kind_of(plural: str) -> str:
    if plural not in PLURALS:
        raise Refused(404, f"There is no /api/{plural}")
    return PLURALS[plural]


def seen(world: World, request: Request, kind: str, repo: str) -> dict[str, Any]:
    """The record. Raises Refused: 404 with a token, 401 without one, both with the code RepoNotFound, as the vendor does."""
    record = world.repositories.get(kind, repo)
    if record is not None and (not record["private"] or _member(request.account, repo)):
        return record
    if request.account is None:
        raise Refused(401, "Invalid username or password.", "RepoNotFound")
    raise Refused(404, "Repository not found", "RepoNotFound")


def readable(world: World, request: Request, kind: str, repo: str) -> dict[str, Any]:
    """Its contents too. Raises Refused (GatedRepo) where access must be asked for."""
    record = seen(world, request, kind, repo)
    who = request.account
    if not record["gated"] or _member(who, repo) or (who is not None and repo in who.granted):
        return record
    if who is None:
        raise Refused(401, f"Access to {kind} {repo} is restricted. You must have access to it and be authenticated.", "GatedRepo")
    raise Refused(403, f"Access to {kind} {repo} is restricted and you are not in the authorized list.", "GatedRepo")


def writable(world: World, request: Request, kind: str, repo: str) -> dict[str, Any]:
    """Raises Refused: 401, 403 or 404."""
    record = seen(world, request, kind, repo)
    may_write(request.account, repo.partition("/")[0], f"write to {kind} {repo}")
    return record


def _member(account: Account | None, repo: str) -> bool:
    return account is not None and account.belongs_to(repo.partition("/")[0])
