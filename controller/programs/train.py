# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.13,<2.14", "transformers>=5.23,<5.24", "trl>=1.16,<1.17", "peft>=0.21.2,<0.22", "datasets>=5.2,<6",
#   "huggingface_hub>=2.4,<3"]
# ///
"""Fine-tunes one model by one request: the same file for a local process, a Hugging Face job, SLURM and Kubernetes.

    python train.py --request request.json           or the JSON itself in the environment variable TURNOUT_REQUEST

It imports nothing of Turnout: whoever starts it hands over a request (REQUEST; docs/training-program.md) and reads JSON lines, from
stdout or `progress.jsonl` in the output folder. The file reads top to bottom in the order of what happens; `main` lists the steps.
It may be killed at any moment: run again, it goes on from the last whole checkpoint, to the same result. Exit codes: 0 finished,
1 unexpected, a bug, 2 request not valid, 3 data set not usable, 4 base model does not load, 5 out of memory after all retries,
6 the Hub refused or does not answer (run it again), 7 the loss is not a number, 8 the saved model does not load or generate,
75 told to stop (run it again), 76 another process holds the claim on this work and nothing was done, 77 the deadline was near.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import importlib.metadata
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXIT = {"unexpected": 1, "request_invalid": 2, "dataset_invalid": 3, "model_not_loaded": 4, "out_of_memory": 5, "hub_failed": 6}
EXIT |= {"diverged": 7, "result_broken": 8, "terminated": 75, "claim_lost": 76, "deadline": 77}
NEEDED, ANY, ANSWERS = "(needed)", None, ("answer", "output", "response", "completion", "text", "content", "code", "result")
REQUEST: dict[str, Any] = {  # every field with its default
    "intent": NEEDED, "attempt": "1",  # the key under which this work is paid for once, and which try at it this is
    "takes_over": [],                  # attempts that are known to have ended: this one inherits their claim
    "agent": NEEDED, "model_version": "", "output": NEEDED,
    "method": NEEDED, "base_model": NEEDED, "base_revision": ANY,  # sft, dpo, orpo; a Hub id, a folder, or {"tiny": TINY}
    "dataset_files": [], "dataset_repository": ANY, "dataset_revision": ANY, "dataset_split": "train", "dataset_limit": ANY,
    "held_out_fraction": 0.1, "held_out_seed": 0, "seed": 42, "beta": 0.1,  # beta: dpo, orpo
    "learning_rate": 2e-5, "epochs": 3.0, "batch": 4, "accumulation": 4, "warmup_ratio": 0.1, "max_length": 8192,
    "lora_rank": 32, "lora_alpha": 64.0, "lora_dropout": 0.1, "lora_targets": ["q_proj", "v_proj", "k_proj", "o_proj"],
    "push": False, "hub_repository": ANY, "hub_revision": "main", "hub_private": True,
    "checkpoint_every": 50, "out_of_memory_retries": 3, "deadline_seconds": ANY,
    "commit": "", "events": [],        # of the desired state that asked for this: for the model card
}  # fmt: skip
TINY = {"layers": 5, "hidden": 128, "heads": 4, "vocabulary": 1024}
# What may differ when it is run again; all else decides the result (of the files their content does).
MAY_DIFFER = {"attempt", "takes_over", "output", "checkpoint_every", "out_of_memory_retries", "deadline_seconds", "commit"}
MAY_DIFFER |= {"events", "push", "hub_repository", "hub_revision", "hub_private", "dataset_files"}


class Ended(BaseException):
    """The way out before the end: (key of EXIT, sentence, what to do). A BaseException, so that no library swallows it."""


class Lazy(str):
    """The name of a module that is imported at its first use: request, claim and data come before the seconds that torch takes."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self), attribute)


hub, hub_errors, httpx = Lazy("huggingface_hub"), Lazy("huggingface_hub.errors"), Lazy("httpx2")
torch, transformers, tokenizers, datasets = Lazy("torch"), Lazy("transformers"), Lazy("tokenizers"), Lazy("datasets")
peft, trl, orpo = Lazy("peft"), Lazy("trl"), Lazy("trl.experimental.orpo")


@dataclass
class Run:  # what several steps need
    request: dict[str, Any]
    folder: Path
    progress: Progress
    stop: Stop
    state: dict[str, Any]  # outlives a kill: the batch that fits, the metrics before training, the seconds spent
    claim: dict[str, str] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def remember(self, **changes: Any) -> None:
        self.state |= changes
        write_whole(self.folder / "state.json", json.dumps(self.state))


def main(arguments: list[str]) -> int:
    """The steps in order. Returns the exit code."""
    progress, stop = Progress(), Stop()
    try:
        request = read_request(arguments)
        stop.listen(request["deadline_seconds"])
        fresh = {"batch": request["batch"], "accumulation": request["accumulation"], "out_of_memory": 0, "seconds": 0.0}
        run = Run(request, Path(request["output"]).absolute(), progress, stop, fresh)
        take_claim(run)
        progress.keep(run.folder / "progress.jsonl")
        with contextlib.suppress(FileNotFoundError):
            run.state |= json.loads((run.folder / "state.json").read_text())
        if request["push"]:
            commit_on_hub(run, {}, f"Claim {request['intent']}")
        read_data(run)
        result = earlier_result(run) or save(run, train(run))
        if request["push"]:
            push(run, result)
        progress.emit("finished", metrics=result["metrics"])
        return 0
    except Ended as error:
        code, told, todo = error.args
    except Exception as error:
        sys.excepthook(*sys.exc_info())
        code, told, todo = "unexpected", f"{type(error).__name__}: {error}", "Report it with the stack trace on stderr."
        if any(base.__module__.startswith("httpx") for base in type(error).__mro__):
            code, todo = "hub_failed", "Check the repository's name and the token's rights, then run it again."
    told = told[:2000].replace(os.environ.get("HF_TOKEN") or "\0", "***")
    progress.emit("failed" if EXIT[code] < 70 else "stopped", code=code, message=told, what_to_do=todo)
    return EXIT[code]


class Progress:
    """JSON lines on stdout, and in `progress.jsonl` once the claim is ours (a loser must not write into the winner's file)."""

    def __init__(self) -> None:
        self._files: list[Any] = [os.fdopen(os.dup(1), "wb")]  # libraries print on stdout: only events go there now
        os.dup2(2, 1)
        self._sequence = 0

    def keep(self, path: Path) -> None:
        """Appends to `path` too from here on. A line that kill -9 tore is cut off."""
        self._files.insert(0, path.open("ab+"))
        before = path.read_bytes()
        self._files[0].truncate(before.rfind(b"\n") + 1)
        self._sequence = before.count(b"\n")

    def emit(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        line = json.dumps({"event": event, "sequence": self._sequence, "time": time.time()} | fields, ensure_ascii=False)
        for file in self._files:
            with contextlib.suppress(BrokenPipeError):  # nobody reads stdout any more: the other file still tells all
                file.write(line.encode() + b"\n")
                file.flush()


class Stop:
    """Ends early when told to (SIGTERM, SIGINT) or near the deadline (SIGALRM). In training a checkpoint is written first."""

    why, in_training, _end = "", False, math.inf

    def listen(self, deadline_seconds: float | None) -> None:
        self._end = time.monotonic() + (deadline_seconds or 1e8)
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(one, self._tell)
        self.reserve(0)

    def reserve(self, seconds: float) -> None:
        """Takes the deadline for near when `seconds` are left: what is written last must be whole before it."""
        signal.setitimer(signal.ITIMER_REAL, max(self._end - time.monotonic() - seconds, 0.001))

    def _tell(self, number: int, _: object) -> None:
        first, self.why = not self.why, self.why or ("deadline" if number == signal.SIGALRM else "terminated")
        if first and not self.in_training:
            self.check()

    def check(self) -> None:
        if self.why:
            told = {"deadline": "The deadline is near.", "terminated": "It was told to stop."}[self.why]
            raise Ended(self.why, told, "Run it again (after a deadline with a later one): it goes on from its checkpoint.")


def read_request(arguments: list[str]) -> dict[str, Any]:
    """The request with its defaults, and the environment set for it. Raises Ended with all that is wrong at once."""
    try:
        file = Path(arguments[1]) if arguments[:1] == ["--request"] else None
        request: dict[str, Any] = REQUEST | json.loads(file.read_text() if file else os.environ.get("TURNOUT_REQUEST", ""))
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise Ended("request_invalid", f"{arguments}: {error!r}", "Give --request FILE, or JSON in TURNOUT_REQUEST.") from None
    errors = [f"{name}: there is no such field" for name in request.keys() - REQUEST.keys()]
    for name, default in REQUEST.items():
        value, kind = request[name], (int, float) if type(default) is float else type(default)
        if value == NEEDED or (default is NEEDED and not value):
            errors.append(f"{name}: missing")
        elif default not in (NEEDED, ANY) and (not isinstance(value, kind) or (isinstance(value, (int, float)) and not value >= 0)):
            errors.append(f"{name}: found {value!r}, allowed is {type(default).__name__}, not below 0")
    base, files, target = request["base_model"], request["dataset_files"], request["hub_repository"]
    errors += [] if request["method"] in ("sft", "dpo", "orpo") else [f"method: found {request['method']!r}, not sft, dpo or orpo"]
    errors += [] if bool(files) != bool(request["dataset_repository"]) else ["dataset_files, dataset_repository: give one of them"]
    errors += [] if target or not request["push"] else ["hub_repository: missing, needed because push is true"]
    if errors:
        raise Ended("request_invalid", "; ".join(sorted(errors)), "Correct the request; docs/training-program.md lists its fields.")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if files and not request["push"] and (isinstance(base, dict) or Path(base).is_dir()):
        os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in it needs the Hub
    return request


def take_claim(run: Run) -> None:
    """Creates `claim` in the output folder, which only one can create; a restart of its holder may go on. The holder is the job, or
    without one the machine and folder: then the lock tells a restart from a second process."""
    jobs = [f"{name}={os.environ[name]}" for name in ("TURNOUT_HOLDER", "JOB_ID", "SLURM_JOB_ID") if os.environ.get(name)]
    holder = jobs[0] if jobs else f"{os.uname().nodename}:{run.folder}"
    run.claim = {"intent": run.request["intent"], "attempt": run.request["attempt"], "holder": holder}
    run.folder.mkdir(parents=True, exist_ok=True)
    path, created = run.folder / "claim", True
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)  # stays open: the lock lives as long as the process
    except FileExistsError:
        file, created = os.open(path, os.O_RDWR), False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError) or not created:  # on a file system without locks only the creator can be sure
            check_claim(run, {}, f"another process in {run.folder}")
    found = os.pread(file, 65536, 0).decode()
    if found.endswith("}"):  # else its creator was killed while writing
        check_claim(run, json.loads(found), str(path))
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(run.claim).encode(), 0)


def check_claim(run: Run, found: dict[str, str], where: str) -> None:
    """Raises Ended unless a claim is this run's own, or of an attempt that is known to have ended."""
    inherits = found.get("intent") == run.claim["intent"] and found.get("attempt") in run.request["takes_over"]
    if found != run.claim and not inherits:
        told = f"{where} holds the claim on {run.claim['intent']}: {found}. This process does nothing."
        raise Ended("claim_lost", told, "Follow the holder of the claim.")


def commit_on_hub(run: Run, files: dict[str, Path], title: str) -> str:
    """The same on the Hub: claim.json, which must not be another's, and `files` in one commit, by compare-and-swap of the branch.
    What is there with this content already is skipped by the library, a cut upload is finished. Returns the commit."""
    api, name, branch = hub.HfApi(), run.request["hub_repository"], run.request["hub_revision"]

    def look_and_commit() -> str:
        head = api.repo_info(name, revision=branch).sha
        with contextlib.suppress(hub_errors.EntryNotFoundError):
            found = Path(api.hf_hub_download(name, "claim.json", revision=head)).read_text()
            check_claim(run, json.loads(found), f"claim.json of {name}")
        adds = [hub.CommitOperationAdd(at, one) for at, one in {"claim.json": json.dumps(run.claim).encode(), **files}.items()]
        return str(api.create_commit(name, adds, commit_message=title, revision=branch, parent_commit=head).oid)

    patiently(lambda: api.create_repo(name, private=run.request["hub_private"], exist_ok=True))
    patiently(lambda: branch == "main" or api.create_branch(name, branch=branch, exist_ok=True))
    return str(patiently(look_and_commit))


def patiently(look_and_do: Callable[[], Any]) -> Any:
    """Repeats what looks before it does, with growing pauses, when there was no answer, a conflict, a rate limit or a 5xx."""
    pauses = [1, 2, 4, 8, 16]
    while True:
        try:
            return look_and_do()
        except httpx.HTTPError as error:
            status = getattr(getattr(error, "response", None), "status_code", 503)
            if not pauses or (status < 500 and status not in (408, 409, 412, 429)):
                raise
            time.sleep(pauses.pop(0))


def read_data(run: Run) -> None:
    """Reads, checks and splits the rows. Raises Ended (dataset_invalid) with the first problems and their places."""
    request, rows, problems = run.request, [], []
    try:
        raw, revision = rows_of(request)
    except (OSError, ValueError) as error:
        todo = "Give JSON-lines files in UTF-8, or a repository that the token may read."
        raise Ended("dataset_invalid", f"{type(error).__name__}: {error}", todo) from error
    for place, row in raw:
        try:
            rows.append(chat_of(json.loads(row) if isinstance(row, str) else row, request["method"]))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            problems.append(f"{place}: {'has no field ' if isinstance(error, KeyError) else ''}{error}")
    if problems or len(rows) < 3:
        todo = 'Give 3 rows or more: {"inputs", "outputs"}, {"messages"}, {"prompt", "completion" or "chosen" and "rejected"}.'
        raise Ended("dataset_invalid", f"{len(problems)} of {len(raw)} rows are wrong: {'; '.join(problems[:5])}", todo)
    # By the digest of the row: the order of the file does not matter, and equal rows stay on one side.
    keyed = [(digest(f"{request['held_out_seed']}:{json.dumps(row, sort_keys=True)}"), row) for row in rows]
    keyed = sorted(keyed, key=lambda pair: pair[0])[: request["dataset_limit"]]
    keys = sorted({key for key, _ in keyed})
    away = set(keys[: math.ceil(len(keys) * min(request["held_out_fraction"], 0.5))])
    run.training, run.held_out = [row for key, row in keyed if key not in away], [row for key, row in keyed if key in away]
    run.data = {"revision": revision, "rows": len(rows), "training": len(run.training), "held_out": len(run.held_out)}
    work = json.dumps([revision, {name: value for name, value in request.items() if name not in MAY_DIFFER}], sort_keys=True)
    if run.state.setdefault("work", work) != work:
        told = f"{run.folder} holds work on other data or another request: {run.state['work']}"
        raise Ended("request_invalid", told, "Give another output folder, or the request and the data as they were.")


def rows_of(request: dict[str, Any]) -> tuple[list[tuple[str, Any]], str]:
    """Rows (those of files still as text) with their places, and the revision: digest of the files or commit of the repository."""
    if name := request["dataset_repository"]:
        info = patiently(lambda: hub.HfApi().repo_info(name, repo_type="dataset", revision=request["dataset_revision"]))
        rows = datasets.load_dataset(name, revision=info.sha, split=request["dataset_split"])
        given = [{key: one for key, one in row.items() if one is not None} for row in rows]  # every row has all columns
        return [(f"{name}[{at}]", row) for at, row in enumerate(given)], str(info.sha)
    texts = {name: Path(name).read_text(encoding="utf-8") for name in request["dataset_files"]}
    lines = [(f"{name}:{at}", line) for name, text in texts.items() for at, line in enumerate(text.split("\n"), 1)]
    return [(place, line) for place, line in lines if line.strip()], f"sha256:{digest(json.dumps(list(texts.values())))}"


def chat_of(row: dict[str, Any], method: str) -> dict[str, Any]:
    """`prompt`, and `completion` or `chosen` and `rejected`, as messages. Raises ValueError or KeyError for a wrong row."""
    answers = row["outputs"] if isinstance(row.get("outputs"), dict) else row
    chat = row.get("messages") or said("user", row["inputs"] if "inputs" in row else row["prompt"])
    if method != "sft":
        parts = {"prompt": chat} | {name: said("assistant", answers[name])[-1:] for name in ("chosen", "rejected")}
    elif "rejected" in answers:
        raise ValueError("is a preference (chosen, rejected), which sft cannot use")
    else:
        chat = chat if "messages" in row else chat + said("assistant", row["outputs"] if "inputs" in row else row["completion"])
        parts = {"prompt": chat[:-1], "completion": chat[-1:]}
    for name, part in parts.items():
        roles, empty = [one["role"] for one in part], [one for one in part if not str(one["content"] or "").strip()]
        known = set(roles) <= {"system", "user", "assistant", "tool"}
        if empty or not known or not roles or (roles[-1] == "assistant") != (name != "prompt"):
            raise ValueError(f"{name} has an empty message, or roles that do not lead to an answer of the assistant: {roles}")
    if "chosen" in parts and parts["chosen"] == parts["rejected"]:
        raise ValueError("chosen and rejected are the same")
    return {name: [{"role": one["role"], "content": one["content"]} for one in part] for name, part in parts.items()}


def said(role: str, value: Any) -> list[dict[str, str]]:
    """Messages stay; a text is one message; of an object its answer, else each field as a part, under its name if several."""
    value = value["messages"] if isinstance(value, dict) and "messages" in value else value
    if isinstance(value, dict) and "role" not in value:
        texts = {key: one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for key, one in value.items()}
        parts = "\n\n".join(f"{key}:\n{one}" if len(texts) > 1 else one for key, one in texts.items())
        value = next((texts[one] for one in ANSWERS if role == "assistant" and one in texts), parts)  # as the report takes it
    return value if isinstance(value, list) else [value if isinstance(value, dict) else {"role": role, "content": value}]


def train(run: Run) -> dict[str, Any]:
    """Trains until done, with smaller batches each time memory runs out. Returns what `save` needs."""
    run.progress.emit("started", request=run.request, dataset=run.data, holder=run.claim["holder"])
    while True:
        run.stop.in_training = False
        try:
            return attempt(run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            told = f"{type(error).__name__}: {error}"[:500]
        gc.collect()  # outside of `except`: the traceback held the frames, the frames held the tensors
        torch.cuda.empty_cache()
        batch, effective = run.state["batch"], run.state["batch"] * run.state["accumulation"]
        if run.state["out_of_memory"] >= run.request["out_of_memory_retries"] or batch == 1:
            raise Ended("out_of_memory", f"With batch {batch}: {told}", "Take a larger accelerator or a smaller max_length.")
        batch = next(size for size in range(batch // 2, 0, -1) if effective % size == 0)
        run.remember(batch=batch, accumulation=effective // batch, out_of_memory=run.state["out_of_memory"] + 1)
        run.progress.emit("out_of_memory", message=told, batch=batch, accumulation=effective // batch)


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class of its own (a RuntimeError), MPS and the CPU's allocator a RuntimeError, Python a MemoryError."""
    signs = ("out of memory", "can't allocate memory", "alloc_failed")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs))


def attempt(run: Run) -> dict[str, Any]:
    """One try with the batch that is known to fit, from the last whole checkpoint if there is one."""
    base = run.request["base_model"]
    try:
        source = make_tiny(run, TINY | base["tiny"]) if isinstance(base, dict) else base
        model, tokenizer = load(source, run.request["base_revision"])
    except (OSError, ValueError, KeyError) as error:
        todo = "Check name, revision and licence of the model, and the token's rights."
        raise Ended("model_not_loaded", f"{base}: {type(error).__name__}: {error}", todo) from error
    base_revision = getattr(model.config, "_commit_hash", None)
    trainer, tokens = make_trainer(run, model, tokenizer)
    if "before" not in run.state:
        run.remember(before=evaluate(run, trainer, "before"))
    trainer.add_callback(watcher(run, tokens))
    checkpoint = last_checkpoint(run)
    transformers.set_seed(run.request["seed"])  # whatever was drawn before, training draws the same
    run.stop.in_training = True
    trainer.train(resume_from_checkpoint=checkpoint)
    run.stop.in_training = False
    run.stop.check()
    curve = [[one["step"], one["loss"]] for one in trainer.state.log_history if "loss" in one]
    metrics = {"before": run.state["before"], "after": evaluate(run, trainer, "after"), "seconds": run.state["seconds"]}
    metrics |= {"steps": trainer.state.global_step, "tokens": round(tokens * trainer.state.epoch), "loss_curve": curve}
    return {"model": trainer.model, "tokenizer": tokenizer, "base_revision": base_revision, "metrics": metrics}


CHATML = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def load(source: str | Path, revision: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer). Half precision on an accelerator; several cards of one process share the layers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template or CHATML  # kept with the model, so that serving asks as training did
    cards = torch.cuda.device_count()
    half = torch.bfloat16 if cards and torch.cuda.is_bf16_supported() else torch.float16
    kind, place = half if cards else torch.float32, {0: None, 1: {"": 0}}.get(cards, "auto")
    model = transformers.AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=kind, device_map=place)
    return model, tokenizer


def make_tiny(run: Run, size: dict[str, int]) -> Path:
    """A Llama of about 1.3 million parameters with a tokenizer trained on the training rows: real, and good to rehearse with."""
    special, length = ["<|pad|>", "<|im_start|>", "<|im_end|>"], max(2048, run.request["max_length"])
    raw, level = tokenizers.Tokenizer(tokenizers.models.BPE()), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.pre_tokenizer, raw.decoder = level, tokenizers.decoders.ByteLevel()
    texts = [one["content"] for row in run.training for part in row.values() for one in part]
    bpe = {"vocab_size": size["vocabulary"], "special_tokens": special, "initial_alphabet": sorted(level.alphabet())}
    raw.train_from_iterator([*texts, "system user assistant tool"], tokenizers.trainers.BpeTrainer(**bpe, show_progress=False))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=special[0], eos_token=special[2])
    fast.chat_template = CHATML
    shape = {"hidden_size": size["hidden"], "intermediate_size": size["hidden"] * 7 // 2, "num_hidden_layers": size["layers"]}
    shape |= {"num_attention_heads": size["heads"], "vocab_size": len(fast), "tie_word_embeddings": False}
    shape |= {"eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id}
    # At the usual initializer_range of 0.02 LoRA learns next to nothing from random weights (loss 6.2 instead of 1.4).
    config = transformers.LlamaConfig(**shape, bos_token_id=None, initializer_range=0.08, max_position_embeddings=length)
    transformers.set_seed(run.request["seed"])
    transformers.LlamaForCausalLM(config).save_pretrained(run.folder / "base")
    fast.save_pretrained(run.folder / "base")
    return run.folder / "base"


def make_trainer(run: Run, model: Any, tokenizer: Any) -> tuple[Any, int]:
    """TRL's trainer of the method with LoRA, and the tokens of one epoch."""
    datasets.disable_progress_bars()
    request, method, cuda = run.request, run.request["method"], torch.cuda.is_available()
    settings = {"output_dir": str(run.folder / "checkpoints"), "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    settings |= {"save_strategy": "steps", "save_steps": request["checkpoint_every"], "save_total_limit": 2}
    settings |= {"per_device_train_batch_size": run.state["batch"], "gradient_accumulation_steps": run.state["accumulation"]}
    settings |= {"per_device_eval_batch_size": 1, "prediction_loss_only": True}  # so means over batches are means over rows
    settings |= {"num_train_epochs": request["epochs"], "learning_rate": request["learning_rate"], "logging_nan_inf_filter": False}
    settings |= {"max_length": request["max_length"], "warmup_steps": request["warmup_ratio"]}  # below 1: a share of the steps
    settings |= {"seed": request["seed"], "data_seed": request["seed"], "gradient_checkpointing": cuda}
    settings |= {"bf16": cuda and torch.cuda.is_bf16_supported(), "fp16": cuda and not torch.cuda.is_bf16_supported()}
    settings |= {} if method == "sft" else {"beta": request["beta"]}
    lora = {"r": request["lora_rank"], "lora_alpha": request["lora_alpha"], "lora_dropout": request["lora_dropout"]}
    targets = "all-linear" if request["lora_targets"] == ["all-linear"] else request["lora_targets"]
    config = peft.LoraConfig(**lora, target_modules=targets, task_type="CAUSAL_LM")
    of, kind = orpo if method == "orpo" else trl, method.upper()
    training, held_out = (datasets.Dataset.from_list(rows) if rows else None for rows in (run.training, run.held_out))
    parts = {"train_dataset": training, "eval_dataset": held_out, "processing_class": tokenizer, "peft_config": config}
    trainer = getattr(of, f"{kind}Trainer")(model=model, args=getattr(of, f"{kind}Config")(**settings), **parts)
    trainer.remove_callback(transformers.PrinterCallback)
    counted = {"sft": ["input_ids"], "orpo": ["chosen_input_ids", "rejected_input_ids"]}  # where TRL puts tokens
    counted |= {"dpo": ["prompt_ids", "prompt_ids", "chosen_ids", "rejected_ids"]}
    return trainer, sum(len(row[name]) for row in trainer.train_dataset for name in counted[method])


def evaluate(run: Run, trainer: Any, when: str) -> dict[str, float]:
    """Held-out loss of the method (nats), perplexity (not of dpo); of pairs: share in which `chosen` is rewarded more, margin."""
    if not run.held_out:
        return {}
    told, names = trainer.evaluate(), {"loss": "loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}
    found = {name: told[f"eval_{key}"] for name, key in names.items() if f"eval_{key}" in told}
    if run.request["method"] != "dpo":
        found["perplexity"] = math.exp(min(told.get("eval_nll_loss", found["loss"]), 700))
    if not all(map(math.isfinite, found.values())):
        raise Ended("diverged", f"On the held-out rows: {found}.", "Lower the learning rate.")
    run.progress.emit("evaluated", when=when, rows=len(run.held_out), **found)
    return found


def watcher(run: Run, tokens: int) -> Any:
    """The callback that tells, stops, and makes checkpoints whole. `tokens`: those of one epoch."""
    base: Any = transformers.TrainerCallback

    class Watcher(base):  # type: ignore[misc]
        begin = last = time.monotonic()
        told, slowest, first, before = -math.inf, 0.0, -1, run.state["seconds"]

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.first = state.global_step if self.first < 0 else self.first
            if state.global_step and run.state["out_of_memory"] < int(os.environ.get("TURNOUT_SIMULATE_OOM", "0")):
                raise RuntimeError("out of memory: simulated, because TURNOUT_SIMULATE_OOM says so")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.slowest, self.last = max(self.slowest, time.monotonic() - self.last), time.monotonic()
            # A step includes the checkpoint after the one before. After the last one no deadline counts: what is trained is saved.
            run.stop.reserve(2 * self.slowest if state.global_step < state.max_steps else -1e8)
            if run.stop.why:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            now, done, left = time.monotonic(), state.global_step - self.first, state.max_steps - state.global_step
            if not math.isfinite(logs.get("loss", 0)):
                raise Ended("diverged", f"The loss of step {state.global_step} is not a number.", "Lower the learning rate.")
            # About one a second, the first and the last always.
            if "loss" in logs and (done == 1 or not left or now >= self.told + 1):
                self.told, each = now, (now - self.begin) / done
                facts = {"step": state.global_step, "steps": state.max_steps, "epoch": state.epoch, "eta_seconds": left * each}
                facts |= {"tokens_per_second": tokens * state.epoch / state.global_step / each}
                run.progress.emit("step", **facts, loss=logs["loss"], learning_rate=logs["learning_rate"])

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            path = run.folder / "checkpoints" / f"checkpoint-{state.global_step}"
            files = {str(one.relative_to(path)): digest(one) for one in path.rglob("*") if one.is_file()}
            write_whole(path / "whole.json", json.dumps(files))  # last: without it the checkpoint does not count
            run.remember(seconds=self.before + time.monotonic() - self.begin)
            run.progress.emit("checkpoint", step=state.global_step)

    return Watcher()


def last_checkpoint(run: Run) -> str | None:
    """The newest whole checkpoint. Newer ones that are torn (kill -9 while writing) are removed and told."""
    torn: list[str] = []
    for path in sorted((run.folder / "checkpoints").glob("checkpoint-*"), key=lambda path: -int(path.name[11:])):
        with contextlib.suppress(OSError, ValueError):
            if all(digest(path / name) == one for name, one in json.loads((path / "whole.json").read_text()).items()):
                run.progress.emit("resumed", step=int(path.name[11:]), torn=torn)
                return str(path)
        torn.append(path.name)
        shutil.rmtree(path)
    if torn:
        run.progress.emit("resumed", step=0, torn=torn)
    return None


def save(run: Run, trained: dict[str, Any]) -> dict[str, Any]:
    """Writes adapter, merged model and card, loads the merged model again and lets it speak, and writes result.json last."""
    model, tokenizer, folder = trained.pop("model"), trained.pop("tokenizer"), run.folder
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink(missing_ok=True)  # peft's own card, nearly empty
    model.merge_and_unload().save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    del model
    try:
        model, tokenizer = load(folder / "merged")
        how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        asked = tokenizer.apply_chat_template(run.training[0]["prompt"], **how)
        told = model.generate(**asked.to(model.device), max_new_tokens=12, do_sample=False)
        sample = tokenizer.decode(told[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    except Exception as error:
        raise Ended("result_broken", f"{folder / 'merged'}: {error!r}", "Look at the error; the checkpoints are kept.") from error
    names = ("torch", "transformers", "trl", "peft", "datasets", "huggingface_hub")
    packages = {name: importlib.metadata.version(name) for name in names}
    batch = {name: run.state[name] for name in ("batch", "accumulation", "out_of_memory")}
    result = {"request": run.request, "dataset": run.data} | trained | {"batch": batch, "packages": packages, "sample": sample}
    write_whole(folder / "README.md", model_card(result))
    paths = [path for part in ("adapter", "merged") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    sizes = [(path, str(path.relative_to(folder)), path.stat().st_size) for path in [*paths, folder / "README.md"]]
    result["files"] = [{"name": name, "size": size, "sha256": digest(path)} for path, name, size in sizes]
    write_whole(folder / "result.json", json.dumps(result, indent=2))
    run.progress.emit("saved", files=result["files"])
    return result


def model_card(result: dict[str, Any]) -> str:
    """README.md: what this model is, made of what and how, and by whose decision."""
    request, before, after = result["request"], result["metrics"]["before"], result["metrics"]["after"]
    head = ["---", "library_name: transformers", f"tags: [turnout, lora, {request['method']}]"]
    head += [f"base_model: {request['base_model']}"] if result["base_revision"] else []
    head += [f"datasets: [{request['dataset_repository']}]"] if request["dataset_repository"] else []
    head += ["---", f"# {request['agent']} {request['model_version']}".strip(), "", "The LoRA adapter is in `adapter/`.", ""]
    table = ["| held out | before | after |", "|---|---|---|", *(f"| {name} | {before[name]} | {after[name]} |" for name in after)]
    facts = request | result["metrics"] | {name: result[name] for name in ("base_revision", "dataset", "batch", "packages")}
    told = [f"- **{name}**: {json.dumps(one, ensure_ascii=False)}" for name, one in facts.items() if name != "loss_curve"]
    return "\n".join([*head, *table, "", *told, ""])


def earlier_result(run: Run) -> dict[str, Any] | None:
    """What an earlier start finished; None when there is nothing or a file of it is damaged."""
    path = run.folder / "result.json"
    with contextlib.suppress(FileNotFoundError):
        result = dict(json.loads(path.read_text()))
        if all(digest(run.folder / one["name"]) == one["sha256"] for one in result["files"]):
            run.progress.emit("resumed", step=result["metrics"]["steps"], torn=[], saved=True)
            return result
    path.unlink(missing_ok=True)
    return None


def push(run: Run, result: dict[str, Any]) -> None:
    """To the Hub: the merged model at the top, the adapter below it."""
    request, names = run.request, [*(one["name"] for one in result["files"]), "result.json"]
    title = f"{request['agent']} {request['model_version']}\n\nIntent: {request['intent']}"
    commit = commit_on_hub(run, {name.removeprefix("merged/"): run.folder / name for name in names}, title)
    run.progress.emit("pushed", repository=request["hub_repository"], revision=request["hub_revision"], commit=commit, files=names)


def write_whole(path: Path, content: str) -> None:
    """All of it or nothing: a kill in between leaves what was there."""
    path.with_name(path.name + ".draft").write_text(content, encoding="utf-8")
    path.with_name(path.name + ".draft").replace(path)


def digest(what: Path | str) -> str:
    """SHA-256 of a file or a text."""
    if isinstance(what, str):
        return hashlib.sha256(what.encode()).hexdigest()
    with what.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
