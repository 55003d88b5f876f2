"""Evaluation: a run that asks a candidate and a baseline the same questions and says which is better, with how sure it is."""

from typing import Any

from controller.kind import Clients, Kind, Provider
from controller.kinds.evaluation.plan import paths, plan, references
from controller.kinds.evaluation.spec import EvaluationSpec, EvaluationState


def _provider(clients: Clients) -> Provider[Any, Any]:
    from controller.kinds.evaluation.provider import EvaluationProvider

    return EvaluationProvider(clients)


KIND: Kind[EvaluationSpec, EvaluationState] = Kind(
    name="Evaluation",
    plural="evaluations",
    spec=EvaluationSpec,
    state=EvaluationState,
    plan=plan,
    references=references,
    provider=_provider,
    once=True,
    paths=paths,
    summary="Asks a candidate and a baseline the same questions and says which is better.",
)
