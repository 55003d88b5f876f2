"""TrainingRequest: a run that fine-tunes a model, on this machine or as a paid job, and pays for it once."""

from typing import Any

from controller.kind import Clients, Kind, Provider
from controller.kinds.training.plan import paths, plan, references
from controller.kinds.training.spec import TrainingSpec, TrainingState


def _provider(clients: Clients) -> Provider[Any, Any]:
    from controller.kinds.training.provider import TrainingProvider

    return TrainingProvider(clients)


KIND: Kind[TrainingSpec, TrainingState] = Kind(
    name="TrainingRequest",
    plural="trainings",
    spec=TrainingSpec,
    state=TrainingState,
    plan=plan,
    references=references,
    provider=_provider,
    once=True,
    paths=paths,
    summary="Fine-tunes a model for an agent: checked data, a price before it starts, one job for one intent.",
)
