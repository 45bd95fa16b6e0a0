"""Cases of engine_cases.py, or of a script like it, under torchrun."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torchrun import torchrun

HERE = Path(__file__).parent
SECONDS = 600  # two launches may run beside each other, on as few cores as one needs


def launch(folder: Path, processes: int, cases: list[str], script: str = "engine_cases.py") -> dict[str, Any]:
    """The results of cases."""
    log = folder / f"log{processes}.txt"
    code = torchrun([str(HERE / script), str(folder), *cases], log, processes, SECONDS)
    text = log.read_text()
    assert code == 0, text[-4000:]
    results: dict[str, Any] = json.loads((folder / f"results{processes}.json").read_text())
    assert list(results) == cases, text[-4000:]
    return results


def resumed(results: Mapping[int, Mapping[str, Any]]) -> set[tuple[int, str, str]]:
    """(processes, case, checkpoint) of all runs that went on, after seeing to it that they went on as one that was not
    ended: bit for bit from a checkpoint of their own, and within 1e-5 from those of others."""
    sources = set()
    for processes, cases in results.items():
        for case in (case for case in cases if case.endswith("resumed")):
            found = cases[case]
            assert found["differ"] == [], f"{case} on {processes} does not go on bit for bit"
            for source, losses in found["from"].items():
                sources.add((processes, case, source))
                for own, right in zip(losses, found["whole"][3:], strict=True):
                    assert own == pytest.approx(right, abs=1e-5), (case, processes, source)
    return sources
