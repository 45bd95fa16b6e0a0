"""Values that cannot be are refused by name before anything is made."""

import re
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe_content, tiny_recipe, with_experts

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import build, merge
from unified.train.validate import check, check_task

WRONG = [
    ("train.keep_last", 0),
    ("train.save_every", 0),
    ("train.log_every", 0),
    ("train.eval_every", -1),
    ("model.heads", 0),
    ("model.heads", 5),
    ("model.depth", 0),
    ("model.drop_path", 1.0),
    ("model.modalities.text.max_length", 17),
    ("model.modalities.image.patch", 0),
    ("data.workers", -1),
    ("data.prefetch", 0),
    ("data.window", 0),
    ("optim.betas", [1, 0.9]),
    ("optim.clip", 0),
    ("optim.ema", 1.0),
    ("optim.lr", float("nan")),
    ("optim.warmup", -1),
    ("max_steps", 0),
    ("slots", 0),
    ("tasks.colour.batch", 0),
]


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_values_out_of_range_are_refused_by_name(tmp_path: Path, path: str, value: Any) -> None:
    content = merge(recipe_content(tmp_path, tmp_path / "colours.yaml"), nested(path, value))
    with pytest.raises(RecipeError, match=rf"^tiny\.yaml(\.|: ){re.escape(path)}(\[0\])?: "):
        build(Recipe, content, "tiny.yaml")


@pytest.mark.parametrize("change", [{"a.b": {"answer": {"candidates": "batch"}}}, {"colour": {"family": "a.b"}}])
def test_dots_in_names_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    content = recipe_content(tmp_path, tmp_path / "colours.yaml")
    tasks = merge(
        {**content["tasks"], "a.b": content["tasks"]["colour"]} if "a.b" in change else content["tasks"], change
    )
    with pytest.raises(RecipeError, match=r"'a\.b' cannot name a task or a family"):
        build(Recipe, {**content, "tasks": tasks}, "tiny.yaml")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"loss_weight": 0.0}, r"tasks\.colour\.loss_weight: expected a positive finite number, got 0.0"),
        ({"loss_weight": -1.0}, r"tasks\.colour\.loss_weight: expected a positive finite number, got -1.0"),
        ({"loss_weight": float("nan")}, r"tasks\.colour\.loss_weight: expected a positive finite number, got nan"),
        ({"loss_weight": float("inf")}, r"tasks\.colour\.loss_weight: expected a positive finite number, got inf"),
        ({"answer": {"label_smoothing": 1.0}}, r"tasks\.colour\.answer\.label_smoothing: expected"),
        ({"family": "train"}, "torch keeps the name 'train' for itself"),
    ],
)
def test_tasks_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    content = merge(recipe_content(tmp_path, tmp_path / "colours.yaml"), {"tasks": {"colour": change}})
    task = build(Recipe, content, "tiny.yaml").tasks["colour"]
    with pytest.raises(RecipeError, match=expected):
        check_task("colour", task)
    check_task("colour", tiny_recipe(tmp_path).tasks["colour"])


def test_appended_attributes_that_no_token_can_have_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tiny_recipe(tmp_path)
    check(with_experts(recipe, bits=["query", "family:caption"]))
    assert not caplog.records
    check(with_experts(recipe, bits=["family:captin"]))
    assert "no task is of the family 'captin'; did you mean 'caption'?" in caplog.text
    with pytest.raises(RecipeError, match="'modality:imag' is no attribute"):
        check(with_experts(recipe, bits=["modality:imag"]))
