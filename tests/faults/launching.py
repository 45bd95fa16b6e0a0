"""Starts runs with faults under torchrun, and sees to it that no process of them is left."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from torchrun import torchrun

HERE = Path(__file__).parent
SECONDS = 400
"""The longest that a launch may take; then it counts as hung."""


@dataclass(frozen=True)
class Ended:
    """How a launch ended."""

    code: int
    output: str  # of all its processes
    seconds: float


def launch(faults: str, *arguments: str, out: Path, processes: int = 2, restarts: int = 0) -> Ended:
    """Run `worker.py` with torchrun until it ends; workers that outlive torchrun fail the test, and are ended."""
    number = len(list(out.parent.glob(f"{out.name}.*.output")))
    path = out.with_name(f"{out.name}.{number}.output")
    begin = time.monotonic()
    script = [f"--max-restarts={restarts}", str(HERE / "worker.py"), faults, *arguments]
    code = torchrun(script, path, processes, SECONDS)
    assert code is not None, f"hung: {path.read_text()[-6000:]}"
    seconds = time.monotonic() - begin
    left = _left(out)
    for orphan in left:
        os.kill(orphan, signal.SIGKILL)
    assert not left, f"processes are left: {left}\n{path.read_text()[-4000:]}"
    return Ended(code, path.read_text(), seconds)


def _left(out: Path) -> list[int]:
    """Processes of a run some seconds after torchrun has ended: loader processes look for their parent every five."""
    limit = time.monotonic() + 12
    while (found := _of(out)) and time.monotonic() < limit:
        time.sleep(0.2)
    return found


def _of(out: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if str(out).encode() in words and str(HERE / "worker.py").encode() in words:
            found.append(int(path.parent.name))
    return found
