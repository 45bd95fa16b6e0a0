"""Images, paths and texts that were not processed are refused with what to do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import config
from PIL import Image
from small_models import small_model
from transformers import BatchFeature

from unified.model.inputs import processed
from unified.model.pretrained import UnifiedModel


@pytest.fixture(scope="module")
def model() -> Iterator[UnifiedModel]:
    """As users have it: tests check the types of arguments besides."""
    config.update("jaxtyping_disable", True)
    yield small_model()
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    "given", ["digit.png", Path("digit.png"), Image.new("RGB", (8, 8)), torch.zeros(3, 8, 8), [Image.new("L", (8, 8))]]
)
@pytest.mark.parametrize("call", ["classify", "caption", "embed", "ask"])
def test_what_was_not_processed_is_told_to_be(model: UnifiedModel, call: str, given: Any) -> None:
    more = {"classify": (["red", "blue"],), "ask": (["boxes"],)}.get(call, ())
    with pytest.raises(
        TypeError, match=rf"{call}: expected what the processor returns.*model\.{call}\(processor\(images="
    ):
        getattr(model, call)(given, *more)


def test_features_pass() -> None:
    features = BatchFeature({"pixel_values": 1})
    assert processed(features, "classify") is features
    assert processed(None, "embed") == {}
