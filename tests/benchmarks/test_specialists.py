"""Specialists train as much as the generalist trains on their task, with the same network."""

from pathlib import Path

import pytest

from benchmarks.specialists import main, specialist
from unified.config import build, read_yaml
from unified.data.schedule import samples_before
from unified.recipe import Recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "queries_cpu.yaml"


def test_specialists_see_the_samples_of_the_generalist() -> None:
    recipe = build(Recipe, read_yaml(RECIPE), RECIPE.name)
    seen = samples_before(recipe, recipe.seed, recipe.max_steps)
    made = {task: specialist(recipe, task) for task in recipe.tasks}
    assert sum(one.max_steps for one in made.values()) == recipe.max_steps * recipe.slots
    for task, one in made.items():
        assert samples_before(one, one.seed, one.max_steps) == {task: seen[task]}
        assert one.tasks == {task: recipe.tasks[task]}
        assert one.model == recipe.model
        assert 1 <= one.optim.warmup < one.max_steps


def test_tasks_that_are_not_there_are_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"'dept' is not in .*did you mean 'depth'"):
        main([str(RECIPE), "queries_cpu", "--tasks", "dept"])
    assert not capsys.readouterr().out
