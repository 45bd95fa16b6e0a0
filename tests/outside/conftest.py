"""The package `outside`, as pip would install it: on the path, with the entry points of its distribution."""

import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
import outside.number  # noqa: E402 - the modules of tests import them before any fixture runs
import outside.series  # noqa: E402, F401

sys.path.remove(HERE)  # other tests know nothing of it


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
