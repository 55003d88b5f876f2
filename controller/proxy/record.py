"""What is known of a request once it has ended: one record, read by the log, the ring, the sessions and the exporters."""

from __future__ import annotations

import msgspec

PARTS = ("agent", "queue", "network", "prefill", "decode")


def slowest(agent: float, queue: float, network: float, prefill: float, decode: float) -> str:
    """Where most of the time went, or "" where no time is known: the bottleneck of a request or a session."""
    times = (agent, queue, network, prefill, decode)
    most = max(times)
    return PARTS[times.index(most)] if most > 0 else ""


class Record(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One request of a client. Times are seconds, `at` is the wall clock at its beginning.

    `queue_s` waiting for a replica; `network_s` connecting, and waiting for a client that reads slowly; `prefill_s` from the
    request sent to the first byte of the answer's body; `decode_s` from there to the last; `agent_s` what the agent says it
    needed before and after. They do not sum to `total_s` where tries were made in vain.
    """

    id: str
    trace: str
    span: str
    parent: str = ""
    at: float
    method: str
    path: str
    agent: str = ""
    variant: str = ""
    version: str = ""
    step: str = ""
    model: str = ""
    endpoint: str = ""
    replica: str = ""
    answered_by: str = ""  # the fallback, where one answered
    client: str = ""
    session: str = ""
    task: str = ""
    told_client: str = ""
    status: int = 0
    code: str = ""
    error: bool = False
    stream: bool = False
    tries: int = 0
    total_s: float = 0.0
    queue_s: float = 0.0
    network_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    token_s: float = 0.0
    agent_s: float = 0.0
    bottleneck: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cost_usd: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    prompt: str = ""
    answer: str = ""
