"""`train.py` that says at its end how many threads of gloo are left, as one of them would abort it now and then."""

import atexit
import os
import sys
from pathlib import Path

from unified.cli.train import train


def tell() -> None:
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    sys.stderr.write(f"rank {os.environ['RANK']} ends with {names.count('pt_gloo_runloop')} threads of gloo\n")


if __name__ == "__main__":
    atexit.register(tell)  # runs last, as it is registered first

    train()
