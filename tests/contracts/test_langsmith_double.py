"""LangSmith's double by itself: what it refuses, how strictly it reads, and that it keeps its state as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from controller.clients.langsmith import LangSmith
from controller.clients.langsmith_sdk import timed_id
from controller.errors import Temporary
from controller.testing.langsmith_api import LangSmithApi
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
        ({"dotted_order": "20261101T120000000000Zx"}, 422, "dotted_order has the part"),
        ({"trace_id": "00000000-0000-7000-8000-000000000000"}, 422, "must be the first id of dotted_order"),
        ({"parent_run_id": "00000000-0000-7000-8000-000000000000"}, 422, "parent_run_id must be"),
        ({"run_type": "song"}, 422, "run_type"),
        ({"start_time": None}, 422, "lacks start_time"),
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
