"""Reality of a gateway's targets that are not Turnout's own proxies, for `provider.py`: HAProxy processes and clusters.

Each target is looked at and written by itself. Nothing is written over what was not planned against: a target that has moved
since then is planned again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from controller.errors import Permanent, Temporary
from controller.kind import Clients
from controller.kinds.gateway import haproxy, httproute
from controller.kinds.gateway.spec import GatewaySpec, HaproxyTarget, HttpRouteTarget
from controller.resource import digest

MOST_OBJECTS = 500
"""Written at once; what is left over goes with the next attempt."""


@dataclass(frozen=True)
class Sight:
    """One target as it was seen: its value in the state, and what others say against ours there, by object."""

    value: Any
    refused: Mapping[str, list[str]] = field(default_factory=dict)


class Elsewhere:
    """Doors are opened only for a spec that has such targets."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients

    # -- looking -------------------------------------------------------------------------------------------------

    def questions(self, spec: GatewaySpec, gateway: str) -> dict[tuple[str, str], Callable[[], Sight]]:
        """(part of the state, target) -> a call that answers its value, or raises what keeps it from being seen."""
        calls: dict[tuple[str, str], Callable[[], Sight]] = {}
        for target in self._usable(spec):
            calls["haproxy", target.name] = partial(self._haproxy, target)
        for cluster in spec.http_routes:
            calls["httpRoutes", cluster.name] = partial(self._http_routes, cluster, gateway)
        return calls

    def _usable(self, spec: GatewaySpec) -> list[HaproxyTarget]:
        """Those that the environment has; of the others `plan` says what is wrong."""
        if not spec.haproxy:
            return []
        door = self.clients.open("haproxy")
        names = door.names()
        return [each for each in spec.haproxy if each.name in names and (each.reload or door.has_master(each.name))]

    def _haproxy(self, target: HaproxyTarget) -> Sight:
        return Sight(self._haproxy_state(target))

    def _haproxy_state(self, target: HaproxyTarget) -> dict[str, Any]:
        files = self.clients.open("files")
        running = self.clients.open("haproxy").running(target.name, haproxy.map_name(target))
        return {
            "config": files.digest(target.config),
            "map": files.digest(_map_path(target)),
            "structure": running.structure,
            "routes": digest(dict(running.routes)),
            "servers": digest([each for each in running.servers if each.startswith(haproxy.PREFIX)]),
        }

    def _http_routes(self, target: HttpRouteTarget, gateway: str) -> Sight:
        door = self.clients.open("kubernetes")
        mine = httproute.owner(door.environment, gateway, target)
        live = _live(door, target, mine)
        digests = {name: httproute.served_digest(each, door.owned(each)) for name, each in live.items()}
        said = {name: texts for name, each in live.items() if (texts := httproute.refusals(each))}
        return Sight(httproute.state(digests), {f"httpRoutes {target.name} {name}": texts for name, texts in said.items()})

    # -- writing -------------------------------------------------------------------------------------------------

    def calls(self, spec: GatewaySpec, payload: Mapping[str, Any], notes: dict[str, str]) -> list[Callable[[], None]]:
        """One for each target; `notes` gets what a person should know of it."""
        before = payload.get("before", {})
        out: list[Callable[[], None]] = []
        for target in spec.haproxy:
            if target.name in payload.get("haproxy", {}):
                content, seen = payload["haproxy"][target.name], before.get("haproxy", {}).get(target.name)
                out.append(partial(self._put_haproxy, target, content, seen, notes))
        for cluster in spec.http_routes:
            content, seen = payload["httpRoutes"][cluster.name], before.get("httpRoutes", {}).get(cluster.name)
            out.append(partial(self._put_objects, cluster, content, seen, notes))
        return out

    def _put_haproxy(self, target: HaproxyTarget, content: Mapping[str, Any], seen: Any, notes: dict[str, str]) -> None:
        """Routes go first, into the process that runs: a way back waits neither for a reload nor for a file that is refused."""
        wanted, name = content["state"], target.name
        try:
            now, gone = self._haproxy_state(target), None
        except Temporary as error:
            now, gone = None, error
        if now == wanted:
            return
        if now is not None and now != seen:
            raise Temporary(f"haproxy {name} is not as it was planned against; it is planned again")
        if now is not None and self._can_take(target, now, content):
            self._put_routes(target, now, content)
        old = self._put_files(target, content, notes)
        if gone is not None:
            raise Temporary(f"{gone} Its files are written: start it with haproxy -W -S (its master socket) -f {target.config}")
        if now is not None and (now["structure"], now["servers"]) != (wanted["structure"], wanted["servers"]):
            self._reload(target, content, old)

    def _put_routes(self, target: HaproxyTarget, now: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Into the process, and for its restart onto the disk."""
        lines = content["routes"]
        if now["routes"] != content["state"]["routes"]:
            self.clients.open("haproxy").put_routes(target.name, haproxy.map_name(target), lines, content["steps"])
        if now["map"] != content["state"]["map"]:
            self.clients.open("files").write(_map_path(target), haproxy.map_text(lines), backup=False)

    def _put_files(self, target: HaproxyTarget, content: Mapping[str, Any], notes: dict[str, str]) -> dict[str, str | None]:
        """Checked first, the configuration with a backup; what was there, by path. Raises Permanent for what HAProxy refuses."""
        door, files, path = self.clients.open("haproxy"), self.clients.open("files"), target.config
        texts = {_map_path(target): haproxy.map_text(content["routes"]), path: content["config"]}
        old = {place: files.read(place) for place in texts}
        if old[path] != content["config"]:
            beside = {haproxy.map_name(target): texts[_map_path(target)]}
            if not door.check(target.name, path.rpartition("/")[2], content["config"], beside):
                notes[f"haproxy {target.name}"] = "its configuration was not checked: no haproxy is installed beside the controller"
        for place, text in texts.items():
            backup = files.write(place, text, backup=place == path) if old[place] != text else ""
            if backup:
                notes[f"backup of {place}"] = backup
        return old

    def _can_take(self, target: HaproxyTarget, now: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
        """Whether the process that runs has a backend for every endpoint of the new routes."""
        if now["structure"] == content["state"]["structure"]:
            return True
        if not now["structure"]:
            return False
        running = self.clients.open("haproxy").running(target.name, haproxy.map_name(target))
        there = {each.partition("/")[0] for each in running.servers}
        return haproxy.backends(content["routes"]) <= there

    def _reload(self, target: HaproxyTarget, content: Mapping[str, Any], old: Mapping[str, str | None]) -> None:
        """Raises Temporary when the process does not take the new files; the old ones are then put back, for a restart."""
        door, files, name = self.clients.open("haproxy"), self.clients.open("files"), target.name
        worker, counted = door.worker(name), door.cells(name) if door.structure(name) else {}
        if target.reload is not None:
            self.clients.open("reload").tell(target.reload.full())
        else:
            door.reload(name)
        if door.wait_for(name, content["state"]["structure"], instead_of=worker):
            door.hand_over(name, counted, content["steps"])
            door.begin(name, content["steps"])
            return
        for place, text in old.items():
            if text is not None:
                files.write(place, text, backup=False)
        raise Temporary(f"haproxy {name} did not take its new configuration, its log says why; it serves as before")

    def _put_objects(self, target: HttpRouteTarget, content: Mapping[str, Any], seen: Any, notes: dict[str, str]) -> None:
        door = self.clients.open("kubernetes")
        live = _live(door, target, content["owner"])
        there = {name: httproute.served_digest(each, door.owned(each)) for name, each in live.items()}
        wanted = {name: httproute.wanted_digest(each) for name, each in content["objects"].items()}
        if there == wanted:
            return
        if seen is not None and httproute.state(there) != seen:
            raise Temporary(f"httpRoutes {target.name} are not as they were planned against; they are planned again")
        todo = [each for name, each in content["objects"].items() if there.get(name) != wanted[name]]
        context, labels = target.context or "", {httproute.OWNER: content["owner"]}
        faults: list[Exception] = []
        for each in todo[:MOST_OBJECTS]:
            try:
                taken = door.apply(context, httproute.PLURAL, each, labels, there=live.get(each["metadata"]["name"]))[1]
            except (Temporary, Permanent) as error:
                faults.append(error)
                continue
            if taken:
                notes[f"httpRoutes {target.name} {each['metadata']['name']}"] = f"taken back: {taken}"
        for name in sorted(set(live) - set(wanted)):
            door.delete(context, httproute.PLURAL, live[name])
        if faults:
            kind = Permanent if any(isinstance(fault, Permanent) for fault in faults) else Temporary
            raise kind("; ".join(str(fault) for fault in faults[:5]))
        if len(todo) > MOST_OBJECTS:
            raise Temporary(f"httpRoutes {target.name}: {MOST_OBJECTS} of {len(todo)} objects are written; the others follow")


def _map_path(target: HaproxyTarget) -> str:
    folder = target.config.rpartition("/")[0]
    return f"{folder}/{haproxy.map_name(target)}" if folder else haproxy.map_name(target)


def _live(door: Any, target: HttpRouteTarget, mine: str) -> dict[str, Any]:
    labels = {httproute.MANAGED_BY: "turnout", httproute.OWNER: mine}
    found = door.objects(target.context or "", httproute.API, httproute.PLURAL, target.namespace, labels)
    return {each["metadata"]["name"]: each for each in found}
