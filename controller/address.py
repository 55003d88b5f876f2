"""The name of a resource everywhere in the flow: `Kind/name`. A plain string with two parts."""

from __future__ import annotations

import re

NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")
NAME_RULE = "lower-case letters, digits, '_', '.' and '-', at most 63, starting with a letter or digit"


class Address(str):
    """`Address("ModelBinding/feature_dev")`; `.kind` and `.name` are its parts.

    A whole kind is `ModelBinding/*` (only in references).
    """

    __slots__ = ()

    @staticmethod
    def of(kind: str, name: str) -> Address:
        return Address(f"{kind}/{name}")

    @property
    def kind(self) -> str:
        return self.partition("/")[0]

    @property
    def name(self) -> str:
        return self.partition("/")[2]

    @property
    def is_wildcard(self) -> bool:
        return self.endswith("/*")
