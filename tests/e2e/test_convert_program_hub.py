"""controller/programs/hub_files.py, and convert.py through it, against a small Hub on loopback: resume, damage, refusal, commit.

All parts need a Python (TURNOUT_TRAINING_PYTHON) with the packages at the top of convert.py, as in test_convert_program.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

pytestmark = pytest.mark.training
PROGRAMS = Path(__file__).parents[2] / "controller" / "programs"
COMMIT = "a" * 40
MAKE = """
import sys, torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator(["the quick brown fox"] * 9, trainer)
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
torch.manual_seed(7)
config = LlamaConfig(vocab_size=len(fast), hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
fast.save_pretrained(sys.argv[1])
"""


class Hub(ThreadingHTTPServer):
    """What of the Hub's HTTP the program uses. Files of one repository at a time; LFS for what is not JSON or Markdown."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects by sha256
        self.commits: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str, str]] = []  # method, path, Range
        self.created: list[dict[str, Any]] = []
        self.status = 0  # answer everything with this
        self.stall_after = 0  # send so many bytes of a file, then wait for ever
        self.damage = False

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "oid": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 130,
        }
        found = {"rfilename": name, "path": name, "type": "file", "size": len(content), "blobId": blob, "oid": blob}
        return found if name.endswith((".json", ".md")) else found | {"lfs": lfs}


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.refused():
            return
        if self.path.startswith("/api/models/"):
            siblings = [self.server.entry(name) for name in self.server.files]
            self.reply({"id": "acme/fox", "sha": "b" * 40 if "GGUF" in self.path else COMMIT, "siblings": siblings})
            return
        content = self.server.files[self.path.split("/")[-1]]
        first = int((re.search(r"bytes=(\d+)-", self.headers.get("Range") or "") or [0, 0])[1])
        body = (bytes(len(content)) if self.server.damage else content)[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if 0 < self.server.stall_after < len(body):
            self.wfile.write(body[: self.server.stall_after])
            time.sleep(60)
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refused():
            return
        hub, host = self.server, f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self.reply({"url": f"{host}/{hub.created[-1].get('organization')}/{hub.created[-1]['name']}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/paths-info/" in self.path:
            paths = parse_qs(body.decode())["paths"]
            self.reply([hub.entry(name) for name in paths if name in hub.files])
        elif "/preupload/" in self.path:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [
                {"path": name, "uploadMode": "regular" if name.endswith(".md") else "lfs", "shouldIgnore": False} for name in names
            ]
            self.reply({"files": modes})
        elif self.path.endswith("/objects/batch"):
            found = [{**one, "actions": {"upload": {"href": f"{host}/lfs/{one['oid']}"}}} for one in json.loads(body)["objects"]]
            self.reply({"transfer": "basic", "objects": found})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            hub.commits.append(lines[0]["value"])
            for line in lines[1:]:
                value = line["value"]
                known = hub.stored[value["oid"]] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
                hub.files[value["path"]] = known
            self.reply(
                {"success": True, "commitOid": "b" * 40, "commitUrl": f"{host}/acme/fox/commit/{'b' * 40}", "hookOutput": ""}
            )
        else:
            self.reply({"error": f"no such route {self.path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.calls.append(("PUT", self.path, ""))
        self.server.stored[hashlib.sha256(content).hexdigest()] = content
        self.reply({})

    def refused(self) -> bool:
        self.server.calls.append((self.command, self.path, self.headers.get("Range") or ""))
        status = self.server.status or (0 if self.headers.get("Authorization") == "Bearer hf_test" else 401)
        if status:
            self.reply({"error": "told to refuse"}, status)
        return bool(status)

    def reply(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def python() -> str:
    found = os.environ.get("TURNOUT_TRAINING_PYTHON", "")
    look = "import conversion, gguf, huggingface_hub, sentencepiece, torch, transformers, xllamacpp"
    why = "TURNOUT_TRAINING_PYTHON is not set"
    if found:
        tried = subprocess.run([found, "-c", look], capture_output=True, text=True, timeout=300, check=False)
        why = tried.stderr.strip().splitlines()[-1] if tried.returncode else ""
    if why:
        why = f"{why}: it names a Python with the packages at the top of controller/programs/convert.py"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    return found


def surroundings(hub: Hub, token: str = "hf_test") -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}


def step(python: str, hub: Hub, name: str, job: dict[str, Any], token: str = "hf_test") -> dict[str, Any]:
    command = [python, PROGRAMS / "hub_files.py", name, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=surroundings(hub, token), check=False)
    assert done.stdout, done.stderr
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if "failure" in last else 0)
    return last


def test_a_killed_download_goes_on_where_it_was(python, hub, tmp_path):
    hub.files = {"big.gguf": random.Random(1).randbytes(24_000_000), "README.md": b"# Fox"}
    hub.stall_after = 21_000_000
    job = {"repo": "acme/fox", "folder": str(tmp_path), "names": ["*.gguf", "README.md"]}
    process = subprocess.Popen(
        [python, PROGRAMS / "hub_files.py", "get", json.dumps(job)], stdout=subprocess.PIPE, env=surroundings(hub)
    )
    part = tmp_path / f".{hashlib.sha256(hub.files['big.gguf']).hexdigest()}.part"
    for _ in range(600):
        if part.exists() and part.stat().st_size > 1_000_000:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    had, hub.stall_after = part.stat().st_size, 0
    assert had > 1_000_000
    assert not (tmp_path / "big.gguf").exists()
    assert step(python, hub, "get", job)["result"]["downloaded"] == ["README.md", "big.gguf"]
    assert [call[2] for call in hub.calls if call[1].endswith("big.gguf")] == ["", f"bytes={had}-"]
    assert (tmp_path / "big.gguf").read_bytes() == hub.files["big.gguf"]
    assert step(python, hub, "get", job)["result"]["downloaded"] == []
    assert not part.exists()


def test_what_is_not_the_announced_content_is_not_kept(python, hub, tmp_path):
    hub.files, hub.damage = {"a.gguf": b"right" * 100}, True
    job = {"repo": "acme/fox", "folder": str(tmp_path)}
    assert step(python, hub, "get", job)["failure"][0] == "download_damaged"
    assert list(tmp_path.iterdir()) == []
    hub.damage = False
    assert step(python, hub, "get", job)["result"]["downloaded"] == ["a.gguf"]


def test_what_stays_refused_is_told_apart_from_what_may_pass(python, hub, tmp_path):
    hub.files = {"a.gguf": b"right"}
    assert step(python, hub, "list", {"repo": "acme/fox"}, token="hf_wrong")["failure"][0] == "hub_refused"
    assert step(python, hub, "list", {"repo": "not a name"})["failure"][0] == "hub_refused"
    assert step(python, hub, "get", {"repo": "acme/fox", "folder": str(tmp_path), "names": ["*Q9*"]})["failure"][0] == "hub_refused"
    hub.status = 500
    assert step(python, hub, "list", {"repo": "acme/fox"})["failure"][0] == "hub_unreachable"
    hub.server_close()
    assert step(python, hub, "list", {"repo": "acme/fox"})["failure"][0] == "hub_unreachable"


def test_from_a_repository_to_a_repository_with_one_claim_and_one_commit(python, hub, tmp_path):
    subprocess.run([python, "-c", MAKE, tmp_path / "fox"], capture_output=True, timeout=300, check=True)
    hub.files = {file.name: file.read_bytes() for file in (tmp_path / "fox").iterdir()} | {"evil.py": b"raise SystemExit"}
    out = tmp_path / "out"
    request = {"intent": "i-1", "source": {"repo": "acme/fox"}, "quantizations": ["Q8_0"], "output": str(out)}
    request |= {"upload": {"repo": "acme/fox-GGUF"}, "max_tokens": 4, "prompt": "the"}
    (tmp_path / "request.json").write_text(json.dumps(request))

    def attempt() -> list[dict[str, Any]]:
        command = [python, PROGRAMS / "convert.py", "--request", tmp_path / "request.json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=surroundings(hub), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    told = attempt()
    assert {"downloaded", "converted", "quantized", "tested", "uploaded", "finished"} <= {line["event"] for line in told}
    assert not (out / "source" / "evil.py").exists()
    result = json.loads((out / "result.json").read_text())
    assert result["source"] == {"name": "acme/fox", "revision": COMMIT}
    assert hub.created == [{"name": "fox-GGUF", "organization": "acme", "visibility": "private"}] * 2
    assert [each["summary"] for each in hub.commits] == ["Claim of a conversion of acme/fox", "GGUF of acme/fox: Q8_0"]
    assert hub.commits[1]["description"] == "Intent: i-1"
    record = f"conversion-{hashlib.sha256(b'i-1').hexdigest()[:12]}.json"
    assert json.loads(hub.files[record])["files"] == result["files"]
    digest = result["files"][0]["sha256"]
    assert hashlib.sha256(hub.files["fox-Q8_0.gguf"]).hexdigest() == digest
    assert digest in hub.files["README.md"].decode()
    assert "base_model: acme/fox\n" in hub.files["README.md"].decode()
    hub.files["README.md"] = b"# A card that a person wrote"
    again = [line for line in attempt() if line["event"] == "uploaded"]
    assert again[0]["new"] == []
    assert len(hub.commits) == 2


def test_one_process_holds_the_claim_and_a_later_attempt_takes_it_over(python, hub):
    def claim(attempt: int, holder: str) -> dict[str, Any]:
        job = {"repo": "acme/fox-GGUF", "file": "conversion-1.json", "message": "Claim"}
        return step(python, hub, "claim", {**job, "claim": {"attempt": attempt, "holder": holder}})

    assert claim(1, "a")["result"]["new"]
    assert not claim(1, "a")["result"]["new"]  # a restart
    assert claim(1, "b")["failure"][0] == "claimed"
    assert claim(2, "b")["result"]["new"]
    assert claim(1, "a")["failure"][0] == "claimed"  # it was thought dead and comes back
    assert json.loads(hub.files["conversion-1.json"]) == {"attempt": 2, "holder": "b"}
    assert len(hub.commits) == 2
