"""Attention in windows against attention with a mask that says the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_recipe
from torch import Tensor

from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel
from unified.nn.windows import Windows
from unified.train.build import build


def masked(windows: Windows, length: int) -> Tensor:
    """Who sees whom."""
    stop = windows.start + windows.rows * windows.columns
    place = torch.arange(windows.rows * windows.columns)
    window = torch.full((length,), -1)
    across = place // windows.columns // windows.side * 1000 + place % windows.columns // windows.side
    window[windows.start : stop] = across
    return (window[:, None] == window[None]) | (window[:, None] < 0) | (window[None] < 0)


@pytest.mark.parametrize(("rows", "columns", "side"), [(4, 6, 2), (5, 7, 3), (3, 3, 8), (4, 4, 1)])
@pytest.mark.parametrize("keys", [None, 2])
def test_windows_are_a_mask(rows: int, columns: int, side: int, keys: int | None) -> None:
    windows = Windows(1, rows, columns, side)
    length = 1 + rows * columns + 4
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, length, 8, generator=generator).requires_grad_() for _ in range(3))
    padding = None
    who = masked(windows, length)[None, None]
    if keys is not None:
        padding = torch.ones(2, 1, 1, length, dtype=torch.bool)
        padding[1, ..., -keys:] = False
        who = who & padding
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=who)
    found = windows.attend(query, key, value, padding)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    given = torch.autograd.grad(expected.square().sum(), (query, key, value))
    for ours, theirs in zip(torch.autograd.grad(found.square().sum(), (query, key, value)), given, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def model(folder: Path, **image: int) -> UnifiedModel:
    recipe = tiny_recipe(folder)
    settings = replace(recipe.model, depth=3, layer_scale=None, image=replace(recipe.model.image, **image))
    return build(replace(recipe, model=settings)).model.eval()


def test_a_model_with_windows_sees_far_in_its_global_layers_alone(tmp_path: Path) -> None:
    pixels = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    changed = pixels.clone()
    changed[..., :8, :8] = 255  # the first patch of six by six

    def reach(found: UnifiedModel) -> Tensor:
        """How much each patch changes with the first one."""
        states = [found.encode([(Attributes("image"), patches(image, 8))]).states[0, 1:] for image in (pixels, changed)]
        return (states[0] - states[1]).abs().amax(1).view(6, 6)

    with torch.no_grad():
        local = model(tmp_path, window=2, global_every=100)
        # What leaves the window goes over the prefix, which every patch sees.
        assert reach(local)[:2, :2].min() > reach(local)[2:, 2:].max()
        everywhere, windowless = model(tmp_path, window=2, global_every=1), model(tmp_path)
        torch.testing.assert_close(reach(everywhere), reach(windowless))
        assert not torch.allclose(reach(local), reach(windowless))


def test_captions_and_texts_beside_an_image(tmp_path: Path) -> None:
    found, whole = model(tmp_path, window=2, global_every=100), model(tmp_path)
    image = (Attributes("image"), patches(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), 8))
    words = text_tokens(torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]))
    with torch.no_grad():
        question = [image, (Attributes("text"), words)]
        states = found.encode(question).states
        assert states.isfinite().all()
        assert not torch.allclose(states, whole.encode(question).states)
        caption = [image, (Attributes("text", causal=True), words)]
        torch.testing.assert_close(found.encode(caption).states, whole.encode(caption).states)
