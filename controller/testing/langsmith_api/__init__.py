"""A double of LangSmith's HTTP API, for the real `langsmith` SDK: datasets, experiments, runs, feedback, comparisons.

`with LangSmithApi(data) as api: Client(api_url=api.url, api_key=api.key)`, or as a process
`python -m controller.testing.langsmith_api --port P --data DIR`. Written against the vendor's published OpenAPI description;
it validates what it gets and refuses what the vendor refuses: no or a wrong key 401, another workspace 403, an unknown thing 404,
a second dataset or project of one name 409, a run that was received already 409, a run without its place in a trace 400, too much
at once 413, a body of the wrong form 422. Faults: `vendor_faults.KINDS`.

Not here: filters in LangSmith's query language, sharing, prompts, annotation queues, rules, SmithDB's v2 queries. Attachments
are accepted and their size kept. Where the vendor does not say what it does (does an upsert replace metadata? is the second
payload of one run ignored?) the double does the less convenient thing: it replaces, and it ignores.
"""

from __future__ import annotations

from .api import LangSmithApi

__all__ = ["LangSmithApi"]
