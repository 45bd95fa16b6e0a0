"""A process that hangs ends by itself and says where, whatever the thread that trains is stuck in."""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tiny import tiny_recipe

from unified.train.engines.accelerator import collective_timeout
from unified.train.faults.watchdog import STATUS, Watchdog

LIMIT = 60
"""Seconds after which a child of these tests ends without a watchdog."""


def test_collectives_wait_longer_than_the_watchdog(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    for seconds, least in ((7.0, timedelta(seconds=60)), (None, timedelta(days=30))):
        patient = replace(recipe, train=replace(recipe.train, hang_seconds=seconds))
        assert collective_timeout(patient) > least


def child(run: Callable[[], None], folder: Path) -> tuple[int, str]:
    """The exit status of a forked process that runs `run`, and what it wrote to standard error."""
    number = os.fork()
    if number == 0:
        errors = os.open(folder / "errors.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(errors, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        run()
        os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), (folder / "errors.txt").read_text()


def busy(seconds: float) -> None:
    """Python that never waits."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def in_c() -> None:
    """C code that lets other threads run, as the collectives of torch do."""
    ctypes.CDLL(None).sleep(LIMIT)


def holding_the_lock() -> None:
    """C code that keeps the lock of the interpreter, so that no other thread of Python runs."""
    time.sleep(0.3)  # the watchdog has looked once
    ctypes.PyDLL(None).sleep(LIMIT)


@pytest.mark.parametrize("hang", [lambda: busy(LIMIT), in_c])
def test_a_hang_is_told_with_rank_step_tasks_phase_and_stacks(tmp_path: Path, hang: Callable[[], None]) -> None:
    (tmp_path / "log.txt").write_text("before\n")

    def run() -> None:
        with Watchdog(0.4, tmp_path / "log.txt", grace=0.1) as watchdog:
            watchdog.begin(12)
            watchdog.has(["caption", "next"])
            watchdog.enter("forward")
            hang()

    status, errors = child(run, tmp_path)
    assert status == STATUS
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("before\n")
    for text in (errors, log):
        assert "rank 0" in text
        assert "no progress for 0.4 s (train.hang_seconds) in step 12, tasks caption, next, phase: forward." in text
        assert "(most recent call first)" in text
        assert f'"{__file__}", line' in text


def test_a_thread_that_keeps_the_lock_of_the_interpreter_is_ended_too(tmp_path: Path) -> None:
    def run() -> None:
        with Watchdog(0.4, tmp_path / "log.txt", grace=0.1):
            holding_the_lock()

    status, errors = child(run, tmp_path)
    assert status == 1
    assert "in holding_the_lock" in errors


def test_an_unwritable_log_does_not_keep_a_hanging_process_alive(tmp_path: Path) -> None:
    def run() -> None:
        with Watchdog(0.2, tmp_path / "absent" / "log.txt", grace=0.1):
            in_c()

    status, errors = child(run, tmp_path)
    assert status == STATUS
    assert "phase: starting" in errors


def test_progress_and_the_end_of_training_keep_it_quiet(tmp_path: Path) -> None:
    def run() -> None:
        with Watchdog(0.4, tmp_path / "log.txt", grace=0.0) as watchdog:
            for step in range(1, 9):
                watchdog.begin(step)
                time.sleep(0.1)
                watchdog.enter("forward")
                time.sleep(0.1)
        time.sleep(0.8)
        with Watchdog(None, tmp_path / "log.txt", grace=0.0):
            time.sleep(0.5)

    assert child(run, tmp_path) == (9, "")
    assert not (tmp_path / "log.txt").exists()
