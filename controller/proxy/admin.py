"""How the control plane reads and replaces the route table; the only part of the surface that needs a token."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import TYPE_CHECKING

from .pages import JSON, Page, error_page, json_page
from .table import decode, problems

if TYPE_CHECKING:
    from .gate import Gate
    from .inbound import Request


def refusal(request: Request, token_file: Path | None) -> Page | None:
    """Why this request may not touch the table, or None if it may. The file is read each time: a token can rotate."""
    token = b""
    if token_file is not None:
        try:
            token = token_file.read_bytes().strip()
        except OSError:
            token = b""
    if not token:
        return error_page(403, "The proxy has no token, so nobody may read or write its table", "forbidden")
    scheme, _, given = (request.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token):
        return error_page(401, "A valid bearer token is needed", "unauthorized", b"www-authenticate: Bearer\r\n")
    return None


def current_table(gate: Gate, request: Request) -> Page:
    """The table as it was written, byte for byte."""
    live = gate.live
    if live is None:
        return json_page(404, {"current": _current(gate), "error": "There is no route table yet"})
    etag = b"etag: %b\r\n" % live.etag
    wanted = [tag.strip().removeprefix(b"W/") for tag in (request.header(b"if-none-match") or b"").split(b",")]
    if live.etag in wanted or b"*" in wanted:
        return Page(304, b"", headers=etag)
    return Page(200, live.raw, JSON, etag)


async def replace_table(gate: Gate, raw: bytes) -> Page:
    """Accepts a table that is valid and was made for the one in service; it is on disk before it is in service."""
    try:
        table = decode(raw)
    except (ValueError, RecursionError) as error:
        return json_page(422, {"error": "This is not a route table", "problems": [str(error)]})
    found = problems(table)
    if found:
        return json_page(422, {"error": "The route table is not valid", "problems": found})
    async with gate.replacing:
        live = gate.live
        digest = live.table.digest if live is not None else ""
        if table.digest == digest:
            return json_page(200, {"serial": table.serial, "digest": digest, "replaced": False})
        if table.replaces != digest:
            text = f"The table replaces {table.replaces or 'none'!r}, but {digest or 'none'!r} is in service"
            return json_page(409, {"current": _current(gate), "error": text})
        replaced = live.raw if live is not None else None
        try:
            await gate.loop.run_in_executor(None, gate.route_file.store, raw, replaced)
        except OSError as error:
            return error_page(500, f"The table cannot be written: {error.strerror}", "not_written")
        gate.adopt(table, raw)
    return json_page(200, {"serial": table.serial, "digest": table.digest, "replaced": True})


def _current(gate: Gate) -> dict[str, int | str]:
    live = gate.live
    return {"serial": live.table.serial, "digest": live.table.digest} if live else {"serial": 0, "digest": ""}
