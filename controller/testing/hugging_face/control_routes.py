"""The double's own pages below `/-/` for tests and rehearsals, and the model list of the vendor's OpenAI-compatible router.

GET /-/healthz · GET PUT DELETE /-/faults · GET /-/ledger · GET PUT /-/script · POST /-/clock {"advance": seconds}
"""

from __future__ import annotations

import json
from dataclasses import asdict

from controller.testing.hugging_face.exchange import Answer, Refused, Request, Table
from controller.testing.hugging_face.faults import parse
from controller.testing.hugging_face.jobs import Script
from controller.testing.hugging_face.ledger import ledger
from controller.testing.hugging_face.repositories import time_of
from controller.testing.hugging_face.world import World


def health(world: World, request: Request) -> Answer:
    return Answer(content={"status": "ok", "url": world.url, "storage": world.storage_url, "now": time_of(world.clock.now())})


def faults(world: World, request: Request) -> Answer:
    return Answer(content=world.faults.shown())


def set_faults(world: World, request: Request) -> Answer:
    try:
        world.faults.set(parse(json.loads(request.body.read()), world.clock.now()))
    except (ValueError, TypeError) as error:
        raise Refused(422, str(error)) from None
    return faults(world, request)


def clear_faults(world: World, request: Request) -> Answer:
    world.faults.set([])
    return faults(world, request)


def books(world: World, request: Request) -> Answer:
    return Answer(content=ledger(world))


def script(world: World, request: Request) -> Answer:
    return Answer(content=asdict(world.script))


def set_script(world: World, request: Request) -> Answer:
    try:
        world.script = Script.parse(request.json())
    except (ValueError, TypeError) as error:
        raise Refused(422, str(error)) from None
    return script(world, request)


def advance(world: World, request: Request) -> Answer:
    seconds = request.json().get("advance")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise Refused(422, f"advance is {seconds!r}, not a number of seconds from 0 on")
    world.clock.advance(seconds)
    return health(world, request)


def models(world: World, request: Request) -> Answer:
    """As the router lists: each model with the providers that serve it; prices in USD per million tokens."""
    rows = [
        {
            "id": name,
            "object": "model",
            "created": 1735689600,
            "owned_by": name.partition("/")[0],
            "providers": [
                {
                    "provider": "double",
                    "status": "live",
                    "context_length": 32768,
                    "pricing": {"input": 0.1, "output": 0.3},
                    "supports_tools": True,
                    "supports_structured_output": True,
                }
            ],
        }
        for name in world.options.models
    ]
    return Answer(content={"object": "list", "data": rows})


ROUTES: Table = [
    ("GET", "/-/healthz", health),
    ("GET", "/-/faults", faults),
    ("PUT", "/-/faults", set_faults),
    ("DELETE", "/-/faults", clear_faults),
    ("GET", "/-/ledger", books),
    ("GET", "/-/script", script),
    ("PUT", "/-/script", set_script),
    ("POST", "/-/clock", advance),
    ("GET", "/v1/models", models),
]
