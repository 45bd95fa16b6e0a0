"""Specialists train as much as the generalist trains on their task, with the same network."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from squares import content, write_squares

from benchmarks.studies.specialists import main, specialist
from unified.config.recipe import Recipe
from unified.core.schema import build, read_yaml
from unified.pipeline.schedule import samples_before

pytestmark = pytest.mark.slow

RECIPE = Path(__file__).parents[3] / "recipes" / "queries_cpu.yaml"


def test_specialists_see_the_samples_of_the_generalist() -> None:
    recipe = build(Recipe, read_yaml(RECIPE), RECIPE.name)
    seen = samples_before(recipe, recipe.seed, recipe.max_steps)
    made = {task: specialist(recipe, task) for task in recipe.tasks}
    assert sum(one.max_steps for one in made.values()) == recipe.max_steps * recipe.slots
    for task, one in made.items():
        assert samples_before(one, one.seed, one.max_steps) == {task: seen[task]}
        assert one.tasks == {task: replace(recipe.tasks[task], loss_weight=1.0)}
        assert one.model == recipe.model
        assert 1 <= one.optim.warmup < one.max_steps


def test_tasks_that_are_not_there_are_refused_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"'dept' is not in .*did you mean 'depth'"):
        main([str(RECIPE), "queries_cpu", "--tasks", "dept"])
    assert not capsys.readouterr().out


def test_every_task_of_the_spec_gets_a_specialist_and_one_that_fails_loses_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_squares(tmp_path / "squares", 4) / "data")
    recipe = content(tmp_path / "squares", "depth", "edges", "count", max_steps=2)
    recipe["tasks"]["edges"]["data"] = str(tmp_path / "nowhere")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    evaluations = {task: {"kind": "dense", "task": task, "data": data} for task in ("depth", "edges")}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"evaluations": evaluations}))
    out = tmp_path / "specialists"
    with pytest.raises(SystemExit, match="no results of edges"):
        main([str(tmp_path / "recipe.yaml"), str(tmp_path / "spec.yaml"), "--out", str(out)])
    table = capsys.readouterr().out
    assert "| `depth` | 4 | δ < 1.25 → |" in table
    assert "`edges`" not in table
    assert [path.parent.name for path in out.glob("*/results.json")] == ["depth"]
    assert not (out / "count").exists()
