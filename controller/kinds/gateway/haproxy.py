"""A route table as HAProxy's: one configuration (its structure) and one map (who answers for an agent). Pure.

Split first, balance second. Structure is what needs a reload: endpoints, sockets, header names. All else stands in the map,
one line an agent, which a running process takes in one step: weights, salts, models, agents that come and go.

    docs salt|step|0!openrouter!stable!v1!acme%2Fdocs|858993459!vllm!candidate!v2!acme%2Fdocs-2

Each variant is `upper!endpoint!name!version!model`. A session stands at the first 32 bits of SHA-256 of `salt:session`, and the
first variant after the stable one whose `upper` is above that answers: a raised weight moves sessions only forward, weight 0
moves all of them at once. HAProxy's own weights are used for replicas only: none of its balancing algorithms keeps sessions
and honours a changed weight.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.change import Wait
from controller.kinds.gateway.limits import UNSUPPORTED, Served, missing, served
from controller.kinds.gateway.spec import HaproxyTarget
from controller.kinds.gateway.urls import Base, bases, encoded
from controller.resource import digest

SCALE = 1 << 32
"""Points on which sessions stand."""
PREFIX = "turnout-"
"""Before the name of an endpoint: its backend."""
FIGURES = "turnout-figures"
"""The stick table with what each variant has answered: gpc0 = requests, gpc1 = errors, gpt0 = first request (Unix seconds)."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9.-]+")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_BALANCE = {
    "round_robin": ("balance roundrobin",),
    "least_connections": ("balance leastconn",),
    **dict.fromkeys(
        ("affinity", "session", "session_affinity"),
        ("balance hash var(txn.session)", "hash-type consistent", "hash-balance-factor 125"),
    ),
}


@dataclass(frozen=True)
class Rendered:
    """What an HAProxy has to have. `state` is what observing it then shows."""

    config: str
    routes: Mapping[str, str]
    state: Mapping[str, str]
    conditions: tuple[Wait, ...]


def render(target: HaproxyTarget, table: Mapping[str, Any], endpoints: Mapping[str, Any], socket: str) -> Rendered:
    """`endpoints` = all that routes may ever go to, so that a new rollout needs no reload; those of the table are among them."""
    label = f"haproxy {target.name}"
    known = {name: each for name, each in sorted({**endpoints, **table["endpoints"]}.items()) if _NAME.fullmatch(name)}
    faults = {name: fault for name, each in known.items() if (fault := _fault(name, each))}
    routes, said = served(label, table, faults, target.model_names)
    usable = {name: each for name, each in known.items() if name not in faults}
    lines = {agent: line(table["routes"][agent], route) for agent, route in routes.items()}
    most = max([2, *(len(route["variants"]) for route in table["routes"].values())])
    text = _config(target, usable, socket, most)
    structure = digest(text)[:16]
    config = text.replace("@structure@", structure, 1)
    used = {name: each for name, each in usable.items() if name in table["endpoints"]}
    said += [*_oddities(label, used), *missing(label, table, frozenset({"sessions"}))]
    state = {
        "config": digest(config),
        "map": digest(map_text(lines)),
        "structure": structure,
        "routes": digest(lines),
        "servers": digest(sorted(text for name, each in usable.items() for text in _addresses(name, each))),
    }
    return Rendered(config, lines, state, tuple(said))


def map_name(target: HaproxyTarget) -> str:
    """The map's file: beside the configuration."""
    return target.config.rpartition("/")[2].removesuffix(".cfg") + ".routes"


def map_text(lines: Mapping[str, str]) -> str:
    return "".join(["# Written by Turnout.\n", *(f"{agent} {line}\n" for agent, line in sorted(lines.items()))])


def steps(lines: Mapping[str, str]) -> dict[str, str]:
    """The steps in service, as the map writes them, by agent."""
    found = {agent: text.split("|")[1] for agent, text in lines.items()}
    return {agent: step for agent, step in found.items() if step}


def backends(lines: Mapping[str, str]) -> set[str]:
    """Those that these lines send requests to."""
    return {PREFIX + variant.split("!")[1] for text in lines.values() for variant in text.split("|")[2:]}


def line(route: Mapping[str, Any], able: Served) -> str:
    """The map's value for one route. A route of which a variant is missing does not name its step: it is not served."""
    step = route.get("step", "") if able.whole else ""
    return "|".join([encoded(route.get("salt", "")), encoded(step), *_variants(able.variants)])


def _variants(variants: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """With the point up to which each answers; the first has what is left, or nobody does if it has no weight."""
    total, last = 0.0, max((i for i, each in enumerate(variants) if each["weight"] > 0), default=0)
    rest = last if len(variants) > 1 and variants[0]["weight"] <= 0 else None
    for i, each in enumerate(variants):
        total += each["weight"] if i else 0.0
        upper = SCALE if i == rest else min(SCALE, round(total / 100 * SCALE)) if i else 0
        yield "!".join([str(upper), *(encoded(each[key]) for key in ("endpoint", "name", "version", "model"))])


# -- endpoints -------------------------------------------------------------------------------------------------------


def _fault(name: str, endpoint: Mapping[str, Any]) -> str:
    """Why HAProxy cannot use this endpoint; nothing when it can."""
    key = endpoint.get("api_key", "")
    if key and not key.startswith("env:"):
        return f"the key of {name} is {key}, and HAProxy reads keys from its environment only: use env:NAME"
    found = bases(endpoint)
    if len({url.path for url in found if url}) > 1:
        return f"the replicas of {name} differ in their paths, and a request gets one path"
    for url in found:
        if url is None or not (_is_address(url.host) or _HOST.fullmatch(url.host)) or not _PATH.fullmatch(url.path):
            return f"{name}: {url.url if url else endpoint['url']} has characters that a configuration cannot hold"
        if url.tls and _is_address(url.host):
            return f"{name}: {url.url} has no host name that its certificate could be checked against"
    return ""


def _oddities(label: str, endpoints: Mapping[str, Any]) -> Iterable[Wait]:
    strange = {str(each["strategy"]) for each in endpoints.values() if each.get("strategy") and each["strategy"] not in _BALANCE}
    for strategy in sorted(strange):
        text = f"{label} cannot balance replicas by {strategy}; it uses the least connections"
        yield Wait(UNSUPPORTED, f"{label} strategy {strategy}", text)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _servers(endpoint: Mapping[str, Any]) -> list[tuple[str, Base]]:
    """Names of servers, which are sent as `Host` where replicas have different ones."""
    urls = _urls({"": endpoint})
    hosts = [url.netloc for url in urls]
    telling = len(set(hosts)) == len(hosts) > 1 and not any("[" in host for host in hosts)
    return [(url.netloc if telling else f"r{i}", url) for i, url in enumerate(urls, 1)]


def _urls(endpoints: Mapping[str, Any]) -> list[Base]:
    return [url for each in endpoints.values() for url in bases(each) if url]


def _addresses(name: str, endpoint: Mapping[str, Any]) -> Iterable[str]:
    """`backend/server host port`, as `show servers state` tells them of a process."""
    for server, url in _servers(endpoint):
        yield f"{PREFIX}{name}/{server} {url.host} {url.port}"


# -- the configuration -----------------------------------------------------------------------------------------------


def _config(target: HaproxyTarget, endpoints: Mapping[str, Any], socket: str, most: int) -> str:
    resolving = any("." in url.host and not _is_address(url.host) for url in _urls(endpoints))
    sections = [_global(target, socket), _defaults(endpoints)]
    if resolving:
        sections.append(["resolvers turnout", "parse-resolv-conf", "hold valid 10s"])
    table = "stick-table type string len 256 size 100k expire 24d store gpc0,gpc1,gpt0"
    sections.append([f"backend {FIGURES} from turnout", table])
    sections.append(_frontend(target, most))
    sections += [_backend(target, name, each) for name, each in endpoints.items()]
    head = "# Written by Turnout: edits are overwritten. HAProxy 2.6 or newer, with OpenSSL.\n"
    return head + "\n".join("\n  ".join(section) + "\n" for section in sections)


def _global(target: HaproxyTarget, socket: str) -> list[str]:
    """`description` is how a process tells which structure it runs."""
    return [
        "global",
        "default-path config",
        "description turnout:@structure@",
        f"stats socket {socket} mode 600 level admin expose-fd listeners",
    ]


def _defaults(endpoints: Mapping[str, Any]) -> list[str]:
    """The client may be silent as long as the slowest endpoint may; without http-no-delay each streamed token waits."""
    longest = max([300.0, *(float(each["timeout_s"]) for each in endpoints.values())])
    return [
        "defaults turnout",
        "mode http",
        "timeout connect 5s",
        f"timeout client {_ms(longest + 5)}",
        f"timeout server {_ms(300)}",
        "timeout http-request 30s",
        "timeout http-keep-alive 30s",
        "timeout queue 30s",
        "option http-no-delay",
        "option abortonclose",
        "retries 2",
        "option redispatch 1",
        "option idle-close-on-response",
        *(_error(status, text) for status, text in _ERRORS.items()),
    ]


_ERRORS = {502: "The endpoint broke off", 503: "The endpoint cannot be reached", 504: "The endpoint was silent for too long"}


def _error(status: int, text: str) -> str:
    return f"http-error status {status} content-type application/json string {_json(text, f'endpoint_{status}', 'api_error')}"


def _json(message: str, code: str, kind: str) -> str:
    """An error as OpenAI's clients expect it, in the quotes of a configuration."""
    body = f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":"{code}"}}}}'
    return "'" + body + "'"


def _refusal(status: int, message: str, code: str, unless: str) -> str:
    kind = "api_error" if status >= 500 else "invalid_request_error"
    text = _json(message, code, kind)
    return f"http-request return status {status} content-type application/json lf-string {text} unless {unless}"


def _ms(seconds: float) -> int:
    """HAProxy's largest time is 24.8 days."""
    return max(1, min(round(seconds * 1000), 2_147_483_647))


def _frontend(target: HaproxyTarget, most: int) -> list[str]:
    by_path = "{ path_beg /agents/ }"
    name = "%[var(txn.agent),json(utf8s)]"
    return [
        f"frontend turnout-{target.name} from turnout",
        f"bind {target.bind}",
        'http-request return status 200 content-type application/json string \'{"status":"ok"}\' if { path /healthz }',
        f"http-request set-var(txn.agent) path,field(3,/) if {by_path}",
        f"http-request set-var(txn.agent) req.fhdr({target.agent_header}) unless {by_path}",
        f"http-request replace-path ^/agents/[^/]+(/.*)?$ \\1 if {by_path}",
        _refusal(
            404,
            f"Name the agent: /agents/<agent>/v1/... or the header {target.agent_header} with /v1/...",
            "unknown_path",
            "{ path_beg /v1/ } !{ path,url_dec -m sub /.. } { var(txn.agent) -m found }",
        ),
        f"http-request set-var(txn.route) var(txn.agent),map({map_name(target)})",
        _refusal(404, f"There is no route for the agent {name}", "unknown_agent", "{ var(txn.route) -m found }"),
        *_choice(target, most),
        *_figures(),
        *(f"http-request del-header {each}" for each in (*_NOT_SENT, target.agent_header)),
        "http-request set-header X-Turnout-Model %[var(txn.model)]",
        "http-response del-header X-Turnout- -m beg",
        *(f"http-response set-header X-Turnout-{each} %[var(txn.{each})]" for each in _SHOWN),
        "http-response set-header X-Turnout-step %[var(txn.step)] if { var(txn.step) -m len gt 0 }",
        f"use_backend {PREFIX}%[var(txn.endpoint)]",
    ]


_SHOWN = ("agent", "variant", "version", "model", "endpoint")
_NOT_SENT = ("Authorization", "Api-Key", "X-Api-Key", "X-Turnout-Variant")
"""The client's keys are not the vendor's."""


def _choice(target: HaproxyTarget, most: int) -> list[str]:
    """From the map's line to one variant. Later rules win, so the variants are looked at from the last to the first."""
    out = [
        "http-request set-var(txn.salt) var(txn.route),field(1,|)",
        "http-request set-var(txn.chosen) var(txn.route),field(3,|)",
        f"http-request set-var(txn.session) req.fhdr({target.session_header})",
        "http-request set-var(txn.at) rand()",
        "http-request set-var(txn.at) var(txn.salt),concat(:,txn.session),sha2(256),hex,bytes(0,8),hex2i "
        "if { var(txn.session) -m len gt 0 }",
    ]
    for i in range(most - 1, 0, -1):
        out += [
            f"http-request set-var(txn.next) var(txn.route),field({i + 3},|)",
            "http-request set-var(txn.upper) var(txn.next),field(1,!)",
            "http-request set-var(txn.chosen) var(txn.next) "
            "if { var(txn.next) -m len gt 0 } { var(txn.at),sub(txn.upper) -m int lt 0 }",
        ]
    out.append("http-request set-var(txn.forced) req.fhdr(X-Turnout-Variant)")
    for i in range(most):
        variant = f"var(txn.route),field({i + 3},|)"
        out.append(
            f"http-request set-var(txn.chosen) {variant} "
            f"if {{ var(txn.forced) -m len gt 0 }} {{ {variant},field(3,!),strcmp(txn.forced) eq 0 }}"
        )
    fields = {"endpoint": "field(2,!)", "variant": "field(3,!),url_dec", "version": "field(4,!),url_dec"}
    out += [f"http-request set-var(txn.{name}) var(txn.chosen),{how}" for name, how in fields.items()]
    out.append("http-request set-var(txn.model) var(txn.chosen),field(5,!),url_dec")
    out.append("http-request set-var(txn.step) var(txn.route),field(2,|),url_dec")
    return out


def _figures() -> list[str]:
    """Counted per agent, step, variant and version, as they are written in the map: one word for whoever reads the table."""
    return [
        "http-request set-var(txn.part) var(txn.route),field(2,|)",
        "http-request set-var(txn.who) var(txn.chosen),field(3,!)",
        "http-request set-var(txn.what) var(txn.chosen),field(4,!)",
        "http-request set-var(txn.cell) var(txn.agent),concat(|,txn.part,|),concat(,txn.who,|),concat(,txn.what)",
        f"http-request track-sc0 var(txn.cell) table {FIGURES}",
        "http-request sc-set-gpt0(0) date if { sc0_get_gpt0 eq 0 }",
        "http-after-response set-var(txn.counted) sc0_inc_gpc0 if { var(txn.cell) -m found }",
        "http-after-response set-var(txn.counted) sc0_inc_gpc1 if { var(txn.cell) -m found } { status ge 500 }",
        "http-after-response set-var(txn.counted) sc0_inc_gpc1 if { var(txn.cell) -m found } { status 429 }",
    ]


def _backend(target: HaproxyTarget, name: str, endpoint: Mapping[str, Any]) -> list[str]:
    servers = _servers(endpoint)
    first = servers[0][1]
    key = endpoint.get("api_key", "").removeprefix("env:")
    base = first.path
    out = [f"backend {PREFIX}{name} from turnout", f"timeout server {_ms(float(endpoint['timeout_s']))}"]
    if len(servers) > 1:
        out += _BALANCE.get(endpoint.get("strategy") or "least_connections", _BALANCE["least_connections"])
    if key:
        text = f"The environment of HAProxy has no {key}, the key of {name}"
        out.append(_refusal(502, text, "key_missing", f"{{ env({key}) -m len gt 0 }}"))
        out.append(f'http-request set-header Authorization "Bearer %[env({key})]"')
    if base != "/v1":
        out.append(f"http-request replace-path ^/v1(/.*)?$ {base}\\1")
    if len(servers) > 1 and servers[0][0] != "r1":
        out.append("http-send-name-header Host")
    else:
        out.append(f"http-request set-header Host {first.netloc}")
    return [*out, *(_server(target, server, url, len(servers)) for server, url in servers)]


def _server(target: HaproxyTarget, name: str, url: Base, count: int) -> str:
    """One replica. A single one is always tried; several are checked, so that requests go to those that live."""
    words = [f"server {name} {f'[{url.host}]' if ':' in url.host else url.host}:{url.port}"]
    if not _is_address(url.host):
        words.append("init-addr last,libc,none" + (" resolvers turnout" if "." in url.host else ""))
    if url.tls:
        words.append(f"ssl verify required ca-file {target.ca_file} sni str({url.host}) verifyhost {url.host}")
    if count > 1:
        words.append("check inter 5s")
    return " ".join(words)
