"""Benchmarks import what lies beside them, and compile before they measure."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _compiled():
    import cnnlive  # noqa: PLC0415 - after the path is set

    cnnlive.warm_up()
