"""Speaks the protocol of the training program with nothing but the standard library: what backends are tested with.

The agent of the request says what becomes of it: `oom` has no memory until the batch is 1, `slow` trains until it is stopped,
`broken` leaves a file that is shorter than its list says, `crash` ends with a bug. With `push` the result goes to the Hub.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    given = sys.argv[2] if sys.argv[1:2] == ["--request"] else ""
    request = json.loads(Path(given).read_text() if given else os.environ["TURNOUT_REQUEST"])
    out = Path(request["output"]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with (out / "starts").open("a") as starts:  # how often it was really started
        starts.write(f"{os.getpid()}\n")
    kept = (out / "progress.jsonl").open("a")

    def tell(event: str, **fields: object) -> None:
        line = json.dumps({"event": event, "sequence": 1, "time": time.time(), **fields})
        for file in (kept, sys.stdout):
            print(line, file=file, flush=True)

    def stop(*_: object) -> None:
        tell("stopped", code="terminated", message="It was told to stop.", what_to_do="Run it again.")
        os._exit(75)

    signal.signal(signal.SIGTERM, stop)
    print("a library says something that is no event", flush=True)
    tell("started", request=request)
    agent, batch = request["agent"], request["batch"]
    if agent == "crash":
        raise RuntimeError("a bug")
    if agent == "oom" and batch > 1:
        tell("failed", code="out_of_memory", message=f"With batch {batch}: out of memory.", what_to_do="Take a larger one.")
        return 5
    for step in range(1, 4):
        tell("step", step=step, steps=3, loss=3.0 - step, eta_seconds=3 - step)
    while agent == "slow":
        time.sleep(0.02)
    (out / "merged").mkdir(exist_ok=True)
    (out / "merged" / "model.safetensors").write_bytes(b"weights")
    files = [{"name": "merged/model.safetensors", "size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}]
    metrics = {"before": {"loss": 2.0}, "after": {"loss": 1.0}, "seconds": 2.0, "tokens": 500, "loss_curve": [2.0] * 200}
    (out / "result.json").write_text(json.dumps({"request": request, "files": files, "metrics": metrics}))
    if agent == "broken":
        (out / "merged" / "model.safetensors").write_bytes(b"wei")
    if request["push"]:
        from huggingface_hub import CommitOperationAdd, HfApi

        adds = {"model.safetensors": out / "merged" / "model.safetensors", "result.json": out / "result.json"}
        api = HfApi()
        api.create_repo(request["hub_repository"], exist_ok=True, private=True)
        operations = [CommitOperationAdd(name, str(path)) for name, path in adds.items()]
        api.create_commit(request["hub_repository"], operations, commit_message="Result")
    tell("finished", metrics=metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main())
