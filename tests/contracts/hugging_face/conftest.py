"""The double of Hugging Face under a clock that stands still, and the door opened to it with the vendor's real SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.clients.huggingface import Hub, connect
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options
from controller.vendors import HuggingFace

TOKEN = "hf_secretsecretsecret"
ACCOUNTS = {
    TOKEN: Account("ada", ("acme",)),
    "hf_reader": Account("ada", ("acme",), role="read"),
    "hf_poor": Account("bob", credit=False),
    "hf_granted": Account("eve", granted=("acme/gated",)),
}


@pytest.fixture(autouse=True)
def _no_token_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def token() -> str:
    return TOKEN


@pytest.fixture
def options() -> Options:
    """Of the double; a test module that needs other ones overrides this. The small parts make uploads go in several."""
    return Options(accounts=ACCOUNTS, now=lambda: 1_790_000_000.0, part_bytes=100_000)


@pytest.fixture
def double(tmp_path: Path, options: Options) -> Iterator[HuggingFaceDouble]:
    with HuggingFaceDouble(tmp_path / "double", options) as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Hub]:
    """Opens the door to a double: (double, token, namespace) -> Hub."""

    def open_door(double: HuggingFaceDouble, token: str = TOKEN, namespace: str | None = "acme") -> Hub:
        (tmp_path / f"{token}.token").write_text(token)
        spec = HuggingFace(
            url=double.url,
            inference_endpoints_url=double.inference_endpoints_url,
            namespace=namespace,
            token=f"file:{token}.token",
        )
        hub = connect(spec, tmp_path, lambda: datetime(2026, 11, 21, tzinfo=UTC))
        hub.jobs.quiet_seconds = 0.2
        return hub

    return open_door


@pytest.fixture
def hub(double: HuggingFaceDouble, opened: Callable[..., Hub]) -> Hub:
    return opened(double)
