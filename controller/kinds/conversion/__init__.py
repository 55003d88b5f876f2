"""Conversion: a run that turns a model into GGUF files that were loaded and have generated, and pays for it once."""

from typing import Any

from controller.kind import Clients, Kind, Provider
from controller.kinds.conversion.plan import plan, references
from controller.kinds.conversion.spec import ConversionSpec, ConversionState


def _provider(clients: Clients) -> Provider[Any, Any]:
    from controller.kinds.conversion.provider import ConversionProvider

    return ConversionProvider(clients)


KIND: Kind[ConversionSpec, ConversionState] = Kind(
    name="Conversion",
    plural="conversions",
    spec=ConversionSpec,
    state=ConversionState,
    plan=plan,
    references=references,
    provider=_provider,
    once=True,
    summary="Turns a model into GGUF files: quantized, loaded, asked, with their checksums; one job for one intent.",
)
