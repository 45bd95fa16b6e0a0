"""Keys that are gone, in files that earlier versions wrote."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import tiny_recipe

from unified.config.earlier import IN_CONFIGURATIONS, without_removed
from unified.core.errors import RecipeError
from unified.train.monitor.records import RECIPE_HEADER, read_recipe
from unified.train.monitor.run_folder import RunFolder

GONE = {"mixing": {"alpha": None, "block": 100}, "model": {"image": {"window": None, "global_every": 3}}}


def rewritten(folder: Path, **changes: Any) -> Path:
    """The recipe of a run with keys of an earlier version in it."""
    with RunFolder(folder / "run") as run:
        run.start(tiny_recipe(folder), 0)
    path = folder / "run/recipe.yaml"
    content = yaml.safe_load(path.read_text())
    content["mixing"].update(GONE["mixing"])
    content["model"] |= content["model"].pop("modalities")
    content["model"]["image"].update(GONE["model"]["image"])
    content["mixing"].update(changes)
    path.write_text(f"{RECIPE_HEADER}1; resolved\n{yaml.safe_dump(content)}")
    return path


def test_recipes_of_earlier_runs_are_read(tmp_path: Path) -> None:
    assert read_recipe(rewritten(tmp_path)) == tiny_recipe(tmp_path)


def test_what_is_gone_is_refused_where_it_was_used(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml: mixing.alpha: expected null, got 0.5. Hint"):
        read_recipe(rewritten(tmp_path, alpha=0.5))
    with pytest.raises(RecipeError, match=r"config.json: modalities: image.window: expected null, got 7"):
        without_removed({"modalities": {"image": {"window": 7}}}, IN_CONFIGURATIONS, "config.json")
