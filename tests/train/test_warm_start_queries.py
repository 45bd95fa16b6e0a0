"""Beginning with a model that has other queries, or none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from squares import content, write_squares

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import build
from unified.model.pretrained import UnifiedModel
from unified.train.build import build as build_parts
from unified.train.warm_start import start_from


def model(folder: Path, *tasks: str, seed: int = 0) -> UnifiedModel:
    if not (folder / "data").exists():
        write_squares(folder)
    recipe = build(Recipe, content(folder, *tasks), "squares.yaml")
    return build_parts(replace(recipe, seed=seed)).model


def test_rows_and_decoder_of_queries_come_and_go(tmp_path: Path) -> None:
    source, own = model(tmp_path, "classes", "depth"), model(tmp_path, "classes", "attributes", seed=1)
    assert source.queries is not None
    assert own.queries is not None
    drawn = own.queries.content["attributes"].detach().clone()
    start_from(own, source.state_dict())
    assert torch.equal(own.queries.content["classes"], source.queries.content["classes"])
    assert torch.equal(own.queries.content["attributes"], drawn)
    assert torch.equal(own.queries.interpreter.presence_logit.weight, source.queries.interpreter.presence_logit.weight)
    plain = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("queries.")}
    fresh = model(tmp_path, "depth", seed=2)
    start_from(fresh, plain)
    assert torch.equal(fresh.encoder.blocks[0].norm1.weight, source.encoder.blocks[0].norm1.weight)


def test_queries_of_another_width_do_not_fit(tmp_path: Path) -> None:
    source, own = model(tmp_path, "classes").state_dict(), model(tmp_path, "classes")
    wrong = {n: t[:, :-1] if n == "queries.content.classes" else t for n, t in source.items()}
    with pytest.raises(RecipeError, match=r"queries\.content\.classes"):
        start_from(own, wrong)
