"""torch.compile and torch.export see whole models; each check is a process of its own (see `compiled.py`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed
HERE = Path(__file__).parent.parent
WHOLE = ("dense", "attribute", "folded")


def wrong(*arguments: str) -> str:
    """What a check says of what differs; nothing where all is as it should be."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "compiled.py"), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr[-4000:] or f"exit {done.returncode}"


def test_models_are_compiled_as_one_graph_forward_and_backward() -> None:
    assert wrong("compile", *WHOLE) == ""


def test_models_are_exported_with_any_number_of_samples() -> None:
    assert wrong("export", *WHOLE) == ""


@pytest.mark.slow
def test_inductor_compiles_whole_models_forward_and_backward() -> None:
    assert wrong("inductor", *WHOLE) == ""


@pytest.mark.slow
@pytest.mark.parametrize("router", ["token", "context", "task", "modality", "hash"])
def test_models_of_other_routers_compile(router: str) -> None:
    assert wrong("compile", router) == ""
