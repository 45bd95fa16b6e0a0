"""Cases of engine_cases.py, or of a script like it, under torchrun."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SECONDS = 240


def launch(folder: Path, processes: int, cases: list[str], script: str = "engine_cases.py") -> dict[str, Any]:
    """The results of cases; torchrun's workers are in groups of their own, so that only it can end them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE.parent))),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
    }
    environment.pop("DS_ACCELERATOR", None)  # the engine sets it
    with (folder / f"log{processes}.txt").open("w+") as log:
        process = subprocess.Popen(
            [*command, str(HERE / script), str(folder), *cases],
            env=environment,
            stdout=log,
            stderr=log,
            process_group=0,
        )
        try:
            code = process.wait(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
            code = None
        log.seek(0)
        text = log.read()
    assert code == 0, text[-4000:]
    results: dict[str, Any] = json.loads((folder / f"results{processes}.json").read_text())
    assert list(results) == cases, text[-4000:]
    return results
