"""A resource as it enters planning: its address, the model of its spec, and what the user wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from controller.address import Address

S_co = TypeVar("S_co", covariant=True)


encode_json = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode
"""Canonical JSON: keys sorted; subclasses of str (addresses) as text."""


def digest(value: Any) -> str:
    """128-bit hex digest of a JSON value, independent of key order."""
    return hashlib.blake2b(encode_json(value), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Resource(Generic[S_co]):
    """`spec` is the validated model with defaults; `written` what the user wrote after overlays, without defaults."""

    address: Address
    spec: S_co
    written: Mapping[str, Any]
    spec_digest: str
    why: str = "git"
    files: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)  # of the repository that it names -> object ids at the commit
