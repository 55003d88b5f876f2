"""The doors `training` (where models are trained) and `datasets` (what they learn from), opened with an environment's settings.

The vendor behind a backend is opened when that backend is first used: who trains on this machine needs no account anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from controller import programs
from controller.clients import huggingface
from controller.clients.huggingface import Hub
from controller.clients.model_tokens import Counter, Tokens
from controller.clients.training.backend import Hardware, Prices, TrainingBackend
from controller.clients.training.hf_jobs import HubTraining
from controller.clients.training.local import LocalTraining
from controller.environment import TrainingDefaults
from controller.errors import Permanent, listed
from controller.settings import Settings

__all__ = ["Backends", "connect", "hub_of", "program"]


class Backends:
    """By name; and what of the environment's defaults decides whether a data set is fit."""

    def __init__(self, backends: Mapping[str, TrainingBackend], defaults: TrainingDefaults, tokens: Tokens | None = None) -> None:
        self._backends, self.default = backends, defaults.backend
        self._tokens, self._base_model = tokens, defaults.base_model or ""
        self.max_length = defaults.hyperparameters.max_length
        self.minimum = {"demo": defaults.demo.minimum, "production": defaults.production.minimum}

    def names(self) -> list[str]:
        return sorted(self._backends)

    def of(self, name: str) -> TrainingBackend:
        """Raises Permanent for a backend that there is not."""
        if name not in self._backends:
            raise Permanent(f"there is no training backend {name!r}; there are {listed(self._backends)}")
        return self._backends[name]

    def counter(self, base_model: str | None, revision: str | None) -> Counter | None:
        """Counts tokens as a base model does (None = the environment's); None where its tokenizer cannot be had."""
        return self._tokens.counter(base_model or self._base_model, revision) if self._tokens else None

    def working(self) -> list[str]:
        """Handles of the trainings that are processes of this machine and live now."""
        return [handle for local in self._here() for handle in local.processes.alive()]

    def stop_all(self) -> None:
        """Asks each of those to end; it writes a checkpoint first."""
        for local in self._here():
            local.processes.stop(local.processes.alive())

    def _here(self) -> list[LocalTraining]:
        return [each for each in self._backends.values() if isinstance(each, LocalTraining)]


def program() -> Path:
    """The one training program."""
    return Path(programs.__file__).parent / "train.py"


def hub_of(settings: Settings) -> Hub:
    """Hugging Face of an environment: what its `huggingface` says, else the vendor's own address and the token of this process."""
    return huggingface.connect(settings.spec.huggingface, settings.data)


def connect(settings: Settings) -> Backends:
    """Calls nobody."""
    defaults = settings.spec.training
    hub = functools.cache(lambda: hub_of(settings))
    local = LocalTraining(settings.data / "training", program(), python=defaults.python or "", token=defaults.token, hub=hub)
    jobs = HubTraining(hub, lambda: program().read_text(), fallback(defaults), token=defaults.token)
    tokens = Tokens(settings.data / "training" / "tokenizers", hub)
    return Backends({"local": local, "hf_jobs": jobs}, defaults, tokens)


def fallback(defaults: TrainingDefaults) -> Prices:
    """Dated prices of an environment; the oldest date counts for all."""
    rows = {name: Hardware(each.usd_per_hour, each.gpu, each.gpus) for name, each in defaults.prices.items()}
    return Prices(min((each.as_of for each in defaults.prices.values()), default=""), False, rows)
