"""Secrets and personal data by pattern. The samples are put together here, so that no scanner takes them for real."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.datasets.sensitive import SIGNS, found, hidden, luhn, scan

MIX = "aB3dE5gH7jK9mN2pQ4sT6vW8xY1zA3cD5fG7hJ9kL2nP4rS6uV8"


def jwt() -> str:
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")  # noqa: E731
    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': '42', 'name': 'somebody'})}.{MIX[:43]}"


SECRETS = {
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "AWS access key": "AK" + "IA" + "Q3EGRIT5UVWX7YZA",
    "GitHub token": "gh" + "p_" + MIX[:36],
    "GitLab token": "glp" + "at-" + MIX[:20],
    "Hugging Face token": "h" + "f_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",
    "Anthropic key": "sk-" + "ant-api03-" + MIX[:40],
    "OpenRouter key": "sk-" + "or-v1-" + MIX[:40],
    "OpenAI key": "sk-" + "proj-" + MIX[:48],
    "Google API key": "AI" + "za" + MIX[:35],
    "Slack token": "xo" + "xb-" + "2345678901-" + MIX[:24],
    "Stripe key": "sk_" + "live_" + MIX[:24],
    "LangSmith key": "lsv2" + "_pt_" + MIX[:32] + "_" + MIX[:10],
    "npm token": "np" + "m_" + MIX[:36],
    "PyPI token": "pypi-" + "AgEIcHlwaS5vcmc" + MIX[:50],
    "SendGrid key": "S" + "G." + MIX[:22] + "." + MIX[:43],
    "JSON web token": jwt(),
}
PERSONAL = {
    "e-mail address": ["ada@lovelace.org", "Ada.L+x@mail.example-not.co.uk"],
    "phone number": ["+49 30 901820-77", "+1 (415) 202-3456", "(415) 202-3456", "415-202-3456"],
    "IBAN": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "NO9386011117947", "GB29 NWBK 6016 1331 9268 19 IS MINE"],
    "credit card number": ["4539 1488 0343 6467", "4539148803436467", "5425-2334-3010-9903"],
}


def kinds(text: str) -> list[str]:
    return [kind for kind, _ in found(text)]


@pytest.mark.parametrize("kind", sorted(SECRETS))
def test_secrets_of_known_vendors_stop(kind: str) -> None:
    for text in (SECRETS[kind], f'key = "{SECRETS[kind]}"', f"see\n{SECRETS[kind]}\nand go on", f"({SECRETS[kind]})"):
        assert found(text) == [(kind, "stop")]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PERSONAL.items() for text in texts])
def test_personal_data_warns(kind: str, text: str) -> None:
    assert found(text) == [(kind, "warn")]
    assert found(f"call {text}, please") == [(kind, "warn")]


@pytest.mark.parametrize(
    "text",
    [
        "AK" + "IAIOSFODNN7EXAMPLE",
        "sk-your-key-goes-here-your-key-goes-here",
        "gh" + "p_" + "x" * 36,
        "sk-circle-fade-dot-animation-for-loading-pages-2",
        "user@example.com",
        "someone@users.noreply.github.com",
        "@decorator",
        "a @ b",
        "git@host.test",
        "(415) 555-0123",
        "2026-11-21 06:14:46",
        "192.168.100.200",
        "1234567890",
        "version 10.20.3000",
        "4242 4242 4242 4242",
        "4539 1488 0343 6468",  # the check digit is wrong
        "12345678901234567890123",
        "0.4539148803436467",
        "DE89370400440532013001",
        "AB12 CDEF GHIJ KLMN",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "123e4567-e89b-12d3-a456-426614174000",
        "eyJhbGciOiJIUzI1NiJ9",
        "-----BEGIN PUBLIC KEY-----",
        "",
    ],
)
def test_look_alikes_are_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_row_is_searched_everywhere_and_says_only_where() -> None:
    secret = SECRETS["GitHub token"]
    row = {"inputs": {"task": ["a", {"b": secret}]}, "metadata": {secret: {"by": "ada@lovelace.org"}}, "number": 4539148803436467}
    hits = scan(row)
    assert {(hit.field, hit.kind) for hit in hits} == {
        ("inputs.task[1].b", "GitHub token"),
        ("metadata.(a key)", "GitHub token"),
        ("metadata.(GitHub token).by", "e-mail address"),
        ("number", "credit card number"),
    }


def test_nesting_hides_nothing() -> None:
    deep: object = SECRETS["npm token"]
    for _ in range(50_000):
        deep = [deep]
    assert [hit.kind for hit in scan({"x": deep})] == ["npm token"]


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "1 " * 150_000,
        "eyJ" * 100_000,
        ("eyJ" + "a" * 5000 + ".") * 60,
        "AB12 " * 60_000,
        "sk-" * 100_000,
        "a@" * 150_000,
        "+1 2" * 75_000,
        "a.b" * 100_000 + "@",
        "-----BEGIN A A " * 20_000,
        "a@" + "b." * 150_000,
        "1-" * 150_000,
        "(415) " * 50_000,
    ],
)
def test_hostile_text_is_read_in_one_pass(text: str) -> None:
    """A pattern that goes back over what it has read would need hours for these; the test would not end."""
    assert found(text) == [] or kinds(text) == ["e-mail address"]


@given(st.text(max_size=300))
@settings(deadline=None)
def test_no_text_makes_it_raise_and_hiding_changes_only_what_is_found(text: str) -> None:
    assert (hidden(text) == text) == (found(text) == [])


def test_hiding_takes_every_kind_out() -> None:
    text = " ".join([*SECRETS.values(), *(values[0] for values in PERSONAL.values())])
    shown = hidden(text)
    assert all(secret not in shown for secret in SECRETS.values())
    assert "(GitHub token)" in shown
    assert "(e-mail address)" in shown
    assert {sign.kind for sign in SIGNS} == set(SECRETS) | set(PERSONAL)


def test_luhn() -> None:
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")
