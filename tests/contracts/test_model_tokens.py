"""Tokens are counted by the model's own tokenizer where it can be had, over the real SDK; else nothing breaks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from controller.clients.huggingface import connect
from controller.clients.model_tokens import Tokens
from controller.testing.hugging_face import HuggingFaceDouble
from controller.vendors import HuggingFace


def words() -> bytes:
    made = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return made.to_str().encode()


def tokens(double: HuggingFaceDouble, folder: Path) -> Tokens:
    (folder / "token").write_text(double.token)
    hub = connect(HuggingFace(url=double.url, namespace="acme", token="file:token"), folder)
    return Tokens(folder / "tokenizers", lambda: hub)


def test_a_model_of_the_hub_counts_its_own_tokens_and_is_asked_once(tmp_path: Path) -> None:
    with HuggingFaceDouble(tmp_path / "double") as double:
        double.seed("model", "acme/base", {"tokenizer.json": words()})
        door = tokens(double, tmp_path)
        count = door.counter("acme/base", None)
        assert count is not None
        assert [count("a b"), count("a, b, and what else"), count("")] == [2, 7, 0]
        double.fail("GET /*", "status", times=None)
        assert door.counter("acme/base", None) is count


def test_a_folder_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(words())
    door = Tokens(tmp_path / "kept", lambda: pytest.fail("nobody is asked"))
    count = door.counter(str(tmp_path), None)
    assert count is not None
    assert count("a b a") == 3


def test_where_it_cannot_be_had_there_is_no_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HuggingFaceDouble(tmp_path / "double") as double:
        double.seed("model", "acme/none", {"config.json": b"{}"})
        double.seed("model", "acme/broken", {"tokenizer.json": b"{}"})
        double.seed("model", "others/gated", {"tokenizer.json": words()}, gated=True)
        door = tokens(double, tmp_path)
        for name in ("acme/none", "acme/broken", "others/gated", "acme/nowhere", "tiny", ""):
            assert door.counter(name, None) is None
        double.seed("model", "acme/base", {"tokenizer.json": words()})
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        assert door.counter("acme/base", None) is None


def test_what_could_not_be_had_is_asked_for_again_later(tmp_path: Path) -> None:
    now = [0.0]
    with HuggingFaceDouble(tmp_path / "double") as double:
        door = tokens(double, tmp_path)
        door._clock = lambda: now[0]
        assert door.counter("acme/later", None) is None
        double.seed("model", "acme/later", {"tokenizer.json": words()})
        assert door.counter("acme/later", None) is None
        now[0] = 601.0
        assert door.counter("acme/later", None) is not None
