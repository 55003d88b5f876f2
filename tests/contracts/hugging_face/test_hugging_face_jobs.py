"""The door to Hugging Face (`clients.huggingface`) with the vendor's real SDK against the double: Jobs, paid exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from controller.clients.hugging_face_jobs import JobOrder, Lines, cost_usd, label_of, script_order
from controller.clients.huggingface import Hub, OutcomeUnknown, connect
from controller.errors import Permanent, Temporary
from controller.testing.hugging_face import HuggingFaceDouble, Options
from controller.vendors import HuggingFace

TOKEN = "hf_secretsecretsecret"  # of conftest.py
POST_JOB = "POST /api/jobs/acme"
ORDER = JobOrder(command=("true",), flavor="t4-small", timeout_seconds=3600)
Opened = Callable[..., Hub]


def posts(double: HuggingFaceDouble) -> int:
    return int(double.ledger()["requests"].get(POST_JOB, 0))


# -- who and what ------------------------------------------------------------------------------------------------


def test_the_namespace_is_the_users_unless_the_settings_name_one(double: HuggingFaceDouble, opened: Opened) -> None:
    assert opened(double, namespace=None).session.namespace() == "ada"
    assert opened(double).session.namespace() == "acme"


def test_prices_are_dollars_an_hour_with_their_date(hub: Hub) -> None:
    hardware = hub.jobs.hardware()
    assert hardware.as_of == datetime(2026, 11, 21, tzinfo=UTC)
    flavor = hardware.flavors["a10g-largex2"]
    assert (flavor.gpu, flavor.gpus, flavor.gpu_memory) == ("A10G", 2, "48 GB")
    assert flavor.usd_per_hour == pytest.approx(3.00, abs=0.0001)


def test_the_token_comes_from_the_names_that_teams_have(
    double: HuggingFaceDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = connect(HuggingFace(url=double.url, namespace="acme"), tmp_path)
    with pytest.raises(Temporary, match=r"no token; set HUGGINGFACE_HUB_TOKEN or HF_TOKEN"):
        hub.jobs.hardware()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    monkeypatch.setenv("HUGGINGFACE_HUB_TOKEN", TOKEN)
    assert hub.session.reference == "env:HUGGINGFACE_HUB_TOKEN"
    assert "t4-small" in hub.jobs.hardware().flavors


def test_a_wrong_token_is_permanent_and_never_told(double: HuggingFaceDouble, opened: Opened) -> None:
    hub = opened(double, "hf_wrong")
    with pytest.raises(Permanent, match=r"401 Invalid credentials.*check the token") as caught:
        hub.jobs.hardware()
    assert "hf_wrong" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("kind", ["status", "lose", "cut", "truncate"])
def test_no_error_tells_the_token_or_a_secret(hub: Hub, double: HuggingFaceDouble, tmp_path: Path, kind: str) -> None:
    (tmp_path / "key").write_text("sk-hush")
    double.fail(POST_JOB, kind, message=f"Bearer {TOKEN} with sk-hush is not wanted")
    order = JobOrder(command=("true",), flavor="t4-small", timeout_seconds=60, secrets={"KEY": "file:key"})
    with pytest.raises(OutcomeUnknown) as caught:
        hub.jobs.start("leak", order)
    told = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in told
    assert "sk-hush" not in told


def test_the_sdk_is_imported_by_the_first_call_only() -> None:
    program = (
        "import pathlib, sys, controller.clients.huggingface as door\n"
        "door.connect(door.HuggingFace(), pathlib.Path('.'))\n"
        "print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "controller.clients.hugging_face_jobs" in modules
    assert not {"huggingface_hub", "httpx2"} & set(modules)


# -- one start per intent ----------------------------------------------------------------------------------------


def test_a_job_from_start_to_bill(hub: Hub, double: HuggingFaceDouble) -> None:
    double.script("loss 2.0", "loss 1.0", scheduling=60, running=600)
    started = hub.jobs.start("0a1b", JobOrder(("true",), "a10g-large", 3600, labels={"agent": "docs"}))
    assert hub.jobs.get(started).stage == "SCHEDULING"
    double.advance(60 + 90)
    job = hub.jobs.get(started)
    assert (job.stage, job.running_seconds, job.labels["agent"]) == ("RUNNING", 90.0, "docs")
    assert job.cost_usd == pytest.approx(2 * 1.50 / 60)
    assert hub.jobs.lines(started).lines == ("loss 2.0",)
    double.advance(600)
    job = hub.jobs.get(started)
    assert (job.stage, job.ended, job.running_seconds) == ("COMPLETED", True, 600.0)
    assert hub.jobs.lines(started, since=1).lines == ("loss 1.0",)
    assert hub.jobs.lines(started, since=2) == Lines((), 2)
    (row,) = double.ledger()["jobs"]
    assert (row["minutes"], row["usd"]) == (10, pytest.approx(job.cost_usd))
    assert posts(double) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "lose"},
        {"kind": "hang"},
        {"kind": "status", "status": 503, "before": False},
        {"kind": "status", "status": 502, "before": False},
        {"kind": "truncate", "bytes": 10},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
def test_a_lost_answer_is_looked_for_and_found(hub: Hub, double: HuggingFaceDouble, fault: dict[str, Any]) -> None:
    hub.jobs.hardware()
    hub.session.call_seconds = 0.5
    double.fail(POST_JOB, **fault)
    with pytest.raises(OutcomeUnknown, match="look for it before doing it again"):
        hub.jobs.start("7f", ORDER)
    found = hub.jobs.find("7f")
    assert found is not None
    assert found.labels["turnout-intent"] == "7f"
    assert hub.jobs.find("8f") is None
    assert (posts(double), len(double.ledger()["jobs"])) == (1, 1)


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "cut"}, {"kind": "hang", "before": True}], ids=str)
def test_what_was_not_done_is_not_found_and_done_once_after_all(hub: Hub, double: HuggingFaceDouble, fault: dict[str, Any]) -> None:
    hub.jobs.hardware()
    hub.session.call_seconds = 0.5
    double.fail(POST_JOB, **fault)
    with pytest.raises(OutcomeUnknown):
        hub.jobs.start("7f", ORDER)
    assert posts(double) == 1
    assert hub.jobs.find("7f") is None
    hub.jobs.start("7f", ORDER)
    assert len(double.ledger()["jobs"]) == 1


def test_a_rate_limit_is_certain_and_not_waited_for(hub: Hub, double: HuggingFaceDouble) -> None:
    double.fail(POST_JOB, "status", status=429, headers={"Retry-After": "120"})
    with pytest.raises(Temporary, match=r"429.*come back in 120 s"):
        hub.jobs.start("7f", ORDER)
    assert (posts(double), double.ledger()["jobs"]) == (1, [])


def test_a_closed_port_is_certain_too(opened: Opened, options: Options, tmp_path: Path) -> None:
    with HuggingFaceDouble(tmp_path / "short", options) as short:
        gone = opened(short)
        gone.jobs.hardware()
    with pytest.raises(Temporary, match="no answer"):
        gone.jobs.start("7f", ORDER)


def test_a_list_that_lags_tells_later(hub: Hub, double: HuggingFaceDouble) -> None:
    double.fail("GET /api/jobs/acme", "lag", seconds=30, times=None)
    double.fail(POST_JOB, "lose")
    with pytest.raises(OutcomeUnknown):
        hub.jobs.start("7f", ORDER)
    assert hub.jobs.find("7f") is None
    double.advance(31)
    assert hub.jobs.find("7f") is not None
    double.heal()
    double.fail("GET /api/jobs/acme", "lag", times=2)
    double.advance(1)
    hub.jobs.start("8f", ORDER)
    assert [hub.jobs.find("8f") is None for _ in range(3)] == [True, True, False]


def test_reading_is_temporary_and_not_repeated_by_the_sdk(hub: Hub, double: HuggingFaceDouble) -> None:
    hub.jobs.hardware()
    for number, (fault, said) in enumerate(
        [
            ({"kind": "status", "status": 500}, "list the jobs of acme: 500"),
            ({"kind": "status", "status": 429, "headers": {"Retry-After": "300"}}, "429.*come back in 300 s"),
            ({"kind": "lose"}, "no answer"),
        ],
        1,
    ):
        double.fail("GET /api/jobs/acme", **fault)
        with pytest.raises(Temporary, match=said):
            hub.jobs.find("7f")
        assert double.ledger()["requests"]["GET /api/jobs/acme"] == number


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (JobOrder(("true",), "t4-smal", 60), r"'t4-smal' is not hardware.*did you mean \"t4-small\""),
        (JobOrder(("true",), "t4-small", 0), "time-out of more than 0 s"),
        (JobOrder(("true",), "t4-small", 60, labels={"a b": "c"}), "'a b' cannot be"),
        (JobOrder(("true",), "t4-small", 60, labels={"a": "x" * 101}), "cannot be"),
        (JobOrder(("true",), "t4-small", 60, secrets={"K": "value"}), "not a reference"),
    ],
)
def test_what_would_be_refused_is_said_before_anything_is_sent(
    hub: Hub, double: HuggingFaceDouble, order: JobOrder, said: str
) -> None:
    with pytest.raises(Permanent, match=said):
        hub.jobs.start("7f", order)
    assert posts(double) == 0


def test_rights_and_credit(double: HuggingFaceDouble, opened: Opened) -> None:
    with pytest.raises(Permanent, match=r"403 Your token has the role read"):
        opened(double, "hf_reader").jobs.start("7f", ORDER)
    with pytest.raises(Permanent, match=r"402.*add credits"):
        opened(double, "hf_poor", None).jobs.start("7f", ORDER)
    with pytest.raises(Permanent, match=r"403 You don't have the rights"):
        opened(double, "hf_poor", "acme").jobs.start("7f", ORDER)
    assert double.ledger()["usd"] == 0


# -- time and ends -----------------------------------------------------------------------------------------------


def test_without_a_time_out_a_job_ends_after_half_an_hour(hub: Hub, double: HuggingFaceDouble) -> None:
    double.script(end="NEVER")
    api = huggingface_hub.HfApi(endpoint=double.url, token=TOKEN)
    forgotten = api.run_job(image="python:3.12", command=["true"], namespace="acme").id
    bounded = hub.jobs.start("7f", JobOrder(("true",), "t4-small", timeout_seconds=7200))
    double.advance(1800)
    assert (hub.jobs.get(forgotten).stage, hub.jobs.get(forgotten).message) == ("ERROR", "Job timeout")
    double.advance(1800)
    assert hub.jobs.get(bounded).stage == "RUNNING"
    double.advance(7200)
    assert (hub.jobs.get(bounded).stage, hub.jobs.get(bounded).cost_usd) == ("ERROR", pytest.approx(0.80, abs=0.001))


def test_cancelling_ends_the_bill_and_may_be_repeated(hub: Hub, double: HuggingFaceDouble) -> None:
    double.script(running=3600)
    job = hub.jobs.start("7f", ORDER)
    double.advance(119)
    hub.jobs.cancel(job)
    hub.jobs.cancel(job)
    double.advance(3600)
    assert hub.jobs.get(job).stage == "CANCELED"
    assert double.ledger()["jobs"][0]["minutes"] == 2
    with pytest.raises(Permanent, match="404"):
        hub.jobs.cancel("0" * 24)


def test_jobs_are_listed_by_stage_and_label_over_pages(hub: Hub, double: HuggingFaceDouble) -> None:
    done = hub.jobs.start("done", ORDER)
    double.script(running=60)
    for number in range(101):
        hub.jobs.start(f"n{number}", JobOrder(("true",), "cpu-basic", 60, labels={"round": "one"}))
    assert [job.id for job in hub.jobs.list(stages=["COMPLETED", "ERROR"])] == [done]
    assert len(hub.jobs.list(labels={"round": "one"})) == 101
    assert len(hub.jobs.list(labels={"round": "one"}, stages=["COMPLETED"])) == 0


def test_started_minutes_cost() -> None:
    assert [round(cost_usd(seconds, 60.0)) for seconds in (0, 0.5, 60, 60.5, 3600)] == [0, 1, 1, 2, 60]


def test_an_intent_becomes_one_label() -> None:
    assert label_of("0a1b") == "0a1b"
    parts = {label_of("0a1b/train"), label_of("0a1b-train"), label_of("0a1b/" + "x" * 200), label_of("")}
    assert len(parts) == 4
    assert all(len(part) <= 100 and "/" not in part for part in parts)


def test_a_script_that_does_not_fit_is_said() -> None:
    noise = random.Random(1).randbytes(150_000).hex()
    with pytest.raises(Permanent, match=r"120000 at most"):
        script_order(noise, flavor="t4-small", timeout_seconds=60)
