"""What the machine is and what can be imported on it, as one line of JSON; the first thing that `gpu.sh` asks."""

import importlib
import json
import os
import platform
import subprocess
import sys
from typing import Any

from benchmarks.gpu.sections import SECTIONS


def imports() -> dict[str, str]:
    """Modules that some section needs and that cannot be imported, with the reason in a line."""
    found = {}
    for name in dict.fromkeys(name for section in SECTIONS for name in section.needs):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  # a broken package may raise anything
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def machine(device: str) -> dict[str, Any]:
    """Names and versions that belong to every number."""
    import torch

    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if device == "cpu":
        return found
    torch.cuda.init()  # raises torch's reason where there is none
    about = torch.cuda.get_device_properties(0)
    return found | {
        "device": about.name,
        "memory GiB": round(about.total_memory / 2**30, 1),
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
        "driver": _driver(),
        "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
    }


def _driver() -> str:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"


def main() -> None:
    """Print both, or why the device cannot be used."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        found: dict[str, Any] = {"machine": machine(sys.argv[1]), "lacking": imports()}
    except Exception as error:  # noqa: BLE001  # a driver or build that does not fit may raise anything
        found = {"reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
