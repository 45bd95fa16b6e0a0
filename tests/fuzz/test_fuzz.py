"""Thousands of damaged inputs through every front door: each is refused in a line or read rightly."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import DOORS
from tests.fuzz.forked import FAULTS, attempt, is_clear
from unified.core.errors import UserError

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("door", [door.name for door in DOORS])
def test_no_input_ends_in_a_fault(door: str) -> None:
    """In a process of its own: threads that other tests left would be in every child."""
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", door], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-20_000:]}"


def test_five_thousand_inputs_are_tried() -> None:
    assert sum(door.inputs for door in DOORS) >= 5_000


def _raise(error: BaseException) -> bool:
    raise error


@pytest.mark.parametrize(
    ("enter", "kind"),
    [
        (lambda: True, "right"),
        (lambda: False, "silent"),
        (lambda: _raise(UserError("a.yaml: seed: expected int, got 'x'")), "clear"),
        (lambda: _raise(SystemExit("error: a.yaml: expected a mapping, got a list")), "clear"),
        (lambda: _raise(UserError("wrong")), "unclear"),
        (lambda: _raise(UserError("a: got <class 'int'>")), "unclear"),
        (lambda: _raise(SystemExit(2)), "unclear"),
        (lambda: _raise(KeyError("a")), "traceback"),
        (lambda: bool(bytearray(3 << 30).count(1)), "memory"),
    ],
)
def test_outcomes_are_told_apart(enter: object, kind: str, tmp_path: Path) -> None:
    assert attempt(enter, tmp_path / "printed").kind == kind  # type: ignore[arg-type]
    assert kind in (*FAULTS, "right", "clear")


@pytest.mark.parametrize("message", ["", "None", "a: \x1b[31m", "a: PosixPath('b')", "a: b\n" * 100])
def test_what_is_no_clear_line(message: str) -> None:
    assert not is_clear(message)
