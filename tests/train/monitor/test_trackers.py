"""Trackers of a run."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_recipe

from unified.core.errors import RecipeError
from unified.train.engines.accelerator import make_accelerator
from unified.train.monitor.trackers import Trackers


def trackers(folder: Path) -> tuple[Trackers, Path]:
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = tiny_recipe(folder, train={"trackers": ["tensorboard"]})
    far = replace(recipe.tasks["next"], data=["https://user:hush@host/x/?sig=hush", "b.tar"])
    recipe = replace(recipe, tasks={**recipe.tasks, "next": far})
    accelerator = make_accelerator(recipe, folder / "run")
    return Trackers(accelerator, recipe, "tiny"), folder / "run" / "tiny"


def test_tensorboard_gets_the_numbers_and_the_recipe(tmp_path: Path) -> None:
    made, folder = trackers(tmp_path)
    for step in (1, 2):
        made.log({"step": step, "loss/names": 1.0 / step, "experts/load": [0.5, 0.5], "seconds_left": None})
    made._accelerator.end_training()
    events = EventAccumulator(str(folder)).Reload()
    assert events.Tags()["scalars"] == ["loss/names"]
    assert [(event.step, event.value) for event in events.Scalars("loss/names")] == [(1, 1.0), (2, 0.5)]
    settings = "".join(path.read_text() for path in folder.rglob("hparams.yml"))
    assert "optim.lr" in settings
    assert "https://…@host/x/?…" in yaml.safe_load(settings)["tasks.next.data"]
    assert "hush" not in settings


def test_a_tracker_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = trackers(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route to the service")

    monkeypatch.setattr(made._accelerator, "log", refuse)
    with caplog.at_level(logging.WARNING, "unified"):
        made.log({"step": 3, "lr": 0.1})
        made.log({"step": 4, "lr": 0.1})
    assert [record.getMessage().split("(")[0] for record in caplog.records] == ["step 3: a tracker failed "]


@pytest.mark.parametrize(
    ("name", "message"),
    [("tensorbord", r"no tracker; did you mean 'tensorboard'"), ("aim", r"aim is not installed; pip install aim")],
)
def test_trackers_that_are_not_there_are_refused(tmp_path: Path, name: str, message: str) -> None:
    recipe = tiny_recipe(tmp_path, train={"trackers": [name]})
    with pytest.raises(RecipeError, match=message):
        make_accelerator(recipe, tmp_path)
