"""The stub and the generator of `benchmarks/gateway`: counts agree, known delays are found again, wrong answers are errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gateway import machine, programs, report
from benchmarks.gateway.measures import Delay, Figures, Most, Size
from benchmarks.gateway.peers import probe
from benchmarks.gateway.processes import Ended, running
from benchmarks.gateway.programs import Generator, load, stub

CORES = machine.cores()
pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")), reason="the stub and the generator are C"
)


@pytest.fixture(scope="module", autouse=True)
def _fresh_build(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Compiled here from what is in the tree, not taken from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TURNOUT_BENCHMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert programs.build("stub").exists()
        assert programs.build("load").exists()
        yield


def test_the_counts_of_both_sides_agree() -> None:
    with stub(CORES.stub) as upstream:
        found = load(CORES.generator, upstream.port, "closed", seconds=0.2, connections=8)
        big = load(CORES.generator, upstream.port, "closed", seconds=0.2, connections=3, size=65536)
        counts = upstream.counts()
    assert found.answered == found.requests == found.tokens == found.latency.count > 8
    assert counts["requests"] == counts["plain"] == found.answered + big.answered
    assert (found.failed, big.failed, counts["bad"], counts["cancelled"]) == (0, 0, 0, 0)
    assert found.peak == 8
    assert counts["peak_open"] == 8


def test_streams_are_counted_token_by_token() -> None:
    with stub(CORES.stub, tokens=7, gap_us=5_000) as upstream:
        found = load(CORES.generator, upstream.port, "stream", seconds=0.2, connections=20, tokens=7, spread=0.02)
        counts = upstream.counts()
    assert found.failed == 0
    assert counts["streams"] == found.answered >= 20
    assert counts["tokens"] == found.tokens == 7 * found.answered
    assert found.first.count == found.answered
    assert found.token.count == 6 * found.answered
    assert found.peak == counts["peak_streaming"] == 20
    assert found.latency.p50 >= 6 * 5_000


def test_a_known_delay_is_found_again() -> None:
    """Every fourth answer is late: above three quarters the percentiles know it, below they do not."""
    with stub(CORES.stub, slow_every=4, slow_us=100_000) as upstream:
        found = load(CORES.generator, upstream.port, "closed", seconds=1.5, connections=1)
    assert found.failed == 0
    assert found.latency.p50 < 100_000 <= found.latency.p90 <= found.latency.p99 <= found.latency.max
    assert found.latency.mean > 0.2 * 100_000


def test_waiting_for_a_connection_counts() -> None:
    """Coordinated omission: a stall holds back the requests that are due meanwhile, and only the open loop may say so."""
    with stub(CORES.stub, slow_every=50, slow_us=300_000) as upstream:
        closed = load(CORES.generator, upstream.port, "closed", seconds=1, connections=1)
        opened = load(CORES.generator, upstream.port, "open", seconds=1, connections=1, rate=200)
    assert opened.requests == opened.answered == opened.latency.count == 200
    assert closed.latency.p50 < 50_000 < opened.latency.p50


def test_what_is_never_answered_is_no_success() -> None:
    with stub(CORES.stub, delay_us=60_000_000) as upstream:
        closed = load(CORES.generator, upstream.port, "closed", seconds=0.1, grace=0.2, connections=4)
        opened = load(CORES.generator, upstream.port, "open", seconds=0.1, grace=0.2, connections=4, rate=100)
    assert (closed.answered, closed.unanswered, closed.errors) == (0, 4, 0)
    assert (opened.requests, opened.answered, opened.unanswered) == (10, 0, 10)
    assert closed.latency.count == 4
    assert opened.latency.count == 10
    assert opened.latency.p50 >= 200_000


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("status", "status"), ("lengths", "framing"), ("mixed", "framing"), ("other-id", "identity"), ("cut", "broken")],
)
def test_wrong_answers_are_errors(fault: str, kind: str) -> None:
    with stub(CORES.stub, fault=fault, fault_every=3) as upstream:
        found = load(CORES.generator, upstream.port, "closed", seconds=0.1, connections=1)
        seen = upstream.counts()["requests"]
    assert found.errors == found.kinds[kind] == seen // 3 > 0
    assert found.answered == seen - seen // 3
    assert not found.gave_up


@pytest.mark.parametrize(("fault", "kind"), [("twice", "tokens"), ("other-id", "identity"), ("cut", "broken")])
def test_wrong_streams_are_errors(fault: str, kind: str) -> None:
    with stub(CORES.stub, tokens=5, gap_us=1_000, fault=fault, fault_every=2) as upstream:
        found = load(CORES.generator, upstream.port, "stream", seconds=0.1, connections=1, tokens=5)
        seen = upstream.counts()["requests"]
    assert found.errors == found.kinds[kind] == seen // 2 > 0
    assert found.answered == seen - seen // 2


def test_a_stream_that_is_too_short_is_an_error() -> None:
    with stub(CORES.stub, tokens=4, gap_us=1_000) as upstream:
        found = load(CORES.generator, upstream.port, "stream", seconds=0.05, connections=1, tokens=5)
    assert found.answered == 0
    assert found.errors == found.kinds["tokens"] > 0


def test_nobody_there_is_an_error_and_not_a_wait() -> None:
    found = load(CORES.generator, machine.free_port(), "closed", seconds=30)
    assert found.gave_up
    assert found.answered == 0
    assert found.errors == found.kinds["connect"] > 0
    assert found.seconds < 30


def test_idle_connections_are_held_and_asked_again() -> None:
    with stub(CORES.stub) as upstream:
        generator = Generator(CORES.generator, upstream.port, "idle", connections=300)
        try:
            assert generator.held() == (300, 0)
            assert upstream.counts()["open"] == 301  # with the one that asks
            found = generator.result()
        finally:
            generator.stop()
    assert (found.answered, found.failed, found.peak) == (600, 0, 128)


def test_idle_connections_that_were_closed_are_errors() -> None:
    with stub(CORES.stub) as upstream:
        generator = Generator(CORES.generator, upstream.port, "idle", connections=10)
        assert generator.held() == (10, 0)
    try:
        found = generator.result()
    finally:
        generator.stop()
    assert (found.answered, found.errors, found.kinds["broken"]) == (10, 10, 10)


def test_percentiles_of_known_values(tmp_path: Path) -> None:
    source = '#include "histogram.h"\nint main(void) { static struct histogram h; printf("{"); for (int i = 1; i <= 100000; i++) '
    source += 'record(&h, i * 1000L); show("known", &h); printf("\\"end\\":0}"); return 0; }'
    (tmp_path / "known.c").write_text(source)
    folder = Path(programs.__file__).parent
    subprocess.run(["cc", "-Wall", "-Werror", f"-I{folder}", "-o", tmp_path / "known", tmp_path / "known.c"], check=True)
    found = json.loads(subprocess.run([tmp_path / "known"], check=True, capture_output=True).stdout)["known"]
    assert found["count"] == found["max"] == 100_000
    assert found["mean"] == pytest.approx(50_000.5)
    for name, exact in (("p50", 50_000), ("p90", 90_000), ("p99", 99_000), ("p999", 99_900)):
        assert exact <= found[name] <= exact * 1.008


def test_the_stub_answers_as_a_model_server_does() -> None:
    with stub(CORES.stub) as upstream:
        assert probe(upstream.port) == ""


def test_cpu_of_a_whole_tree_is_counted_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    script = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    script += f"subprocess.Popen([sys.executable, '-c', {burn + 'time.sleep(60)'!r}])\nprint('ready', flush=True)\ntime.sleep(60)"
    with running([sys.executable, "-c", script], core=CORES.measured, log=tmp_path / "log") as process:
        for _ in range(1000):
            if process.cpu() >= 0.55:
                break
            time.sleep(0.02)
        assert process.cpu() >= 0.55  # 0.3 s of a child that has ended and of one that lives, less what is cut off
        assert process.memory() > 5
        process.check()
    with pytest.raises(Ended, match="ready"):
        process.check()
    assert process.cpu() == 0


def test_a_peer_that_is_missing_has_a_row_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    ours = Figures(chat=[Most(20_000, 1.0, 50.0, 0)] * 3, delay=[Delay(200, 300, 1.0, 0)])
    theirs = Figures(chat=[Most(30_000, 1.0, 30.0, 0), Most(10_000, 1.0, 90.0, 0), Most(30_000, 1.0, 25.0, 0)])
    figures = {"turnout": ours, "haproxy": theirs, "envoy": Figures(missing="pip ended with 1: no such package")}
    report.show(figures, Figures(delay=[Delay(50, 60, 1.0, 0)]), [], Size())
    lines = capsys.readouterr().out.splitlines()
    small = lines[: next(i for i, line in enumerate(lines) if line.startswith("64 KB"))]
    assert any("turnout" in line and "50 us, asked at most 100 us: met" in line for line in small)
    assert any("haproxy" in line and "0.60x, asked at least 0.40x: met" in line for line in small)
    assert any("envoy" in line and "not measured: pip ended with 1: no such package" in line for line in small)
    assert any("turnout" in line and "150 us, asked at most 300 us: met" in line for line in lines)
