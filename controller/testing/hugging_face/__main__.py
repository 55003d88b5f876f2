"""`python -m controller.testing.hugging_face --port 5820 --data DIR`: the double as a process, for rehearsals."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from controller.testing.hugging_face import DEFAULT_TOKEN, Account, HuggingFaceDouble, Options


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m controller.testing.hugging_face", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 picks a free one and says which")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds all that it knows")
    parser.add_argument("--run-jobs", choices=("scripted", "subprocess"), default="subprocess")
    parser.add_argument("--python", default=sys.executable, help="interpreter of jobs that run (python, python3, uv run)")
    parser.add_argument("--token-file", type=Path, help=f"whose text is the token that is known; default {DEFAULT_TOKEN}")
    parser.add_argument("--user", default="rehearsal")
    parser.add_argument("--org", action="append", default=[], help="organisation that the user belongs to; again for more")
    parser.add_argument("--boot-seconds", type=float, default=5.0, help="how long an Inference Endpoint initializes")
    parser.add_argument("--serving-url", default="http://127.0.0.1:9", help="address that a running endpoint tells; {name} in it")
    parser.add_argument("--most-jobs", type=int, default=1, help="jobs that run at the same time")
    return parser.parse_args()


def main() -> int:
    wanted = _arguments()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        token = wanted.token_file.read_text().strip() if wanted.token_file else DEFAULT_TOKEN
        options = Options(
            accounts={token: Account(wanted.user, tuple(wanted.org or ("acme",)))},
            run_jobs=wanted.run_jobs,
            interpreter=wanted.python,
            most_processes=wanted.most_jobs,
            boot_seconds=wanted.boot_seconds,
            serving_url=wanted.serving_url,
        )
        with HuggingFaceDouble(wanted.data, options, host=wanted.host, port=wanted.port) as double:
            print(f"Hugging Face double listening on {double.url}", flush=True)
            stop.wait()
    except OSError as error:
        print(f"hugging_face: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
