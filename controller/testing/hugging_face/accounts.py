"""Who calls the double: tokens, what they may write, and the answer to whoami."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from controller.testing.hugging_face.exchange import Refused

DEFAULT_TOKEN = "hf_rehearsal"


@dataclass(frozen=True)
class Account:
    """`credit` False = no positive balance (402 for Jobs); `granted` are gated repositories of others that it may read."""

    name: str
    orgs: tuple[str, ...] = ()
    role: Literal["read", "write"] = "write"
    credit: bool = True
    granted: tuple[str, ...] = ()

    def belongs_to(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs


def account_of(tokens: Mapping[str, Account], authorization: str) -> Account | None:
    """None without a token. Raises Refused (401) for one that is unknown."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or token.strip() not in tokens:
        raise Refused(401, "Invalid credentials in Authorization header")
    return tokens[token.strip()]


def required(account: Account | None) -> Account:
    if account is None:
        raise Refused(401, "Invalid username or password.")
    return account


def may_write(account: Account | None, namespace: str, what: str) -> Account:
    """Raises Refused: 401 without a token, 403 for a namespace of others or a read-only token."""
    who = required(account)
    if not who.belongs_to(namespace):
        raise Refused(403, f'You don\'t have the rights to {what} under the namespace "{namespace}"')
    if who.role != "write":
        raise Refused(403, f"Your token has the role {who.role}; to {what} it needs the role write")
    return who


def owner_of(account: Account, namespace: str) -> dict[str, str]:
    kind = "user" if namespace == account.name else "org"
    return {"id": object_id(f"{kind}/{namespace}"), "name": namespace, "type": kind}


def whoami(account: Account) -> dict[str, Any]:
    return {
        "type": "user",
        "id": object_id(f"user/{account.name}"),
        "name": account.name,
        "fullname": account.name,
        "email": f"{account.name}@example.invalid",
        "emailVerified": True,
        "canPay": account.credit,
        "isPro": False,
        "orgs": [
            {
                "type": "org",
                "id": object_id(f"org/{org}"),
                "name": org,
                "fullname": org,
                "canPay": account.credit,
                "roleInOrg": "write",
            }
            for org in account.orgs
        ],
        "auth": {"type": "access_token", "accessToken": {"displayName": "double", "role": account.role}},
    }


def object_id(seed: str) -> str:
    """24 hexadecimal digits, like every id of the vendor."""
    return sha256(seed.encode()).hexdigest()[:24]
