"""Replicas die, hang, lie and come back while clients ask; afterwards clients, journals and figures must tell one story.

What a retry is allowed to hide, and therefore must: a try that failed before any byte of its answer had gone to the client
(not reachable, closed or reset or nonsense before a head, no first byte in time, or 502, 503, 504), of a request that may be
asked twice, that has tries left, while another replica is usable that it has not tried. Not hidden: what breaks after the
first byte, a 500 (the model's own word), and a POST to a path that the proxy does not know.

At every moment one replica, the anchor, is well, and a request has as many tries as there are replicas. So none of them may
end with an error that was allowed to be hidden. The anchor changes only when all are well and every request from before
that moment has ended. At most eight requests are in flight, so that the budget of retries (ten at least) is never the reason.

TURNOUT_CHAOS is the number of requests (20,000 where it is not set, 100,000 for the whole story), TURNOUT_CHAOS_SEED the seed
(in CI always the same, else drawn).
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.testing.fleet import Attempt, Fleet
from controller.testing.load import Load
from controller.testing.load_answer import CHAT, Asked, Got

REQUESTS = int(os.environ.get("TURNOUT_CHAOS", "20000"))
DRAWN = 1724591411 if os.environ.get("CI") else random.SystemRandom().randrange(1, 1 << 31)  # what decides is the same each time
SEED = int(os.environ.get("TURNOUT_CHAOS_SEED", "0")) or DRAWN
CLIENTS = 8
REPLICAS = 4
TRIES = REPLICAS
FIRST_BYTE_S, SILENCE_S = 2.0, 4.0
STRATEGIES = ("round_robin", "least_load", "least_connections", "least_latency")

# No head that could be believed comes with these, so the next replica is asked.
HEADLESS = ("not_http", "close_mid_head", "two_lengths", "two_equal_lengths", "length_and_chunked", "obs_fold")
BEFORE = ("close_before_head", "reset_before_head", *HEADLESS)
AFTER = ("close_mid_body", "reset_mid_body", "bad_chunk_size", "huge_chunk_size", "end_early", "length_too_short", "error_event")
HARMLESS = ("chunk_extension", "extra_bytes", "second_answer")
HANGING = ("hang_before_head", "hang_mid_body", "length_too_long")


def healthy(proxy: Any) -> bool:
    return all(replica["health"] == "up" for replica in proxy.stats()["endpoints"]["one"]["replicas"])


class Story:
    """What was done to the replicas, by a seed. It runs beside the load, in the thread of the test."""

    def __init__(self, proxy: Any, fleet: Fleet, load: Load, drawn: random.Random) -> None:
        self.fleet, self.load = fleet, load
        self.acts: Counter[str] = Counter()
        self.anchors: list[tuple[int, int]] = []  # from when (ns), and who is well from then on
        self._proxy = proxy
        self._drawn = drawn
        self._deck: list[str] = []
        self._sick: dict[int, str] = {}

    def phase(self, anchor: int, requests: int) -> None:
        """Torment all others for so many requests, then make all well, and see that the proxy knows."""
        self.anchors.append((time.monotonic_ns(), anchor))
        end = len(self.load.done) + requests
        others = [i for i in range(REPLICAS) if i != anchor]
        while len(self.load.done) < end and self.load.running:
            self._torment(self._drawn.choice(others))
            self.load.further(self._drawn.randint(20, 120))
        for i in list(self._sick):
            self._heal(i)
        self.load.pause_s = 0.05  # who was thrown out comes back by requests, but these are for the torments
        self._proxy.until(lambda: healthy(self._proxy) or not self.load.running, 60)
        self.load.pass_by()
        self.load.pause_s = 0.0

    def _torment(self, i: int) -> None:
        self._heal(i)
        if not self._deck:
            self._deck = ["kill"] * 8 + [
                "freeze",
                "broken",
                *["busy"] * 4,
                *["slow"] * 3,
                *["well"] * 5,
                *BEFORE,
                *AFTER,
                *HARMLESS,
            ]
            self._deck += HANGING
            self._drawn.shuffle(self._deck)
        what, drawn = self._deck.pop(), self._drawn
        self.acts[what] += 1
        if what == "well":
            return
        self._sick[i] = what
        if what == "kill":
            self.fleet.kill(i)
        elif what == "freeze":
            self.fleet.pause(i)
        elif what == "busy":
            self._behave(i, status=drawn.choice((502, 503, 504)), error_rate=drawn.choice((0.3, 1.0)))
        elif what == "broken":
            self._behave(i, status=500, error_rate=0.2)
        elif what == "slow":
            self._behave(i, latency_ms=drawn.choice((5, 30)), token_ms=drawn.choice((0, 2)))
        else:
            self._behave(i, fault=what, fault_rate=0.05 if what in HANGING else drawn.choice((0.1, 0.3, 1.0)))

    def _behave(self, i: int, **fields: Any) -> None:
        self.fleet.behave(i, {"m": fields})

    def _heal(self, i: int) -> None:
        what = self._sick.pop(i, "")
        if what == "kill":
            self.fleet.start(i)
        elif what == "freeze":
            self.fleet.resume(i)
        if what:
            self.fleet.behave(i, {"m": None})

    def anchor_of(self, got: Got) -> str:
        """Who was well during the whole of this request."""
        return self.fleet.names[next(who for since, who in reversed(self.anchors) if since <= got.began_ns)]


def work(drawn: random.Random) -> Iterator[Asked]:
    for i in range(REQUESTS):
        what = drawn.random()
        asked = {"id": f"chaos-{i}", "tokens": drawn.randint(6, 12), "words": drawn.randint(1, 50)}
        session = (("X-Session-ID", f"s{drawn.randrange(200)}"),) if drawn.random() < 0.5 else ()
        if what < 0.02:
            yield Asked(**asked, agent="endless", stream=True, leave=True)
        elif what < 0.04:
            yield Asked(**asked, path="/v1/odd", agent="m", headers=(("X-Turnout-Agent", "dev"),))
        else:
            yield Asked(**asked, stream=what < 0.35, headers=session)


def table(proxy: Any, fleet: Fleet, strategy: str, affinity: str) -> tuple[Any, Any]:
    routes = {
        "dev": {"variants": [proxy.variant("stable", "m", 100)]},
        "endless": {"variants": [proxy.variant("stable", "endless", 100)]},
    }
    one = {
        "replicas": fleet.urls,
        "retries": TRIES - 1,
        "strategy": strategy,
        "affinity": affinity,
        "load_path": "/metrics",
        "first_byte_s": FIRST_BYTE_S,
        "timeout_s": SILENCE_S,
        "ejection": {"failures": 3, "seconds": 0.05},
        "health": {"path": "/health", "interval_s": 0.2, "timeout_s": 1.0, "fall": 3},
    }
    return routes, {"one": one}


class Told:
    """The whole story as the three sides tell it: the clients, the journals of the replicas, the proxy."""

    def __init__(self, story: Story, stats: Any, metrics: str, log: Path) -> None:
        self.story = story
        self.done = {got.id: got for got in story.load.done}
        self.attempts = {name: tries for name, tries in story.fleet.attempts().items() if name in self.done}
        self.stats = stats
        self.codes = Counter[tuple[str, str]]()
        for agent, code, number in re.findall(r'^turnout_requests_total{agent="(\w+)".*code="(\w+)"} (\d+)$', metrics, re.M):
            self.codes[agent, code] += int(number)
        self.records: dict[str, Any] = {}
        self.doubles: list[str] = []
        for line in log.read_bytes().splitlines():
            record = json.loads(line)
            if record["id"].startswith("chaos-") and self.records.setdefault(record["id"], record) is not record:
                self.doubles.append(record["id"])
        self.wrong: list[str] = []

    def check(self, fine: bool, got: Got, what: str) -> None:
        if not fine:
            record = self.records.get(got.id, {})
            tries = "; ".join(map(str, self.attempts.get(got.id, [])))
            self.wrong.append(f"{what}: {got}, after {record.get('tries')} tries, code {record.get('code')}: {tries}")

    def equal(self, what: str, found: Any, expected: Any) -> None:
        if found != expected:
            self.wrong.append(f"{what}: {found} instead of {expected}")

    def within(self, what: str, low: int, found: int, high: int) -> None:
        if not low <= found <= high:
            self.wrong.append(f"{what}: {found} is not within {low} and {high}")

    def of(self, *kinds: str, agent: str = "", path: str = "", replica: str | None = None) -> list[Got]:
        return [
            got
            for got in self.done.values()
            if got.kind in kinds
            and got.asked.agent in (agent or got.asked.agent)
            and got.asked.path == (path or got.asked.path)
            and got.replica == (got.replica if replica is None else replica)
        ]


def broke(got: Got) -> bool:
    """An answer that the proxy had begun and could not bring to its end."""
    return got.kind == "cut" or (got.kind == "error_event" and got.code.startswith("endpoint_"))


def complete(got: Got) -> bool:
    """An answer that came from a replica and was, as HTTP, whole."""
    return got.kind in ("whole", "short") or (got.kind in ("error", "error_event") and bool(got.replica) and not broke(got))


def failed(got: Got) -> bool:
    """What counts as an error: everything that is not the model's answer."""
    return got.kind in ("error", "nothing") or broke(got)


def proves(one: Attempt, got: Got) -> bool:
    """Whether this attempt can have given the client what it got."""
    if one.open:
        return True  # killed, perhaps before it could write down what it had done
    if broke(got) or got.kind == "left":
        return one.finished_ns is None
    if one.status != got.status:
        return False
    if got.kind == "short":
        return one.fault in ("end_early", "length_too_short")
    if got.kind == "error_event":
        return one.fault == "error_event"
    return one.fault in (None, *HARMLESS) or (one.fault == "error_event" and not got.asked.stream)  # only a stream has events


def nothing_hidden_is_seen(told: Told) -> None:
    for got in told.done.values():
        told.check(got.kind not in ("wrong", "nothing"), got, "no answer at all, or one that must never be")
        if got.kind != "error" or got.asked.path != CHAT or got.status == 500:
            continue
        anchor = told.story.anchor_of(got)
        asked_well = any(one.replica == anchor for one in told.attempts.get(got.id, []))
        told.check(asked_well, got, f"an error although {anchor} was well and not asked")
        if not got.replica:
            told.check(told.records[got.id]["tries"] == TRIES, got, "an error with tries left")


def nothing_is_sent_twice(told: Told) -> None:
    for got in told.done.values():
        tries = told.attempts.get(got.id, [])
        for one in tries:
            begun = one.first_byte_ns is not None and one.fault not in HEADLESS and one.status not in (502, 503, 504)
            if begun and one.first_byte_ns - got.began_ns < FIRST_BYTE_S * 1e9:  # else the proxy may have given it up before
                later = [other for other in tries if (other.received_ns or 0) > one.first_byte_ns]
                told.check(not later, got, "sent again after the first byte")
        most = 1 if got.asked.path != CHAT else 2 * told.records[got.id]["tries"]  # twice: an idle connection that just closed
        told.check(len(tries) <= most, got, "sent too often")


def each_is_answered_once(told: Told) -> None:
    told.equal("requests", len(told.done), REQUESTS)
    told.equal("requests that were answered twice", len(told.story.load.done), REQUESTS)
    told.equal("bytes without a request", told.story.load.unasked, [])
    told.equal("requests that were written down twice", told.doubles, [])
    told.equal("requests that were written down", told.records.keys(), told.done.keys())
    for got in told.done.values():
        tries = told.attempts.get(got.id, [])
        here = [one for one in tries if one.replica == got.replica]
        proof = any(proves(one, got) for one in here) or (got.kind == "error" and not got.replica)
        told.check(proof, got, "an answer that no replica gave like that")
        for one in tries:
            full = one.finished_ns is not None and one.status == 200 and one.fault not in HEADLESS
            if full and one.finished_ns - got.began_ns < FIRST_BYTE_S * 1e9:  # else the proxy may have given it up before
                told.check((got.kind, got.replica) == ("whole", one.replica), got, "a whole answer that did not reach the client")


def figures_agree(told: Told) -> None:
    cell, endless = (told.stats["agents"][agent]["steps"][""]["stable"] for agent in ("dev", "endless"))
    chats = [got for got in told.done.values() if got.asked.agent == "dev" and got.asked.path == CHAT]
    told.equal("requests of dev", cell["requests"], len(chats))
    told.equal("errors of dev", cell["errors"], sum(map(failed, chats)))
    told.equal("retries of dev", cell["retries"], sum(told.records[got.id]["tries"] - 1 for got in chats))
    told.equal("successes of dev", sum(cell["latency"].values()), sum(complete(got) and got.status == 200 for got in chats))
    used = [got for got in chats if got.kind == "whole" or has_its_usage(told, got)]
    maybe = [got for got in chats if got not in used and broke(got) and was_killed(told, got)]
    for name, found, tokens in (
        ("input tokens of dev", cell["input_tokens"], lambda got: got.asked.input_tokens),
        ("output tokens of dev", cell["output_tokens"], lambda got: got.asked.tokens),
    ):
        told.within(name, sum(map(tokens, used)), found, sum(map(tokens, [*used, *maybe])))
    left = [got for got in told.done.values() if got.asked.agent == "endless"]
    unsure = sum(got.kind == "left" and not gone(told, got) for got in left)  # died in the moment in which the client left
    told.equal("requests of endless", endless["requests"], len(left))
    told.within("errors of endless", sum(map(failed, left)), endless["errors"], sum(map(failed, left)) + unsure)
    told.equal("all visits", told.codes.total(), len(told.done))
    told.equal(
        "visits of dev that died", told.codes["dev", "died"], sum(broke(got) for got in told.done.values() if got not in left)
    )
    told.within(
        "visits of endless that were left", len(told.of("left")) - unsure, told.codes["endless", "499"], len(told.of("left"))
    )
    replicas_agree(told, unsure)


def replicas_agree(told: Told, unsure: int) -> None:
    """`sent` leaves out what went over an idle connection that was just closing; failures may never have been read there."""
    one = told.stats["endpoints"]["one"]
    told.equal("in flight at the end", (one["in_flight"], one["waiting"]), (0, 0))
    tried_in_vain = sum(record["tries"] - 1 for record in told.records.values())
    last = [got for got in told.done.values() if failed(got)]
    expected = tried_in_vain + len(last)
    told.within("failures of all replicas", expected, sum(replica["failed"] for replica in one["replicas"]), expected + unsure)
    for name, replica in zip(told.story.fleet.names, one["replicas"], strict=True):
        seen = [got for got in told.done.values() if got.replica == name]
        tries = [attempt for found in told.attempts.values() for attempt in found if attempt.replica == name]
        told.equal(f"answers of {name}", replica["answered"], sum(map(complete, seen)))
        told.equal(f"in flight at {name}", replica["in_flight"], 0)
        begun = [attempt for attempt in tries if attempt.first_byte_ns is not None]
        told.within(f"requests sent to {name}", max(len(seen), len(begun)), replica["sent"], len(tries) + replica["failed"])


def was_killed(told: Told, got: Got) -> bool:
    """Its replica died under it: perhaps after the usage, and before the last byte."""
    return any(one.open for one in told.attempts[got.id] if one.replica == got.replica)


def has_its_usage(told: Told, got: Got) -> bool:
    """An answer that lied about its length, by ten bytes: what the usage stands in had come nevertheless."""
    faults = {one.fault for one in told.attempts[got.id] if one.replica == got.replica}
    return (got.kind == "cut" and "length_too_long" in faults) or (
        got.kind == "short" and got.asked.stream and "length_too_short" in faults
    )


def gone(told: Told, got: Got) -> bool:
    return any(one.cut == "the client left" for one in told.attempts[got.id])


def test_clients_replicas_and_figures_tell_one_story(start_proxy: Any, tmp_path: Path) -> None:
    drawn = random.Random(SEED)
    log = tmp_path / "access.jsonl"
    proxy = start_proxy("--access-log", str(log))
    with Fleet(tmp_path / "fleet", REPLICAS, models=["m", "endless"]) as fleet:
        for i in range(REPLICAS):
            fleet.behave(i, {"m": None, "endless": {"fault": "hang_mid_body"}})
        proxy.put(*table(proxy, fleet, STRATEGIES[0], ""))
        phases = max(4, REQUESTS // 2500)
        with Load(proxy.port, work(random.Random(SEED)), clients=CLIENTS) as load:
            story = Story(proxy, fleet, load, drawn)
            for phase in range(phases):
                proxy.put(*table(proxy, fleet, STRATEGIES[phase % 4], ("", "session", "prefix")[phase // 4 % 3]))
                story.phase(phase % REPLICAS, REQUESTS // phases)
        proxy.until(lambda: proxy.stats()["endpoints"]["one"]["in_flight"] == 0)
        stats, metrics = proxy.stats(), proxy.request("GET", "/metrics")[2].decode()
        proxy.until(lambda: proxy.chat()[0] == 200 and healthy(proxy))  # who was thrown out comes back with the next requests
        open_files = len(os.listdir(f"/proc/{proxy.process.child.pid}/fd"))
        assert proxy.process.stop() == 0
        told = Told(story, stats, metrics, log)
    for check in (nothing_hidden_is_seen, nothing_is_sent_twice, each_is_answered_once, figures_agree):
        check(told)
    kinds = Counter(got.kind for got in told.done.values())
    text = f"TURNOUT_CHAOS_SEED={SEED}; {dict(kinds)}; {dict(story.acts)}"
    print(text)
    assert not told.wrong, "\n".join([text, f"{len(told.wrong)} things are wrong", *told.wrong[:20]])
    assert open_files < 100, text
    assert min(kinds[kind] for kind in ("whole", "left", "error_event", "error")) > 0, text
    assert kinds["short"] + kinds["cut"] > 0, text  # which of the two depends on the faults that were drawn
    assert sum(record["tries"] > 1 for record in told.records.values()) > REQUESTS / 200, text
