"""Runs with filters of a task's own and without them differ in these alone."""

from pathlib import Path

import pytest
import yaml
from squares import recipe, write_squares

from benchmarks.studies.own_filters import SLOTS, TASKS, company, scores
from unified.config.recipe import Recipe
from unified.core.schema import build, read_yaml
from unified.evaluate.spec import load_spec

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[3] / "recipes" / "queries_cpu.yaml"


def test_the_company_learns_by_the_weights_of_the_whole_recipe() -> None:
    whole = build(Recipe, read_yaml(RECIPE), RECIPE.name)
    few = company(whole, steps=40, seed=2)
    assert tuple(sorted(few.tasks)) == tuple(sorted(TASKS))
    assert all(few.tasks[task] == whole.tasks[task] for task in TASKS)
    assert (few.max_steps, few.seed, few.slots, few.model) == (40, 2, SLOTS, whole.model)


def test_a_task_without_filters_of_its_own_learns_otherwise(tmp_path: Path) -> None:
    data = str(write_squares(tmp_path / "squares", 4) / "data")
    evaluations = {task: {"kind": "dense", "task": task, "data": data} for task in ("edges", "denoise")}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"evaluations": evaluations}))
    spec = load_spec(str(tmp_path / "spec.yaml"))
    made = recipe(tmp_path / "squares", "edges", "denoise", max_steps=6)
    shared, own, again = (scores(made, spec, own=given) for given in (False, True, True))
    assert own == again
    assert own["denoise"] != shared["denoise"]
    assert own.keys() == shared.keys() == {"edges", "denoise"}
