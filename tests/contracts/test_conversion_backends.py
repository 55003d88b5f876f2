"""Promises of every backend that converts: one start for one intent, found again, looked at, verified, stopped; and downloads.

`local` runs real processes, `hf_jobs` the vendor's SDK against the double, whose jobs are real processes too. The program is a
small one that speaks the same protocol (`conversion_program_of_tests.py`); scenarios/test_conversions_for_real.py has the real one.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.clients.conversions import Conversions, connect, script
from controller.clients.conversions.backend import ConversionBackend, Order, Sight
from controller.clients.conversions.hf_jobs import HubConversions
from controller.clients.conversions.local import LocalConversions
from controller.clients.conversions.progress import Digests
from controller.clients.huggingface import Hub, HuggingFace, OutcomeUnknown
from controller.clients.huggingface import connect as connect_hub
from controller.clients.runs import Prices
from controller.clients.training import Backends
from controller.clients.training.local import LocalTraining
from controller.clients.training.progress import digest_of
from controller.environment import EnvironmentSpec, TrainingDefaults
from controller.errors import Permanent, Temporary
from controller.kinds.conversion.spec import BITS
from controller.programs import convert, dependencies
from controller.settings import Settings
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options

PROGRAM = Path(__file__).with_name("conversion_program_of_tests.py")
TOKEN = "hf_secretsecretsecret"
ENDED = ("succeeded", "failed", "cancelled", "lost")
ASKED = ("F16", "Q4_K_M")
SOURCE = {"repo": "acme/small", "revision": "c" * 40}


class Place:
    """A backend, and what a test wants to know about it."""

    def __init__(self, name: str, folder: Path, make: Callable[[], ConversionBackend], hardware: str) -> None:
        self.name, self.folder, self.make, self.hardware = name, folder, make, hardware
        self.backend = make()
        self.repo = "" if name == "local" else "acme/docs-v1-GGUF"
        self.source = {"job": "here:t:1", "digest": "d1"} if name == "local" else SOURCE

    def order(self, name: str = "docs", intent: str = "k1", attempt: int = 1, run: str = "k1", **more: Any) -> Order:
        request = {"name": name, "quantizations": list(ASKED), "prompt": "the quick", "max_tokens": 4}
        if self.repo:
            request["upload"] = {"repo": self.repo, "private": True}
        return Order(intent, run, attempt, request, self.source, self.hardware, 3600.0, {"name": name, **more})

    def until(self, handle: str, *stages: str) -> Sight:
        for _ in range(2000):
            sight = self.backend.look([handle])[handle]
            assert isinstance(sight, Sight), sight
            if sight.stage in stages:
                return sight
            assert sight.stage not in ENDED, sight
            time.sleep(0.01)
        raise AssertionError(f"never {stages}")

    def begun(self, handle: str) -> Sight:
        """Until the program works (a `slow` one then waits to be stopped)."""
        for _ in range(2000):
            sight = self.until(handle, "running", "queued")
            if sight.progress.get("said", "").startswith("makes Q4_K_M"):
                return sight
            time.sleep(0.01)
        raise AssertionError("it never told how far it is")

    def verify(self, handle: str, intent: str = "k1", quantizations: tuple[str, ...] = ASKED) -> Any:
        return self.backend.verify(handle, self.repo, intent, quantizations)


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceDouble]:
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    options = Options(accounts={TOKEN: Account("ada", ("acme",))}, interpreter=sys.executable, run_jobs="subprocess")
    with HuggingFaceDouble(tmp_path / "double", options) as running:
        yield running


@pytest.fixture
def hub(double: HuggingFaceDouble, tmp_path: Path) -> Hub:
    (tmp_path / "hub.token").write_text(TOKEN)
    opened = connect_hub(HuggingFace(url=double.url, namespace="acme", token="file:hub.token"), tmp_path)
    opened.jobs.quiet_seconds = 0.1
    return opened


def no_hub() -> Hub:
    raise AssertionError("this machine needs no Hub")


def here(folder: Path, hub: Callable[[], Hub] = no_hub) -> LocalConversions:
    return LocalConversions(folder / "conversions", PROGRAM, hub=hub, artefact=lambda job, digest: folder / "model")


def end_all(folder: Path) -> None:
    for path in folder.glob("conversions/*/process-*"):
        try:
            os.killpg(int(path.read_text().split()[0]), signal.SIGKILL)
        except (ProcessLookupError, ValueError, IndexError):
            continue


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Place]:
    yield Place("local", tmp_path, lambda: here(tmp_path), "this-machine")
    end_all(tmp_path)


@pytest.fixture
def jobs(hub: Hub, tmp_path: Path) -> Place:
    fallback = Prices("2026-11-01", False, {})
    return Place("hf_jobs", tmp_path, lambda: HubConversions(lambda: hub, PROGRAM.read_text, fallback), "cpu-upgrade")


@pytest.fixture(params=["local", "jobs"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


def starts(place: Place) -> int:
    """How often the program has been started, ever."""
    return sum(len(path.read_text().splitlines()) for path in place.folder.rglob("starts"))


# -- every backend ----------------------------------------------------------------------------------------------------


def test_it_converts_tells_and_leaves_what_its_list_says(place: Place) -> None:
    handle = place.backend.start(place.order())
    sight = place.until(handle, "succeeded")
    found = place.verify(handle)
    assert found.problems == ()
    assert [(each["name"], each["quantization"]) for each in found.files] == [
        ("docs-F16.gguf", "F16"),
        ("docs-Q4_K_M.gguf", "Q4_K_M"),
    ]
    assert found.files[0]["sha256"] == hashlib.sha256(b"GGUF" + b"F16" * 10).hexdigest()
    assert found.files[0]["bytes"] == 34
    assert (found.metadata["architecture"], found.metadata["context_length"]) == ("llama", 256)
    assert found.smoke["prompt"] == "the quick"
    assert found.smoke["answers"]["Q4_K_M"]["tokens"] == 4
    assert len(found.smoke["answers"]["Q4_K_M"]["text"]) == 200
    assert bool(found.revision) is bool(place.repo)
    assert sight.code == ""
    assert starts(place) == 1


def test_a_result_of_another_intent_or_without_a_file_is_none(place: Place) -> None:
    handle = place.backend.start(place.order())
    place.until(handle, "succeeded")
    assert any("Q8_0" in each for each in place.verify(handle, quantizations=(*ASKED, "Q8_0")).problems)
    assert place.verify(handle, intent="other").problems


@pytest.mark.parametrize("name", ["short", "silent"])
def test_a_file_that_is_not_whole_or_does_not_generate_is_told(place: Place, name: str) -> None:
    handle = place.backend.start(place.order(name))
    place.until(handle, "succeeded")
    told = " ".join(place.verify(handle).problems)
    assert ("did not generate" if name == "silent" else f"{name}-F16.gguf") in told


def test_a_fresh_controller_finds_it_by_its_intent_with_what_was_kept(place: Place) -> None:
    handle = place.backend.start(place.order("slow", phase="queued"))
    fresh = place.make()
    found = fresh.find("k1")
    assert found is not None
    assert (found.handle, dict(found.record)) == (handle, {"name": "slow", "phase": "queued"})
    assert fresh.find("k2") is None
    place.backend = fresh
    assert place.begun(handle).progress == {"step": 1, "steps": 4, "said": "makes Q4_K_M, 30 %"}
    fresh.cancel(handle)
    place.until(handle, "failed", "cancelled")
    fresh.cancel(handle)  # once more does no harm


def test_what_it_says_of_its_end_is_told_and_the_next_attempt_has_a_name_of_its_own(place: Place) -> None:
    first = place.backend.start(place.order("cut"))
    sight = place.until(first, "failed")
    assert (sight.code, sight.message) == ("hub_unreachable", "put: no answer; run the same request again")
    second = place.backend.start(place.order("docs", intent="k1/attempt-2", attempt=2))
    assert second != first
    place.until(second, "succeeded")
    found = place.backend.find("k1/attempt-2")
    assert found is not None
    assert found.handle == second
    assert place.verify(second).problems == ()


def test_a_bug_of_the_program_is_told_as_one(place: Place) -> None:
    handle = place.backend.start(place.order("crash"))
    assert place.until(handle, "failed").code == "unexpected"


def test_hardware_has_prices(place: Place) -> None:
    prices = place.backend.prices()
    assert prices.live
    assert place.hardware in prices.hardware


# -- this machine -----------------------------------------------------------------------------------------------------


def test_started_again_it_is_the_same_process(local: Place) -> None:
    handle = local.backend.start(local.order("slow"))
    local.begun(handle)
    for _ in range(3):
        assert local.make().start(local.order("slow")) == handle
    assert starts(local) == 1


def test_what_was_not_pushed_is_taken_from_the_folder_of_its_training(local: Place) -> None:
    handle = local.backend.start(local.order())
    local.until(handle, "succeeded")
    asked = json.loads(next(local.folder.glob("conversions/*/out/asked.json")).read_text())
    assert asked["source"] == {"path": str(local.folder / "model")}
    assert (asked["attempt"], asked["intent"]) == (1, "k1")


def test_a_file_that_is_no_gguf_is_none(local: Place) -> None:
    handle = local.backend.start(local.order("text"))
    local.until(handle, "succeeded")
    assert "text-F16.gguf is no GGUF file: it begins with b'text'" in local.verify(handle).problems


def test_a_file_that_was_changed_later_is_found(local: Place) -> None:
    handle = local.backend.start(local.order())
    local.until(handle, "succeeded")
    path = next(local.folder.glob("conversions/*/out/docs-Q4_K_M.gguf"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert local.verify(handle).problems == ("docs-Q4_K_M.gguf has another sha256 than when it was written",)


def test_a_large_file_is_read_a_part_a_look(tmp_path: Path) -> None:
    content = os.urandom(9 << 20)
    (tmp_path / "large").write_bytes(content)
    digests = Digests(seconds=-1.0)
    for share in ("44 %", "89 %"):  # of 9 MiB, 4 a look
        with pytest.raises(Temporary, match=f"large is being read: {share}"):
            digests.of(tmp_path / "large")
    found = digests.of(tmp_path / "large")
    assert found == hashlib.sha256(content).hexdigest()
    assert digests.of(tmp_path / "large") == found


def test_what_works_here_is_known_to_a_fresh_controller_too_and_can_be_stopped(local: Place, tmp_path: Path) -> None:
    def doors() -> tuple[Conversions, Backends]:
        training = LocalTraining(tmp_path / "conversions", PROGRAM, hub=no_hub)  # the same folder: any process group will do
        return Conversions({"local": here(tmp_path)}, "local", no_hub), Backends({"local": training}, TrainingDefaults())

    handles = [local.backend.start(local.order("slow", intent=f"k{number}", run=f"k{number}")) for number in range(2)]
    over = local.backend.start(local.order("docs", intent="k9", run="k9"))
    local.until(over, "succeeded")
    conversions, trainings = doors()
    assert sorted(conversions.working()) == sorted(trainings.working()) == sorted(handles)
    conversions.stop_all()
    for handle in handles:
        assert local.until(handle, "failed").code == "preempted"
    assert doors()[0].working() == doors()[1].working() == []
    trainings.stop_all()  # nothing is left to stop


def test_a_conversion_of_another_machine_cannot_be_seen_from_here(local: Place) -> None:
    handle = local.backend.start(local.order("slow")).replace(os.uname().nodename, "elsewhere")
    assert "converts on the machine 'elsewhere'" in str(local.backend.look([handle])[handle])


def test_the_artefact_of_a_training_is_given_only_when_it_is_the_verified_one(tmp_path: Path) -> None:
    training = LocalTraining(tmp_path / "training", PROGRAM, hub=no_hub)
    handle = f"{os.uname().nodename}:abc:1"
    with pytest.raises(Permanent, match="has no result any more"):
        training.artefact(handle, "d1")
    out = tmp_path / "training" / "abc" / "out"
    (out / "merged").mkdir(parents=True)
    (out / "result.json").write_text(json.dumps({"files": [{"name": "merged/config.json", "size": 1, "sha256": "aa"}]}))
    with pytest.raises(Permanent, match="somebody changed it"):
        training.artefact(handle, "d1")
    digest = digest_of(json.loads((out / "result.json").read_text()))
    assert training.artefact(handle, digest) == out / "merged"
    with pytest.raises(Temporary, match="'elsewhere'"):
        training.artefact("elsewhere:abc:1", digest)


# -- jobs of Hugging Face ---------------------------------------------------------------------------------------------


def test_a_lost_answer_is_neither_repeated_nor_believed(jobs: Place, double: HuggingFaceDouble) -> None:
    double.fail("POST /api/jobs/acme", "lose")
    with pytest.raises(OutcomeUnknown):
        jobs.backend.start(jobs.order(phase="queued"))
    found = jobs.backend.find("k1")
    assert found is not None
    assert found.record["phase"] == "queued"
    jobs.until(found.handle, "succeeded")
    assert int(double.ledger()["requests"]["POST /api/jobs/acme"]) == 1


def test_a_training_of_this_machine_cannot_be_read_by_a_job(jobs: Place) -> None:
    with pytest.raises(Permanent, match="push it, or convert with backend local"):
        jobs.backend.start(replace(jobs.order(), source={"job": "m:t:1", "digest": "d"}))


def test_a_repository_that_was_changed_later_is_found(jobs: Place, hub: Hub, tmp_path: Path) -> None:
    handle = jobs.backend.start(jobs.order())
    jobs.until(handle, "succeeded")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "docs-F16.gguf").write_bytes(b"GGUF" + b"X" * 30)
    hub.repositories.upload_folder(jobs.repo, tmp_path / "other", "Somebody's")
    assert any("docs-F16.gguf" in each and "is not what was written" in each for each in jobs.verify(handle).problems)


def test_the_real_program_travels_as_one_script(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(script())
    assert dependencies(tmp_path / "job.py") == dependencies(Path(convert.__file__))


def test_the_kind_knows_what_the_program_makes() -> None:
    assert BITS == convert.BITS


def test_a_claim_that_lost_a_race_is_looked_at_again(double: HuggingFaceDouble) -> None:
    double.fail("POST /api/models/acme/fox-GGUF/commit/*", "status", status=412)
    job = {"repo": "acme/fox-GGUF", "file": "conversion-1.json", "message": "Claim", "claim": {"attempt": 1, "holder": "a"}}
    environment = {**os.environ, "HF_ENDPOINT": double.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    program = Path(convert.__file__).with_name("hub_files.py")
    for holder, last in (("a", "result"), ("b", "failure")):
        asked = json.dumps({**job, "claim": {"attempt": 1, "holder": holder}})
        command = [sys.executable, str(program), "claim", asked]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert list(json.loads(done.stdout)) == [last], done.stdout + done.stderr
    assert double.ledger()["requests"]["POST /api/models/acme/fox-GGUF/commit/main"] == 2


def test_without_a_token_nothing_begins_that_has_to_be_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    backend = here(tmp_path, lambda: connect_hub(HuggingFace(url="http://127.0.0.1:9"), tmp_path))
    order = Place("local", tmp_path, lambda: backend, "this-machine").order()
    with pytest.raises(Temporary, match="no token; set HUGGINGFACE_HUB_TOKEN or HF_TOKEN"):
        backend.start(replace(order, request={**order.request, "upload": {"repo": "acme/a", "private": True}}))
    assert backend.find("k1") is None


# -- sources and files of the Hub --------------------------------------------------------------------------------------


def test_a_source_is_looked_at_before_anything_is_paid(hub: Hub, double: HuggingFaceDouble) -> None:
    weights = ("model-1.safetensors", "model-2.safetensors")
    files = {"config.json": b"{}", weights[0]: b"w" * 300, weights[1]: b"w" * 200, "adapter/model.safetensors": b"w" * 9}
    commit = double.seed("model", "acme/small", files, large=weights)
    door = Conversions({}, "local", lambda: hub)
    assert door.source("acme/small", "main") == {"repo": "acme/small", "revision": commit, "bytes": 500}
    with pytest.raises(Permanent, match="acme/none at main is not on the Hub"):
        door.source("acme/none", "main")
    double.seed("model", "acme/gguf", {"config.json": b"{}", "a.gguf": b"GGUF"})
    with pytest.raises(Permanent, match="has no safetensors files at its top"):
        door.source("acme/gguf", "main")


def finished(place: Place, **more: Any) -> dict[str, Any]:
    """The state of a conversion that has succeeded, as far as a download reads it."""
    handle = place.backend.start(place.order())
    place.until(handle, "succeeded")
    found = place.verify(handle)
    state = {"backend": place.name, "job": handle, "repo": place.repo, "revision": found.revision, "files": list(found.files)}
    return {**state, **more}


@pytest.fixture
def door(place: Place, hub: Hub) -> Conversions:
    return Conversions({place.name: place.backend}, place.name, lambda: hub)


def test_a_finished_file_is_fetched_once_and_checked(place: Place, door: Conversions, tmp_path: Path) -> None:
    state, seen = finished(place), []
    for _ in range(2):
        path = door.download(state, "Q4_K_M", tmp_path / "models", lambda done, of: seen.append((done, of)))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == state["files"][1]["sha256"]
    assert path == tmp_path / "models" / "docs-Q4_K_M.gguf"
    assert seen[0] == (0, 64)
    assert seen[-1] == (64, 64)
    assert [each.name for each in (tmp_path / "models").iterdir()] == ["docs-Q4_K_M.gguf"]
    with pytest.raises(Permanent, match="it has no Q8_0; there are F16, Q4_K_M"):
        door.download(state, "Q8_0", tmp_path / "models", lambda done, of: None)


def test_what_is_not_what_the_events_say_is_not_kept(place: Place, door: Conversions, tmp_path: Path) -> None:
    state = finished(place)
    state["files"] = [{**each, "sha256": "0" * 64} for each in state["files"]]
    with pytest.raises(Permanent, match="events"):
        door.download(state, "F16", tmp_path / "models", lambda done, of: None)
    assert not list(tmp_path.glob("models/*"))


def test_a_copy_that_was_cut_goes_on(local: Place, tmp_path: Path) -> None:
    state = finished(local)
    door = Conversions({"local": local.backend}, "local", no_hub)
    to, seen = tmp_path / "models", []
    to.mkdir()
    content = next(tmp_path.glob("conversions/*/out/docs-F16.gguf")).read_bytes()
    (to / f".docs-F16.gguf.{state['files'][0]['sha256'][:16]}.part").write_bytes(content[:20])
    door.download(state, "F16", to, lambda done, of: seen.append(done))
    assert seen == [20, 34]
    assert (to / "docs-F16.gguf").read_bytes() == content


def test_a_download_that_was_cut_goes_on(jobs: Place, hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    content = b"GGUF" + os.urandom(3_000_000)
    commit = double.seed("model", "acme/big-GGUF", {"big.gguf": content}, large=("big.gguf",))
    file = {"name": "big.gguf", "quantization": "Q8_0", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    state = {"backend": "hf_jobs", "job": "j", "repo": "acme/big-GGUF", "revision": commit, "files": [file]}
    door, seen = Conversions({"hf_jobs": jobs.backend}, "hf_jobs", lambda: hub), []
    double.fail("GET /object/*", "truncate", bytes=2_500_000)
    with pytest.raises(Temporary):
        door.download(state, "Q8_0", tmp_path / "models", lambda done, of: None)
    path = door.download(state, "Q8_0", tmp_path / "models", lambda done, of: seen.append(done))
    assert seen[0] > 1_000_000
    assert path.read_bytes() == content


def test_a_file_that_is_nowhere_is_said(tmp_path: Path) -> None:
    door = Conversions({"local": here(tmp_path)}, "local", no_hub)
    file = {"name": "a.gguf", "quantization": "F16", "bytes": 4, "sha256": "0" * 64}
    state = {"backend": "local", "job": f"{os.uname().nodename}:gone:1", "repo": "", "revision": "", "files": [file]}
    with pytest.raises(Permanent, match=r"a\.gguf is not on the Hub, and .* has no a\.gguf any more"):
        door.download(state, "F16", tmp_path / "to", lambda done, of: None)
    with pytest.raises(Permanent, match="it was made on another machine"):
        door.download({**state, "job": "elsewhere:gone:1"}, "F16", tmp_path / "to", lambda done, of: None)


def test_the_door_of_an_environment_calls_nobody(tmp_path: Path) -> None:
    door = connect(Settings("local", EnvironmentSpec(), tmp_path))
    assert door.names() == ["hf_jobs", "local"]
    assert door.of("local").find("k1") is None
    assert door.working() == []
    with pytest.raises(Permanent, match=r"there is no conversion backend 'slurm'; there are hf_jobs, local"):
        door.of("slurm")
