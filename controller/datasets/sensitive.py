"""Secrets and personal data by pattern. A value that is found is never shown: only its row, field and kind.

Place in the flow: `validate` scans every text of a row. A model trained on a key gives it to whoever asks, and no deletion takes
it back. What this cannot do: find names, addresses, or a secret without a known form. Clean is not proof.

Every pattern is bounded and starts where a word starts, so that a hostile megabyte is read in one pass. Well-known example values
(of documentation, RFC 2606 domains, fictional phone numbers, vendors' test cards) are not findings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

Severity = Literal["stop", "warn"]
START = r"(?<![A-Za-z0-9_-])"


class Sign(NamedTuple):
    """One kind of thing to find; `real` tells a hit from a look-alike."""

    kind: str
    severity: Severity
    pattern: re.Pattern[str]
    real: Callable[[str], bool]


class Hit(NamedTuple):
    field: str
    kind: str
    severity: Severity


_PLACEHOLDER = re.compile(r"(?i)example|x{6}|0{8}|1234567890|your|\.\.\.|placeholder|redacted")


def _no_placeholder(value: str) -> bool:
    return not _PLACEHOLDER.search(value)


def _mixed(value: str) -> bool:
    """Digits, small and capital letters, as keys have and names of styles have not."""
    return _no_placeholder(value) and all(re.search(kind, value) for kind in ("[0-9]", "[a-z]", "[A-Z]"))


def luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


_TEST_CARDS = {
    "4242424242424242",
    "4111111111111111",
    "4012888888881881",
    "4000056655665556",
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "30569309025904",
    "3566002020360505",
}
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|35\d{14}|6(?:011|5\d\d|4[4-9]\d)\d{12}"
)


def _card(value: str) -> bool:
    digits = re.sub(r"[ -]", "", value)
    return bool(_ISSUERS.fullmatch(digits)) and luhn(digits) and digits not in _TEST_CARDS


# Lengths of the IBAN registry (ISO 13616, SWIFT): without them a following word would be read as part of the number.
_IBAN = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23
GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18
NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SE24 SI19 SK24 SM27 TN24 TR26 UA29 VA22 VG24 XK20
"""
_LENGTHS = {each[:2]: int(each[2:]) for each in _IBAN.split()}


def _iban(value: str) -> bool:
    """Length of the country and remainder 1 modulo 97 (ISO 7064)."""
    compact = value.replace(" ", "")
    size = _LENGTHS.get(compact[:2], 0)
    if not size or len(compact) < size:
        return False
    compact = compact[:size]
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def _phone(value: str) -> bool:
    digits = re.sub(r"\D", "", value)
    return 9 <= len(digits) <= 15 and len(set(digits)) > 3 and not re.search(r"55501\d\d$", digits)


def _email(value: str) -> bool:
    domain = value.rpartition("@")[2].lower()
    reserved = ("example.com", "example.org", "example.net", "users.noreply.github.com")
    return domain not in reserved and not domain.endswith((".example", ".test", ".invalid", ".localhost", ".local"))


def _secret(kind: str, pattern: str) -> Sign:
    return Sign(kind, "stop", re.compile(START + pattern), _no_placeholder)


SIGNS: tuple[Sign, ...] = (
    Sign("private key", "stop", re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"), bool),
    _secret("AWS access key", r"(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])"),
    _secret("GitHub token", r"(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{40,255})"),
    _secret("GitLab token", r"glpat-[A-Za-z0-9_-]{20,64}"),
    _secret("Hugging Face token", r"hf_[A-Za-z]{30,64}"),
    _secret("Anthropic key", r"sk-ant-[A-Za-z0-9_-]{20,200}"),
    _secret("OpenRouter key", r"sk-or-(?:v1-)?[A-Za-z0-9]{32,128}"),
    Sign("OpenAI key", "stop", re.compile(START + r"sk-(?!ant-|or-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{32,250}"), _mixed),
    _secret("Google API key", r"AIza[A-Za-z0-9_-]{35}"),
    _secret("Slack token", r"xox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    _secret("Stripe key", r"(?:sk|rk)_live_[A-Za-z0-9]{20,250}"),
    _secret("LangSmith key", r"lsv2_(?:pt|sk)_[A-Za-z0-9]{32}_[A-Za-z0-9]{10}"),
    _secret("npm token", r"npm_[A-Za-z0-9]{36}"),
    _secret("PyPI token", r"pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,250}"),
    _secret("SendGrid key", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _secret("JSON web token", r"eyJ[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{10,4000}"),
    Sign(
        "e-mail address",
        "warn",
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"),
        _email,
    ),
    Sign("phone number", "warn", re.compile(r"(?<![\w+.])\+\d[\d ()./-]{7,18}\d(?![\w-])"), _phone),
    Sign("phone number", "warn", re.compile(r"(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w.-]?\d)"), _phone),
    Sign("IBAN", "warn", re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}"), _iban),
    Sign("credit card number", "warn", re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)"), _card),
)


def found(text: str) -> list[tuple[str, Severity]]:
    """Kinds in one text, each once."""
    kinds: dict[str, Severity] = {}
    for sign in SIGNS:
        if sign.kind not in kinds and any(sign.real(match[0]) for match in sign.pattern.finditer(text)):
            kinds[sign.kind] = sign.severity
    return list(kinds.items())


def scan(row: Any) -> list[Hit]:
    """Every text of a row, keys and metadata too, with its place."""
    return [Hit(hidden(field), kind, severity) for field, text in texts(row) for kind, severity in found(text)]


def hidden(text: str) -> str:
    """The text with what was found taken out: for messages that quote a row."""
    for sign in SIGNS:
        text = sign.pattern.sub(lambda match, sign=sign: f"({sign.kind})" if sign.real(match[0]) else match[0], text)  # type: ignore[misc]
    return text


def texts(row: Any) -> Iterator[tuple[str, str]]:
    """(place, text) of every text in a value. A key is told by its parent's place, since it may be what must not be shown."""
    left: list[tuple[str, Any]] = [("", row)]
    while left:
        field, value = left.pop()
        if isinstance(value, str):
            yield field, value
        elif isinstance(value, Mapping):
            for name, each in value.items():
                key = str(name)
                plain = key if key.isidentifier() and len(key) <= 40 else "(a key)"
                if len(key) >= 8:
                    yield f"{field}.(a key)".lstrip("."), key
                left.append((f"{field}.{plain}".lstrip("."), each))
        elif isinstance(value, list | tuple):
            left += [(f"{field}[{place}]", each) for place, each in enumerate(value)]
        elif isinstance(value, int) and not isinstance(value, bool) and 10**12 <= abs(value) < 10**19:
            yield field, str(value)  # a card number need not be text
