"""The real conversion program under a whole controller: GGUF files of a tiny model that generate, and an upload that is cut.

It needs a Python (TURNOUT_TRAINING_PYTHON) with the packages at the top of controller/programs/convert.py; in CI that is a failure.
Hugging Face is the double; its jobs are real processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.clients.conversions import Conversions, program, script
from controller.clients.conversions.hf_jobs import HubConversions
from controller.clients.conversions.local import LocalConversions
from controller.clients.huggingface import Hub, HuggingFace, connect
from controller.clients.runs import Prices
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options
from controller.testing.simulation import Simulation

pytestmark = pytest.mark.training
TOKEN = "hf_secretsecretsecret"
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
config = LlamaConfig(vocab_size=len(fast), hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1)
LlamaForCausalLM(config).save_pretrained(sys.argv[1])
fast.save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def fox(python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model of 0.7 million untrained weights."""
    folder = tmp_path_factory.mktemp("model") / "fox"
    subprocess.run([python, "-c", MAKE, folder], capture_output=True, timeout=300, check=True)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def double(python: str, fox: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceDouble]:
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    options = Options(accounts={TOKEN: Account("ada", ("acme",))}, interpreter=python, run_jobs="subprocess")
    with HuggingFaceDouble(tmp_path / "double", options) as running:
        running.seed("model", "acme/fox", fox, private=True, large=("model.safetensors",))
        yield running


class World:
    """A simulation whose conversions are real, before a double of the Hub."""

    def __init__(self, folder: Path, double: HuggingFaceDouble, python: str) -> None:
        (folder / "hub.token").write_text(TOKEN)
        self.hub: Hub = connect(HuggingFace(url=double.url, namespace="acme", token="file:hub.token"), folder)
        self.hub.jobs.quiet_seconds = 0.1
        self.folder = folder
        local = LocalConversions(
            folder / "conversions", program(), python=python, hub=lambda: self.hub, token="file:hub.token", artefact=_nobody
        )
        jobs = HubConversions(lambda: self.hub, script, Prices("2026-11-01", False, {}))
        self.door = Conversions({"local": local, "hf_jobs": jobs}, "local", lambda: self.hub)
        self.sim = Simulation(folder, doors={"conversions": self.door})

    def convert(self, quantizations: str, backend: str) -> None:
        text = f"""\
apiVersion: turnout/v1
kind: Conversion
metadata: {{name: fox}}
spec:
  agent: fox
  version: v1.0.0
  source: {{repo: acme/fox}}
  quantizations: {quantizations}
  smoke: {{prompt: the quick, tokens: 4}}
  backend: {backend}
  push: true
  repository: acme/fox-GGUF
"""
        self.sim.commit({"state/conversions/fox.yaml": text}, "Convert the fox")

    def past(self) -> dict[str, Any]:
        found: dict[str, Any] = self.sim.folded().get("past/Conversion/fox") or {}
        return found

    def until(self, machine: str, said: Any) -> dict[str, Any]:
        """Passes of one controller until `said` of the state is true."""
        flow = self.sim.controller(machine)
        for _ in range(600):
            self.sim.settle(flow)
            past = self.past()
            state = {**(past.get("after") or {}), "ended": past.get("ended", "")}
            if said(state):
                return state
            assert not state["ended"], state
            self.sim.advance(1)
            time.sleep(0.2)
        raise AssertionError(f"never: {self.past()}")

    def pids(self) -> list[int]:
        return [int(path.read_text().split()[0]) for path in self.folder.glob("conversions/*/process-*")]


def _nobody(*_: str) -> Any:
    raise AssertionError("nobody asks it here")


@pytest.fixture
def world(tmp_path: Path, double: HuggingFaceDouble, python: str) -> Iterator[World]:
    found = World(tmp_path, double, python)
    yield found
    for pid in found.pids():
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def generates(python: str, path: Path) -> dict[str, Any]:
    """Loads a file in a process of its own and lets it go on with a text."""
    job = json.dumps({"file": str(path), "prompt": "the quick", "max_tokens": 4, "probes": []})
    command = [python, str(program().with_name("gguf_steps.py")), "generate", job]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["result"]
    return found


def _commits(hub: Hub) -> list[Any]:
    with hub.session.call("list commits") as api:
        return list(api.list_repo_commits("acme/fox-GGUF"))


def asked(double: HuggingFaceDouble, route: str) -> int:
    return int(double.ledger()["requests"].get(route, 0))


def test_an_upload_cut_in_the_middle_goes_on_and_the_files_generate(world: World, double: HuggingFaceDouble, python: str) -> None:
    double.fail("PUT /upload/*", "cut", bytes=50_000)  # the program sends it again by itself
    double.fail("PUT /upload/*", "hang", before=True)  # and then the machine dies
    world.convert("[q8_0, Q4_K_M]", "local")
    world.until("first", lambda state: asked(double, "PUT storage") >= 2)
    os.killpg(world.pids()[0], signal.SIGKILL)
    state = world.until("first", lambda state: state["ended"])
    assert (state["ended"], state["attempt"], len(world.pids())) == ("completed", 2, 2)
    assert state["source"]["revision"] == world.hub.repositories.revision("acme/fox")
    assert state["revision"] == world.hub.repositories.revision("acme/fox-GGUF")
    assert (state["metadata"]["architecture"], state["metadata"]["context_length"]) == ("llama", 256)
    assert {name: answer["tokens"] for name, answer in state["smoke"]["answers"].items()} == {"Q8_0": 4, "Q4_K_M": 4}
    (progress,) = world.folder.glob("conversions/*/out/progress.jsonl")
    told = [(line["event"], line.get("type")) for line in map(json.loads, progress.read_text().splitlines())]
    assert told.count(("converted", "F16")) == told.count(("quantized", "Q8_0")) == told.count(("quantized", "Q4_K_M")) == 1
    for near in (True, False):  # from the folder, then from the Hub
        there = state if near else {**state, "job": "elsewhere:fox:1"}
        path = world.door.download(there, "Q4_K_M", world.folder / f"near-{near}", lambda done, of: None)
        found = generates(python, path)
        assert (found["tokens"], bool(found["text"])) == (4, True)
    commits = [commit.title for commit in _commits(world.hub)]
    claim = "Claim of a conversion of acme/fox"
    assert commits == ["GGUF of acme/fox: Q8_0, Q4_K_M", claim, claim, "initial commit"]  # all files at once, once


def test_a_job_converts_with_the_whole_program_in_one_script(world: World, double: HuggingFaceDouble) -> None:
    world.convert("[Q8_0]", "hf_jobs")
    world.until("first", lambda state: state.get("phase") == "running")
    state = world.until("second", lambda state: state["ended"])  # on another machine, from the repository alone
    assert (state["ended"], state["attempt"], state["hardware"]) == ("completed", 1, "cpu-upgrade")
    assert asked(double, "POST /api/jobs/acme") == 1
    path = world.door.download(state, "Q8_0", world.folder / "models", lambda done, of: None)
    assert path.read_bytes().startswith(b"GGUF")
    assert state["smoke"]["answers"]["Q8_0"]["tokens"] == 4
    (row,) = double.ledger()["jobs"]
    assert state["cost_usd"] == pytest.approx(row["usd"], abs=0.0001)
