"""Inference Endpoints through the real SDK: one per intent, states, refusals, the bill; and the router's model list."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import huggingface_hub
import openai
import pytest
from huggingface_hub.errors import HfHubHTTPError

from controller.clients.hugging_face_endpoints import EndpointOrder, cost_usd, endpoint_name
from controller.clients.huggingface import Hub
from controller.errors import Permanent, Temporary
from controller.testing.hugging_face import HuggingFaceDouble

ORDER = EndpointOrder("acme/adapter", "aws", "us-east-1", "gpu", "nvidia-l4", "x1", revision="abc")
CREATE = "POST /v2/endpoint/acme"


def clock(double: HuggingFaceDouble) -> datetime:
    return datetime.fromtimestamp(double.world.clock.now(), UTC)


def test_an_endpoint_from_birth_to_bill(hub: Hub, double: HuggingFaceDouble) -> None:
    (price,) = [each.usd_per_hour for each in hub.endpoints.hardware() if each.instance_type == "nvidia-l4"]
    assert hub.endpoints.find("7f") is None
    made = hub.endpoints.create("7f", ORDER)
    assert (made.name, made.state, made.url, made.repository, made.revision) == (
        endpoint_name("7f"), "initializing", "", "acme/adapter", "abc",
    )  # fmt: skip
    double.advance(30)
    found = hub.endpoints.find("7f")
    assert found is not None
    assert (found.serves, found.billed, found.url) == (True, True, double.world.options.serving_url)
    double.advance(10 * 60)
    assert cost_usd(found, price, clock(double)) == pytest.approx(11 * 0.80 / 60)
    stopped = hub.endpoints.scale_to_zero(made.name)
    assert (stopped.state, stopped.billed) == ("scaledToZero", False)
    double.advance(3600)
    assert cost_usd(stopped, price, stopped.updated) == pytest.approx(11 * 0.80 / 60)
    assert [each.name for each in hub.endpoints.list()] == [made.name]
    hub.endpoints.delete(made.name)
    hub.endpoints.delete(made.name)
    assert hub.endpoints.find("7f") is None
    (row,) = double.ledger()["endpoints"]
    assert (row["state"], row["minutes"], row["usd"]) == ("deleted", 11, pytest.approx(11 * 0.80 / 60, abs=1e-6))


@pytest.mark.parametrize(
    "fault", [{"kind": "lose"}, {"kind": "status", "status": 502, "before": False}, {"kind": "truncate", "bytes": 5}], ids=str
)
def test_creating_again_after_a_lost_answer_adopts(hub: Hub, double: HuggingFaceDouble, fault: dict[str, Any]) -> None:
    double.fail(CREATE, **fault)
    with pytest.raises(Temporary):
        hub.endpoints.create("7f", ORDER)
    assert hub.endpoints.create("7f", ORDER).name == endpoint_name("7f")
    assert len(double.ledger()["endpoints"]) == 1


def test_a_name_that_is_not_free_yet_is_asked_for_again(hub: Hub, double: HuggingFaceDouble) -> None:
    double.fail(CREATE, "status", status=409, message="already exists")
    with pytest.raises(Temporary, match="is taken in acme by an endpoint that is not shown"):
        hub.endpoints.create("7f", ORDER)
    assert hub.endpoints.create("7f", ORDER).name == endpoint_name("7f")


def test_pausing_and_resuming(hub: Hub, double: HuggingFaceDouble) -> None:
    name = hub.endpoints.create("7f", ORDER).name
    double.advance(61)
    assert hub.endpoints.pause(name).state == "paused"
    assert hub.endpoints.pause(name).url == ""
    with pytest.raises(Permanent, match="is paused"):
        hub.endpoints.scale_to_zero(name)
    double.advance(3600)
    assert hub.endpoints.resume(name).state == "initializing"
    assert hub.endpoints.resume(name).state == "initializing"
    double.advance(61)
    assert double.ledger()["endpoints"][0]["minutes"] == 2 + 2


def test_a_list_that_lags(hub: Hub, double: HuggingFaceDouble) -> None:
    double.fail("GET /v2/endpoint/acme", "lag", seconds=10, times=None)
    hub.endpoints.create("7f", ORDER)
    assert hub.endpoints.list() == []
    double.advance(11)
    assert len(hub.endpoints.list()) == 1


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"instance_type": "nvidia-h100"}, r"400 Instance compute 'gpu' - 'nvidia-h100' - 'x1' in 'aws' - 'us-east-1' not found"),
        ({"secrets": {"KEY": "plain"}}, "not a reference"),
    ],
)
def test_what_cannot_be(hub: Hub, double: HuggingFaceDouble, order: dict[str, Any], said: str) -> None:
    with pytest.raises(Permanent, match=said):
        hub.endpoints.create("7f", replace(ORDER, **order))
    assert double.ledger()["endpoints"] == []


def test_the_double_refuses_names(hub: Hub, double: HuggingFaceDouble, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "INFERENCE_ENDPOINTS_ENDPOINT", double.inference_endpoints_url)
    api = huggingface_hub.HfApi(endpoint=double.url, token=token)
    wanted = {
        "repository": "gpt2", "framework": "pytorch", "accelerator": "cpu", "instance_size": "x1", "instance_type": "intel-spr",
        "region": "us-east-1", "vendor": "aws", "namespace": "acme",
    }  # fmt: skip
    for name in ("x" * 33, "Upper", "-dash", "under_score"):
        with pytest.raises(HfHubHTTPError, match="Invalid name"):
            api.create_inference_endpoint(name, **wanted)
    api.create_inference_endpoint("taken", **wanted)
    with pytest.raises(HfHubHTTPError, match="already exists") as refused:
        api.create_inference_endpoint("taken", **wanted)
    assert refused.value.response.status_code == 409
    assert hub.endpoints.get("taken") is not None
    assert double.inference_endpoints_url == huggingface_hub.constants.INFERENCE_ENDPOINTS_ENDPOINT


def test_names_are_short_and_the_intents_own() -> None:
    names = {endpoint_name(each) for each in ("7f", "8f", "7f/judge", "x" * 500)}
    assert len(names) == 4
    assert all(len(name) <= 32 and name.islower() for name in names)


def test_the_routers_models(double: HuggingFaceDouble, token: str) -> None:
    listed = openai.OpenAI(base_url=f"{double.url}/v1", api_key=token, max_retries=0).models.list()
    assert "Qwen/Qwen2.5-Coder-7B-Instruct" in [each.id for each in listed]
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{double.url}/v1", api_key="hf_wrong", max_retries=0).models.list()
