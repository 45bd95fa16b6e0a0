"""Sections of `benchmarks/gpu.sh` fail, crash, hang and run out of time, and the others still have their rows."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.__main__ import Results, environment
from benchmarks.gpu.bundle import fits
from benchmarks.gpu.report import aims, shown, table
from benchmarks.gpu.runner import Row, Runner
from benchmarks.gpu.sections import Section

PARTS = {
    "right": "row(part, status='ok', numbers={'x': 1.5})",
    "raises": "row(part, status='failed', traceback='boom'); sys.exit(1)",
    "crashes": "print('last words', file=sys.stderr, flush=True); os.abort()",
    "hangs": "print('waiting here', file=sys.stderr, flush=True); time.sleep(60)",
    "starts no more": "sys.exit(1)",
}
"""What a process of the section does about a part of this name."""
PROCESS = f"""
import json, os, sys, time
def row(part, **about): print(json.dumps({{"part": part, "seconds": 0.1, **about}}), flush=True)
for part in sys.argv[1:]: exec({PARTS!r}[part])
"""


def rows_of(*sections: Section, lacking: dict[str, str] | None = None, seconds: float = 60.0) -> list[Row]:
    found: list[Row] = []

    def command(_section: Section, parts: Sequence[str], _seconds: float) -> list[str]:
        return [sys.executable, "-c", PROCESS, *parts]

    runner = Runner(command, found.append, {}, least=0.5)
    runner.run(sections, lacking or {}, time.monotonic() + seconds)
    return found


def section(*parts: str, seconds: float = 30.0, needs: tuple[str, ...] = ()) -> Section:
    return Section("a", "about", parts, seconds, needs)


def test_a_part_that_raises_is_a_row_and_the_others_still_run() -> None:
    found = rows_of(section("raises", "right"))
    assert [(row["part"], row["status"]) for row in found] == [("raises", "failed"), ("right", "ok")]
    assert found[0]["traceback"] == "boom"
    assert found[1]["numbers"] == {"x": 1.5}


def test_a_process_that_dies_is_a_row_with_its_last_words() -> None:
    found = rows_of(section("right", "crashes", "right"))
    assert [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert "code -6" in found[1]["reason"]
    assert "last words" in found[1]["traceback"]


def test_a_process_that_cannot_start_is_a_row_and_is_not_started_for_ever() -> None:
    found = rows_of(section("starts no more", "right"))
    assert [row["status"] for row in found] == ["failed", "ok"]


def test_a_hang_ends_at_the_limit_of_its_section_and_costs_no_other() -> None:
    found = rows_of(section("hangs", "right", seconds=2.0), section("right"))
    assert [row["status"] for row in found] == ["failed", "left out", "ok"]
    assert "waiting here" in found[0]["traceback"]
    assert found[1]["reason"] == "time"
    assert found[0]["reason"] == "not done after 2 s"


def test_sections_that_no_longer_fit_are_left_out() -> None:
    found = rows_of(section("hangs"), section("right"), section("right"), seconds=2.0)
    assert [(row["status"], row.get("reason")) for row in found[1:]] == [("left out", "time")] * 2
    assert found[0]["status"] == "failed"


def test_a_section_that_lacks_a_module_says_which_and_why() -> None:
    found = rows_of(section("right", needs=("torch", "absent")), lacking={"absent": "No module named 'absent'"})
    assert [(row["status"], row["reason"]) for row in found] == [("skipped", "needs absent (No module named 'absent')")]


def test_the_file_of_results_is_whole_after_every_row(tmp_path: Path) -> None:
    results = Results(tmp_path / "deep" / "gpu.json", {"device": "made up"})
    for number in range(3):
        results.add({"section": "a", "part": str(number), "status": "ok", "seconds": 1.0})
        read = json.loads(results.path.read_text())
        assert [row["part"] for row in read] == [str(n) for n in range(number + 1)]
        assert read[-1]["machine"] == {"device": "made up"}


def test_the_table_has_a_line_a_row_and_shows_kernels_and_tracebacks() -> None:
    kernel = {"name": "gemm", "ms": 1.0, "share": 0.25, "calls": 3}
    numbers = {"ms": 12.345678, "kernels": [kernel]}
    rows = [
        {"section": "steps", "part": "dense", "status": "ok", "seconds": 2.0, "numbers": numbers},
        {"section": "zero", "part": "zero2", "status": "failed", "seconds": 1.0, "traceback": "at\nValueError: a | b"},
    ]  # fmt: skip
    text = table([{**row, "machine": {"device": "made up"}} for row in rows])
    assert "device made up" in text
    assert "| steps   | dense | ok     | 2.0 | ms 12.35 |" in text
    assert "ValueError: a / b |" in text
    assert "25.0%      1.000 ms      3×  gemm" in text
    assert "    ValueError: a | b" in text
    assert [shown(value) for value in (1234.5, None, {"a.py:3": 2}, {})] == ["1,234", "–", "a.py:3×2", "–"]


def test_aims_are_those_of_a_gpu_alone() -> None:
    numbers = {
        "dense": {"MFU": 0.5, "ms": 10.0},
        "attribute": {"MFU": 0.4, "ms": 12.0},
        "token": {"MFU": 0.4, "ms": 12.0},
    }
    rows = [
        {"section": "steps", "part": part, "status": "ok", "numbers": found, "machine": {"cuda": "13.0"}}
        for part, found in numbers.items()
    ]
    assert aims(rows).splitlines() == [
        "dense MFU: 0.500, aim >= 0.45, reached",
        "attribute / dense, ms: 1.200, aim <= 1.10, MISSED",
        "token / dense, ms: 1.200, aim <= 1.25, reached",
    ]
    assert aims([{**row, "machine": {}} for row in rows]) == ""


def test_wheels_fit_the_python_that_their_name_says() -> None:
    fitting = {
        "einops-0.8.2-py3-none-any.whl": True,
        "shellingham-1.5.4-py2.py3-none-any.whl": True,
        "pillow-13.0.0-cp312-cp312-manylinux_2_28_x86_64.whl": True,
        "pillow-13.0.0-cp311-cp311-manylinux_2_28_x86_64.whl": False,
        "tokenizers-0.23.3-cp310-abi3-manylinux_2_17_x86_64.whl": True,
        "later-1.0-cp313-abi3-manylinux_2_17_x86_64.whl": False,
        "older-1.0-py2-none-any.whl": False,
    }
    assert {name: fits(name, (3, 12)) for name in fitting} == fitting


def test_processes_see_the_checkout_and_the_bundle_before_what_is_installed(tmp_path: Path) -> None:
    found = environment("cpu", tmp_path / "packages", tmp_path)
    first, second = found["PYTHONPATH"].split(":")[:2]
    assert (Path(first) / "unified" / "__init__.py").is_file()
    assert second == str(tmp_path / "packages")
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert found["HF_HUB_OFFLINE"] == "1"
