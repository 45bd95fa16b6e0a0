"""Starts runs with faults under torchrun, and sees to it that no process of them is left."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [f"--max-restarts={restarts}", str(HERE / "worker.py"), faults, *arguments]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE.parent))),
        "TORCH_EXTENSIONS_DIR": str(out.with_name("extensions")),
    }
    environment.pop("DS_ACCELERATOR", None)  # the engine sets it
    number = len(list(out.parent.glob(f"{out.name}.*.output")))
    path = out.with_name(f"{out.name}.{number}.output")
    begin = time.monotonic()
    with path.open("w") as log:
        # torchrun's workers are in groups of their own, so that only it can end them.
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
        try:
            code = process.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
            raise AssertionError(f"hung: {path.read_text()[-6000:]}") from None
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
