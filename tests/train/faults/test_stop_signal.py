"""The first signal ends a run after its step, the second Ctrl-C at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from unified.train.faults.stop_signal import StopRequest

RUN = """
import os, signal, sys, time
from pathlib import Path
from unified.train.faults.stop_signal import StopRequest
with StopRequest() as stop:
    for step in range(200):
        print("step", step, flush=True)
        end = time.monotonic() + 0.1
        while time.monotonic() < end:  # a step that nothing may cut short
            pass
        Path(sys.argv[1]).write_text(str(step))
        if stop.agreed():
            print("saved", step, flush=True)
            sys.exit(0)
"""


@pytest.fixture
def run(tmp_path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", RUN, str(tmp_path / "done")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "step 0\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_finishes_the_step_and_exits_with_zero(
    number: signal.Signals, run: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    run.send_signal(number)
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 0
    assert output.splitlines()[-1] == f"saved {(tmp_path / 'done').read_text()}"
    assert "press Ctrl-C again" in errors


def test_second_interrupt_stops_at_once(run: "subprocess.Popen[str]", tmp_path: Path) -> None:
    run.send_signal(signal.SIGINT)
    assert run.stderr
    while "Ctrl-C" not in run.stderr.readline():
        pass
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=60)
    assert run.returncode in (-signal.SIGINT, 130, 1)
    assert "KeyboardInterrupt" in errors
    assert "saved" not in output


def test_a_second_sigterm_changes_nothing() -> None:
    with StopRequest() as stop:
        assert not stop.agreed()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed()


def test_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


WORKER = """
import os, signal
from unified.train.faults.stop_signal import StopRequest
with StopRequest() as stop:
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(7 if not stop.requested else 8)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_forked_workers_ignore_ctrl_c_and_obey_sigterm() -> None:
    output = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    assert output.stdout.split() == ["7", "143"]
    assert output.stderr == ""
