"""Where weights come from: drawn anew, or loaded with some of them missing."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unified.core import seed
from unified.model.config import UnifiedConfig
from unified.model.network import LOG_SCALE
from unified.model.pretrained import UnifiedModel

WIDTH = 32


def drawn(hidden: int = 4 * WIDTH) -> UnifiedModel:
    image = {"patch": 8, "positions": "sincos", "position_scale": 1.0, "grid": 2, "frames": 1}
    config = UnifiedConfig(
        width=WIDTH,
        depth=2,
        heads=2,
        hidden=hidden,
        layer_scale=0.01,
        modalities={
            "image": {**image, "height": 16, "width": 16, "mean": [0.5] * 3, "std": [0.5] * 3},
            "text": {"positions": 8, "max_length": 8},
        },
        vocabulary_size=20,
        spe_token_id=19,
        end_token_id=18,
        families=["names", "words"],
    )
    with seed.seeded("weights"):
        return UnifiedModel(config)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in which no weight is what it was initialised to."""
    model = drawn()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("missing", "value"),
    [
        ("encoder.blocks.1.scale1", 0.01),
        ("encoder.blocks.0.scale2", 0.01),
        ("log_scales.words", LOG_SCALE),
        ("proj.bias", 0.0),
        ("encoder.blocks.0.attention.qkv.bias", 0.0),
        ("ln_post.weight", 1.0),
    ],
)
def test_a_missing_weight_starts_as_in_a_new_model_and_the_others_are_kept(
    saved: Path, tmp_path: Path, missing: str, value: float
) -> None:
    weights = load_file(saved / "model.safetensors")
    shape = weights.pop(missing).shape
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    model, report = UnifiedModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {missing}
    found = model.state_dict()
    assert torch.equal(found.pop(missing), torch.full(shape, value))
    assert found.keys() == weights.keys()
    changed = [name for name, tensor in weights.items() if not torch.equal(found[name], tensor)]
    assert not changed


def test_queries_keys_and_values_are_drawn_as_matrices_of_their_own_and_others_whole() -> None:
    """Xavier's bound is sqrt(6 / (in + out)); a feed-forward layer of three times the width is one matrix."""
    block = drawn(hidden=3 * WIDTH).get_submodule("encoder.blocks.0")
    parts = block.get_parameter("attention.qkv.weight").chunk(3)
    assert all(part.abs().max().item() == pytest.approx(math.sqrt(6 / (2 * WIDTH)), rel=0.02) for part in parts)
    up = block.get_parameter("mlp.up.weight")
    assert up.abs().max().item() == pytest.approx(math.sqrt(6 / (4 * WIDTH)), rel=0.02)
