"""The table of a generalist says what its results files say."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.generalist import main, table
from unified.core.errors import DataError
from unified.evaluate.table import MAIN

pytestmark = pytest.mark.slow


def entry(name: str, features: str, protocol: str, value: float, low: float, high: float, *of: float) -> dict[str, Any]:
    """With `of`, the scores of four pictures."""
    metric = MAIN[protocol]
    return {
        "dataset": name, "protocol": protocol, "features": features, "data_hash": "a", "metrics": {metric: value},
        "ci": {metric: {"low": low, "high": high, "n": 12, "clusters": None}}, "label": name, "task": name,
        "n": 12, "seeds": None, "notes": {},
        "items": {"keys": "four", "values": {metric: list(of)} if of else {}, "terms": {}, "clusters": None},
    }  # fmt: skip


RESULTS = {
    "format": 1,
    "keys": {"four": ["a", "b", "c", "d"], "none": []},
    "results": [
        entry("road", "model", "classes", 0.5, 0.45, 0.55),
        entry("road", "floor: most frequent at each place", "classes", 0.3, 0.2, 0.4),
        entry("road", "floor: nearest training picture", "classes", 0.44, 0.4, 0.48),
        entry("count", "model", "density", 3.0, 2.5, 3.5),
        entry("count", "floor: mean count", "density", 2.0, 1.5, 2.4),
        entry("sharpen", "model", "pixels", 20.0, 19.0, 21.0),
        entry("sharpen", "floor: input itself", "pixels", 17.0, 16.0, 18.0),
        entry("sharpen", "floor: mean at each place", "pixels", 12.0, 11.0, 13.0),
        {
            "dataset": "words",
            "protocol": "zero-shot",
            "features": "model",
            "label": "words",
            "task": "",
            "n": 0,
            "metrics": {},
            "ci": {},
            "notes": {},
            "data_hash": "a",
            "items": {"keys": "none", "values": {}, "terms": {}, "clusters": None},
        },
    ],
}


def cells(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines()]


def test_each_task_is_set_against_its_best_floor_the_nearest_picture_and_its_specialist() -> None:
    head, _, road, count, sharpen = cells(table(RESULTS, {"road": entry("road", "model", "classes", 0.6, 0.5, 0.7)}))
    assert head[3:7] == ["generalist", "floor", "nearest training picture", "specialist"]
    assert road[:4] == ["`road`", "12", "mean IoU →", "50.0 [45.0, 55.0]"]
    assert road[4:7] == ["30.0 [20.0, 40.0], most frequent at each place", "44.0 [40.0, 48.0]", "60.0 [50.0, 70.0]"]
    assert road[7:] == ["better", "intervals overlap", "intervals overlap"]
    assert count[2:4] == ["mean error of the count ←", "3.00 [2.50, 3.50]"]
    assert count[5:] == ["–", "–", "worse", "–", "–"]
    assert sharpen[4] == "17.0 [16.0, 18.0], input itself"
    assert sharpen[7] == "better"


def test_pictures_that_have_scores_are_compared_one_by_one() -> None:
    pictures = ("density", 4.0, 1.0, 7.0)
    rows = [
        entry("count", "model", *pictures, 1.0, 3.0, 5.0, 7.5),
        entry("count", "floor: mean count", *pictures, 3.0, 5.1, 7.0, 9.4),
        entry("count", "floor: nearest training picture", *pictures, -1.0, 1.1, 3.0, 5.4),
        entry("count", "model", *pictures, 0.0, 9.0, 1.0, 6.0),
    ]
    found = cells(table({"results": rows[:3]}, {"count": rows[3]}))[2]
    assert found[7:] == ["better by 2.00 [1.87, 2.13]", "worse by 2.00 [1.87, 2.13]", "not told apart"]


def test_one_picture_is_no_ground_for_better_or_worse() -> None:
    one = ("density", 4.0, 1.0, 7.0)
    rows = [entry("count", "model", *one, 1.0), entry("count", "floor: mean count", *one, 3.0)]
    rows += [entry("road", "model", "classes", 0.5, 0.4, 0.6), entry("road", "floor: mean", "classes", 0.3, 0.2, 0.4)]
    for row in rows:
        row["ci"] = {name: {**known, "low": None, "high": None, "n": 1} for name, known in row["ci"].items()}
    _, _, count, road = cells(table({"results": rows}))
    assert count[3] == "4.00"
    assert count[6] == road[6] == "one item: no interval"


def test_a_specialist_of_other_data_is_refused() -> None:
    other = {**entry("road", "model", "classes", 0.6, 0.5, 0.7), "data_hash": "b"}
    with pytest.raises(DataError, match="road: the specialist was scored on other data"):
        table(RESULTS, {"road": other})


def test_the_command_reads_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "specialists" / "road").mkdir(parents=True)
    (tmp_path / "specialists" / "road" / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "specialists" / "unfinished").mkdir()
    main([str(tmp_path / "results.json"), "--specialists", str(tmp_path / "specialists")])
    assert cells(capsys.readouterr().out)[2][6] == "50.0 [45.0, 55.0]"
    with pytest.raises(SystemExit, match="not a results file"):
        main([str(tmp_path / "nothing.json")])
