"""Counts of parameters against closed forms, and against the published ones in their layout."""

from dataclasses import replace
from pathlib import Path

import pytest

from unified.config.recipe import Recipe
from unified.core.errors import UserError
from unified.core.schema import build, read_yaml
from unified.hub.fold import folded_config
from unified.modalities import load_tokenizers
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import Parameters, active, deployed, skeleton, stored
from unified.model.routing_attributes import plain
from unified.nn.moe.settings import ExpertSettings
from unified.train.build import network

RECIPES = Path(__file__).parent.parent.parent / "recipes"
SIZES = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}
PUBLISHED = {"tiny": 15_153_419, "base": 124_757_003, "large": 355_532_811}
DEPLOYED = {"base": 167_265_803, "large": 506_638_347}


def dense(width: int, depth: int) -> int:
    """The published dense network: tables and fixed positions, blocks, head, 11 temperatures."""
    return 50901 * width + depth * (12 * width**2 + 15 * width) + width**2 + 3 * width + 11


def linears(width: int) -> int:
    """The four linears of a block, with biases."""
    return 12 * width**2 + 9 * width


def config_of(name: str) -> UnifiedConfig:
    """The network of a recipe with the published vocabulary."""
    recipe = build(Recipe, read_yaml(RECIPES / f"{name}.yaml"), name)
    words = replace(recipe.model.modalities["text"], tokenizer="text")
    config = network(recipe, load_tokenizers({"image": recipe.model.modalities["image"], "text": words}))
    config.vocabulary_size = UnifiedConfig.vocabulary_size
    return config


def in_published_layout(count: Parameters, config: UnifiedConfig) -> int:
    """With stored positions of 14 × 14 patches, a visual type, and 11 temperatures."""
    return count.total + 196 * config.width + config.width - len(config.families) + 11


@pytest.mark.parametrize(("size", "stage"), [*((size, "") for size in SIZES), ("base", "_stage2")])
def test_a_dense_recipe_has_the_published_size(size: str, stage: str) -> None:
    config = config_of(f"uni_perceiver_{size}{stage}")
    count = stored(config)
    assert in_published_layout(count, config) == dense(*SIZES[size]) == PUBLISHED.get(size, dense(*SIZES[size]))
    assert active(config) == count
    assert (count.experts, count.routers) == (0, 0)


@pytest.mark.parametrize(("size", "layers"), [("tiny", 12), ("small", 6), ("base", 6), ("large", 12)])
def test_a_recipe_with_experts_has_the_published_size(size: str, layers: int) -> None:
    config, (width, depth) = config_of(f"uni_perceiver_{size}_moe"), SIZES[size]
    # Published files also hold the routers of `out` and `down`, which nothing reads: 4 of 19 C numbers in each layer.
    routers = layers * 2 * 19 * width
    count = stored(config)
    assert in_published_layout(count, config) == dense(width, depth) + layers * 7 * linears(width) + routers
    assert (count.experts, count.routers) == (layers * 8 * linears(width), routers)
    if size == "base":
        assert in_published_layout(count, config) + routers == 422_668_811
    assert in_published_layout(active(config), config) == dense(width, depth) + routers
    assert active(config).experts == layers * linears(width)


@pytest.mark.parametrize(("size", "layers"), [("base", 6), ("large", 12)])
def test_a_deployed_model_has_the_published_size_and_that_of_the_folded_one(size: str, layers: int) -> None:
    config, (width, depth) = config_of(f"uni_perceiver_{size}_moe_stage2"), SIZES[size]
    count = deployed(config, 2)
    assert in_published_layout(count, config) == dense(width, depth) + layers * linears(width) == DEPLOYED[size]
    assert count == stored(folded_config(config, ["10011000", "10010110"]))
    assert deployed(config, 1).total == stored(folded_config(config, ["10011000"])).total


def small(settings: ExpertSettings) -> UnifiedConfig:
    config = UnifiedConfig(width=16, depth=4, heads=2, hidden=24, vocabulary_size=30, families=["a", "b", "c"])
    config.experts = plain(settings, config.depth)
    return config


def test_a_subset_of_linears_and_layers_is_counted() -> None:
    settings = ExpertSettings(count=5, linears=("qkv", "down"), layers=(1, 3), shared_decisions=False, bits=("query",))
    config = small(settings)
    copy = (3 * 16 * 16 + 3 * 16) + (24 * 16 + 16)
    assert stored(config).experts == 2 * 5 * copy
    assert active(config).experts == 2 * copy
    assert deployed(config, 3).experts == 2 * 3 * copy
    router = (9 * 16 + 16) + 2 * 16 + 5 * 16
    assert stored(config).routers == 2 * 2 * router
    assert deployed(config, 3).routers == 0
    without = small(settings)
    without.experts = None
    assert stored(config).encoder == stored(without).encoder - 2 * copy
    assert stored(config).total == sum(parameter.numel() for parameter in skeleton(config).parameters())


@pytest.mark.parametrize("router", ["token", "context"])
def test_a_token_passes_its_own_experts(router: str) -> None:
    settings = ExpertSettings(count=8, top=2, router=router, linears=("up", "down"), layers=(2,), hidden=12)
    config = small(settings)
    expert = (12 * 16 + 12) + (16 * 12 + 16)
    assert (stored(config).experts, active(config).experts) == (8 * expert, 2 * expert)
    assert stored(config).routers == {"token": 8 * 16, "context": 8 * 32 + 16}[router]
    with pytest.raises(UserError, match=f"the {router} router looks at the data"):
        deployed(config, 2)


def test_names_have_a_vector_each() -> None:
    assert stored(small(ExpertSettings(router="task", layers=(0,)))).routers == 2 * (3 * 16 + 2 * 16 + 8 * 16)
    assert stored(small(ExpertSettings(router="modality", layers=(0,)))).routers == 2 * (2 * 16 + 2 * 16 + 8 * 16)
    assert stored(small(ExpertSettings(router="hash", layers=(0,)))).routers == 0


def test_at_least_one_row_is_deployed() -> None:
    with pytest.raises(ValueError, match="at least 1 row"):
        deployed(small(ExpertSettings()), 0)


def test_what_prompt_tuning_adds_counts() -> None:
    config = UnifiedConfig(width=32, depth=2, heads=2, hidden=48, vocabulary_size=50)
    config.prompts = {"tokens": 3, "candidates": True, "spe_bias": True, "classes": 5}
    assert stored(config).total == sum(parameter.numel() for parameter in skeleton(config).parameters())
