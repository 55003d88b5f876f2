"""Runs code that a model wrote against given tests, in a subprocess that can do little. The one part of this package that acts.

Place in the flow: behind the `code` evaluator. `jail` is the program inside; this side starts it, bounds its time and output, and
reads the result.

What it does, on Linux with namespaces and Landlock (5.13 or newer): own network without a way out, own process table (whatever
the code starts ends with it), own mounts with nothing of home, /tmp, /run and /proc, reads limited to the interpreter and system
libraries and writes to 64 MB of memory, user nobody where we are root, no capabilities, limits on CPU time, memory, file size,
open files and processes, no environment, no standard input, wall-clock limit, bounded output, closed descriptors.

What it does **not** protect against:
- the kernel: no seccomp filter, no virtual machine. A kernel exploit gets out. For code from people you do not trust use a
  machine of its own
- cheating: answer and tests share one interpreter, so an answer that sets out to can change what the tests see, or find the word
  that marks a real result. `exit(0)` and printing "passed" do not get through
- what is readable under /usr, and side channels: timing, load, what the CPU leaks
- the memory of several processes together: the limit is for each
- without these kernel features (macOS, some containers) nothing runs, unless `weak` is set. Then only the limits, the user, the
  time and, where there is Landlock, files and TCP are held; other processes, UDP and local sockets are not
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

OUTPUT = 64_000  # bytes of standard output and error that are kept; ten times as many end the run
RESULT = 64_000
REFUSED = {
    "isolation": "nothing here isolates the code well enough (no namespaces or no Landlock: some containers, old kernels); run it"
    " elsewhere, or set weak_sandbox for code that you trust",
    "interpreter": f"user nobody cannot read the interpreter in {sys.base_prefix}; use one that all may read, or another user",
}


class Limits(msgspec.Struct, frozen=True):
    """`seconds` of wall-clock and of CPU time, bytes of `memory` (one process) and of one file. `libraries`: folders of modules
    tests may import.
    """

    seconds: float = 10.0
    memory: int = 1 << 30
    file_size: int = 16 << 20
    files: int = 64
    processes: int = 64
    libraries: tuple[str, ...] = ()


class Ran(msgspec.Struct, frozen=True):
    """`not_run` says why nothing was measured; otherwise `passed` of `total` tests. `shut` names what was isolated."""

    passed: int = 0
    total: int = 0
    why: str = ""
    not_run: str = ""
    output: str = ""
    shut: tuple[str, ...] = ()


def run_tests(code: str, tests: str, limits: Limits | None = None, *, weak: bool = False) -> Ran:
    """Python only; `test*` functions without arguments, unittest cases, or plain statements. `solution` is importable and its
    names are there.
    """
    limits = limits or Limits()
    fault = unusable(tests)
    if fault:
        return Ran(not_run=fault)
    if sys.platform != "linux":
        return Ran(not_run=f"the sandbox needs Linux, this is {sys.platform}: run the evaluation there, for example in CI")
    with _folder() as work:
        messages, output, ended = _talk(code, tests, limits, weak, work)
    return _read(messages, output, ended, limits)


def unusable(tests: str) -> str:
    """Why tests cannot decide anything, or "": they are no Python, check nothing, or want what is not there."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the tests are not Python: {error}"
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")]
    wanting = [node.name for node in functions if len(node.args.args) > len(node.args.defaults)]
    if wanting:
        return (
            f"the tests cannot be run: {wanting[0]} takes arguments, and there are no fixtures; write functions without arguments"
        )
    acts = (ast.Assert, ast.Call, ast.Raise)
    if not any(isinstance(node, acts) for node in ast.walk(tree)):
        return "the tests check nothing: write test functions, unittest cases or asserts"
    return ""


# -- the process -------------------------------------------------------------------------------------------------------

Messages = list[dict[str, Any]]


def _talk(code: str, tests: str, limits: Limits, weak: bool, work: str) -> tuple[Messages, str, str]:
    """What came on the result pipe, standard output, and how it ended ("", "time", "output")."""
    nonce = secrets.token_hex(16)
    reading, writing = os.pipe()
    job = {
        "fd": writing,
        "nonce": nonce,
        "code": code,
        "tests": tests,
        "weak": weak,
        "work": work,
        "keep": sorted({os.path.realpath(path) for path in (sys.base_prefix, sys.base_exec_prefix, *limits.libraries)}),
        "cpu": max(1, round(limits.seconds)),
        "libraries": list(limits.libraries),
        "memory": limits.memory,
        "file_size": limits.file_size,
        "files": limits.files,
        "processes": limits.processes,
    }
    program = Path(__file__).with_name("jail.py").read_text("utf-8")
    python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    try:
        process = subprocess.Popen(
            [python, "-I", "-S", "-B", "-X", "utf8", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "HOME": work, "LANG": "C.UTF-8"},
        )
    finally:
        os.close(writing)
    try:
        assert process.stdin
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(job).encode())
        result, output, ended = _watched(process, reading, limits.seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reading)
        if process.stdout:
            process.stdout.close()
    return _messages(result, nonce), output.decode("utf-8", "replace"), ended


def _watched(process: subprocess.Popen[bytes], reading: int, seconds: float) -> tuple[bytes, bytes, str]:
    assert process.stdout
    kept: dict[int, bytearray] = {reading: bytearray(), process.stdout.fileno(): bytearray()}
    bounds = {reading: RESULT, process.stdout.fileno(): OUTPUT}
    seen, ended, deadline = 0, "", time.monotonic() + seconds + 2  # the CPU limit comes first; this is for what sleeps
    with selectors.DefaultSelector() as selector:
        for fd in kept:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0 or seen > 10 * OUTPUT:
                ended = "time" if left <= 0 else "output"
                break
            ready = selector.select(min(left, 0.1))
            if not ready and process.poll() is not None:
                break  # something it left behind holds the pipes open
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                seen += len(data)
                kept[key.fd] += data[: bounds[key.fd] - len(kept[key.fd])]
    return bytes(kept[reading]), bytes(kept[process.stdout.fileno()]), ended


def _messages(result: bytes, nonce: str) -> Messages:
    """The first line says what is shut; of the others only one with the word counts."""
    found: Messages = []
    for number, line in enumerate(result.splitlines()):
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict) and (number == 0 or message.get("nonce") == nonce):
                found.append(message)
    return found


def _read(messages: Messages, output: str, ended: str, limits: Limits) -> Ran:
    if not messages or "shut" not in messages[0]:
        return Ran(not_run=f"the sandbox did not start: {output.strip()[-300:] or 'it said nothing'}")
    shut = tuple(sorted(name for name, done in messages[0]["shut"].items() if done))
    if messages[0]["refused"]:
        return Ran(not_run=REFUSED.get(str(messages[0]["refused"]), "the sandbox refused"), shut=shut)
    if len(messages) < 2:
        slow = f"no result after {limits.seconds:g} s"
        why = {"time": slow, "output": f"it wrote more than {10 * OUTPUT} bytes"}.get(
            ended, "it ended before the tests did (exit, crash or limit)"
        )
        return Ran(total=1, why=why, output=output, shut=shut)
    last = messages[1]
    if "missing" in last:
        return Ran(
            not_run=f"the tests import {str(last['missing'])[:100]}, which the sandbox lacks; name its folder in libraries",
            shut=shut,
        )
    return Ran(passed=int(last["passed"]), total=int(last["total"]), why=str(last["why"])[:500], output=output, shut=shut)


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """Where weakly isolated code may write; elsewhere it stays empty. Removed with everything in it, whatever its permissions."""
    with tempfile.TemporaryDirectory(prefix="turnout-answer-", ignore_cleanup_errors=True) as name:
        if os.geteuid() == 0:
            os.chown(name, 65534, 65534)
        yield name
        for folder, inner, _ in os.walk(name):
            for each in inner:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(folder, each), 0o700)
