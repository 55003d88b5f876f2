"""Every case of every kind, the laws that all kinds keep, and where kinds meet: the gateway is fed the cases of rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.address import Address
from controller.kind import Kind, Observed, Past, Refs, Situation
from controller.kinds import find
from controller.kinds.gateway.plan import render
from controller.proxy import checks
from controller.proxy import table as proxy
from controller.resource import Resource
from controller.testing.cases import Case, Mismatch, Ran, contract, load_cases, run_case, walk

HERE = Path(__file__).parent
LEAST = {"ModelBinding": 8, "Rollout": 30, "Gateway": 12, "Evaluation": 16, "TrainingRequest": 50, "Conversion": 40}


def folder(kind: Kind[Any, Any]) -> Path:
    """tests/kinds/<folder of the kind>/cases"""
    return HERE / kind.plan.__module__.split(".")[-2] / "cases"


KINDS = find()
CASES = [(kind, case) for kind in KINDS.values() for case in load_cases(folder(kind))]
EACH = pytest.mark.parametrize(("kind", "case"), CASES, ids=[f"{kind.name}-{case.name}" for kind, case in CASES])


@EACH
def test_case(kind: Kind[Any, Any], case: Case) -> None:
    run_case(kind, case)


@EACH
def test_laws(kind: Kind[Any, Any], case: Case) -> None:
    assert contract(kind, [case]) == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_has_cases_and_documented_fields(kind: Kind[Any, Any]) -> None:
    assert contract(kind) == []
    own = [case for each, case in CASES if each is kind]
    assert len(own) >= LEAST.get(kind.name, 8)
    assert len({case.story for case in own}) == len(own)


def cases_of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [case for kind, case in CASES if kind.name == name], ids=lambda case: case.name)


@cases_of("Evaluation")
def test_a_rollout_reads_every_state_of_an_evaluation(case: Case) -> None:
    target = {"model": "acme/docs-v2", "endpoint": "huggingface", "version": "v2.0.0"}
    rollout = {"binding": "docs", "candidate": target, "strategy": "canary_20pct", "evaluation": "docs-v2"}
    spec = KINDS["Rollout"].spec.model_validate(rollout)
    for ran in walk(KINDS["Evaluation"], case):
        after = certain(ran)
        if after is None or ran.situation is None:
            continue
        bound = {**target, "version": "v1"}
        states = {Address.of("ModelBinding", "docs"): bound, Address.of("Evaluation", "docs-v2"): after}
        resource = Resource(Address.of("Rollout", "r"), spec, spec.written(), "d")
        refs = Refs(states, ran.situation.refs.environment)
        change = KINDS["Rollout"].plan(Situation(resource, None, Past(), refs, ran.situation.now))
        about = after["candidate"] in (target, {})
        assert (not change.waits) == (after["verdict"] in ("deploy", "deploy_canary") and about), change.waits


@cases_of("TrainingRequest")
def test_an_evaluation_reads_every_state_of_a_training(case: Case) -> None:
    written = {"agent": "docs", "candidate": {"training": "t", "endpoint": "huggingface"}, "dataset": "ls://other"}
    spec = KINDS["Evaluation"].spec.model_validate({**written, "judge": {"model": "j", "endpoint": "openrouter"}})
    for ran in walk(KINDS["TrainingRequest"], case):
        after = certain(ran)
        if after is None or ran.situation is None:
            continue
        bound = {"model": "m", "endpoint": "openrouter", "version": "v1"}
        states = {Address.of("ModelBinding", "docs"): bound, Address.of("TrainingRequest", "t"): after}
        resource = Resource(Address.of("Evaluation", "e"), spec, spec.written(), "d")
        endpoints = {"endpoints": {"huggingface": {}, "openrouter": {}}, "prices": {}}
        change = KINDS["Evaluation"].plan(Situation(resource, None, Past(), Refs(states, endpoints), ran.situation.now))
        assert (not change.waits) == (after["phase"] == "succeeded" and bool(after["repo"])), change.waits


@cases_of("TrainingRequest")
def test_a_conversion_reads_every_state_of_a_training(case: Case) -> None:
    written = {"agent": "docs", "version": "v1.0.0", "source": {"training": "t"}, "backend": "local"}
    spec = KINDS["Conversion"].spec.model_validate(written)
    prices = {"prices": {"as_of": "", "live": True, "hardware": {"this-machine": {"usd_per_hour": 0.0}}}}
    for ran in walk(KINDS["TrainingRequest"], case):
        after = certain(ran)
        if after is None or ran.situation is None:
            continue
        resource = Resource(Address.of("Conversion", "c"), spec, spec.written(), "d")
        refs = Refs({Address.of("TrainingRequest", "t"): after}, ran.situation.refs.environment)
        change = KINDS["Conversion"].plan(Situation(resource, Observed(None, prices), Past(), refs, ran.situation.now))
        assert (not change.waits) == (after["phase"] == "succeeded"), change.waits
        if not change.waits:
            source = (change.after or {})["source"]
            assert (source["repo"], source["revision"]) == (after["repo"], after["revision"]), source


@cases_of("Rollout")
def test_the_proxy_takes_the_routes_of_every_state_of_a_rollout(case: Case) -> None:
    for ran in walk(KINDS["Rollout"], case):
        after = certain(ran)
        if after is None or ran.situation is None:
            continue
        states = {Address.of("ModelBinding", after["binding"]): {**after["stable"], "fallbacks": []}}
        kinds = {"ModelBinding": states, "Rollout": {Address.of("Rollout", "run"): after}}
        table = render(Refs({}, ran.situation.refs.environment, kinds=kinds))
        found = proxy.decode(msgspec.json.encode({**table, "serial": 1, "digest": "d"}))
        assert checks.problems(found) == []
        assert found.routes[after["binding"]].variants[0].version == shown(after)


def certain(ran: Ran) -> Any:
    """What the gateway may rely on after this step."""
    change = ran.change
    return change.after if change and (change.may_go or change.is_noop) else None


def shown(after: Any) -> str:
    """What the first variant has to be: the candidate only after a promotion that git does not say yet."""
    promoted = after["phase"] == "promoted" and not after["settled"]
    return str(after["candidate" if promoted else "stable"]["version"])


# -- the runner itself -----------------------------------------------------------------------------------------------


def test_a_case_that_does_not_come_out_shows_the_whole_change(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("""\
story: A binding is created.
given: {name: docs, spec: {model: acme/m, endpoint: openrouter, version: v1}}
expect: {action: update, reason: v2, waits: [Invalid]}
""")
    (case,) = load_cases(tmp_path)
    with pytest.raises(Mismatch) as error:
        run_case(KINDS["ModelBinding"], case)
    text = str(error.value)
    assert "action: expected 'update', found 'create'" in text
    assert "reason: 'v2' is not in 'acme/m v1 at openrouter answers'" in text
    assert "waits: expected ['Invalid'], found []" in text
    assert "-- found\naction: create\n" in text
    assert "  endpoint: openrouter" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stroy: x", "unknown key 'stroy' (did you mean \"story\"?)"),
        ("story: no stop\nexpect: {action: noop, reason: x}", "a sentence that ends with a full stop"),
        ("story: A noop.\nexpect: {action: noop}", "says the action and (some words of) its reason"),
        ("story: Late.\nfollows: nobody\nexpect: {action: noop, reason: x}", "'nobody', which is no case before it"),
        ("story: Facts.\ngiven: {specs: 1}\nexpect: {action: noop, reason: x}", "unknown key 'specs' (did you mean \"spec\"?)"),
    ],
)
def test_a_file_that_is_no_case_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        load_cases(tmp_path)
    assert said in str(error.value)
    assert "broken.yaml" in str(error.value)
