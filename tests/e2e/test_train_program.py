"""controller/programs/train.py for real: three methods on a tiny model, kills, memory, claims, deadlines, and the page about it.

What is marked `training` runs with the Python that TURNOUT_TRAINING_PYTHON names (a venv with what the program's header lists);
without one it is skipped, in CI that is a failure. The rest needs nothing but this Python: the program looks at request, claim
and data before it imports anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.programs import dependencies

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "controller" / "programs" / "train.py"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "huggingface_hub")
# One thread: on a busy machine several threads wait for each other longer than they compute.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("TURNOUT_", "HF_", "JOB_ID", "SLURM_"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1"}


def missing_packages(python: str) -> str:
    look = "import importlib.util as u, sys; print(*[n for n in sys.argv[1:] if not u.find_spec(n)])"
    if not python:
        return "TURNOUT_TRAINING_PYTHON is not set: name a Python that has " + ", ".join(PACKAGES)
    try:
        found = subprocess.run([python, "-c", look, *PACKAGES], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"TURNOUT_TRAINING_PYTHON={python}: {error}"
    return f"TURNOUT_TRAINING_PYTHON={python} lacks {', '.join(found)}" if found else ""


@pytest.fixture(scope="module")
def python() -> str:
    named = os.environ.get("TURNOUT_TRAINING_PYTHON", "")
    missing = missing_packages(named)
    if missing and os.environ.get("CI") != "true":
        pytest.skip(missing)
    assert not missing
    return named


@pytest.fixture(scope="module")
def program() -> Any:
    """The program as a module: its pure parts."""
    spec = importlib.util.spec_from_file_location("train_program", PROGRAM)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_program"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def rows(preferences: bool = False) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for number in range(64):
        verb = ("add", "subtract", "multiply", "double")[number % 4]
        task = f"Write a Python function that can {verb} the number {number // 4}."
        code = f"def {verb}_{number // 4}(x):\n    return x {'+-*'[number % 3]} {number // 4}\n"
        if preferences:
            out.append({"prompt": task, "chosen": code, "rejected": "I am sorry, I cannot do that today. Ask again, please."})
        else:
            out.append({"inputs": {"task": task}, "outputs": {"code": code}, "metadata": {"agent": "feature_dev", "success": True}})
    return out


def ask(folder: Path, method: str = "sft", **fields: Any) -> dict[str, Any]:
    """A request with its data written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(method != "sft")))
    request = {"intent": "3f9a", "agent": "feature_dev", "model_version": "v1.1.0", "output": str(folder / "out")}
    request |= {"method": method, "base_model": {"tiny": {}}, "dataset_files": [str(data)], "max_length": 128}
    request |= {"learning_rate": 1e-2, "epochs": 2, "batch": 4, "accumulation": 2, "lora_rank": 16, "lora_alpha": 32}
    return request | {"checkpoint_every": 2} | fields


def start(python: str, request: dict[str, Any], **environment: str) -> subprocess.Popen[str]:
    inline = ENVIRONMENT | {"TURNOUT_REQUEST": json.dumps(request)} | environment
    return subprocess.Popen([python, PROGRAM], env=inline, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], code: int) -> list[dict[str, Any]]:
    """Its events, read from stdout, once it ended with `code`."""
    out, errors = process.communicate(timeout=600)
    assert process.returncode == code, f"{out[-3000:]}\n{errors[-3000:]}"
    return [json.loads(line) for line in out.splitlines()]


def run(python: str, request: dict[str, Any], code: int = 0, **environment: str) -> list[dict[str, Any]]:
    return end(start(python, request, **environment), code)


def told(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Its events, read from the file; a line that is being written is not there yet."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (Path(request["output"]) / "progress.jsonl").read_text().split("\n")[:-1]]
    return []


def wait_for(process: subprocess.Popen[str], request: dict[str, Any], event: str, after: int = 0) -> None:
    """Until `event` is told beyond the first `after` lines. The limit is only for a program that hangs."""
    limit = time.monotonic() + 600
    while not any(one["event"] == event for one in told(request)[after:]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.002)


def weights(request: dict[str, Any]) -> str:
    """The digest of the merged model, as the result says and as it is."""
    import hashlib

    result = json.loads((Path(request["output"]) / "result.json").read_text())
    for file in result["files"]:
        content = (Path(request["output"]) / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"]), file["name"]
    return str(next(file["sha256"] for file in result["files"] if file["name"] == "merged/model.safetensors"))


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [one for one in events if one["event"] == name]


# -- before anything is paid: request, data, claim ---------------------------------------------------------------------


def test_the_header_names_what_it_needs(tmp_path: Path) -> None:
    names = [re.split(r"[<>=!~ ]", one)[0] for one in dependencies(PROGRAM)]
    assert sorted(names) == sorted(PACKAGES)
    assert all(">=" in one and "<" in one for one in dependencies(PROGRAM))
    (tmp_path / "none.py").write_text("import os\n")
    with pytest.raises(ValueError, match="found 0 headers"):
        dependencies(tmp_path / "none.py")
    (tmp_path / "bad.py").write_text("# /// script\n# dependencies = [\n# ///\n")
    with pytest.raises(ValueError, match="not TOML"):
        dependencies(tmp_path / "bad.py")


def test_it_imports_nothing_of_turnout() -> None:
    assert not re.search(r"^\s*(from|import) controller", PROGRAM.read_text(), re.MULTILINE)


def test_all_that_is_wrong_with_a_request_at_once(tmp_path: Path) -> None:
    wrong = {"agent": "docs", "method": "ppo", "epohcs": 3, "learning_rate": "fast", "batch": -1, "push": True}
    (event,) = run(sys.executable, wrong, 2)
    assert event["code"] == "request_invalid"
    for part in ("base_model: missing", "intent: missing", "output: missing", "epohcs", "learning_rate", "batch", "hub_", "'ppo'"):
        assert part in event["message"]
    (event,) = end(
        subprocess.Popen([sys.executable, PROGRAM, "--request", tmp_path / "no.json"], stdout=-1, stderr=-1, text=True), 2
    )
    assert "no.json" in event["message"]


def test_forms_of_rows(program: Any) -> None:
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    expected = {"prompt": [user], "completion": [answer]}
    for row in (
        {"inputs": {"task": "q"}, "outputs": {"code": "a"}, "metadata": {}},
        {"inputs": {"messages": [user]}, "outputs": {"messages": [answer]}},
        {"inputs": "q", "outputs": "a"},
        {"messages": [user, answer]},
        {"prompt": "q", "completion": "a"},
        {"prompt": [user], "completion": [answer]},
    ):
        assert program.chat_of(row, "sft") == expected
    several = program.chat_of({"inputs": {"task": "q"}, "outputs": {"code": "a", "tests": ["t"]}}, "sft")
    assert several["completion"][0]["content"] == "a"
    pair = {"prompt": [user], "chosen": [answer], "rejected": [{"role": "assistant", "content": "b"}]}
    assert program.chat_of({"prompt": "q", "chosen": "a", "rejected": "b"}, "dpo") == pair
    assert program.chat_of({"inputs": {"task": "q"}, "outputs": {"chosen": "a", "rejected": "b"}}, "orpo") == pair
    assert program.chat_of({"prompt": "q", "chosen": [user, answer], "rejected": "b"}, "dpo") == pair


@pytest.mark.parametrize(
    ("method", "row", "problem"),
    [
        ("sft", {"prompt": "q"}, "has no field 'completion'"),
        ("sft", {"prompt": "q", "chosen": "a", "rejected": "b"}, "is a preference"),
        ("dpo", {"inputs": {"task": "q"}, "outputs": {"code": "a"}}, "has no field 'chosen'"),
        ("dpo", {"prompt": "q", "chosen": "a", "rejected": "a"}, "are the same"),
        ("sft", {"prompt": "q", "completion": "  "}, "empty"),
        ("sft", {"messages": [{"role": "user", "content": "q"}]}, "roles"),
        ("sft", {"messages": [{"role": "boss", "content": "q"}, {"role": "assistant", "content": "a"}]}, "boss"),
        ("sft", ["q", "a"], "list"),
        ("sft", '{"prompt":', "line 1"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, method: str, row: Any, problem: str) -> None:
    request = ask(tmp_path, method)
    with Path(request["dataset_files"][0]).open("a") as file:
        file.write((row if isinstance(row, str) else json.dumps(row)) + "\n")
    (event,) = run(sys.executable, request, 3)
    assert (event["event"], event["code"]) == ("failed", "dataset_invalid")
    assert "rows.jsonl:65" in event["message"]
    assert problem in event["message"]
    assert event["what_to_do"]
    assert told(request) == [event]


def test_too_little_data(tmp_path: Path) -> None:
    request = ask(tmp_path)
    Path(request["dataset_files"][0]).write_text(json.dumps(rows()[0]) + "\n")
    assert "3 rows" in run(sys.executable, request, 3)[0]["what_to_do"]
    request["dataset_files"] = [str(tmp_path / "none.jsonl")]
    assert "none.jsonl" in run(sys.executable, request, 3)[0]["message"]


def test_the_split_does_not_depend_on_the_order_of_the_file(program: Any, tmp_path: Path) -> None:
    def split(text: list[dict[str, Any]], place: Path) -> Any:
        place.write_text("".join(json.dumps(row) + "\n" for row in text))
        request = program.REQUEST | ask(tmp_path) | {"dataset_files": [str(place)]}
        one = program.Run(request, tmp_path, None, None, {})
        program.read_data(one)
        return one

    forward = split(rows(), tmp_path / "a.jsonl")
    back = split([*reversed(rows()), rows()[3]], tmp_path / "b.jsonl")
    keys = {json.dumps(row) for row in forward.held_out}
    assert len(keys) == 7  # a tenth of 64, rounded up
    assert keys == {json.dumps(row) for row in back.held_out}
    assert not keys & {json.dumps(row) for row in [*forward.training, *back.training]}
    assert len(back.training) + len(back.held_out) == 65


def test_which_errors_are_of_memory(program: Any) -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch.OutOfMemoryError."""

    for error in (
        OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        MemoryError(),
    ):
        assert program.is_out_of_memory(error), error
    assert not program.is_out_of_memory(RuntimeError("shape mismatch"))
    assert not program.is_out_of_memory(ValueError("out of memory of what was said"))


def test_only_the_holder_of_a_claim_goes_on(tmp_path: Path) -> None:
    request = ask(tmp_path)
    Path(request["dataset_files"][0]).write_text("{}\n")  # so that each start ends right after the claim
    run(sys.executable, request, 3, JOB_ID="one")
    run(sys.executable, request, 3, JOB_ID="one")
    before = told(request)
    (event,) = run(sys.executable, request, 76, JOB_ID="two")
    assert (event["event"], event["code"]) == ("stopped", "claim_lost")
    assert "JOB_ID=one" in event["message"]
    run(sys.executable, request | {"intent": "other"}, 76, JOB_ID="one")
    run(sys.executable, request | {"attempt": "2"}, 76, JOB_ID="two")
    assert told(request) == before  # a loser writes nothing into the winner's file
    run(sys.executable, request | {"attempt": "2", "takes_over": ["1"]}, 3, JOB_ID="two")
    run(sys.executable, request, 76, JOB_ID="one")
    assert json.loads((tmp_path / "out" / "claim").read_text()) == {"intent": "3f9a", "attempt": "2", "holder": "JOB_ID=two"}
    (tmp_path / "out" / "claim").write_text("")  # killed between creating and writing it
    run(sys.executable, request, 3, JOB_ID="one")


def test_a_reserve_brings_the_deadline_forward() -> None:
    look = """
import importlib.util, signal, sys
spec = importlib.util.spec_from_file_location("train", sys.argv[1])
train = sys.modules["train"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)
stop = train.Stop()
stop.listen(1000)
stop.reserve(400)
assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600
stop.in_training = True
stop.reserve(2000)
while not stop.why:
    signal.pause()
assert stop.why == "deadline"
"""
    subprocess.run([sys.executable, "-c", look, PROGRAM], check=True)


# -- for real --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(python: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A supervised run that nothing disturbs: its request and its events."""
    request = ask(tmp_path_factory.mktemp("whole"), epochs=6)
    return request, run(python, request)


@pytest.mark.training
def test_sft_learns_and_tells(whole: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    request, events = whole
    assert told(request) == events
    assert [one["sequence"] for one in events] == list(range(1, len(events) + 1))
    assert [one["event"] for one in events if one["event"] not in ("step", "checkpoint")] == [
        *("started", "evaluated", "evaluated", "saved", "finished")
    ]
    steps = named(events, "step")
    assert (steps[0]["step"], steps[-1]["step"], steps[-1]["steps"]) == (1, 48, 48)
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert steps[-1].keys() >= {"epoch", "learning_rate", "tokens_per_second", "eta_seconds"}
    before, after = named(events, "evaluated")
    assert after["loss"] < before["loss"] / 2
    assert 1 < after["perplexity"] < before["perplexity"]
    result = json.loads((Path(request["output"]) / "result.json").read_text())
    assert len(result["metrics"]["loss_curve"]) == 48
    assert result["dataset"] | {"revision": ""} == {"revision": "", "rows": 64, "training": 57, "held_out": 7}
    assert {file["name"] for file in result["files"]} >= {
        *("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "merged/model.safetensors", "merged/config.json"),
        *("merged/tokenizer.json", "merged/chat_template.jinja", "README.md"),
    }
    card = (Path(request["output"]) / "README.md").read_text()
    for part in ("3f9a", "v1.1.0", result["dataset"]["revision"], "| loss |", "learning_rate", "transformers"):
        assert part in card


@pytest.mark.training
def test_adapter_and_merged_model_load_and_agree(python: str, whole: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    look = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder + "/merged")
chat = [{"role": "user", "content": "Write a Python function that can add the number 3."}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
base, merged = (AutoModelForCausalLM.from_pretrained(folder + part) for part in ("/base", "/merged"))
with torch.no_grad():
    plain = base(**ids).logits
    adapted = PeftModel.from_pretrained(base, folder + "/adapter").eval()(**ids).logits
    whole = merged(**ids).logits
assert torch.allclose(adapted, whole, atol=1e-2), (adapted - whole).abs().max()
assert not torch.allclose(plain, whole, atol=0.5)
print(sum(one.numel() for one in merged.parameters()))
print(tokenizer.decode(merged.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1]:]))
"""
    offline = ENVIRONMENT | {"HF_HUB_OFFLINE": "1"}
    found = subprocess.run([python, "-c", look, whole[0]["output"]], env=offline, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert 1_100_000 < int(found.stdout.split()[0]) < 1_500_000
    assert "def " in found.stdout  # it answers in the form that it was taught


@pytest.mark.training
def test_killed_stopped_and_torn_it_comes_to_the_same_weights(
    python: str, whole: tuple[dict[str, Any], list[dict[str, Any]]], tmp_path: Path
) -> None:
    request = ask(tmp_path, epochs=6)
    first = start(python, request)
    wait_for(first, request, "checkpoint")
    first.kill()
    end(first, -signal.SIGKILL)
    with (tmp_path / "out" / "progress.jsonl").open("a") as file:
        file.write('{"event": "st')  # as if it had been killed while writing

    second = start(python, request)
    wait_for(second, request, "resumed")
    seen = len(told(request))
    wait_for(second, request, "checkpoint", seen)
    second.send_signal(signal.SIGTERM)
    events = end(second, 75)
    assert events[-1]["code"] == "terminated"
    last = named(events, "checkpoint")[-1]["step"]
    assert named(events, "resumed")[0]["step"] < last < 48
    assert len(list((tmp_path / "out" / "checkpoints").glob("checkpoint-*"))) == 2  # older ones are not kept

    newest = tmp_path / "out" / "checkpoints" / f"checkpoint-{last}"
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-100])
    events = run(python, request)
    (resumed,) = named(events, "resumed")
    assert resumed["torn"] == [newest.name]
    assert 0 < resumed["step"] < last
    assert weights(request) == weights(whole[0])
    sequences = [one["sequence"] for one in told(request)]
    assert sequences == list(range(1, len(sequences) + 1))  # over three starts, and without the torn line

    (Path(request["dataset_files"][0])).rename(tmp_path / "moved.jsonl")  # the same content elsewhere
    again = run(python, request | {"dataset_files": [str(tmp_path / "moved.jsonl")]})
    assert [one["event"] for one in again] == ["resumed", "finished"]  # a finished run is not paid for again
    (event,) = run(python, request | {"dataset_files": [str(tmp_path / "moved.jsonl")], "seed": 7}, 2)
    assert "another request" in event["message"]


@pytest.mark.training
def test_dpo_with_less_and_less_memory(python: str, tmp_path: Path) -> None:
    request = ask(tmp_path, "dpo", epochs=1)
    events = run(python, request, TURNOUT_SIMULATE_OOM="2")
    assert [(one["batch"], one["accumulation"]) for one in named(events, "out_of_memory")] == [(2, 4), (1, 8)]
    before, after = named(events, "evaluated")
    assert before["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy"] > 0.9
    assert after["margin"] > before["margin"]
    assert "perplexity" not in after
    curve = [loss for _, loss in named(events, "finished")[0]["metrics"]["loss_curve"]]
    assert len(curve) == 8
    assert curve[-1] < curve[0] / 2
    weights(request)


@pytest.mark.training
def test_orpo_learns(python: str, tmp_path: Path) -> None:
    request = ask(tmp_path, "orpo", held_out_fraction=0.2)
    events = run(python, request)
    before, after = named(events, "evaluated")
    assert after["loss"] < before["loss"] / 1.5
    assert after["perplexity"] < before["perplexity"] / 2
    assert after["margin"] > before["margin"]
    curve = [loss for _, loss in named(events, "finished")[0]["metrics"]["loss_curve"]]
    assert curve[-1] < curve[0] / 1.5
    weights(request)


@pytest.mark.training
def test_memory_that_is_never_enough(python: str, tmp_path: Path) -> None:
    request = ask(tmp_path, held_out_fraction=0, out_of_memory_retries=1)
    events = run(python, request, 5, TURNOUT_SIMULATE_OOM="9")
    assert [one["event"] for one in events if one["event"] != "step"] == ["started", "out_of_memory", "failed"]
    assert (events[-1]["code"], "batch 2" in events[-1]["message"]) == ("out_of_memory", True)


@pytest.mark.training
def test_near_the_deadline_it_stops_with_a_checkpoint(python: str, tmp_path: Path) -> None:
    events = run(python, ask(tmp_path / "early", deadline_seconds=0.2), 77)
    assert events[-1]["code"] == "deadline"
    assert not named(events, "step")

    request = ask(tmp_path / "late", epochs=500, deadline_seconds=900, checkpoint_every=10_000)
    process = start(python, request)
    wait_for(process, request, "step")
    process.send_signal(signal.SIGALRM)  # what the timer of the deadline sends
    events = end(process, 77)
    assert (events[-1]["event"], events[-1]["code"]) == ("stopped", "deadline")
    (checkpoint,) = named(events, "checkpoint")
    assert 0 < checkpoint["step"] < 4000
    assert (tmp_path / "late" / "out" / "checkpoints" / f"checkpoint-{checkpoint['step']}" / "whole.json").exists()


@pytest.mark.training
def test_of_two_that_race_one_works(python: str, tmp_path: Path) -> None:
    request = ask(tmp_path)
    racers = [start(python, request) for _ in range(2)]
    while all(one.poll() is None for one in racers):
        time.sleep(0.002)
    loser = next(one for one in racers if one.poll() is not None)
    (winner,) = [one for one in racers if one is not loser]
    (event,) = end(loser, 76)
    assert (event["code"], event["event"]) == ("claim_lost", "stopped")
    wait_for(winner, request, "started")
    assert winner.poll() is None
    winner.send_signal(signal.SIGTERM)
    assert end(winner, 75)[-1]["code"] == "terminated"
    assert not [one for one in told(request) if one.get("code") == "claim_lost"]


@pytest.mark.training
def test_a_model_that_is_not_there(python: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    events = run(python, ask(tmp_path, base_model=str(tmp_path / "empty")), 4)
    assert events[-1]["code"] == "model_not_loaded"


@pytest.mark.training
def test_the_example_of_the_page(python: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "training-program.md").read_text()
    (tmp_path / "controller").symlink_to(ROOT / "controller")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    (script,) = re.findall(r"^```sh\n(.*?train\.py --request.*?)^```", page, re.MULTILINE | re.DOTALL)
    found = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert json.loads(found.stdout.splitlines()[-1])["event"] == "finished"


# -- the Hub, as the double of Hugging Face has it -----------------------------------------------------------------------------


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Any]:
    hugging_face = pytest.importorskip("controller.testing.hugging_face")
    with hugging_face.HuggingFaceDouble(tmp_path / "double") as one:
        yield one


@pytest.mark.training
def test_from_the_hub_to_the_hub(python: str, double: Any, tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows()).encode()
    commit = double.seed("dataset", "acme/rows", {"train.jsonl": lines})
    hub = {"push": True, "hub_repository": "acme/code-chef-feature_dev-v1.1.0", "hub_revision": "candidate"}
    request = ask(tmp_path, dataset_files=[], dataset_repository="acme/rows", epochs=1, **hub)
    where = {"HF_ENDPOINT": double.url, "HF_TOKEN": double.token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    double.fail("POST /api/models/*/commit/*", "lose")  # the claim is there, its answer is not
    double.fail("PUT /*", "cut", bytes=1000)  # and the upload of the weights breaks off
    events = run(python, request, JOB_ID="job-1", **where)
    assert not [fault for fault in double.world.faults.shown() if fault["times"]], "a fault did not happen"
    (pushed,) = named(events, "pushed")
    assert named(events, "started")[0]["dataset"]["revision"] == commit
    assert set(pushed["files"]) >= {"merged/model.safetensors", "adapter/adapter_model.safetensors", "README.md", "result.json"}
    look = """
import sys, hashlib
from huggingface_hub import HfApi, hf_hub_download
name, revision, output = sys.argv[1:]
print(*sorted(HfApi().list_repo_files(name, revision=revision)))
for here, there in (("merged/model.safetensors", "model.safetensors"), ("result.json", "result.json")):
    assert open(f"{output}/{here}", "rb").read() == open(hf_hub_download(name, there, revision=revision), "rb").read(), there
"""
    arguments = [request["hub_repository"], "candidate", request["output"]]
    found = subprocess.run([python, "-c", look, *arguments], env=ENVIRONMENT | where, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert {"claim.json", "config.json", "model.safetensors", "adapter/adapter_config.json", "README.md"} <= set(
        found.stdout.split()
    )

    again = run(python, request, JOB_ID="job-1", **where)
    assert [one["event"] for one in again] == ["resumed", "pushed", "finished"]
    assert named(again, "pushed")[0]["commit"] == pushed["commit"]  # nothing was there to upload

    other = ask(tmp_path / "other", dataset_files=[], dataset_repository="acme/rows", epochs=1, **hub)
    lost = run(python, other, 76, JOB_ID="job-2", **where)
    assert "job-1" in lost[-1]["message"]
    assert not named(lost, "started")


@pytest.mark.training
def test_a_hub_that_refuses(python: str, double: Any, tmp_path: Path) -> None:
    request = ask(tmp_path, push=True, hub_repository="acme/model")
    where = {"HF_ENDPOINT": double.url, "HF_TOKEN": "hf_wrong_and_secret", "HF_HUB_DISABLE_XET": "1"}
    events = run(python, request, 6, **where)
    assert events[-1]["code"] == "hub_failed"
    assert "hf_wrong_and_secret" not in json.dumps(events)
