"""The door `conversions`: where models become GGUF files, and where those files are fetched from.

It is opened with the settings of trainings (`training` of the environment), because a conversion runs in the same Python, under
the same token and into repositories of the same organisation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller import programs
from controller.clients.conversions.backend import ConversionBackend
from controller.clients.conversions.downloads import Told, fetch
from controller.clients.conversions.hf_jobs import HubConversions
from controller.clients.conversions.local import LocalConversions
from controller.clients.huggingface import Hub
from controller.clients.runs import Hardware, Prices
from controller.clients.training import fallback, hub_of
from controller.clients.training import program as training_program
from controller.clients.training.local import LocalTraining
from controller.environment import TrainingDefaults
from controller.errors import Permanent, listed
from controller.settings import Settings

__all__ = ["Conversions", "connect", "program", "script"]

PRICES = {"cpu-basic": 0.01, "cpu-upgrade": 0.03, "cpu-xl": 1.00, "cpu-performance": 1.90}
"""USD an hour of Hugging Face's CPU jobs, as listed on `PRICES_AS_OF`; for where the list cannot be read."""
PRICES_AS_OF = "2026-11-01"


class Conversions:
    """Backends by name; what a source is before anything starts; the files when it is over."""

    def __init__(self, backends: Mapping[str, ConversionBackend], default: str, hub: Callable[[], Hub]) -> None:
        self._backends, self.default, self._hub = backends, default, hub

    def names(self) -> list[str]:
        return sorted(self._backends)

    def of(self, name: str) -> ConversionBackend:
        """Raises Permanent for a backend that there is not."""
        if name not in self._backends:
            raise Permanent(f"there is no conversion backend {name!r}; there are {listed(self._backends)}")
        return self._backends[name]

    def source(self, repo: str, revision: str) -> dict[str, Any]:
        """A model of the Hub: commit and bytes of its weights. Raises Temporary; Permanent when it cannot be converted."""
        repositories = self._hub().repositories
        commit = repositories.revision(repo, revision)
        if commit is None:
            raise Permanent(f"{repo} at {revision} is not on the Hub, or hidden from this token")
        files = {each.name: each.size for each in repositories.files(repo, commit) if "/" not in each.name}
        weights = sum(size for name, size in files.items() if name.endswith(".safetensors"))
        if "config.json" not in files or not weights:
            lacking = "safetensors files" if "config.json" in files else "config.json"
            raise Permanent(f"{repo} at {commit[:10]} has no {lacking} at its top; found {listed(files)}")
        return {"repo": repo, "revision": commit, "bytes": weights}

    def download(self, state: Mapping[str, Any], quantization: str, to: Path, told: Told) -> Path:
        """One file of a finished conversion (its state), checked by the sha256 that its events have.

        Raises Temporary (what has arrived is kept, the next call goes on), Permanent.
        """
        found = next((each for each in state["files"] if each["quantization"] == quantization), None)
        if found is None:
            made = [each["quantization"] for each in state["files"]]
            raise Permanent(f"it has no {quantization}; there are {listed(made)}")
        return fetch(found, to, self._near(state), self._hub, state["repo"], state["revision"], told)

    def _near(self, state: Mapping[str, Any]) -> Path | None:
        """The folder on this machine, where it was made here."""
        for local in self._here():
            if state["backend"] == "local" and state["job"].partition(":")[0] == local.processes.machine:
                return local.output(state["job"])
        return None

    # -- work of this machine ----------------------------------------------------------------------------------------

    def working(self) -> list[str]:
        """Handles of the conversions that are processes of this machine and live now."""
        return [handle for local in self._here() for handle in local.processes.alive()]

    def stop_all(self) -> None:
        """Asks each of those to end; what is whole stays."""
        for local in self._here():
            local.processes.stop(local.processes.alive())

    def _here(self) -> list[LocalConversions]:
        return [each for each in self._backends.values() if isinstance(each, LocalConversions)]


def program() -> Path:
    """The conversion program; its neighbours lie beside it."""
    return Path(programs.__file__).parent / "convert.py"


def script() -> str:
    """The same as one file, for a job."""
    return programs.together(program(), *(program().with_name(f"{name}.py") for name in ("gguf_steps", "hub_files")))


def connect(settings: Settings) -> Conversions:
    """Calls nobody."""
    defaults = settings.spec.training
    hub = functools.cache(lambda: hub_of(settings))
    trained = LocalTraining(settings.data / "training", training_program(), hub=hub)
    local = LocalConversions(
        settings.data / "conversions",
        program(),
        python=defaults.python or "",
        token=defaults.token,
        hub=hub,
        artefact=trained.artefact,
    )
    jobs = HubConversions(hub, script, dated_prices(defaults), token=defaults.token)
    return Conversions({"local": local, "hf_jobs": jobs}, defaults.backend, hub)


def dated_prices(defaults: TrainingDefaults) -> Prices:
    """Of CPUs, and what the environment says; the oldest date counts for all."""
    said = fallback(defaults)
    rows = {name: Hardware(usd) for name, usd in PRICES.items()} | dict(said.hardware)
    return Prices(min(filter(None, (PRICES_AS_OF, said.as_of))), False, rows)
