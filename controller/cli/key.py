"""`turnout key`: a key for a client of the proxies. The key is shown once; git only ever gets its digest."""

from __future__ import annotations

import hashlib
import secrets

import click

from controller.cli.call import Call, as_json, options, pass_call


@click.command(name="key")
@click.argument("client", default="my-client")
@as_json
@options
@pass_call
def command(call: Call, client: str, json_: bool) -> int:
    """Make a key for CLIENT, and the lines of environment.yaml that let it in.

    The proxies know digests only: who reads the repository cannot use it. Several keys of one client rotate without a gap.
    """
    key = "tk-" + secrets.token_urlsafe(32)
    digest = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    if json_:
        call.emit({"client": client, "key": key, "digest": digest})
        return 0
    click.echo(
        f"key of {client}, shown only now:\n  {key}\n\nin environment.yaml:\n  clients:\n    {client}:\n      keys: [{digest!r}]"
    )
    return 0
