"""Deterministic evaluators: the same answer always gets the same score. exact, contains, regex, json_schema, code.

Place in the flow: a provider calls `score` for each answer and keeps the result in `Answer.scores[check.name]`. All are pure but
two, which start a process: `regex`, because a bad pattern can run for ever and Python cannot interrupt it, and `code`, in a
sandbox (`sandbox`).

A row that has nothing to compare with, or a check that cannot be made, gives None and says why: not measured is not wrong.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from controller.judgement.fences import code_in, unfenced
from controller.judgement.results import Example
from controller.judgement.sandbox import Limits, run_tests

Kind = Literal["exact", "contains", "regex", "json_schema", "code"]
LONGEST = 1_000_000  # characters of an answer that are looked at
REGEX_SECONDS = 5.0
MATCH = (
    "import json,re,sys\n"
    "job=json.load(sys.stdin)\n"
    "print(bool(re.search(job['pattern'],job['text'],re.IGNORECASE*job['fold']|re.MULTILINE)))\n"
)


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One evaluator as a user writes it.

    `expected` is what to compare with: text, a list (contains), a pattern, a schema or test code. Without it, `field` says where
    the row has it (a path with dots, such as `outputs.tests`). `fold` ignores case. `any_of`: one of a list is enough (contains).
    `partial`: the share of what passed instead of all or nothing (contains, code). `seconds` limits `code`. `weak_sandbox` runs
    `code` where nothing isolates it.
    """

    name: str
    kind: Kind
    expected: Any = None
    field: str = ""
    fold: bool = False
    any_of: bool = False
    partial: bool = False
    seconds: float = 10.0
    weak_sandbox: bool = False

    def __post_init__(self) -> None:
        if self.expected is None and not self.field:
            raise ValueError(
                f"evaluator {self.name}: nothing to compare with; give expected, or field with a path such as outputs.answer"
            )
        if self.kind == "regex" and isinstance(self.expected, str):
            try:
                re.compile(self.expected)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"evaluator {self.name}: {self.expected!r} is not a regular expression: {error}") from None


class Scored(NamedTuple):
    """0..1, or None where it could not be measured; `why` is one sentence for the report."""

    score: float | None
    why: str


def score(check: Check, text: str, example: Example) -> Scored:
    """What `check` says of one answer. Never raises for what a model answered or a row holds."""
    expected = check.expected if check.expected is not None else _at(example, check.field)
    if expected is None or expected in ("", [], {}):
        return Scored(None, f"the row has nothing at {check.field}")
    if len(text) > LONGEST:
        return Scored(0.0, f"the answer has {len(text)} characters: at most {LONGEST} are looked at")
    try:
        return EVALUATORS[check.kind](check, text, expected)
    except RecursionError:
        return Scored(0.0, "the answer is nested too deeply")


def exact(check: Check, text: str, expected: Any) -> Scored:
    """Equal after Unicode NFC and without space around; expected data that is no text is compared with the answer read as JSON."""
    if not isinstance(expected, str):
        found = _json(text)
        same = not isinstance(found, ValueError) and _same(found, expected)
        return Scored(float(same), "equal" if same else "another value")
    same = _plain(text, check.fold) == _plain(expected, check.fold)
    return Scored(float(same), "equal" if same else "another text")


def contains(check: Check, text: str, expected: Any) -> Scored:
    """All parts of a list (or one, with `any_of`) occur in the answer."""
    parts = [str(part) for part in (expected if isinstance(expected, list) else [expected])]
    inside = _plain(text, check.fold)
    missing = [part for part in parts if _plain(part, check.fold) not in inside]
    there = len(parts) - len(missing)
    if check.any_of:
        return Scored(float(there > 0), f"{there} of {len(parts)} found, one is enough")
    return Scored(there / len(parts) if check.partial else float(not missing), f"{there} of {len(parts)} found")


def regex(check: Check, text: str, expected: Any) -> Scored:
    """The pattern is found somewhere (^ and $ match at lines). In a process of its own, killed after 5 s: then it is not
    measured.
    """
    if not isinstance(expected, str):
        return Scored(None, f"the pattern is {type(expected).__name__}: allowed is text")
    job = json.dumps({"pattern": expected, "text": text, "fold": check.fold})
    command = [sys.executable, "-I", "-S", "-c", MATCH]
    try:
        done = subprocess.run(command, input=job, capture_output=True, text=True, timeout=REGEX_SECONDS, env={}, check=False)
    except subprocess.TimeoutExpired:
        return Scored(None, f"the pattern took over {REGEX_SECONDS:g} s: simplify it (nested repetitions run for ever)")
    if done.returncode:
        return Scored(
            None,
            f"the pattern cannot be used: {done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else 'it failed'}",
        )
    found = done.stdout.strip() == "True"
    return Scored(float(found), "found" if found else "not found")


def json_schema(check: Check, text: str, expected: Any) -> Scored:
    """The answer is JSON (a code fence around it is taken off, NaN is not JSON) and follows the schema.

    No reference leaves the schema: nothing is fetched. The schema comes from the repository: a `pattern` in it that runs for ever
    is not stopped.
    """
    import jsonschema
    import referencing

    if not isinstance(expected, dict):
        return Scored(None, f"the schema is {type(expected).__name__}: allowed is an object")
    found = _json(text)
    if isinstance(found, ValueError):
        return Scored(0.0, f"not JSON: {found}")
    try:
        cls = jsonschema.validators.validator_for(expected, default=jsonschema.Draft202012Validator)
        cls.check_schema(expected)
        error = jsonschema.exceptions.best_match(cls(expected, registry=referencing.Registry()).iter_errors(found))
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable) as problem:
        return Scored(None, f"the schema cannot be used: {str(problem).splitlines()[0][:200]}")
    if error is None:
        return Scored(1.0, "follows the schema")
    return Scored(0.0, f"{error.json_path}: {error.message}"[:300])


def code(check: Check, text: str, expected: Any) -> Scored:
    """The Python of the answer passes the tests (`test_*` functions, unittest cases, or plain asserts), in the sandbox."""
    if not isinstance(expected, str):
        return Scored(None, f"the tests are {type(expected).__name__}: allowed is Python code as text")
    ran = run_tests(code_in(text), expected, Limits(seconds=check.seconds), weak=check.weak_sandbox)
    if ran.not_run:
        return Scored(None, ran.not_run)
    if ran.total == 0:
        return Scored(0.0, ran.why)
    return Scored(ran.passed / ran.total if check.partial else float(ran.passed == ran.total), ran.why)


EVALUATORS: Mapping[Kind, Callable[[Check, str, Any], Scored]] = {
    "exact": exact,
    "contains": contains,
    "regex": regex,
    "json_schema": json_schema,
    "code": code,
}


def _at(example: Example, path: str) -> Any:
    found: Any = {"inputs": example.inputs, "outputs": example.outputs, "metadata": example.metadata}
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _json(text: str) -> Any:
    """The value, or the ValueError as a value."""
    try:
        return json.loads(unfenced(text), parse_constant=_refuse)
    except ValueError as error:
        return error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _same(found: Any, expected: Any) -> bool:
    """Equal as JSON: true is not 1, and 1.0 is 1."""
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True) or (
        type(found) in (int, float) and type(expected) in (int, float) and found == expected
    )


def _plain(text: str, fold: bool) -> str:
    plain = unicodedata.normalize("NFC", text).replace("\r\n", "\n").strip()
    return plain.casefold() if fold else plain
