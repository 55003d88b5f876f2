"""What evaluations with endpoints of their own cost: periods, idle time, ceilings; where a model is asked that is not listed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from controller.clients.evaluation_serving import Period, ended, periods, spent, usd_of
from controller.clients.evaluation_work import Journal, Work
from controller.clients.hugging_face_endpoints import Endpoint
from controller.environment import Endpoint as Written
from controller.environment import wrong_fallbacks
from controller.errors import SettingsError
from controller.evaluating.asking import Purse
from controller.kinds.evaluation.money import priced
from controller.kinds.evaluation.sides import answering, lacks
from controller.kinds.evaluation.spec import EvaluationSpec
from controller.settings import load

BEGUN = datetime(2026, 11, 21, 9, tzinfo=UTC)
RULES = {"usdPerHour": 0.6, "scaleToZero": 900.0, "boot": 1800.0}
CENT = 0.01  # a minute


def at(minutes: float) -> datetime:
    return BEGUN + timedelta(minutes=minutes)


def endpoint(state: str) -> Endpoint:
    return Endpoint("turnout-a", state, "", "", "acme/v2", "", BEGUN, BEGUN, 1)


@pytest.mark.parametrize(
    ("period", "state", "minutes", "paid"),
    [
        (Period(at(0), at(0)), "running", 10.0, 10),
        (Period(at(0), at(0)), "initializing", 0.1, 1),
        (Period(at(0)), "running", 10.0, 10),  # nobody noted that it was made: from its creation on
        (Period(at(0)), None, 10.0, 0),  # it never was
        (Period(at(0), at(0), True, at(20)), "scaledToZero", 3 * 24 * 60, 35),  # it slept from 15 minutes after the last call on
        (Period(at(0), at(0), False, at(20)), "scaledToZero", 3 * 24 * 60, 65),  # and where nobody saw it serve, after its boot
        (Period(at(0), at(0), True, at(20)), "scaledToZero", 22.0, 22),  # never more than until now
        (Period(at(0), at(0), True, at(20)), None, 3 * 24 * 60, 35),  # somebody deleted it
        (Period(at(30), at(0), True, at(20)), "failed", 3 * 24 * 60, 45),  # another process took it up at 30
    ],
)
def test_what_a_period_cost(period: Period, state: str | None, minutes: float, paid: int) -> None:
    there = None if state is None else endpoint(state)
    assert usd_of(period, there, RULES, at(minutes)) == pytest.approx(paid * CENT)


def test_periods_are_what_the_journal_left_open(tmp_path: Path) -> None:
    work = Work(tmp_path)
    journal = Journal(work.path("calls.jsonl"))
    journal.append({"asked": "candidate", "at": at(0).isoformat()})
    assert periods(work) == {"candidate": Period(at(0))}
    journal.append({"made": "candidate", "since": at(1).isoformat()})
    journal.append({"serves": "candidate", "at": at(3).isoformat()})
    journal.append({"what": "candidate", "usd": 0.0})
    work.write("progress.json", f'{{"at": "{at(4).isoformat()}"}}'.encode())
    assert periods(work) == {"candidate": Period(at(0), at(1), True, at(4))}
    ended(journal, "candidate", 0.04, at(5))
    assert (periods(work), spent(work)) == ({}, 0.04)
    journal.append({"asked": "candidate", "at": at(9).isoformat()})
    journal.append({"what": "judge", "usd": None})
    journal.close()
    assert (list(periods(work)), spent(work)) == (["candidate"], None)


def test_the_purse_keeps_free_what_stands() -> None:
    standing = 0.5
    purse = Purse(1.0, lambda: standing)
    assert purse.take("candidate", 0.4) == 0.4
    assert purse.take("candidate", 0.2) is None
    standing = 0.7
    purse.settle("candidate", 0.4, 0.3)
    assert purse.take("candidate", 0.0) == 0.0
    standing = 0.71
    assert purse.take("candidate", 0.0) is None


# -- ceilings ----------------------------------------------------------------------------------------------------------

SERVING = {
    "vendor": "aws",
    "region": "us-east-1",
    "accelerator": "gpu",
    "instanceType": "nvidia-l4",
    "instanceSize": "x1",
    "usdPerHour": 0.8,
    "asOf": "2026-11-21",
    "minutes": 90,
}


def spec(**more: Any) -> EvaluationSpec:
    written = {
        "agent": "docs",
        "candidate": {"model": "acme/v2", "endpoint": "dedicated", "version": "v2"},
        "baseline": {"model": "acme/v1", "endpoint": "router", "version": "v1"},
        "dataset": "hf://acme/questions",
        "evaluators": [{"name": "accuracy", "kind": "exact", "field": "outputs.answer"}],
        "examples": 100,
        "maxTokens": 1000,
        "maxInputTokens": 1000,
        **more,
    }
    return EvaluationSpec.model_validate(written)


def of(model: str) -> dict[str, str]:
    return {"model": model, "endpoint": "e", "version": "v"}


def test_minutes_are_added_to_tokens_and_cost_nothing_a_token() -> None:
    prices = {"acme/v1": {"input": 1.0, "output": 2.0}, "acme/v2": {"input": 100.0, "output": 100.0}}
    cost, told, over = priced(spec(), prices, of("acme/v2"), of("acme/v1"), {}, {"candidate": SERVING})
    assert (cost.ceiling, over) == (pytest.approx(100 * 0.003 + 1.2), "")
    assert told == (
        "at most 1.50 USD (100 questions x 1 x (baseline 0.0030); an endpoint for the candidate on aws/us-east-1/gpu/nvidia-l4/x1, "
        "at most 90 min at 0.8 USD/h of 2026-11-21 = 1.2000)"
    )


def test_listed_prices_count_where_none_is_written() -> None:
    listed = {
        "candidate": {"input": 2.0, "output": 4.0, "asOf": "2026-11-21"},
        "baseline": {"input": 9.0, "output": 9.0, "asOf": "2026-11-20"},
    }
    prices = {"acme/v1": {"input": 1.0, "output": 2.0}}
    cost, told, _ = priced(spec(), prices, of("acme/v2"), of("acme/v1"), {"candidate": listed["candidate"]})
    assert cost.ceiling == pytest.approx(100 * (0.006 + 0.003))
    assert told.endswith("; the endpoint's own price of 2026-11-21 for the candidate)")
    assert priced(spec(), prices, of("acme/v2"), of("acme/v1"), listed)[0] == cost


def test_an_unknown_price_beside_minutes_is_the_budget_unless_the_minutes_alone_are_too_much() -> None:
    cost, told, over = priced(spec(budgetUsd=2.0), {}, of("acme/v2"), of("acme/v1"), {}, {"candidate": SERVING})
    assert (cost.ceiling, over) == (2.0, "")
    assert "no price is known for the baseline; an endpoint for the candidate" in told
    over = priced(spec(budgetUsd=1.0), {}, of("acme/v2"), of("acme/v1"), {}, {"candidate": SERVING})[2]
    assert over.startswith("spec.budgetUsd is 1.00, and an endpoint for the candidate")


# -- fallbacks ---------------------------------------------------------------------------------------------------------

ENDPOINTS = {"first": {"fallback": "second"}, "second": {"fallback": "third"}, "third": {}}


def lists(**known: Any) -> dict[str, Any]:
    return {name: {"asOf": "2026-11-21", "models": models} for name, models in known.items()}


@pytest.mark.parametrize(
    ("known", "there"),
    [
        ({}, "first"),
        (lists(first={"acme/v2": None}), "first"),
        (lists(first={"acme/v1": None}), "second"),
        (lists(first={"acme/v1": None}, second={"acme/v1": None}), "third"),
        (lists(first={"acme/v1": None}, second={"acme/v1": None}, third={"acme/v1": None}), "third"),
        ({"first": {"unknown": "503"}, **lists(second={"acme/v1": None})}, "first"),
        (lists(first={}), "first"),
    ],
    ids=["unread", "there", "once", "twice", "nowhere", "unreadable", "empty"],
)
def test_where_a_model_is_asked(known: Any, there: str) -> None:
    assert answering({"model": "acme/v2", "endpoint": "first"}, ENDPOINTS, known) == there


def test_what_follows_a_colon_is_no_other_model() -> None:
    known = lists(first={"acme/v2": None, "acme/v3:free": None})
    assert not lacks(known, "first", "acme/v2:nitro")
    assert not lacks(known, "first", "acme/v3:free")
    assert lacks(known, "first", "acme/v3:nitro")


def test_fallbacks_are_there_and_end() -> None:
    def wrong(**fallbacks: str | None) -> dict[str, str]:
        return dict(wrong_fallbacks({name: Written(url="http://x/v1", fallback=to) for name, to in fallbacks.items()}))

    assert wrong(a="b", b="c", c=None) == {}
    assert wrong(a="a") == {"a": "leads back to itself (a -> a); one of them has to be the last"}
    assert set(wrong(a="b", b="c", c="b")) == {"b", "c"}
    assert wrong(router="huging", hugging=None) == {
        "router": "there is no endpoint 'huging' (did you mean \"hugging\"?); allowed: hugging"
    }


HEAD = "apiVersion: turnout/v1\nkind: Environment\nmetadata: {name: local}\nspec:\n  endpoints:\n"


def test_a_fallback_may_stand_in_another_file_and_is_told_with_its_line(tmp_path: Path) -> None:
    one = HEAD + '    router:\n      url: "http://x/v1"\n      fallback: hub\n'
    two = HEAD + '    hub: {url: "http://y/v1"}\n'
    folder = "environments/local"
    files = {f"{folder}/environment.yaml": one.encode(), f"{folder}/more.yaml": two.encode()}
    assert load("local", files, tmp_path).spec.endpoints["router"].fallback == "hub"
    with pytest.raises(SettingsError) as refused:
        load("local", {f"{folder}/environment.yaml": one.encode()}, tmp_path)
    assert f"{folder}/environment.yaml:8: spec.endpoints.router.fallback: there is no endpoint 'hub'" in str(refused.value)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{}", "exactly one of url, replicas, inferenceEndpoint is needed, found none"),
        ('{url: "http://x/v1", inferenceEndpoint: {region: r, instanceType: t}}', "found url, inferenceEndpoint"),
        ("{inferenceEndpoint: {region: r, instanceType: t}, apiKey: env:K}", "apiKey does not fit inferenceEndpoint"),
        ("{inferenceEndpoint: {region: r, instanceType: t}, fallback: a}", "fallback does not fit inferenceEndpoint"),
        ("{inferenceEndpoint: {region: r, instanceType: t, usdPerHour: 1}}", "usdPerHour and asOf belong together"),
    ],
)
def test_an_endpoint_has_one_form(written: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load("local", {"environments/local/environment.yaml": f"{HEAD}    a: {written}\n".encode()}, tmp_path)
    assert said in str(refused.value)
