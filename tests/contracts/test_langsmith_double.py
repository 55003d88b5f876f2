"""LangSmith's double by itself: what it refuses, how strictly it reads, and that it keeps its state as a process."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import zstandard

from controller.clients.langsmith import LangSmith
from controller.clients.langsmith_sdk import timed_id
from controller.errors import Permanent, Temporary
from controller.testing.langsmith_api import LangSmithApi
from controller.testing.langsmith_api.identity import TENANT
from controller.vendors import LangSmithSpec

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LangSmithApi]:
    with LangSmithApi(tmp_path / "langsmith", keys=["a-key-of-the-tests"]) as double:
        yield double
    assert double.broken == []


def call(api: LangSmithApi, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    given = {"X-API-Key": "a-key-of-the-tests", "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(api.url + path, raw, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def run_of(**more: Any) -> dict[str, Any]:
    run_id = str(timed_id(START, "test"))
    place = {"id": run_id, "trace_id": run_id, "dotted_order": f"{START:%Y%m%dT%H%M%S%fZ}{run_id}"}
    return {**place, "name": "r", "run_type": "llm", "start_time": START.isoformat(), "inputs": {}, **more}


def form(parts: Mapping[str, Any], lengths: bool = True) -> tuple[bytes, str]:
    pieces = []
    for name, value in parts.items():
        data = json.dumps(value).encode()
        length = f"; length={len(data)}" if lengths else ""
        head = f'--B\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Type: application/json{length}\r\n\r\n'
        pieces.append(head.encode() + data + b"\r\n")
    return b"".join(pieces) + b"--B--\r\n", "multipart/form-data; boundary=B"


def test_the_double_refuses_what_the_vendor_refuses(api: LangSmithApi) -> None:
    assert call(api, "GET", "/datasets", X_API_Key="")[0] == 401
    assert call(api, "GET", "/datasets", X_API_Key="wrong")[0] == 401
    assert call(api, "GET", "/info", X_API_Key="")[0] == 200
    assert call(api, "GET", "/nothing")[0] == 404
    assert call(api, "POST", "/datasets", {})[0] == 422
    assert call(api, "POST", "/datasets", {"name": 3})[0] == 422
    assert call(api, "POST", "/datasets", b"{")[0] == 400
    status, made = call(api, "POST", "/api/v1/datasets", {"name": "qa"})
    assert (status, call(api, "POST", "/datasets", {"name": "qa"})[0]) == (200, 409)
    assert call(api, "GET", f"/datasets/{made['id']}")[1]["name"] == "qa"
    assert call(api, "GET", f"/datasets/{uuid4()}")[0] == 404
    assert call(api, "GET", "/datasets/not-an-id")[0] == 422
    assert call(api, "GET", "/datasets?limit=500")[0] == 422
    assert call(api, "POST", "/sessions", {"name": "e", "reference_dataset_id": str(uuid4())})[0] == 404
    assert call(api, "POST", "/sessions", {"name": "e", "reference_dataset_id": made["id"]})[0] == 200
    assert call(api, "POST", "/sessions", {"name": "e"})[0] == 409
    assert call(api, "POST", "/sessions?upsert=true", {"name": "e"})[0] == 200
    assert call(api, "POST", "/datasets/comparative", {"experiment_ids": []})[0] == 422
    assert call(api, "POST", "/feedback", {"key": "k"})[0] == 422
    assert call(api, "POST", "/feedback", {"key": "k", "run_id": str(uuid4())})[0] == 404
    assert call(api, "POST", "/feedback", {"key": "k" * 181, "run_id": str(uuid4())})[0] == 422
    assert call(api, "POST", "/runs/query", {})[0] == 400
    assert call(api, "POST", "/runs/query", {"session": [str(uuid4())], "filter": "eq(name, 'x')"})[0] == 400


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, 202, "ingested"),
        ({"dotted_order": "20261101T120000000000Zx"}, 400, "dotted_order has the part"),
        ({"trace_id": "00000000-0000-7000-8000-000000000000"}, 400, "must be the first id of dotted_order"),
        ({"parent_run_id": "00000000-0000-7000-8000-000000000000"}, 400, "parent_run_id must be"),
        ({"run_type": "song"}, 422, "run_type"),
        ({"start_time": None}, 422, "lacks start_time"),
        ({"name": "n" * 129}, 422, "longer than 128"),
        ({"inputs": ["not", "a", "mapping"]}, 422, "inputs"),
        ({"trace_id": "not-an-id"}, 422, "trace_id"),
    ],
)
def test_runs_must_say_where_they_stand(api: LangSmithApi, changes: dict[str, Any], status: int, said: str) -> None:
    run = run_of(**changes)
    body, kind = form({f"post.{run['id']}": run})
    found, answer = call(api, "POST", "/runs/multipart", body, Content_Type=kind)
    assert found == status
    assert said in json.dumps(answer)
    if status == 202:
        assert call(api, "POST", "/runs/multipart", body, Content_Type=kind)[0] == 409
        assert call(api, "POST", "/runs/batch", {"post": [run]})[0] == 409
        assert call(api, "PATCH", f"/runs/{run['id']}", {"outputs": {"a": 1}, "end_time": START.isoformat()})[0] == 202
        assert call(api, "GET", f"/runs/{run['id']}")[1]["outputs"] == {"a": 1}


@pytest.mark.parametrize("missing", ["id", "trace_id", "dotted_order", "name", "run_type", "start_time"])
@pytest.mark.parametrize("path", ["/runs/multipart", "/runs/batch"])
def test_runs_that_lack_something_are_refused(api: LangSmithApi, path: str, missing: str) -> None:
    run = run_of()
    run_id = run["id"]
    del run[missing]
    body, kind = (
        form({f"post.{run_id}": run}) if path == "/runs/multipart" else (json.dumps({"post": [run]}).encode(), "application/json")
    )
    status, said = call(api, "POST", path, body, Content_Type=kind)
    assert status == 422
    assert missing in json.dumps(said) or "not the object of run" in json.dumps(said)
    assert api.tables.all("runs") == []


@pytest.mark.parametrize(("seconds", "status"), [(1, 202), (0, 202), (-1, 400)])
def test_a_run_may_not_begin_before_its_parent(api: LangSmithApi, seconds: int, status: int) -> None:
    parent, start = run_of(), START + timedelta(seconds=seconds)
    child = run_of(id=str(uuid4()), parent_run_id=parent["id"], start_time=start.isoformat())
    child["dotted_order"] = f"{parent['dotted_order']}.{start:%Y%m%dT%H%M%S%fZ}{child['id']}"
    found, said = call(api, "POST", "/runs/batch", {"post": [parent, child]})
    assert found == status
    assert ("earlier than parent" in json.dumps(said)) == (status == 400)


def test_one_wrong_run_takes_the_others_of_its_request_with_it(api: LangSmithApi) -> None:
    right = run_of()
    wrong = run_of(id=str(uuid4()))
    body, kind = form({f"post.{right['id']}": right, f"post.{wrong['id']}": wrong})
    assert call(api, "POST", "/runs/multipart", body, Content_Type=kind)[0] == 400
    assert api.tables.all("runs") == []


def test_zstd_must_be_whole(api: LangSmithApi) -> None:
    run = run_of(inputs={"text": [str(uuid4()) for _ in range(2000)]})
    body, kind = form({f"post.{run['id']}": run})
    packed = zstandard.ZstdCompressor().compress(body)
    for broken in (packed[:-20], packed[: len(packed) // 2], b"", packed[4:], body):
        assert call(api, "POST", "/runs/multipart", broken, Content_Type=kind, Content_Encoding="zstd")[0] == 400
    assert call(api, "POST", "/runs/multipart", packed, Content_Type=kind)[0] == 400
    assert api.tables.all("runs") == []
    assert call(api, "POST", "/runs/multipart", packed, Content_Type=kind, Content_Encoding="zstd")[0] == 202


def test_too_much_at_once_is_refused_packed_or_not(api: LangSmithApi) -> None:
    run = run_of(inputs={"text": "x" * 20_000})
    body, kind = form({f"post.{run['id']}": run})
    api.largest = 10_000
    for encoding, data in (("identity", body), ("zstd", zstandard.ZstdCompressor().compress(body)), ("gzip", gzip.compress(body))):
        assert call(api, "POST", "/runs/multipart", data, Content_Type=kind, Content_Encoding=encoding)[0] == 413
    assert call(api, "POST", "/runs/batch", {"post": [run]})[0] == 413
    assert api.tables.all("runs") == []


def test_a_workspace_must_be_one_that_the_key_may_use(tmp_path: Path) -> None:
    with LangSmithApi(keys=["own"], organisation_keys=["org"]) as api:
        run = run_of()
        body, kind = form({f"post.{run['id']}": run})
        send = {"Content_Type": kind, "X_API_Key": "org"}
        assert call(api, "POST", "/runs/multipart", body, **send) == (403, {"error": "org_scoped_key_requires_workspace"})
        assert call(api, "POST", "/runs/multipart", body, **send, X_Tenant_Id=str(uuid4()))[0] == 403
        assert call(api, "POST", "/runs/multipart", body, Content_Type=kind, X_API_Key="own", X_Tenant_Id="else")[0] == 403
        assert api.tables.all("runs") == []
        assert call(api, "POST", "/runs/multipart", body, **send, X_Tenant_Id=TENANT)[0] == 202
        (tmp_path / "key").write_text("org")
        spec = {"url": api.url, "api_key": "file:key"}
        with pytest.raises(Permanent, match=r"check file:key \(spec.langsmith.apiKey\) and spec.langsmith.workspace"):
            LangSmith(LangSmithSpec(**spec), tmp_path).push("qa", [])
        door = LangSmith(LangSmithSpec(**spec, workspace=TENANT), tmp_path)
        assert door.push("qa", [{"inputs": {"n": 1}, "outputs": {}}]).name == "qa"
        door.close()


def test_multipart_is_read_strictly(api: LangSmithApi) -> None:
    run = run_of()
    body, kind = form({f"post.{run['id']}": run}, lengths=False)
    assert call(api, "POST", "/runs/multipart", body, Content_Type=kind)[0] == 422
    body, kind = form({f"post.{run['id']}": run})
    assert call(api, "POST", "/runs/multipart", body[:-6], Content_Type=kind)[0] == 400
    assert call(api, "POST", "/runs/multipart", body, Content_Type="text/plain")[0] == 400
    assert call(api, "POST", "/runs/multipart", body, Content_Type=kind, Content_Encoding="zstd")[0] == 400
    assert call(api, "POST", "/runs/multipart", body, Content_Type=kind, Content_Encoding="br")[0] == 415
    wrong, kind = form({f"put.{run['id']}": run})
    assert call(api, "POST", "/runs/multipart", wrong, Content_Type=kind)[0] == 422
    wrong, kind = form({f"feedback.{uuid4()}": {"key": "k", "run_id": run["id"]}})
    assert call(api, "POST", "/runs/multipart", wrong, Content_Type=kind)[0] == 422
    assert api.tables.all("runs") == []


def test_the_double_keeps_its_state_and_takes_faults_over_http(tmp_path: Path) -> None:
    rows = [{"inputs": {"n": n}, "outputs": {}, "metadata": {}} for n in range(3)]
    (tmp_path / "key").write_text("k")
    command = [sys.executable, "-m", "controller.testing.langsmith_api", "--data", str(tmp_path / "d"), "--key", "k"]
    for round_ in range(2):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        url = child.stdout.readline().split()[-1]
        door = LangSmith(LangSmithSpec(url=url, api_key="file:key"), tmp_path)
        if round_ == 0:
            fault = json.dumps({"kind": "status", "match": "GET /datasets", "status": 500, "times": 0}).encode()
            with urllib.request.urlopen(urllib.request.Request(f"{url}/-/faults", fault, method="POST"), timeout=10) as answer:
                assert json.loads(answer.read())[0]["kind"] == "status"
            with pytest.raises(Temporary, match="500"):
                door.dataset("qa")
            urllib.request.urlopen(urllib.request.Request(f"{url}/-/faults", method="DELETE"), timeout=10).close()
            with pytest.raises(urllib.error.HTTPError, match="422"):
                urllib.request.urlopen(urllib.request.Request(f"{url}/-/faults", b'{"kind": "?"}', method="POST"), timeout=10)
            door.push("qa", rows)
        assert len(door.dataset("qa").examples) == 3
        door.close()
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        child.stdout.close()
