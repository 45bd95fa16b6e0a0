"""A converted model that is trained on keeps what it does not use of its checkpoint, up to the way back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe_content, tiny_recipe

from tests import official_files as files
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import build
from unified.hub.export import export
from unified.hub.load import load
from unified.hub.uni_perceiver.from_hub import revert
from unified.hub.uni_perceiver.to_hub import convert
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.train import loop

TYPE = "video_embed.embeddings_type.weight"
SCALE = "loss_prepare.logit_scale_"


def converted(folder: Path, *, experts: bool) -> tuple[Path, files.State]:
    layers = (8, (0,)) if experts else ()
    state = files.fill(files.keys(files.WIDTH, 1, *layers, words=files.MERGED_WORDS), 160 / 224, "words")
    torch.save({"model": state}, folder / "in.pth")
    convert(folder / "in.pth", folder / "base", heads=4, tokenizer=files.merges_file(folder))
    return folder / "base", state


def recipe_of(folder: Path, base: Path, *, experts: bool, size: int = 224) -> Recipe:
    """Two steps from the converted folder, whose tokenizers the recipe names, on one of its families."""
    tiny_recipe(folder)  # writes the shards
    model: dict[str, Any] = {
        "width": files.WIDTH, "depth": 1, "heads": 4, "hidden": 4 * files.WIDTH, "layer_scale": 1e-3,
        "modalities": {
            "image": {"tokenizer": str(base), "patch": 16, "frames": 8, "position_scale": 160 / 224},
            "text": {"tokenizer": str(base), "max_length": 16, "positions": 512},
        },

    }  # fmt: skip
    if experts:
        model["experts"] = {"count": 8, "layers": [0], "noise": 0.0}
    content = recipe_content(folder / "data", folder / "colours.yaml", max_steps=2, slots=1, model=model)
    task = {**content["tasks"]["colour"], "family": "img_cls", "batch": 4}
    return build(Recipe, {**content, "tasks": {"colour": task}, "start": {"model": str(base)}}, "start.yaml")


def read(file: Path) -> files.State:
    return torch.load(file, weights_only=True)["model"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("experts", [False, True])
def test_temperatures_type_embedding_and_dead_gates_survive_training(tmp_path: Path, experts: bool) -> None:
    base, state = converted(tmp_path, experts=experts)
    recipe = recipe_of(tmp_path, base, experts=experts)
    loop.run(recipe, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out")
    trained = load(tmp_path / "out")[0].state_dict()
    for number, reference in enumerate((tmp_path / "run", tmp_path / "out")):
        lines = revert(str(reference), tmp_path / f"back{number}.pth")
        found = read(tmp_path / f"back{number}.pth")
        assert found.keys() == state.keys()
        assert not any("filled in" in line and "log_scales" in line for line in lines)
        assert torch.equal(found[TYPE], state[TYPE])
        for family in set(files.FAMILIES) - {"img_cls"}:
            assert torch.equal(found[f"{SCALE}{family}"], state[f"{SCALE}{family}"]), family
        assert found[f"{SCALE}img_cls"] != state[f"{SCALE}img_cls"]
        assert torch.equal(found["token_embed.embeddings.weight"], trained["embeddings.text.word.weight"])
        dead = [name for name in state if ".gate." in name and ("dense" in name or "linear2" in name)]
        assert bool(dead) == experts
        assert all(torch.equal(found[name], state[name]) for name in dead)
    again = recipe_of(tmp_path, tmp_path / "out", experts=experts)  # a start from what was trained keeps them too
    loop.run(again, tmp_path / "run2")
    revert(str(tmp_path / "run2"), tmp_path / "back2.pth")
    found = read(tmp_path / "back2.pth")
    assert torch.equal(found[TYPE], state[TYPE])
    assert torch.equal(found[f"{SCALE}caption"], state[f"{SCALE}caption"])


def test_a_model_folder_names_its_images(tmp_path: Path) -> None:
    base, _ = converted(tmp_path, experts=False)
    spec = ImageTokenizer.load(str(base), 16).spec
    assert (spec.height, spec.mode, spec.crop_fraction, spec.mean) == (224, "crop", 0.875, (0.485, 0.456, 0.406))
    (base / "processor_config.json").write_text('{"format": 1}')
    with pytest.raises(RecipeError, match="expected a section image_processor, got None"):
        ImageTokenizer.load(str(base), 16)
