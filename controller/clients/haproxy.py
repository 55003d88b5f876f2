"""The door to HAProxy processes: what they run, through their runtime socket; their map of routes; their reload.

Reality is the process, not its files: `running` asks what it has loaded. A map is replaced in one step (`prepare`, `add`,
`commit`), so no request ever sees half of it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from controller.errors import Permanent, Temporary
from controller.settings import Settings

CALL_SECONDS = 5.0
RELOAD_SECONDS = 5.0
MASTER_TRIES = 20
BATCH_BYTES = 8000
"""Of a payload: a command and what follows it have to fit into HAProxy's buffer (16 KB)."""
STRUCTURE = "turnout:"
"""What the description of a process of ours begins with; then comes the structure that it has loaded."""
FIGURES = "turnout-figures"
"""Its stick table, by `agent|step|variant|version`: gpc0 = requests, gpc1 = errors, gpt0 = since when (Unix seconds)."""
_ENVIRONMENT = re.compile(r"\benv\(([A-Za-z_][A-Za-z0-9_]*)\)")


Cells = dict[tuple[str, ...], dict[str, int]]


@dataclass(frozen=True)
class Running:
    """What a process has loaded. `structure` is empty where it is none of ours; `servers` are `backend/server host port`."""

    structure: str
    routes: Mapping[str, str]
    servers: tuple[str, ...]


class Haproxies:
    """Every HAProxy of an environment by name. Raises Temporary when one does not answer, Permanent for what it refuses."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.addresses, self._clock = settings.spec.haproxies, clock

    def names(self) -> list[str]:
        return sorted(self.addresses)

    def has_master(self, name: str) -> bool:
        return bool(self.addresses[name].master_socket)

    # -- what runs -----------------------------------------------------------------------------------------------

    def running(self, name: str, map_name: str) -> Running:
        structure = self.structure(name)
        servers = _servers(self.ask(name, "show servers state"))
        return Running(structure, self._routes(name, map_name) if structure else {}, servers)

    def structure(self, name: str) -> str:
        text = self._info(name, "description")
        return text.removeprefix(STRUCTURE) if text.startswith(STRUCTURE) else ""

    def _info(self, name: str, field: str) -> str:
        found = re.search(rf"^{field}: (.*)$", self.ask(name, "show info"), re.MULTILINE | re.IGNORECASE)
        return found[1].strip() if found else ""

    def _routes(self, name: str, map_name: str) -> dict[str, str]:
        """Agent -> line, as requests are looked up at this moment."""
        out = {}
        for text in _told(name, self.ask(name, f"show map {map_name}")).splitlines():
            _, agent, line = text.split(" ", 2)
            out[agent] = line
        return out

    # -- routes --------------------------------------------------------------------------------------------------

    def put_routes(self, name: str, map_name: str, routes: Mapping[str, str], steps: Mapping[str, str]) -> None:
        """Replaces the map in one step and reads it back. `steps` = of agents in a rollout, as the map writes them."""
        told = _told(name, self.ask(name, f"prepare map {map_name}"))
        version = re.search(r"New version created: (\d+)", told)
        if version is None:
            raise Temporary(f"haproxy {name} cannot prepare its map: {told.strip()[:200]}")
        batch: list[str] = []
        for text in [*(f"{agent} {line}" for agent, line in sorted(routes.items())), ""]:
            if batch and (not text or sum(map(len, batch)) + len(batch) + len(text) > BATCH_BYTES):
                _quiet(name, self.ask(name, "\n".join([f"add map @{version[1]} {map_name} <<", *batch, ""])))
                batch = []
            batch.append(text)
        _quiet(name, self.ask(name, f"commit map @{version[1]} {map_name}"))
        self.begin(name, steps)
        if self._routes(name, map_name) != dict(routes):
            raise Temporary(f"haproxy {name} does not have the routes that it was given; somebody else writes its map too")

    def begin(self, name: str, steps: Mapping[str, str]) -> None:
        """A step's time begins when it comes into service, not with its first request."""
        known = {key[:2] for key in self.cells(name)}
        for agent, step in steps.items():
            if (agent, step) not in known:
                self._count(name, (agent, step, "", ""), {"gpt0": int(self._clock())})

    def hand_over(self, name: str, cells: Cells, steps: Mapping[str, str]) -> None:
        """Gives a reloaded process what the one before had counted of the agents that are in a rollout."""
        now = self.cells(name)
        for key, cell in cells.items():
            if key[0] in steps:
                new = now.get(key, {})
                since = [each["gpt0"] for each in (cell, new) if each.get("gpt0")]
                sums = {word: cell.get(word, 0) + new.get(word, 0) for word in ("gpc0", "gpc1")}
                self._count(name, key, {**sums, **({"gpt0": min(since)} if since else {})})

    def _count(self, name: str, key: Sequence[str], counters: Mapping[str, int]) -> None:
        words = " ".join(f"data.{word} {count}" for word, count in counters.items())
        _quiet(name, self.ask(name, f"set table {FIGURES} key {'|'.join(key)} {words}"))

    # -- structure -----------------------------------------------------------------------------------------------

    def check(self, name: str, config_name: str, config: str, files: Mapping[str, str]) -> bool:
        """`haproxy -c` of the configuration beside these files. False where no haproxy is installed; raises Permanent."""
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            return False
        with tempfile.TemporaryDirectory(prefix="turnout-haproxy-") as folder:
            for file, text in {config_name: config, **files}.items():
                (Path(folder) / file).write_text(text)
            try:
                done = subprocess.run(
                    [program, "-c", "-f", config_name],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    timeout=CALL_SECONDS,
                    env={**os.environ, **dict.fromkeys(_ENVIRONMENT.findall(config), "checked")},
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise Temporary(f"haproxy {name}: {program} -c cannot be run: {error}") from error
        if done.returncode:
            said = [text for text in (done.stderr + done.stdout).splitlines() if "[ALERT]" in text]
            raise Permanent(f"haproxy {name} refuses the configuration: {'; '.join(said)[:800]}")
        return True

    def reload(self, name: str) -> None:
        """Tells the master process; the old worker goes on with the connections that it has.

        A master that has just been started, or reloads already, refuses for a moment.
        """
        path = self.addresses[name].master_socket
        if not path:
            raise Permanent(f"haproxy {name} has no masterSocket in environment.yaml and no reload in the gateway's file")
        for left in range(MASTER_TRIES - 1, -1, -1):
            try:
                self._say(name, path, "reload")
                return
            except Temporary:
                if not left:
                    raise
            time.sleep(0.05)

    def worker(self, name: str) -> str:
        """The process that answers: another one after every reload."""
        return self._info(name, "Pid")

    def wait_for(self, name: str, structure: str, instead_of: str) -> bool:
        """Whether another process than `instead_of` runs this structure within the time that a reload may take."""
        end = time.monotonic() + RELOAD_SECONDS
        while True:
            try:
                if self.worker(name) != instead_of and self.structure(name) == structure:
                    return True
            except Temporary:
                pass  # between the two processes
            if time.monotonic() > end:
                return False
            time.sleep(0.05)

    # -- figures -------------------------------------------------------------------------------------------------

    def stats(self, name: str) -> dict[str, Any]:
        """What Turnout's proxies tell at `/stats`, as far as HAProxy knows it: no latencies, tokens, costs or guards.

        An error is an answer of 429 or 500 and above, HAProxy's own included; a stream that breaks later is not seen.
        """
        agents: dict[str, Any] = {}
        cells: dict[str, Cells] = {}
        for (agent, *rest), counters in self.cells(name).items():
            cells.setdefault(agent, {})[tuple(rest)] = counters
        maps = re.findall(r"\(([^)]*\.routes)\)", self.ask(name, "show map"))
        for map_name in maps:
            for agent, line in self._routes(name, map_name).items():
                parts = line.split("|")
                if len(parts) > 2 and "!" in parts[2]:  # a map of ours
                    agents[agent] = _agent(parts[1], cells.get(agent, {}))
        now = self._clock()
        for each in agents.values():
            each["step_seconds"] = max(0.0, now - each.pop("since", now))
        return {"agents": agents}

    def cells(self, name: str) -> Cells:
        """(agent, step, variant, version) -> counters; words as the map writes them."""
        out = {}
        for text in _told(name, self.ask(name, f"show table {FIGURES}")).splitlines():
            key = re.search(r" key=(\S+)", text)
            if key and key[1].count("|") == 3:
                out[tuple(key[1].split("|"))] = {word: int(count) for word, count in re.findall(r"(gp[ct]\d)=(\d+)", text)}
        return out

    # -- the sockets ---------------------------------------------------------------------------------------------

    def ask(self, name: str, command: str) -> str:
        """One command on the runtime socket, and all of its answer."""
        return self._say(name, self.addresses[name].socket, command)

    def _say(self, name: str, path: str, command: str) -> str:
        parts = []
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(CALL_SECONDS)
                line.connect(path)
                line.sendall(command.encode() + b"\n")
                while data := line.recv(65536):
                    parts.append(data)
        except OSError as error:
            raise Temporary(f"haproxy {name} does not answer at {path} ({error.strerror or error}); is it running?") from error
        return b"".join(parts).decode(errors="replace")


def _told(name: str, answer: str) -> str:
    """An answer of a table or a map, without its head; raises Temporary for a refusal."""
    lines = [line for line in answer.splitlines() if line.strip() and not line.startswith("#")]
    if lines and not lines[0].startswith(("0x", "New version")):
        raise Temporary(f"haproxy {name} answered: {' '.join(lines)[:200]}")
    return "\n".join(lines)


def _quiet(name: str, answer: str) -> None:
    if answer.strip():
        raise Temporary(f"haproxy {name} answered: {' '.join(answer.split())[:200]}")


def _servers(answer: str) -> tuple[str, ...]:
    """`backend/server host port`; a host that the configuration names stays that name, whatever it resolves to."""
    lines = [line.split() for line in answer.splitlines()]
    names = next((line[1:] for line in lines if line[:1] == ["#"]), [])
    rows = [dict(zip(names, line, strict=False)) for line in lines if len(line) == len(names) > 0]
    return tuple(
        sorted(
            f"{row['be_name']}/{row['srv_name']} {row['srv_addr'] if row['srv_fqdn'] == '-' else row['srv_fqdn']} {row['srv_port']}"
            for row in rows
        )
    )


def _agent(current: str, cells: Mapping[tuple[str, ...], Mapping[str, int]]) -> dict[str, Any]:
    """One agent's figures in the form of `/stats`. Of a variant's versions within a step the newest one counts."""
    steps: dict[str, dict[str, Any]] = {}
    newest: dict[tuple[str, str], int] = {}
    since = [cell["gpt0"] for (step, *_), cell in cells.items() if step == current and cell.get("gpt0")]
    for (step, variant, version), cell in cells.items():
        begun = cell.get("gpt0", 0)
        if not variant or begun < newest.get((step, variant), 0):
            continue
        newest[step, variant] = begun
        steps.setdefault(unquote(step), {})[unquote(variant)] = {
            "version": unquote(version),
            "requests": cell.get("gpc0", 0),
            "errors": cell.get("gpc1", 0),
            "cost_usd": 0.0,
            "costed": 0,
            "latency": {},
        }
    return {"step": unquote(current), "tripped": None, "steps": steps, **({"since": min(since)} if since else {})}
