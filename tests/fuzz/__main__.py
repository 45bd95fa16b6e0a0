"""Send damaged inputs through the front doors, and print what came of them: `python -m tests.fuzz --help`."""

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz.arguments import Arguments
from tests.fuzz.doors import Door
from tests.fuzz.forked import FAULTS, OUTCOMES, Outcome, attempt
from tests.fuzz.models import Models
from tests.fuzz.recipes import Recipes, Specs
from tests.fuzz.runs import Runs
from tests.fuzz.shards import Members, Shard
from tests.fuzz.sources import Sources
from unified.data.shards.write import progress

DOORS: list[type[Door]] = [Models, Shard, Members, Sources, Recipes, Specs, Runs, Arguments]


def main() -> int:
    """Try inputs; returns the status, 1 where one shows a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("doors", nargs="*", metavar="DOOR", help=f"of {', '.join(d.name for d in DOORS)}; default: all")
    parser.add_argument("--inputs", type=int, help="of each door; default: 5,000 and more in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one input, whose outcome is printed whole")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows, faults = [], 0
    for door in (kind() for kind in DOORS if not asked.doors or kind.name in asked.doors):
        numbers = range(asked.inputs or door.inputs) if asked.only is None else [asked.only]
        counts = _try(door, numbers, asked.seed, everything=asked.only is not None)
        rows.append([door.name, len(numbers), *(counts[kind] for kind in OUTCOMES)])
        faults += sum(counts[kind] for kind in FAULTS)
    totals = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    for row in (["", "inputs", *OUTCOMES], *rows, ["all", *totals]):
        print(f"{row[0]:10}", *(f"{cell:>9}" for cell in row[1:]))
    return int(faults > 0)


def _try(door: Door, numbers: range | list[int], seed: int, *, everything: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
        home = Path(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            door.prepare(home / "whole")
        for number in progress(numbers, len(numbers), door.name):
            draw = random.Random(f"{seed}/{door.name}/{number}")
            copy = home / f"input_{number}"
            shutil.copytree(home / "whole", copy, symlinks=True)
            what = door.damage(copy, draw)
            outcome = attempt(lambda copy=copy, draw=draw: door.enter(copy, draw), home / "printed")  # type: ignore[misc]
            shutil.rmtree(copy, ignore_errors=True)
            counts[outcome.kind] += 1
            if outcome.kind in FAULTS or everything:
                _tell(door, number, what, outcome, everything=everything)
    return counts


def _tell(door: Door, number: int, what: str, outcome: Outcome, *, everything: bool) -> None:
    told = outcome.told if everything else " / ".join(outcome.told.strip().splitlines()[-1:])[-300:]
    sys.stderr.write(f"{door.name} {number}: {outcome.kind} ({what!r}): {ascii(told) if not everything else told}\n")


if __name__ == "__main__":
    sys.exit(main())
