"""Models with conditional experts, as files and through transformers and accelerate."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conditional import BY_TOKEN, FAMILIES, ROUTERS, model, pixels, texts
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.model.test_network import PLACES
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import BITS

VARIANTS: list[dict[str, Any]] = [
    *({"router": router} for router in ROUTERS),
    {"router": "attribute", "bits": ("query", "family:words"), "layers": "even", "shared_decisions": False},
    {"router": "context", "bias_rate": 0.01, "hidden": 8, "layers": "odd"},
    {"router": "token", "bias_rate": 0.01, "linears": ("down",)},
    {"router": "token", "linears": ("qkv", "out"), "shared_decisions": False},
]
variants = pytest.mark.parametrize("experts", VARIANTS, ids=lambda given: ", ".join(map(str, given.values())))


def answers(network: UnifiedModel) -> Tensor:
    words = texts(3, 4)
    found = network(
        pixel_values=pixels(2), input_ids=words.values, attention_mask=words.mask.long(), family=FAMILIES[1]
    )
    assert found.logits_per_image is not None
    return found.logits_per_image


def biases(network: UnifiedModel) -> list[str]:
    return [name for name in network.state_dict() if ".routers." in name and name.endswith("bias")]


@variants
def test_a_saved_model_answers_alike_and_learns_alike(experts: dict[str, Any], tmp_path: Path) -> None:
    network = model(**experts)
    with torch.no_grad():
        for name in biases(network):
            network.state_dict()[name].add_(0.25)
    network.save_pretrained(tmp_path)
    other = UnifiedModel.from_pretrained(tmp_path).eval()
    assert other.config.experts == network.config.experts
    trained = [{name: p.requires_grad for name, p in each.named_parameters()} for each in (network, other)]
    assert trained[0] == trained[1]
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    outcomes = []
    for each in (network, other):
        found = answers(each)
        found.square().sum().backward()
        outcomes.append({"": found.detach(), **{n: p.grad for n, p in each.named_parameters() if p.grad is not None}})
    assert outcomes[0].keys() == outcomes[1].keys()
    for name in outcomes[0]:  # products round by where a weight lies in memory
        torch.testing.assert_close(outcomes[1][name], outcomes[0][name], atol=1e-3, rtol=1e-4)


@variants
def test_weights_that_a_file_lacks_start_as_in_a_new_model(experts: dict[str, Any], tmp_path: Path) -> None:
    """`from_pretrained` builds without memory: what is not refilled would hold whatever was there."""
    network = model(**experts)
    network.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    own = [name for name in weights if ".routers." in name or network.state_dict()[name].dim() == 3]
    save_file(
        {name: tensor for name, tensor in weights.items() if name not in own},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    loaded, report = UnifiedModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == set(own)
    for name in own:
        tensor = loaded.state_dict()[name]
        assert torch.isfinite(tensor).all()
        assert tensor.abs().max() < 3
        last = name.rsplit(".", 1)[1]
        if last in ("bias", "query"):
            assert not tensor.any(), name
        elif "norm" not in name:
            assert tensor.any(), name
        if "transform.weight" in name:
            assert not tensor[:, len(BITS) :].any()
            assert tensor[:, : len(BITS)].all()
    assert torch.isfinite(answers(loaded)).all()


@pytest.mark.parametrize("place", list(PLACES))
@variants
@torch.no_grad()
def test_weights_that_accelerate_places_give_the_same_answers(
    experts: dict[str, Any], place: str, tmp_path: Path
) -> None:
    network = model(**experts)
    network.save_pretrained(tmp_path / "model")
    placed = UnifiedModel.from_pretrained(
        tmp_path / "model", device_map=PLACES[place], offload_folder=tmp_path / "offload"
    )
    if place != "all on one device":
        assert any(parameter.is_meta for parameter in placed.parameters()), "nothing was offloaded"
    torch.testing.assert_close(answers(placed), answers(network))


def test_a_configuration_holds_plain_values(tmp_path: Path) -> None:
    model("attribute", bits=("query",)).save_pretrained(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())["experts"]
    assert (held["router"], held["bits"], held["layers"]) == ("attribute", ["query"], [0, 1])
    dense = model(None)
    assert dense.config.experts is None
    assert dense.encoder.conditional_layers() == {}


@pytest.mark.parametrize("router", ROUTERS)
def test_features_of_one_sample_are_those_in_a_batch(router: str) -> None:
    network = model(router)
    together = network.embed(pixel_values=pixels(3))
    alone = torch.cat([network.embed(pixel_values=pixels(3)[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
    long = network.represent({"text": texts(3, 5)}, "candidate")
    padded = network.represent({"text": texts(3, 5, most=8)}, "candidate")
    torch.testing.assert_close(long, padded, atol=1e-6, rtol=0)


@pytest.mark.parametrize("router", ROUTERS)
def test_candidates_differ_by_what_is_asked_only_where_the_router_looks_at_it(router: str) -> None:
    network = model(router)
    words = {"text": texts(3, 5)}
    about_images = network.represent(words, "candidate", given=("image",), family="names")
    about_texts = network.represent(words, "candidate", given=("text",), family="names")
    as_words = network.represent(words, "candidate", given=("image",), family="words")
    assert torch.equal(about_images, about_texts) != (router in ("attribute", "hash"))
    assert torch.equal(about_images, as_words) != (router == "task")
    if router in BY_TOKEN:
        assert torch.equal(network.represent(words), about_images)


@pytest.mark.parametrize("router", ["attribute", None])
@torch.no_grad()
def test_texts_are_embedded_as_what_images_are_compared_with(router: str | None) -> None:
    network, words = model(router), texts(3, 4)
    given = {"input_ids": words.values, "attention_mask": words.mask.long()}
    candidates = network.embed(role="candidate", **given)
    assert torch.equal(candidates, network(pixel_values=pixels(2), **given).text_embeds)
    assert torch.equal(candidates, network.embed(**given)) == (router is None)
