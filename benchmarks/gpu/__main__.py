"""What `benchmarks/gpu.sh` runs: preflight, all sections, results and their table. Standard library alone."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.gpu.bundle import FOLDER, ROOT, unpack
from benchmarks.gpu.report import table
from benchmarks.gpu.runner import Row, Runner
from benchmarks.gpu.sections import NAMES, SECTIONS, Section

SECONDS = 540.0
"""Limit of all sections together; what no longer fits is left out."""
PATIENCE = {"cuda": 1.0, "cpu": 10.0}
"""Factor of all limits: a CPU is for trying the script, slow at that, and not lent by the minute."""
PREFLIGHT = 90.0
BAD = ("failed", "missed")


class Results:
    """The file of results, written anew with each row, so that it is whole whenever the machine is taken away."""

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        self.path, self.machine, self.rows = path, machine, list[Row]()

    def add(self, row: Row) -> None:
        """Keep a row, write all and say that it is there."""
        self.rows.append({**row, "machine": self.machine})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows) + "\n]\n")
        part.replace(self.path)
        print(f"{row['section']:<12} {row['part']:<16} {row['status']:<8} {row.get('seconds', '')}", flush=True)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does in seconds: is the script right?")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="SECTION", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, help="file of results (default: benchmarks/results/gpu-DATE.json)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of all on a GPU (default: %(default)s)")
    parser.add_argument(
        "--bundle", type=Path, default=FOLDER, help="folder of `make gpu-bundle` (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def environment(device: str, packages: Path, temporary: Path) -> dict[str, str]:
    """Of every process: the checkout and the bundle before what is installed, and no network."""
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(packages), os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TMPDIR": str(temporary),
        "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor"),
    }
    return found | ({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if device == "cpu" else {})


def main() -> None:
    """Run the sections; ends with 1 where one failed, and with 2 where the device cannot be used."""
    told, begin = parsed(sys.argv[1:]), time.monotonic()
    out = told.out or ROOT / "benchmarks" / "results" / f"gpu-{time.strftime('%Y-%m-%d')}.json"
    with TemporaryDirectory() as temporary:
        packages, shards = unpack(told.bundle, Path(temporary))
        surroundings = environment(told.device, packages, Path(temporary))
        found = preflight(told.device, surroundings)
        if "machine" not in found:
            print(f"{told.device} cannot be used: {found['reason']}", file=sys.stderr)
            sys.exit(2)
        for name, reason in found["lacking"].items():
            print(f"cannot import {name}: {reason}")
        results = Results(out, found["machine"])
        given = ["--device", told.device, *(["--tiny"] if told.tiny else [])]
        given += ["--shards", str(shards)] if shards is not None else []

        def command(section: Section, parts: Sequence[str], seconds: float) -> list[str]:
            this = [sys.executable, "-m", "benchmarks.gpu.child", section.name, *parts]
            return [*this, "--seconds", str(seconds), *given]

        factor = PATIENCE[told.device]
        chosen = [replace(one, seconds=factor * one.seconds) for one in SECTIONS if one.name in told.only]
        Runner(command, results.add, surroundings).run(chosen, found["lacking"], begin + factor * told.seconds)
    text = table(results.rows)
    out.with_suffix(".md").write_text(text + "\n")
    print(f"\n{text}\n\n{time.monotonic() - begin:.0f} s; results in {out}")
    sys.exit(1 if any(row["status"] in BAD for row in results.rows) else 0)


def preflight(device: str, surroundings: Mapping[str, str]) -> dict[str, Any]:
    """What `benchmarks.gpu.preflight` finds."""
    command = [sys.executable, "-m", "benchmarks.gpu.preflight", device]
    try:
        done = subprocess.run(
            command, env=dict(surroundings), capture_output=True, text=True, timeout=PATIENCE[device] * PREFLIGHT
        )
        return json.loads(done.stdout)  # type: ignore[no-any-return]
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return {"reason": f"the preflight did not end well ({error})"}


if __name__ == "__main__":
    main()
