"""What the programs of `controller/programs` need to be tried for real: a Python that has their packages."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "training: needs the packages of a program, in the Python that TURNOUT_TRAINING_PYTHON names"
    )
