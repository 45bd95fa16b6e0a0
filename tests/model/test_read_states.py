"""States that are wanted alone are those of a whole pass, with the same gradients, for less work."""

from dataclasses import replace

import pytest
import torch
from small_models import SETTINGS, small_model, words_and_images
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unified.core import seed
from unified.core.types import Tokens
from unified.modalities.image.patches import patches
from unified.modalities.sequence import PREFIX, Attributes
from unified.model.pretrained import UnifiedModel
from unified.nn.encoder import Noise
from unified.nn.moe.settings import ExpertSettings

LAST = SETTINGS.depth - 1
MODELS = {
    "dense": None,
    "attribute": ExpertSettings(count=4, layers="all"),
    "attribute, some linears": ExpertSettings(count=4, layers=[LAST], linears=("qkv", "down")),
    "token": ExpertSettings(count=4, router="token", layers="all"),
    "token, not last": ExpertSettings(count=4, router="token", layers=[0]),
}


def question(kind: str) -> tuple[list[tuple[Attributes, Tokens]], slice]:
    """The parts of a sequence and the places that are read."""
    words = words_and_images()["text"]
    text = words.tokens([words.prepare(text) for text in ("a", "latin small letter e", "digit two")])
    pixels = torch.randint(0, 256, (3, 3, 16, 16), generator=seed.torch_generator(0, "pixels"), dtype=torch.uint8)
    image = (Attributes("image"), patches(pixels, 8))
    if kind == "image":
        return [image], PREFIX
    if kind == "text":
        return [(Attributes("text", "candidate"), text)], PREFIX
    halves = [(Attributes("text", role, causal=True), text) for role in ("input", "query")]  # type: ignore[arg-type]
    return [image, *halves], slice(-text.values.shape[1], None)


def noise_of(model: UnifiedModel) -> Noise:
    drawn = torch.rand(model.config.depth, 2, 3, generator=seed.torch_generator(0, "drop"))
    return Noise((drawn > 0.3).float() / 0.7)


def states(model: UnifiedModel, kind: str, *, part: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The states that are read, and the gradients of a function of them."""
    parts, read = question(kind)
    model.zero_grad(set_to_none=True)
    found = model.encode(parts, noise=noise_of(model), read=read if part else None).states
    wanted = found if part else found[:, read]
    wanted.square().sum().backward()
    return wanted.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["image", "text", "caption"])
@pytest.mark.parametrize("experts", MODELS)
def test_states_that_are_read_alone_are_those_of_the_whole_pass(experts: str, kind: str) -> None:
    model = small_model(MODELS[experts])
    whole, gradients = states(model, kind, part=False)
    read, others = states(model, kind, part=True)
    torch.testing.assert_close(read, whole, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == others.keys(), "the same parameters are used"
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_recomputed_activations_read_alike(kind: str) -> None:
    model = small_model(settings=replace(SETTINGS, depth=3))
    expected, gradients = states(model, kind, part=False)
    model.train().activation_checkpointing_enable()
    found, others = states(model, kind, part=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_the_last_block_does_nothing_for_tokens_that_nobody_reads() -> None:
    model = small_model()
    counts = []
    for read in (None, PREFIX):
        parts, _ = question("image")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.encode(parts, read=read)
        counts.append(counter.get_total_flops())
    width, hidden = model.config.width, model.config.hidden
    unread = 3 * 4  # four patches of three images
    saved = 2 * unread * (width * width + 2 * width * hidden) + 2 * unread * 5 * width * 2
    assert counts[0] - counts[1] == saved


@torch.no_grad()
def test_what_goes_on_or_keeps_its_layers_has_all_states() -> None:
    model = small_model()
    parts, _ = question("image")
    assert model.encode(parts, keep_past=True).states.shape[1] == 5
    kept = model.encode(parts, keep_layers=True, read=PREFIX)
    assert kept.states.shape[1] == 1
    assert {layer.shape[1] for layer in kept.layers} == {5}
