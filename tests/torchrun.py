"""Scripts under torchrun, which is ended where it hangs."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
GRACE = 40  # torchrun gives its workers 30


def torchrun(arguments: Sequence[str], log: Path, processes: int, seconds: float) -> int | None:
    """The status of `torchrun ARGUMENTS`, which writes to `log`; None where it took longer than `seconds`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS))),
        "TORCH_EXTENSIONS_DIR": str(log.parent / "extensions"),
    }
    environment.pop("DS_ACCELERATOR", None)  # the engine sets it
    with log.open("w") as file:
        # Its workers are in groups of their own, so that only torchrun can end them.
        process = subprocess.Popen([*command, *arguments], env=environment, stdout=file, stderr=file, process_group=0)
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            return None
