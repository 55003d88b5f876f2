"""Code of a model in the sandbox: what passes, what is stopped, what gets out (nothing that is tested here)."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from controller.judgement.evaluators import Check, score
from controller.judgement.results import Example
from controller.judgement.sandbox import Limits, Ran, run_tests, unusable

GOOD = "def f(x):\n    return x + 1\n"
TESTS = "def test_one():\n    assert f(1) == 2\n\ndef test_two():\n    assert f(2) == 3\n"
QUICK = Limits(seconds=3)


def run(code: str, tests: str = TESTS, limits: Limits = QUICK) -> Ran:
    return run_tests(code, tests, limits)


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    if "nothing here isolates" in run(GOOD).not_run:
        pytest.skip("no namespaces on this machine: the sandbox refuses to run, as test_without_isolation_it_refuses shows")


def test_good_code_passes_and_is_shut_in() -> None:
    found = run(GOOD)
    assert (found.passed, found.total, found.not_run) == (2, 2, "")
    assert {"namespaces", "files"} <= set(found.shut)


def test_half_right_is_counted_and_the_first_fault_told() -> None:
    found = run("def f(x):\n    return 2 * x\n")
    assert (found.passed, found.total) == (1, 2)
    assert "test_two: AssertionError" in found.why


@pytest.mark.parametrize(
    "tests",
    [
        "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 2)\n",
        "from solution import f\nassert f(1) == 2\n",
        "import solution\ndef test_it(value=1):\n    assert solution.f(value) == 2\n",
    ],
)
def test_tests_may_be_written_in_three_ways(tests: str) -> None:
    assert (run(GOOD, tests).passed, run("def f(x):\n    return 0\n", tests).passed) == (1, 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("import os\nos._exit(0)", "ended before the tests did"),
        ("def f(:", "SyntaxError"),
        ("raise ValueError('no')", "ValueError: no (answer.py:1)"),
        ("class E(Exception):\n    def __str__(self):\n        raise TypeError\nraise E()", "its text cannot be read"),
        ("import ctypes\nctypes.string_at(0)", "ended before the tests did"),
        ("x = bytearray(3 << 30)", "MemoryError"),
        ("open('big', 'wb').write(b'x' * (32 << 20))", "OSError"),
        ("import os\nwhile True:\n    os.fork()", "BlockingIOError"),
        ("handles = [open('/dev/null') for _ in range(1000)]", "Too many open files"),
        ("x = 'a\x00b'", "does not run"),
        ("\ud800", "does not run"),
        ("", "NameError"),
        ("print('x' * 10_000_000)\n" + GOOD, "wrote more than"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", "does not run"),
        ("import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "unreachable"),
    ],
)
def test_bad_code_fails_with_its_reason(code: str, said: str) -> None:
    found = run(code)
    assert (found.passed, found.not_run) == (0, "")
    assert said in found.why


def test_endless_code_is_stopped() -> None:
    for code in ("while True:\n    pass", "import time\ntime.sleep(600)"):
        found = run(code, limits=Limits(seconds=1))
        assert found.passed == 0
        assert found.total == 1


def test_faked_results_do_not_count() -> None:
    line = b'{"nonce": "", "passed": 9, "total": 9, "why": ""}\n'
    each = f"    try:\n        os.write(fd, {line!r})\n    except OSError:\n        pass\n"
    found = run(f"import os\nfor fd in range(1, 30):\n{each}os._exit(0)")
    assert found.passed == 0


def test_it_sees_neither_home_nor_the_repository_nor_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_TEST", "value-of-the-secret")
    secret = Path(__file__)
    places = [
        str(secret),
        str(secret.parent),
        os.path.expanduser("~root"),
        "/home",
        "/etc/shadow",
        "/proc/1/environ",
        "/proc/self/environ",
    ]
    code = f"""
import os
found = []
for place in {places!r}:
    try:
        found += os.listdir(place) if os.path.isdir(place) else [open(place).read(9)]
    except OSError:
        pass
print(found, dict(os.environ), os.getuid(), os.listdir("."))
"""
    found = run(code + GOOD)
    assert found.passed == 2
    assert "value-of-the-secret" not in found.output
    assert secret.name not in found.output
    assert found.output.startswith("[] ")
    if os.geteuid() == 0:
        assert " 65534 " in found.output


def test_what_it_leaves_behind_ends_with_it() -> None:
    marker = f"left-behind-{os.getpid()}"
    code = f"import os, sys\nif os.fork() == 0:\n    os.setsid()\n    os.execv('/bin/sleep', ['{marker}', '300'])\n"
    assert run(code + GOOD).passed == 2
    for _ in range(50):
        running = (
            subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
            if Path("/bin/ps").exists()
            else ""
        )
        if marker not in running:
            break
        time.sleep(0.1)
    assert marker not in running


def test_it_writes_to_its_own_folder_only() -> None:
    target = Path("/var/tmp/turnout-must-not-exist")
    assert run("open('note.txt', 'w').write('x')\nassert open('note.txt').read() == 'x'\n" + GOOD).passed == 2
    assert "does not run" in run(f"open({str(target)!r}, 'w').write('x')\n" + GOOD).why
    assert not target.exists()


def test_the_tests_folder_of_modules_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "helping.py").write_text("def twice(x):\n    return 2 * x\n")
    tmp_path.chmod(0o755)
    tests = "import helping\ndef test_it():\n    assert f(1) == helping.twice(1)\n"
    lacking = run(GOOD, tests)
    assert "the tests import helping" in lacking.not_run
    assert run(GOOD, tests, Limits(seconds=3, libraries=(str(tmp_path),))).passed == 1


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("", "check nothing"),
        ("# later\nimport os\n", "check nothing"),
        ("def test_(:", "not Python"),
        ("x = '\x00'", "not Python"),
        ("def test_a(tmp_path):\n    assert tmp_path", "there are no fixtures"),
    ],
)
def test_tests_that_decide_nothing_are_not_a_mark(tests: str, said: str) -> None:
    assert said in unusable(tests)
    assert said in run(GOOD, tests).not_run


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    import controller.judgement.sandbox as sandbox

    real = Path.read_text

    def no_namespaces(self: Path, *args: str) -> str:
        text = real(self, *args)
        return text.replace('"namespaces": unshared(root)', '"namespaces": False') if self.name == "jail.py" else text

    monkeypatch.setattr(sandbox.Path, "read_text", no_namespaces)
    refused = run(GOOD)
    assert "nothing here isolates the code" in refused.not_run
    weak = run_tests(GOOD, TESTS, QUICK, weak=True)
    assert weak.passed == 2 or "cannot read the interpreter" in weak.not_run  # root with a Python in its own home
    assert "namespaces" not in weak.shut


def test_the_evaluator_gives_all_or_a_share() -> None:
    row = Example("a", {}, {"tests": TESTS})
    half = "Sure!\n```python\ndef f(x):\n    return 2 * x\n```\nThat is it."
    assert score(Check("c", "code", field="outputs.tests"), half, row).score == 0.0
    assert score(Check("c", "code", field="outputs.tests", partial=True), half, row).score == 0.5
    assert score(Check("c", "code", field="outputs.tests"), f"```python\n{GOOD}```", row).score == 1.0
    assert score(Check("c", "code", expected="# nothing"), GOOD, row).score is None
