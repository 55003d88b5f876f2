"""Pretended agents: sessions that send chat requests to a gateway for a while. For tours, rehearsals and scenarios.

python -m controller.testing.traffic --agent feature_dev --seconds 30
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit


def send(url: str, agent: str, seconds: float, rate: float) -> Counter[str]:
    """Requests by version and status; one new session a request, at most `rate` a second, until `seconds` are over."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port or 80, timeout=30)
    body = json.dumps({"model": agent, "messages": [{"role": "user", "content": "hello"}]})
    seen: Counter[str] = Counter()
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        number += 1
        headers = {"Content-Type": "application/json", "X-Session-ID": f"{agent}-{time.time_ns()}"}
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            answer.read()
            seen[f"{answer.headers.get('x-turnout-version', '?')} {answer.status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            seen[type(error).__name__] += 1
        time.sleep(1 / rate)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m controller.testing.traffic", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:5800")
    parser.add_argument("--agent", action="append", help="again for more; default feature_dev")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    args = parser.parse_args()
    agents = args.agent or ["feature_dev"]
    with ThreadPoolExecutor(len(agents)) as pool:
        seen = sum(pool.map(lambda agent: send(args.url, agent, args.seconds, args.rate), agents), Counter[str]())
    for version, count in sorted(seen.items()):
        print(f"{version}: {count}")


if __name__ == "__main__":
    main()
