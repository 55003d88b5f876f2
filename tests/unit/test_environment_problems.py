"""What is wrong in an environment.yaml is said with its line, its field, what was found, what is allowed, and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import SettingsError
from controller.settings import Settings, load

HEAD = "apiVersion: turnout/v1\nkind: Environment\nmetadata: {name: production}\nspec:\n"
PATH = "environments/production/environment.yaml"
KEY = "sha256:" + "0" * 64
ONE_FORM = "exactly one of url, replicas, inferenceEndpoint is needed"


def read(spec: str, **more: str) -> Settings:
    files = {PATH: (HEAD + spec).encode()}
    files |= {f"environments/production/{name}.yaml": (HEAD + text).encode() for name, text in more.items()}
    return load("production", files, Path("/nowhere"))


def said(spec: str, **more: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read(spec, **more)
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize(
    ("spec", "line", "field", "message"),
    [
        ("  endpoints: {e: {url: 'http://a/v1', replicas: ['http://b/v1']}}", 5, "endpoints.e", f"{ONE_FORM}, found url, replicas"),
        ("  endpoints: {e: {timeout: 30s}}", 5, "endpoints.e", f"{ONE_FORM}, found none"),
        ("  endpoints:\n    e:\n      replicas: ['http://a', 'http://a']", 6, "endpoints.e", "the same URL stands there twice"),
        ("  endpoints: {e: {replicas: ['http://a/v1'], simulated: true}}", 5, "endpoints.e", "simulated needs url"),
        ("  endpoints: {e: {url: 'ftp://a'}}", 5, "endpoints.e.url", "found 'ftp://a'"),
        ("  endpoints: {e: {url: 'http://me:pw@a/v1'}}", 5, "endpoints.e.url", "should match pattern"),
        (
            "  endpoints:\n    e:\n      url: http://a/v1\n      strategy: leastload",
            8,
            "endpoints.e.strategy",
            "'least_latency', found 'leastload' (did you mean \"least_load\"?)",
        ),
        ("  endpoints: {e: {url: 'http://a/v1', affinity: sessions}}", 5, "endpoints.e.affinity", '(did you mean "session"?)'),
        ("  endpoints: {e: {url: 'http://a/v1', stratgy: round_robin}}", 5, "endpoints.e.stratgy", '(did you mean "strategy"?)'),
        ("  endpoints: {e: {url: 'http://a/v1', health: {interval: 30s}}}", 5, "endpoints.e.health.path", "is required"),
        ("  endpoints: {e: {url: 'http://a/v1', health: {path: health}}}", 5, "endpoints.e.health.path", "found 'health'"),
        ("  endpoints: {e: {url: 'http://a/v1', timeout: 30 seconds}}", 5, "endpoints.e.timeout", "'30 seconds' is not a duration"),
        ("  endpoints: {e: {url: 'http://a/v1', timeout: -1}}", 5, "endpoints.e.timeout", "found -1"),
        ("  endpoints: {e: {url: 'http://a/v1', timeout: 0}}", 5, "endpoints.e.timeout", "found 0"),
        ("  endpoints: {e: {url: 'http://a/v1', timeout: 400d}}", 5, "endpoints.e.timeout", "found '400d'"),
        ("  endpoints: {e: {url: 'http://a/v1', timeout: true}}", 5, "endpoints.e.timeout", "found True"),
        ("  endpoints: {e: {url: 'http://a/v1', retries: 11}}", 5, "endpoints.e.retries", "less than or equal to 10, found 11"),
        ("  endpoints: {e: {url: 'http://a/v1', ejection: {most: half}}}", 5, "endpoints.e.ejection.most", "'half' is not a"),
        ("  endpoints: {e: {url: 'http://a/v1', apiKey: sk-123}}", 5, "endpoints.e.apiKey", "should match pattern"),
        ("  clients: {ci: {keys: ['tk-plain']}}", 5, "clients.ci.keys.0", "should match pattern '^sha256:[0-9a-f]{64}$'"),
        (f"  clients: {{ci: {{keys: ['{KEY[:-1]}']}}}}", 5, "clients.ci.keys.0", "should match pattern"),
        (f"  clients: {{ci: {{keys: ['{KEY[:-1]}G']}}}}", 5, "clients.ci.keys.0", "should match pattern"),
        ("  clients: {ci: {budgetUsd: -1}}", 5, "clients.ci.budgetUsd", "greater than or equal to 0, found -1"),
        ("  clients: {ci: {requestsPerMinute: 0}}", 5, "clients.ci.requestsPerMinute", "greater than 0, found 0"),
        ("  clients: {ci: {agents: [Not A Name]}}", 5, "clients.ci.agents.0", "'Not A Name' is not a name"),
        ("  limits: {docs: {budgetPeriod: dya}}", 5, "limits.docs.budgetPeriod", "(did you mean \"day\"?)"),
        ("  limits: {docs: {budgetUsd: '5'}}", 5, "limits.docs.budgetUsd", "found '5'"),
        ("  budget: {monthlyUsd: -5}", 5, "budget.monthlyUsd", "greater than or equal to 0, found -5"),
        ("  budget: {agents: {docs: -0.5}}", 5, "budget.agents.docs", "greater than or equal to 0"),
        ("  budget: {monthlyUsd: .nan}", 5, "", "nan"),
        ("  rules: {approvalAboveUsd: -1}", 5, "rules.approvalAboveUsd", "greater than or equal to 0, found -1"),
        ("  poll: 1 minute", 5, "poll", "'1 minute' is not a duration"),
        ("  headers: {sesion: X-A}", 5, "headers.sesion", '(did you mean "session"?)'),
        ("  training: {backend: hf_job}", 5, "training.backend", '(did you mean "hf_jobs"?)'),
        ("  writeBack: held", 5, "writeBack", '(did you mean "hold"?)'),
    ],
)  # fmt: skip
def test_a_problem_is_said_in_full(spec: str, line: int, field: str, message: str) -> None:
    found = said(spec + "\n")
    assert len(found) == 1, found
    place, _, text = found[0].partition(": ")
    assert place == f"{PATH}:{line}"
    assert text.startswith(f"spec.{field}: " if field else "")
    assert message in text


def test_what_may_be_a_secret_is_not_repeated() -> None:
    for spec in ("  endpoints: {e: {url: 'http://a', apiKey: sk-123}}\n", "  clients: {ci: {keys: [sk-123]}}\n"):
        (told,) = said(spec)
        assert "sk-123" not in told
        assert "hidden" in told


def test_all_problems_at_once() -> None:
    found = said("  budget: {monthlyUsd: -1}\n  endpoints: {a: {url: x}, b: {}}\n  brnch: main\n")
    assert [each.partition(": ")[2].partition(": ")[0] for each in found] == [
        "spec.budget.monthlyUsd",
        "spec.endpoints.a.url",
        "spec.endpoints.b",
        "spec.brnch",
    ]


def test_what_is_fine_is_read() -> None:
    spec = read(
        "  endpoints: {gpus: {replicas: ['http://a:1/v1', 'https://b/v1'], strategy: round_robin, timeout: 1h30m, retries: 0}}\n"
        f"  clients: {{ci: {{keys: ['{KEY}'], budgetUsd: 0, agents: []}}}}\n  budget: {{monthlyUsd: 0, agents: {{docs: 1}}}}\n"
    ).spec
    endpoint = spec.endpoints["gpus"]
    assert (endpoint.timeout, endpoint.addresses, endpoint.retries) == (5400.0, ("http://a:1/v1", "https://b/v1"), 0)
    assert (spec.clients["ci"].budget_usd, spec.clients["ci"].agents) == (0.0, ())
    assert (spec.budget.monthly_usd, spec.budget.agents) == (0.0, {"docs": 1.0})


def test_a_second_file_adds_and_does_not_overrule() -> None:
    spec = read(
        "  branch: main\n  prices: {a: {input: 1.0, output: 2.0}}\n", prices="  prices: {b: {input: 1.0, output: 2.0}}\n"
    ).spec
    assert sorted(spec.prices) == ["a", "b"]
    assert said("  branch: main\n", other="  branch: trunk\n") == [
        "environments/production/other.yaml: spec.branch: is set in another file of this folder already"
    ]
