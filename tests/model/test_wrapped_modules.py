"""Modules that an adapter wraps are called, never read: what it adds counts wherever the module is asked."""

import copy
from typing import Any

import pytest
import torch
from dense_models import SIZE, dense_model
from small_models import random_inputs, small_model
from torch import Tensor, nn

from unified.core import seed
from unified.model.pretrained import UnifiedModel


class Adapted(nn.Module):
    """As an adapter's layer: its weights lie one level deeper, and `forward` adds to them."""

    def __init__(self, base: nn.Module, delta: Tensor, shows_weight: bool) -> None:
        super().__init__()
        self.base, self.delta = base, delta
        if shows_weight:
            self.weight = base.weight

    def forward(self, x: Tensor) -> Any:
        if isinstance(self.base, nn.Embedding):
            return self.base(x) + nn.functional.embedding(x, self.delta)
        if isinstance(self.base, nn.LayerNorm):
            return self.base(x) + nn.functional.layer_norm(x, x.shape[-1:], self.delta)
        return self.base(x) + self.extra(x)

    def extra(self, x: Tensor) -> Tensor:
        delta = self.delta
        if delta.shape[1] % 3 == 0 and type(self.base).__name__ == "PatchProjection":
            delta = delta.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)
        return nn.functional.linear(x, delta)


def asked(model: UnifiedModel, inputs: dict[str, Any]) -> list[Tensor]:
    output = model(**inputs)
    both = model.vocabulary(), model.vocabulary("encoder", chunk=4096)
    return [output.image_embeds, output.text_embeds, output.logits_per_image, *both]


@torch.no_grad()
@pytest.mark.parametrize("shows_weight", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "embeddings.text.word",
        "embeddings.text.position",
        "embeddings.text.token_type",
        "embeddings.image.projection",
        "embeddings.image.temporal",
        "norm",
        "ln_post",
        "proj",
    ],
)
def test_an_adapter_counts_as_its_merged_weights_do(name: str, shows_weight: bool) -> None:
    model = small_model()
    inputs = random_inputs(model)
    base = model.get_submodule(name)
    delta = 0.3 * torch.randn(base.weight.shape, generator=seed.torch_generator("delta", name))
    model.set_submodule(name, Adapted(base, delta, shows_weight))
    adapted = asked(model, inputs)
    base.weight += delta
    model.set_submodule(name, base)
    for found, expected in zip(adapted, asked(model, inputs), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("how", ["hook", "forward", "subclass"])
def test_a_table_of_words_that_is_changed_at_calls_is_called(how: str) -> None:
    model = small_model()
    word = model.embeddings["text"].word
    expected = model.project(model.norm(word.weight + 1))
    if how == "hook":
        word.register_forward_hook(lambda _module, _given, found: found + 1)
    elif how == "forward":
        word.forward = lambda ids: nn.functional.embedding(ids, word.weight) + 1  # type: ignore[method-assign]
    else:
        word.__class__ = type(
            "Shifted", (nn.Embedding,), {"forward": lambda self, ids: nn.Embedding.forward(self, ids) + 1}
        )
    torch.testing.assert_close(model.vocabulary(), expected)


@torch.no_grad()
def test_wrapped_modules_of_queries_are_called() -> None:
    model = copy.deepcopy(dense_model())
    pixels = {"pixel_values": torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)}
    tasks = list(model.queries.specs)
    expected = model.ask(pixels, tasks)
    linears = [name for name, module in model.queries.named_modules() if type(module) is nn.Linear]
    assert linears
    for name in linears:
        base = model.queries.get_submodule(name)
        model.queries.set_submodule(name, Adapted(base, torch.zeros_like(base.weight), False))
    found = model.ask(pixels, tasks)
    for task in tasks:
        torch.testing.assert_close(found[task].states[-1], expected[task].states[-1])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_adapters_of_peft_begin_as_the_model_and_change_it() -> None:
    library = pytest.importorskip("peft", reason="peft is a test-only package")
    model = small_model().eval()
    inputs = random_inputs(model)
    with torch.no_grad():
        before = asked(model, inputs)
        adapted = library.get_peft_model(model, library.LoraConfig(r=2, target_modules=["word", "up"]))
        for found, expected in zip(asked(adapted.eval(), inputs), before, strict=True):
            torch.testing.assert_close(found, expected)
        added = {name: value for name, value in adapted.named_parameters() if "lora" in name}
        assert {"word", "up"} <= {part for name in added for part in name.split(".")}
        assert {name for name, value in adapted.named_parameters() if value.requires_grad} == set(added)
        for name, value in added.items():
            value.copy_(0.3 * torch.randn(value.shape, generator=seed.torch_generator("peft", name)))
        assert not any(torch.allclose(a, b) for a, b in zip(asked(adapted, inputs), before, strict=True))
