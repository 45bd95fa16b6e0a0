"""The estimate of activations against what autograd really keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe, with_experts
from torch import Tensor

from unified.answers.score import token_kinds
from unified.config.recipe import Recipe
from unified.hub.fold import folded_config
from unified.model.parameter_count import skeleton
from unified.nn.moe.settings import ExpertSettings
from unified.pipeline.loader import StepLoader
from unified.train.build import build
from unified.train.dry_run.activation_memory import Activations
from unified.train.dry_run.flops import Cost
from unified.train.dry_run.workload import work
from unified.train.step import Item, StepModel


def kept_and_estimated(recipe: Recipe) -> tuple[int, int]:
    """Bytes that the backward pass of all slots at once keeps beside the weights, and the estimate."""
    parts = build(recipe)
    model = StepModel(parts.model, recipe.tasks, recipe.train.precision)
    if recipe.train.checkpoint_activations:
        parts.model.activation_checkpointing_enable()
    weights = {parameter.untyped_storage().data_ptr() for parameter in parts.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = Activations(
        parts.model.config, half=recipe.train.precision != "fp32", recomputed=recipe.train.checkpoint_activations
    )
    items, estimated = [], 0
    for slot, batch in StepLoader(recipe, parts.tokenizers, parts.labels).probe():
        labels = parts.label_tokens.get(slot.task)
        task = recipe.tasks[slot.task]
        items.append(Item(slot.task, batch, labels))
        estimated += held.of(
            work(task, batch, labels, parts.model.config.vocabulary_size), token_kinds(task, slot.task)
        )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = model(items)[:2]
    assert loss.requires_grad
    return sum(kept.values()), estimated


@pytest.mark.parametrize("experts", [None, "attribute", "token"])
@pytest.mark.parametrize(("precision", "recomputed"), [("fp32", False), ("bf16", False), ("fp32", True)])
def test_activations_are_about_what_autograd_keeps(
    tmp_path: Path, experts: str | None, precision: str, recomputed: bool
) -> None:
    recipe = tiny_recipe(tmp_path, train={"precision": precision, "checkpoint_activations": recomputed})
    settings = ExpertSettings(count=4, router=experts) if experts else None
    model = replace(recipe.model, width=64, hidden=256, depth=4, drop_path=0.0, experts=settings)
    tasks = {name: replace(task, batch=64) for name, task in recipe.tasks.items()}
    kept, estimated = kept_and_estimated(replace(recipe, model=model, tasks=tasks))
    assert estimated == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_model_folded_for_one_row_keeps_and_costs_what_a_dense_one_does(tmp_path: Path, recomputed: bool) -> None:
    recipe = tiny_recipe(tmp_path)
    parts = build(with_experts(recipe))
    folded, dense = folded_config(parts.model.config, ["10011000"]), build(recipe).model.config
    task = recipe.tasks["retrieve"]
    _, batch = next(pair for pair in StepLoader(recipe, parts.tokenizers, parts.labels).probe())
    done, kinds = work(task, batch, None, folded.vocabulary_size), token_kinds(task, "retrieve")
    kept = [Activations(each, half=False, recomputed=recomputed).of(done, kinds) for each in (folded, dense)]
    assert kept[0] == kept[1]
    assert Cost(skeleton(folded)).forward(done) == Cost(skeleton(dense)).forward(done)
