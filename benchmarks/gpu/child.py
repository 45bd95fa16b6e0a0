"""A section in a process of its own: it writes a row of JSON a part to its output as soon as that is done.

A part that fails ends the process, as an error of the device leaves nothing to go on with; the runner starts another
one for the parts that are left.
"""

import argparse
import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

BEFORE = 2.0
"""Seconds before the limit at which all threads say where they are."""


def main() -> None:
    """Measure the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section")
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--shards", type=Path)
    told = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as out, TemporaryDirectory() as folder:
        os.dup2(2, 1)  # what libraries print is no row
        faulthandler.dump_traceback_later(max(told.seconds - BEFORE, 1.0))
        for part in told.parts:
            row = measured(told, part, Path(folder))
            print(json.dumps(row), file=out, flush=True)
            if "traceback" in row:
                sys.exit(1)


def measured(told: argparse.Namespace, part: str, folder: Path) -> dict[str, Any]:
    """The row of a part, whatever becomes of it."""
    begin = time.perf_counter()
    try:
        row = _numbers(told, part, folder)
    except Exception:  # noqa: BLE001  # a section may fail in any way, and that is what its row says
        row = {"status": "failed", "traceback": traceback.format_exc()}
    return {"part": part, "seconds": round(time.perf_counter() - begin, 2), **row}


def _numbers(told: argparse.Namespace, part: str, folder: Path) -> dict[str, Any]:
    import torch

    from benchmarks.gpu.setting import MissedError, Setting, SkippedError

    setting = Setting(torch.device(told.device), told.tiny, folder, told.shards)
    measure = importlib.import_module(f"benchmarks.gpu.{told.section}").measure
    try:
        return {"status": "ok", "numbers": measure(part, setting)}
    except SkippedError as error:
        return {"status": "skipped", "reason": str(error)}
    except MissedError as error:
        return {"status": "missed", "reason": str(error), "numbers": error.numbers}


if __name__ == "__main__":
    main()
