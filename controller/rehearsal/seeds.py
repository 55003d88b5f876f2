"""What the doubles of a rehearsal know: tiny models under the names of base models, invented data sets, and answers.

Answers: what is bound now is right on `bound` of the questions, every other model on `candidate` of them; always the same ones.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from controller import programs
from controller.errors import TurnoutError
from controller.testing.hugging_face import HuggingFaceDouble, Options
from controller.testing.langsmith_api import LangSmithApi
from controller.vendors import LangSmithSpec

ROWS = 160
FIRST = {"sft": 0, "preferences": 0, "evaluation": 50_000}
"""Numbers that the rows of a role begin with: no question of an evaluation is one that was trained on."""
JUDGED = "\n\nSecond answer:\n"
"""In every question to a judge, by its template; the same model may answer questions too."""
RIGHT = ("answer", "code", "text", "output", "completion")
_TINY = """\
import pathlib, sys, types
sys.path.insert(0, sys.argv[1])
import train
texts = sys.stdin.read().splitlines()
run = types.SimpleNamespace(request={"max_length": 2048, "seed": 7}, folder=pathlib.Path(sys.argv[2]),
                            training=[{"messages": [{"content": text}]} for text in texts])
train.make_tiny(run, train.TINY)
"""


def rows(role: str, count: int = ROWS) -> list[dict[str, Any]]:
    """Examples of a coding agent: `inputs`, `outputs`, `metadata`."""
    return [_row(FIRST[role] + number, role) for number in range(count)]


def _row(number: int, role: str) -> dict[str, Any]:
    code = f"def add(x):\n    return x + {number}\n"
    right = {"answer": code, "code": code, "tests": f"assert add(1) == {number + 1}\n"}
    wrong = "def add(x):\n    return x\n"
    outputs = {"chosen": code, "rejected": wrong} if role == "preferences" else right
    task = f"Write the Python function add(x) that returns x plus {number}."
    return {"inputs": {"task": task}, "outputs": outputs, "metadata": {"agent": "rehearsal", "success": True}}


def base_model(python: str, folder: Path) -> dict[str, bytes]:
    """Files of a model of 1.3 million weights, made on the spot. Raises TurnoutError."""
    texts = "\n".join(json.dumps(row) for row in rows("sft"))
    run = subprocess.run(
        [python, "-c", _TINY, str(Path(programs.__file__).parent), str(folder)], input=texts, capture_output=True, text=True
    )
    if run.returncode:
        raise TurnoutError(
            f"the tiny model for the rehearsal cannot be made with {python}: {run.stderr.strip().splitlines()[-1:]}",
            "pip install -r requirements-training.txt somewhere, and set TURNOUT_TRAINING_PYTHON to that python",
        )
    return {path.name: path.read_bytes() for path in (folder / "base").iterdir() if path.is_file()}


def hub(data: Path, models: Mapping[str, Mapping[str, bytes]], datasets: Mapping[str, str]) -> None:
    """Into the folder of the double of Hugging Face; `datasets` are ORG/NAME -> role."""
    with HuggingFaceDouble(data, Options()) as double:
        for name, files in models.items():
            double.seed("model", name, files, large=tuple(each for each in files if each.endswith(".safetensors")))
        for name, role in datasets.items():
            double.seed("dataset", name, {"train.jsonl": _lines(role), "test.jsonl": _lines(role)})


def langsmith(data: Path, key: str, datasets: Mapping[str, str]) -> None:
    """Into the folder of the double of LangSmith; `datasets` are names -> roles."""
    from controller.clients.langsmith import LangSmith

    data.mkdir(parents=True, exist_ok=True)
    (data / "key").write_text(key)
    with LangSmithApi(data, keys=[key]) as api:
        door = LangSmith(LangSmithSpec(url=api.url, api_key="file:key"), data)
        for name, role in datasets.items():
            door.push(name, rows(role))
        door.close()


def answers(
    asked: Iterable[Mapping[str, Any]], fields: Iterable[str], bound: Iterable[str], judges: Iterable[str], candidate: str
) -> str:
    """Rules for simulated endpoints, as JSON. `asked`: rows of evaluation sets; `fields`: where evaluators look for what is right.

    `candidate`: better, same or worse than what is bound.
    """
    shares = {"better": (0.55, 0.9), "same": (0.7, 0.7), "worse": (0.9, 0.55)}[candidate]
    found = {pair for row in asked for pair in _right(row, tuple(fields))}
    right = sorted(found, key=lambda pair: (-len(pair[0]), pair))
    out: list[dict[str, Any]] = [{"model": judge, "contains": JUDGED, "json": _undecided()} for judge in sorted(set(judges))]
    for model, share in (*((name, shares[0]) for name in sorted(set(bound))), ("*", shares[1])):
        out += [{"model": model, "contains": question, "share": share, "text": _literal(text)} for question, text in right]
        out.append({"model": model, "text": "I do not know."})
    return json.dumps({"rules": out})


def _undecided() -> dict[str, Any]:
    """A judge that has no opinion; checks decide."""
    marks = {"accuracy": 3, "completeness": 3, "integration": 3}
    return {"reason": "This judge is simulated.", "first": marks, "second": marks, "winner": "tie"}


def _right(row: Mapping[str, Any], fields: tuple[str, ...]) -> Iterable[tuple[str, str]]:
    inputs, outputs = row.get("inputs"), row.get("outputs")
    if not isinstance(inputs, Mapping) or not isinstance(outputs, Mapping):
        return
    question = next((value for value in inputs.values() if isinstance(value, str)), "")
    names = (*(name.removeprefix("outputs.") for name in fields), *RIGHT)
    text = next((outputs[name] for name in names if isinstance(outputs.get(name), str)), "")
    if question and text:
        yield question, text


def _literal(text: str) -> str:
    """Rules expand group references."""
    return text.replace("\\", "\\\\")


def _lines(role: str) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows(role)).encode()
