"""`benchmarks/gpu.sh` itself, as small as it can be, on a CPU; and what its parts say of numbers that are wrong."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.sections import SECTIONS

ROOT = Path(__file__).parents[2]


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        ROOT / "benchmarks" / "gpu.sh",
        "--bundle",
        tmp_path / "none",
        "--out",
        tmp_path / "gpu.json",
        *arguments,
    ]
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run(list(map(str, command)), env=environment, cwd=tmp_path, capture_output=True, text=True)


@pytest.mark.slow
def test_every_section_gives_numbers_on_a_cpu(tmp_path: Path) -> None:
    done = run(tmp_path, "--device", "cpu", "--tiny")
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["section"], row["part"]) for row in rows] == [(s.name, part) for s in SECTIONS for part in s.parts]
    assert {row["status"] for row in rows} == {"ok"}, done.stdout + done.stderr
    assert done.returncode == 0
    for row in rows:
        numbers = [value for value in row["numbers"].values() if isinstance(value, int | float)]
        assert numbers, row
        assert all(map(math.isfinite, numbers)), row
        assert row["machine"]["torch"], row
        assert f"| {row['section']:<10} | {row['part']:<14} | ok " in done.stdout
    by_part = {(row["section"], row["part"]): row["numbers"] for row in rows}
    for name in ("dense", "attribute", "token"):
        assert len(by_part["steps", name]["kernels"]) == 10
        assert 0.5 < by_part["memory", name]["peak / estimate"] < 2.0
    assert (tmp_path / "gpu.md").read_text().strip() in done.stdout
    assert "steps, token: most time in" in done.stdout


def test_a_machine_without_a_gpu_says_so_in_a_line(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("cuda cannot be used: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()
