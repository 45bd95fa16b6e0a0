"""The load of experts: the losses that balance it, the bias that does without, and what a run tells of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tensors_of, tiny_recipe, with_experts

from tests.train.test_trainer import only, start
from unified import checkpoint
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.nn.moe.routing import Usage
from unified.train import loop
from unified.train.expert_load import routing_loss
from unified.train.step import draw_noise


def usage(load: list[float], probability: list[float], squared: float, tokens: float) -> Usage:
    values = torch.tensor([load]).float(), torch.tensor([probability], requires_grad=True)
    return Usage(*values, torch.tensor([squared]), torch.tensor([tokens]))


def experts(**changes: object) -> dict[str, object]:
    return {"router": "token", "count": 2, "balance": 0.0, "z_loss": 0.0, **changes}


def test_the_balance_loss_is_that_of_all_passes_of_a_step_together() -> None:
    passes = [(usage([3, 1], [3.0, 1.0], 8.0, 4.0),), (usage([1, 1], [0.5, 1.5], 1.0, 2.0),)]
    loss, load = routing_loss(passes, experts(balance=0.5))
    assert load is not None
    assert load.tolist() == [[[4.0, 2.0]]]
    # E Σ f p with f = (4, 2) / 6 and p = (3.5, 2.5) / 6
    assert float(loss.detach()) == pytest.approx(0.5 * 2 * (4 / 6 * 3.5 / 6 + 2 / 6 * 2.5 / 6))
    loss.backward()
    assert passes[0][0].probability.grad[0].tolist() == pytest.approx([0.5 * 2 * 4 / 36, 0.5 * 2 * 2 / 36])
    loss, _ = routing_loss(passes, experts(z_loss=0.1))
    assert float(loss.detach()) == pytest.approx(0.1 * 9 / 6)


def test_routers_that_do_not_look_at_the_data_have_no_loss_and_dense_models_no_load() -> None:
    loss, load = routing_loss([(usage([3, 1], [3.0, 1.0], 8.0, 4.0),)], experts(router="attribute"))
    assert loss is None
    assert load is not None
    assert routing_loss([()], None) == (None, None)


def test_the_balance_loss_spreads_tokens(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, max_steps=30)
    spread = {}
    for weight in (0.0, 5.0):
        trainer, loader = start(quiet(with_experts(recipe, "token", balance=weight, linears=["up", "down"])), tmp_path)
        batch = loader.probe()
        for _ in range(20):
            trainer.train_step(batch)
        trainer.experts.record()
        trainer.train_step(batch)
        spread[weight] = trainer.experts.record()["experts/0.mlp/effective"]
    assert spread[5.0] > spread[0.0]
    assert spread[5.0] > 3.0


def test_the_bias_moves_against_the_load_and_is_saved(tmp_path: Path) -> None:
    recipe = quiet(with_experts(tiny_recipe(tmp_path), "token", balance=0.0, bias_rate=0.25))
    trainer, loader = start(recipe, tmp_path)
    trainer.train_step(loader.probe())
    load = torch.tensor(trainer.experts.record()["experts/0.mlp/load"])
    name = "encoder.blocks.0.routers.mlp.bias"
    bias = trainer.model.state_dict()[name]
    assert torch.equal(bias, 0.25 * (load.mean() - load).sign())
    assert torch.equal(tensors_of(trainer)["weights"][name], bias)
    again, _ = start(recipe, tmp_path)
    trainer.save(checkpoint.Writer(tmp_path / "checkpoints", keep_last=1), {})
    again.load(next((tmp_path / "checkpoints").glob("step_*")))
    assert torch.equal(again.model.state_dict()[name], bias)


def test_gate_noise_is_a_function_of_seed_step_and_slot_and_changes_the_choice(tmp_path: Path) -> None:
    task = tiny_recipe(tmp_path).tasks["caption"]

    def drawn(step: int, slot: int = 0) -> torch.Tensor:
        noise = draw_noise(
            task, rate=0.0, depth=2, labels=0, seed_value=5, step=step, slot=slot, device=torch.device("cpu"),
            gates=(1, 2, 4),
        )  # fmt: skip
        assert noise is not None
        assert noise.inputs.drop_path is None
        assert noise.inputs.gates is not None
        return noise.inputs.gates

    assert drawn(3).shape == (1, 2, 3, 4)
    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    assert not torch.equal(drawn(3), drawn(3, slot=1))
    noisy, loader = start(with_experts(tiny_recipe(tmp_path), noise=8.0), tmp_path)
    loads = []
    for _ in range(2):
        noisy.train_step(only(loader, "colour"))
        loads.append(noisy.experts.record()["experts/0.mlp/load"])
    assert loads[0] != loads[1]
    still, loader = start(with_experts(tiny_recipe(tmp_path), noise=0.0), tmp_path)
    assert still.experts.gates is None


def test_a_run_tells_the_load_of_each_layer_and_decision(tmp_path: Path) -> None:
    recipe = with_experts(tiny_recipe(tmp_path, max_steps=2), layers=[1])
    loop.run(replace(recipe, train=replace(recipe.train, trackers=("tensorboard",))), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name for name in record if name.startswith("experts/")} == {
        f"experts/1.{decision}/{figure}"
        for decision in ("attention", "mlp")
        for figure in ("load", "entropy", "effective", "dead")
    }
    assert sum(record["experts/1.mlp/load"]) == pytest.approx(1)
    assert len(record["experts/1.mlp/load"]) == 4
    assert 1 <= record["experts/1.mlp/effective"] <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 1}, "its weight is always 1"),
        ({"top": 5}, r"model\.experts\.top: 5 of 4 experts"),
        ({"layers": [0, 7]}, r"model\.experts\.layers: \[7\] are none of the layers 0 to 1"),
        ({"linears": ["up", "up"]}, "named twice"),
        ({"linears": []}, "leave `experts` out"),
        ({"hidden": 8}, "tokens are sent to experts"),
        ({"capacity": 1.0}, "routers token and context alone"),
        ({"router": "token", "bits": ["query"]}, "only the routers attribute and hash"),
        ({"count": 0}, r"experts\.count: expected 1 to 4,096, got 0"),
        ({"router": "tokens"}, "did you mean 'token'"),
        ({"linears": ["gate"]}, "down, out, qkv, up"),
    ],
)
def test_experts_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        with_experts(tiny_recipe(tmp_path), **changes)


def quiet(recipe: Recipe) -> Recipe:
    """Without drop path, so that a step is the same each time."""
    return replace(recipe, model=replace(recipe.model, drop_path=0.0))
