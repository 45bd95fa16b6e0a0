"""Models of this package as official checkpoints, as far as they have what those have."""

import json
import math
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from tests import official_files as files
from tests.official_network import Official
from unified import checkpoint
from unified.core import seed
from unified.core.errors import UserError
from unified.hub.load import load
from unified.hub.uni_perceiver.from_hub import revert
from unified.hub.uni_perceiver.names import Shape, entries
from unified.hub.uni_perceiver.to_hub import convert
from unified.modalities.image.tokenizer import ImageSpec, write_spec
from unified.model.config import UnifiedConfig
from unified.model.network import LOG_SCALE
from unified.model.pretrained import UnifiedModel
from unified.model.processor import ImageOnlyProcessor, UnifiedImageProcessor
from unified.model.routing_attributes import plain
from unified.nn.moe.settings import ExpertSettings

TYPE = "video_embed.embeddings_type.weight"
DEAD = {"self_attn.dense.gate": "self_attn.qkv_proj.gate", "linear2.gate": "linear1.gate"}


def read(file: Path) -> files.State:
    return torch.load(file, weights_only=True)["model"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [files.dense, files.moe])
def test_without_the_files_beside_it_what_can_be_derived_is(make: Any, tmp_path: Path) -> None:
    state = make()
    torch.save({"model": state}, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out", heads=files.HEADS)
    for name in ("official.json", "official.safetensors"):
        (tmp_path / "out" / name).unlink()
    lines = revert(str(tmp_path / "out"), tmp_path / "back.pth")
    found = read(tmp_path / "back.pth")
    assert found.keys() == state.keys()
    assert TYPE in lines[-1]
    for key, value in state.items():
        dead = next((name for name in DEAD if name in key), None)
        if key == TYPE:
            assert not found[key].any()
        elif "spatial" in key:
            torch.testing.assert_close(found[key], value, atol=1e-5, rtol=0)
        elif dead is not None:
            assert torch.equal(found[key], state[key.replace(dead, DEAD[dead])])
        else:
            assert torch.equal(found[key], value)


def config_of(**changes: Any) -> UnifiedConfig:
    image = {"patch": 16, "positions": "sincos", "position_scale": 1.0, "grid": 2, "frames": 2}
    image |= {"height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    values: dict[str, Any] = {
        "width": 32, "depth": 2, "heads": 2, "hidden": 48,
        "modalities": {
            "image": image | changes.pop("image", {}),
            "text": {"positions": 16, "max_length": 8} | changes.pop("text", {}),
        },
        "vocabulary_size": 50, "spe_token_id": 49, "end_token_id": 46,
        "families": ["caption", "img_cls"],
    }  # fmt: skip
    return UnifiedConfig(**{**values, **changes})


def saved(config: UnifiedConfig, folder: Path) -> UnifiedModel:
    """A model that this package made, exported."""
    with seed.seeded("model to revert"):
        model = UnifiedModel(config)
    image = config.spatial
    spec = ImageSpec(image["height"], image["width"], tuple(image["mean"]), tuple(image["std"]))
    ImageOnlyProcessor(UnifiedImageProcessor(16, **write_spec(spec))).save_pretrained(folder)
    model.save_pretrained(folder)
    return model.eval()


def experts_of(**changes: Any) -> dict[str, Any]:
    return plain(ExpertSettings(**{"count": 4, **changes}), 2)


@pytest.mark.parametrize("experts", [None, experts_of()])
def test_a_model_of_this_package_answers_alike_as_an_official_one(
    experts: dict[str, Any] | None, tmp_path: Path
) -> None:
    model = saved(config_of(experts=experts), tmp_path / "model")
    lines = revert(str(tmp_path / "model"), tmp_path / "back.pth")
    assert "log_scales.retrieve" in lines[-1]
    assert "pixels of this model have the mean (0.5, 0.5, 0.5)" in lines[0]
    state = read(tmp_path / "back.pth")
    assert state["loss_prepare.logit_scale_retrieve"] == pytest.approx(LOG_SCALE)
    official = Official(state, 2, 49, 46)
    video = torch.randint(0, 256, (2, 1, 3, 32, 32), generator=seed.torch_generator("pictures"), dtype=torch.uint8)
    # The published code has one normalisation of pixels; the model's own belongs to its configuration.
    model.embeddings["image"].mean, model.embeddings["image"].std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    with torch.no_grad():
        found = model.embed(pixel_values=video[:, 0])
    torch.testing.assert_close(found, official.features(official.picture_states(video)[:, 0]), atol=1e-5, rtol=0)
    convert(tmp_path / "back.pth", tmp_path / "again", heads=2)
    again = load(tmp_path / "again")[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_a_run_can_be_written_as_an_official_checkpoint(tmp_path: Path) -> None:
    """Its newest weights, whatever the folder beside them is called."""
    model = saved(config_of(), tmp_path / "run" / "model")
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    checkpoint.save(tmp_path / "run" / "checkpoints", 3, {"weights": state}, {}, keep_last=1)
    revert(str(tmp_path / "run"), tmp_path / "back.pth")
    found = read(tmp_path / "back.pth")
    assert torch.equal(found["token_embed.embeddings.weight"], state["embeddings.text.word.weight"])
    assert torch.equal(found["video_embed.embeddings.weight"].flatten(1), state["embeddings.image.projection.weight"])


def test_a_name_on_the_hub_brings_what_lies_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = files.moe()
    torch.save({"model": state}, tmp_path / "in.pth")
    kept, commit = tmp_path / "hub" / "models--some-org--some-model", "0" * 40
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    convert(tmp_path / "in.pth", kept / "snapshots" / commit, heads=files.HEADS)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # what is fetched already
    revert("some-org/some-model", tmp_path / "back.pth")
    found = read(tmp_path / "back.pth")
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(("changes", "message"), [
    ({"image": {"positions": "learned"}}, "positions are learned"),
    ({"image": {"width": 48}}, "32 x 48, not square"),
    ({"layer_scale": None}, "no layer scales"),
    ({"spe_token_id": 48}, r"<\|spe\|> is id 48 of 50, where the published code has 49"),
    ({"end_token_id": 48}, r"<\|endoftext\|> is id 48 of 50, where the published code has 46"),
    ({"families": ["default"]}, "default are none of the published: img_cls"),
    ({"experts": experts_of(router="token")}, "router is 'token'"),
    ({"experts": experts_of(router="task")}, "router is 'task'"),
    (
        {"experts": {**experts_of(), "router": "rows", "folded": "attribute", "rows": ["10011000"], "layers": []}},
        "it is folded for 10011000, which the published code cannot know",
    ),
    ({"experts": experts_of(bits=["query"])}, "more than the 8 published attributes: query"),
    ({"experts": experts_of(top=1)}, "chooses 1 experts, not 2"),
    ({"experts": experts_of(shared_decisions=False)}, "decides alone"),
    ({"experts": experts_of(linears=["down"])}, "down needs up"),
])  # fmt: skip
def test_what_no_official_checkpoint_can_hold_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    saved(config_of(**changes), tmp_path / "model")
    with pytest.raises(UserError, match=message):
        revert(str(tmp_path / "model"), tmp_path / "back.pth")
    assert not (tmp_path / "back.pth").exists()


def test_a_log_of_another_model_is_noticed(tmp_path: Path) -> None:
    torch.save({"model": files.dense()}, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out", heads=files.HEADS)
    saved(config_of(), tmp_path / "model")
    (tmp_path / "model" / "official.json").write_bytes((tmp_path / "out" / "official.json").read_bytes())
    with pytest.raises(UserError, match=r"the log of the conversion says width 64, the model has 32"):
        revert(str(tmp_path / "model"), tmp_path / "back.pth")
    (tmp_path / "out" / "official.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks video_embed\.embeddings_type\.weight"):
        revert(str(tmp_path / "out"), tmp_path / "back.pth")
    log = json.loads((tmp_path / "out" / "official.json").read_text())
    del log["shape"]
    (tmp_path / "out" / "official.json").write_text(json.dumps(log))
    with pytest.raises(UserError, match="not a log of `unified convert`"):
        revert(str(tmp_path / "out"), tmp_path / "back.pth")


def test_the_published_base_model_with_experts_has_these_tensors_here() -> None:
    width, layers = 768, list(range(0, 12, 2))
    settings = ExpertSettings(layers=layers)
    families = [entry.ours.split(".")[1] for entry in entries(Shape(width, 0, 0)) if "log_scales" in entry.ours]
    image = {"patch": 16, "positions": "sincos", "position_scale": 1.0, "grid": 14, "frames": 8}
    image |= {"height": 224, "width": 224}
    config = config_of(
        width=width, depth=12, heads=12, hidden=4 * width, experts=plain(settings, 12), image=image,
        text={"positions": 512, "max_length": 50}, vocabulary_size=49411, families=families,
    )  # fmt: skip
    with torch.device("meta"):
        model = UnifiedModel(config)
    shape = Shape(width, 12, 4 * width, attention="qkv_proj", experts=8, expert_layers=tuple(layers),
                  linears=("qkv", "out", "up", "down"))  # fmt: skip
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == {entry.ours: entry.ours_shape for entry in entries(shape)}
    dead = 6 * 2 * 19 * width
    positions, kind = 196 * width, width
    assert sum(math.prod(size) for size in found.values()) == 422_668_811 - dead - positions - kind
