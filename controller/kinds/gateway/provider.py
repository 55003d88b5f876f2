"""Reality of gateways: the route table each proxy serves, the files, and how their readers are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from controller.address import Address
from controller.change import Action, Change
from controller.errors import Permanent, Temporary
from controller.kind import Clients, Known, Observed, Outcome, Report, Unknown
from controller.kinds.gateway.elsewhere import Elsewhere
from controller.kinds.gateway.plan import label, spoken
from controller.kinds.gateway.spec import FileTarget, GatewaySpec, GatewayState
from controller.pool import SerialPool, side_by_side
from controller.resource import digest

CALL_SECONDS = 12.0


class GatewayProvider:
    """Writes every target of a gateway; one that fails does not keep the others from being written."""

    def __init__(self, clients: Clients) -> None:
        self.gateways, self.files, self.reload = clients.open("gateway"), clients.open("files"), clients.open("reload")
        self.elsewhere = Elsewhere(clients)

    def observe(self, known: Sequence[Known[GatewaySpec]]) -> Mapping[Address, Observed[GatewayState] | Unknown]:
        seen: dict[Address, Observed[GatewayState] | Unknown] = {}
        for one in known:
            try:
                found = self._state(one)
            except Temporary as error:
                seen[one.address] = Unknown(str(error))
                continue
            if found is not None:
                seen[one.address] = found
        return seen

    def _state(self, one: Known[GatewaySpec]) -> Observed[GatewayState] | None:
        """Each target by itself: a proxy that does not answer hides no other."""
        after: Mapping[str, Any] = one.past.after or {}
        if one.resource is None:
            return Observed(GatewayState(**after)) if after else None
        spec = one.resource.spec
        proxies: dict[str, str | None] = {}
        unseen: dict[str, str] = {}
        routes: Mapping[str, str] = after.get("routes", {})
        endpoints: Mapping[str, Any] = after.get("endpoints", {})
        last = {name: after.get("proxies", {}).get(name) or "" for name in spec.proxies if name in self.gateways.names()}
        answers = side_by_side([partial(self.gateways.table, name, unless=digest_) for name, digest_ in last.items()], CALL_SECONDS)
        for (name, kept), table in zip(last.items(), answers, strict=True):
            if isinstance(table, BaseException):
                proxies[name], unseen[name] = None, str(table)
                continue
            proxies[name] = kept if table is None else table["digest"]
            if table is not None:
                routes, endpoints = spoken(table["routes"]), table.get("endpoints", {})
        files = {target.path: self.files.digest(target.path) for target in spec.files}
        others, refused = self._others(one, spec, unseen)
        if not one.past.exists and not unseen and not any(proxies.values()) and not any(files.values()) and not others:
            return None
        found = {"routes": dict(routes), "endpoints": dict(endpoints), "proxies": proxies, "files": files, **others}
        signals = {**({"unseen": unseen} if unseen else {}), **({"refused": refused} if refused else {})}
        return Observed(GatewayState.model_validate(found), signals or None)

    def _others(
        self, one: Known[GatewaySpec], spec: GatewaySpec, unseen: dict[str, str]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
        """By part of the state; what cannot be seen is None there and named in `unseen`. And what is said against our routes."""
        questions = self.elsewhere.questions(spec, one.address.name)
        parts: dict[str, dict[str, Any]] = {}
        refused: dict[str, list[str]] = {}
        for (part, name), sight in zip(questions, side_by_side(list(questions.values()), CALL_SECONDS), strict=True):
            if isinstance(sight, BaseException):
                parts.setdefault(part, {})[name], unseen[label(part, name)] = None, str(sight)
                continue
            parts.setdefault(part, {})[name] = sight.value
            refused.update(sight.refused)
        return parts, refused

    def apply(self, change: Change, report: Report) -> Outcome:
        if change.action is Action.DELETE:
            return Outcome()
        payload = change.payload
        notes: dict[str, str] = {}
        wanted = (change.after or {}).get("proxies", {})
        spec = GatewaySpec.model_validate(change.written, strict=False)
        calls: list[Callable[[], None]] = [
            partial(self._put, name, payload) for name, told in wanted.items() if payload["seen"].get(name) != told
        ]
        calls += self.elsewhere.calls(spec, payload, notes)
        results = side_by_side(calls, CALL_SECONDS)
        results += SerialPool().run([partial(self._write, each, payload["files"][each.path], notes) for each in spec.files])
        faults = [str(result) for result in results if isinstance(result, BaseException) and not isinstance(result, Permanent)]
        refused = [str(result) for result in results if isinstance(result, Permanent)]
        if refused:
            raise Permanent("; ".join([*refused, *faults]))
        if faults:
            raise Temporary("; ".join(faults))
        return Outcome(said=change.reason, notes=notes)

    def _put(self, name: str, payload: Mapping[str, Any]) -> None:
        """Only over the table that was planned against: a stale writer is refused by the proxy."""
        wanted = digest(payload["table"])
        current = self.gateways.table(name)
        if current and current["digest"] == wanted:
            return
        there = current["digest"] if current else ""
        if there != payload["seen"].get(name, ""):
            raise Temporary(f"proxy {name} serves {there or 'nothing'}, not what was planned against; it is planned again")
        serial = (current["serial"] if current else 0) + 1
        self.gateways.put(name, {**payload["table"], "serial": serial, "digest": wanted, "replaces": there})

    def _write(self, target: FileTarget, text: str, notes: dict[str, str]) -> None:
        if self.files.digest(target.path) == digest(text):
            return
        backup = self.files.write(target.path, text)
        if backup:
            notes[f"backup of {target.path}"] = backup
        if target.reload:
            self.reload.tell(target.reload.full())
