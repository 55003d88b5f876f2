"""Speaks the protocol of the conversion program with nothing but the standard library: what backends are tested with.

The name of the request says what becomes of it: `slow` converts until it is stopped, `short` leaves a file that is shorter than its
list says, `text` one that is no GGUF, `silent` one that did not generate, `crash` ends with a bug, `cut` does not reach the Hub.
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
    (out / "asked.json").write_text(json.dumps(request))
    kept, name = (out / "progress.jsonl").open("a"), request["name"]

    def tell(event: str, **fields: object) -> None:
        line = json.dumps({"event": event, "at": "2026-11-21T00:00:00+00:00", **fields})
        for file in (kept, sys.stdout):
            print(line, file=file, flush=True)

    def stop(*_: object) -> None:
        tell("failed", code="cancelled", message="the process was told to end", todo="run it again")
        os._exit(143)

    signal.signal(signal.SIGTERM, stop)
    print("a library says something that is no event", flush=True)
    tell("started", intent=request["intent"], source="s", quantizations=request["quantizations"], pid=os.getpid())
    if name == "crash":
        raise RuntimeError("a bug")
    tell("converted", type="F16", name="x", size=1, sha256="", seconds=0.1)
    while name == "slow":
        tell("quantizing", type="Q4_K_M", tensors=3, of=10)
        time.sleep(0.05)
    files = []
    for quantization in request["quantizations"]:
        content = b"GGUF" + quantization.encode() * 10
        file = out / f"{name}-{quantization}.gguf"
        file.write_bytes(content if name != "text" else b"text" + content[4:])
        test = {"prompt": request["prompt"], "max_tokens": 4, "text": "", "tokens": 0} if name == "silent" else {}
        test = test or {"prompt": request["prompt"], "max_tokens": 4, "text": "jumps " * 90, "tokens": 4, "differ": []}
        size, digest = len(content), hashlib.sha256(file.read_bytes()).hexdigest()
        files.append({"name": file.name, "type": quantization, "size": size, "sha256": digest, "tensors": {}, "test": test})
        tell("quantized", type=quantization, name=file.name, size=size, sha256=digest, seconds=0.1)
        tell("tested", type=quantization, **test)
    facts = {"architecture": "llama", "parameters": 7, "context_length": 256, "tokenizer": {"model": "gpt2"}, "packages": {}}
    result = {"intent": request["intent"], "source": {"name": "s", "revision": "r"}, **facts, "files": files}
    if name == "cut":
        tell("failed", code="hub_unreachable", message="put: no answer", todo="run the same request again")
        return 7
    if "upload" in request:
        upload(request, result, out)
    if name == "short":
        (out / files[0]["name"]).write_bytes(b"GGUF")
    (out / "result.json").write_text(json.dumps(result))
    tell("finished", files=len(files))
    return 0


def upload(request: dict, result: dict, out: Path) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    record = f"conversion-{hashlib.sha256(request['intent'].encode()).hexdigest()[:12]}.json"
    names = [each["name"] for each in result["files"]]
    adds = [CommitOperationAdd(name, str(out / name)) for name in (names if request["name"] != "short" else names[1:])]
    adds.append(CommitOperationAdd(record, json.dumps(result).encode()))
    HfApi().create_repo(request["upload"]["repo"], exist_ok=True, private=True)
    HfApi().create_commit(request["upload"]["repo"], adds, commit_message="Result")


if __name__ == "__main__":
    sys.exit(main())
