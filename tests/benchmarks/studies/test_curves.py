"""Learning curves show what records and results say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from squares import content, write_squares

from benchmarks.studies.curves import HELD_OUT, SEEN, TRAINING, WINDOW, averaged, main, metric_panels
from unified.config.recipe import Recipe
from unified.core.schema import build
from unified.evaluate.results import read_results
from unified.reports.run.read import Curve
from unified.train import loop

pytestmark = pytest.mark.slow

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def test_a_point_is_the_mean_of_the_records_of_the_steps_up_to_it() -> None:
    steps = np.array([1, 20, 40, WINDOW, WINDOW + 1, WINDOW + 20, 3 * WINDOW])
    curve = averaged(Curve(steps, np.array([1.0, 3.0, np.nan, 5.0, 7.0, 9.0, 2.0])))
    assert curve.steps.tolist() == [1, 20, WINDOW, WINDOW + 1, WINDOW + 20, 3 * WINDOW]
    assert curve.values.tolist() == [1, 2, 3, 5, 7, 2]


def entry(name: str, features: str, value: float) -> dict[str, Any]:
    interval = {"low": value - 0.1, "high": value + 0.1}
    return {
        "dataset": name, "protocol": "bins", "features": features, "metrics": {"delta1": value},
        "ci": {"delta1": interval},
    }  # fmt: skip


def test_a_panel_has_both_parts_by_step_and_the_floors_of_the_last_step() -> None:
    found = {
        step: {"results": [entry("depth", "model", step / 1000), entry(f"depth{SEEN}", "model", step / 500)]}
        for step in (200, 100)
    }
    found[200]["results"] += [
        entry("depth", "floor: mean at each place", 0.3),
        entry("depth", "floor: nearest training picture", 0.4),
    ]
    (panel,) = metric_panels(found)
    assert panel.title == "depth\nδ < 1.25 ↑"
    assert panel.lines[HELD_OUT].steps.tolist() == [100, 200]
    np.testing.assert_allclose(panel.lines[HELD_OUT].values, [10, 20])
    np.testing.assert_allclose(panel.lines[TRAINING].values, [20, 40])
    assert panel.levels == {"floor": 30, "nearest training picture": 40}
    assert panel.band is not None
    np.testing.assert_allclose(panel.band, [[0, 10], [20, 30]])


def has(path: Path, colour: tuple[int, int, int]) -> bool:
    with Image.open(path) as picture:
        return bool((np.asarray(picture.convert("RGB")) == colour).all(-1).any())


def test_each_checkpoint_is_evaluated_once_on_both_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = str(write_squares(tmp_path / "held out", 3) / "data")
    training = str(write_squares(tmp_path / "training", 8) / "data")
    run, out = tmp_path / "run", tmp_path / "curves.png"
    loop.run(build(Recipe, content(tmp_path / "training", "depth"), "squares.yaml"), run)
    spec = tmp_path / "spec.yaml"
    asked = {"kind": "dense", "task": "depth", "data": held_out, "floor": training}
    spec.write_text(yaml.safe_dump({"evaluations": {"depth": asked}}))
    arguments = [str(run), "--spec", str(spec), "--out", str(out), "--pictures", "5"]
    main(arguments)
    assert has(out, BLUE)
    assert has(out, ORANGE)
    first, last = (read_results(run / "curves" / f"step_0000000{step}.json")["results"] for step in (2, 4))
    assert [(one["dataset"], one["n"]) for one in first] == [("depth", 3), (f"depth{SEEN}", 5)]
    assert last[1]["features"] == "floor: mean at each place"
    assert last[-2]["features"] == "floor: nearest training picture"
    assert first[0]["model_hash"] != last[0]["model_hash"]
    monkeypatch.setattr("benchmarks.studies.curves.evaluate", None)  # what is there is read
    main(arguments)
    scores = tmp_path / "scores.png"
    main([str(run), "--out", str(scores)])
    assert has(scores, BLUE)
    assert not has(scores, ORANGE)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="not the folder of a run"):
        main([str(tmp_path), "--out", str(tmp_path / "curves.png")])
    assert not [*tmp_path.iterdir()]
