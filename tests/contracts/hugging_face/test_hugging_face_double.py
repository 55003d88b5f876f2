"""The double itself: what it refuses, streams and counts, asked by the real SDK and by hand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, JobNotFoundError

from controller.testing.hugging_face import HuggingFaceDouble

TOKEN = "hf_secretsecretsecret"  # of conftest.py
POST_JOB = "POST /api/jobs/acme"


def test_the_double_refuses_what_the_vendor_refuses(double: HuggingFaceDouble) -> None:
    api = huggingface_hub.HfApi(endpoint=double.url, token=TOKEN)
    for wrong, said in [
        ({"labels": {"a": "b.c"}}, "Invalid label"),
        ({"labels": {"a": "x" * 101}}, "Invalid label"),
        ({"flavor": "h100"}, "Invalid flavor"),
        ({"command": []}, "command"),
        ({"timeout": -1}, "timeoutSeconds"),
    ]:
        with pytest.raises(HfHubHTTPError, match=said) as refused:
            api.run_job(**{"image": "python:3.12", "command": ["true"], "namespace": "acme", **wrong})
        assert refused.value.response.status_code == 400
    with pytest.raises(JobNotFoundError):
        api.inspect_job(job_id="0" * 24, namespace="acme")
    with pytest.raises(HfHubHTTPError, match="401"):
        list(huggingface_hub.HfApi(endpoint=double.url, token=False).list_jobs(namespace="acme"))


def test_metrics_and_labels_of_the_sdk(double: HuggingFaceDouble) -> None:
    api = huggingface_hub.HfApi(endpoint=double.url, token=TOKEN)
    double.script("one", "two", "three", running=30)
    job = api.run_job(image="python:3.12", command=["true"], namespace="acme", labels={"a": "b"})
    assert next(iter(api.fetch_job_metrics(job_id=job.id, namespace="acme")))["memory_total_bytes"] == 16 << 30
    assert api.update_job_labels(job_id=job.id, labels={"c": "d"}, namespace="acme").labels == {"c": "d"}
    double.advance(30)
    assert list(api.fetch_job_metrics(job_id=job.id, namespace="acme")) == []
    assert list(api.fetch_job_logs(job_id=job.id, namespace="acme", tail=2)) == ["two", "three"]


def test_faults_are_checked(double: HuggingFaceDouble) -> None:
    def put(body: Any) -> tuple[int, str]:
        request = urllib.request.Request(f"{double.url}/-/faults", json.dumps(body).encode(), method="PUT")
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    status, said = put([{"route": "nowhere", "kind": "explode", "color": 1}])
    assert status == 422
    assert all(word in said for word in ("color", "explode", "nowhere"))
    assert put([{"route": POST_JOB, "kind": "lose", "times": None}])[0] == 200
    assert double.world.faults.shown()[0]["kind"] == "lose"
    assert put([]) == (200, "[]")
