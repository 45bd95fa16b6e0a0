"""Every recipe reads, says in its header what it is and how it is run, and names things that exist."""

import re
from pathlib import Path

import pytest

from unified.config import RecipeError, build, read_yaml
from unified.data.augment import build_transforms
from unified.evaluate.spec import load_spec
from unified.labels import load_labels
from unified.recipe import Recipe
from unified.train.build import check_task

RECIPES = Path(__file__).parent.parent / "recipes"


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines[:4] if line.startswith("#"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_reads_and_its_header_says_how_to_run_it(path: Path) -> None:
    recipe = build(Recipe, read_yaml(path), path.name)
    for name, task in recipe.tasks.items():
        check_task(name, task)
        assert isinstance(build_transforms(task.augment, name), tuple)
        if task.answer.candidates.startswith("labels/"):
            assert len(load_labels(task.answer.candidates)) > 1
    for word in ("# run:", "# on:", "score:"):
        assert word in header(path), f"{path}: the header lacks {word}"
    command = re.search(r"python train.py (\S+)", header(path))
    assert command
    assert (RECIPES.parent / command[1].rstrip(",)")).is_file()


@pytest.mark.parametrize("path", sorted((RECIPES / "eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_evaluation_spec_reads_and_says_how_to_run_it(path: Path) -> None:
    assert load_spec(path).evaluations
    assert "unified eval" in header(path)


@pytest.mark.parametrize("path", sorted((RECIPES / "labels").glob("*.yaml")), ids=lambda path: path.stem)
def test_label_set_reads(path: Path) -> None:
    assert len(load_labels(f"labels/{path.stem}")) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"png": "imge"}}, "did you mean 'image'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"answer": {"candidates": "vocabulary"}}, "masked, caption or causal"),
        ({"answer": {"candidates": "batch", "read": "masked"}}, "expected prefix"),
        ({"answer": {"candidates": "vocabulary", "read": "masked"}}, "needs a text column"),
        ({"batch": 0}, "must be positive"),
    ],
)
def test_a_task_that_cannot_be_is_refused_before_data_is_read(change: dict[str, object], message: str) -> None:
    content = read_yaml(RECIPES / "quickstart.yaml")
    content["tasks"]["retrieve"] |= change
    recipe = build(Recipe, content, "changed.yaml")
    with pytest.raises(RecipeError, match=message):
        check_task("retrieve", recipe.tasks["retrieve"])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    content = read_yaml(RECIPES / "quickstart.yaml")
    content["model"]["heads"] = 5
    with pytest.raises(RecipeError, match=r"changed.yaml.*model.heads: 5 does not divide"):
        build(Recipe, content, "changed.yaml")
