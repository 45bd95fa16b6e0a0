"""Task interference: the formula on known gradients, and the measurement of a real model."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_recipe, write_recipe
from torch import Tensor

from unified.config.recipe import Recipe
from unified.core.errors import DataError, RecipeError, UserError
from unified.core.seed import torch_generator
from unified.reports.experts import interference as module
from unified.reports.experts.commands import Ask, interference_command
from unified.reports.experts.interference import ALL, VANISHING, interference, measure
from unified.reports.source import Questions, Subject, chosen_tasks, find_recipe
from unified.train.build import build
from unified.train.monitor.run_folder import RunFolder

N = 5
WHOLE = {ALL: slice(None)}


def drawn(tasks: int = 3, batches: int = N, size: int = 40) -> Tensor:
    """Gradients (tasks, batches, size) whose batches agree as much as they differ."""
    draw = torch_generator("gradients")
    return torch.randn(tasks, 1, size, generator=draw) + torch.randn(tasks, batches, size, generator=draw)


def matrix(gradients: Tensor) -> np.ndarray:
    found = interference(lambda i, k: gradients[i, k], len(gradients), gradients.shape[1], WHOLE)
    return found[ALL].mean()


def by_the_paper(gradients: Tensor) -> np.ndarray:
    """The formula, term by term."""
    g = gradients.double().numpy()
    tasks, batches = g.shape[:2]

    def change(j: int, i: int, k: int) -> float:
        terms = [g[j, m] @ g[i, k] / np.sqrt(g[j, m] @ g[j, m]) for m in range(batches) if m != k]
        return sum(terms) / (batches - 1)

    found = np.zeros((tasks, tasks))
    for i in range(tasks):
        for j in range(tasks):
            found[i, j] = sum(change(j, i, k) / change(i, i, k) for k in range(batches)) / batches
    return found


def test_the_matrix_is_that_of_the_formula() -> None:
    gradients = drawn()
    np.testing.assert_allclose(matrix(gradients), by_the_paper(gradients), rtol=1e-5)
    assert not np.allclose(by_the_paper(gradients), by_the_paper(gradients).T), "rows and columns must differ"


def test_parts_are_slices_and_all_is_one_vector() -> None:
    gradients = drawn()
    parts = {ALL: slice(0, 40), "0": slice(0, 15), "1": slice(15, 40)}
    found = interference(lambda i, k: gradients[i, k], 3, N, parts)
    for name, where in parts.items():
        np.testing.assert_allclose(found[name].mean(), by_the_paper(gradients[:, :, where]), rtol=1e-5)


def test_the_diagonal_is_one_and_scales_of_tasks_do_not_matter() -> None:
    gradients = drawn()
    found = matrix(gradients)
    np.testing.assert_array_equal(found.diagonal(), 1.0)
    scaled = gradients * torch.tensor([1e-4, 1.0, 300.0])[:, None, None]
    np.testing.assert_allclose(matrix(scaled), found, rtol=1e-4, atol=1e-6)


def test_tasks_apart_do_not_interfere_and_opposite_ones_undo_each_other() -> None:
    base = drawn(1)[0]
    zero = torch.zeros_like(base)
    apart = torch.stack([torch.cat([base, zero], 1), torch.cat([zero, base], 1)])
    np.testing.assert_array_equal(matrix(apart), np.eye(2))
    np.testing.assert_allclose(matrix(torch.stack([base, -base])), [[1, -1], [-1, 1]], rtol=1e-6)


def test_vanishing_and_negative_denominators_are_counted() -> None:
    along, across = torch.eye(2)
    # Task 0: batch 0 is across the others, so that its denominator vanishes. Task 1: every batch is against the rest.
    gradients = torch.stack([torch.stack([across, along, along]), torch.stack([along, along, -2 * along])])
    found = interference(lambda i, k: gradients[i, k], 2, 3, WHOLE)[ALL]
    assert found.dropped.tolist() == [1, 2]
    assert found.flips.tolist() == [0, 1]
    assert np.isfinite(found.mean()).all()
    silent = interference(lambda i, k: gradients[i, k] * (i == 1), 2, 3, WHOLE)[ALL]
    assert silent.dropped.tolist() == [3, 2]
    assert np.isnan(silent.mean()[0]).all()
    assert silent.mean()[1, 0] == 0, "a task without gradients touches no other"
    assert np.isnan(silent.standard_error()[1]).all(), "one batch has no spread"


def test_a_ratio_over_noise_is_left_out_and_one_just_above_it_is_not() -> None:
    for cosine, dropped in ((0.5 * VANISHING, 2), (2 * VANISHING, 0)):
        pair = torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]])
        found = interference(lambda i, k, pair=pair: pair[i + k], 1, 2, WHOLE)[ALL]
        assert found.dropped.tolist() == [dropped]


def test_one_batch_is_too_few() -> None:
    with pytest.raises(UserError, match="at least 2"):
        matrix(torch.ones(1, 1, 2))


# A real model.


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    parts = build(tiny_recipe(tmp_path))
    return Subject("tiny", parts.model, parts.tokenizers, "a test")


@pytest.fixture
def questions(subject: Subject, tmp_path: Path) -> Questions:
    return Questions(subject, tiny_recipe(tmp_path), seed=3)


def state(model: torch.nn.Module) -> str:
    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()


def test_a_model_is_left_as_it_was_and_two_measurements_agree_to_the_bit(questions: Questions) -> None:
    model = questions.model.train()
    model.encoder.eval()
    frozen = model.get_parameter("encoder.blocks.1.mlp.down.weight").requires_grad_(False)
    modes, before, numpy_before = [m.training for m in model.modules()], state(model), np.random.get_state()[1].copy()
    torch_before = torch.get_rng_state()
    first, second = (measure(questions, batches=2) for _ in range(2))
    assert [m.training for m in model.modules()] == modes
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert all(p.grad is None for p in model.parameters())
    assert not frozen.requires_grad
    assert list(first) == [ALL, "0", "1"]
    for name, part in first.items():
        np.testing.assert_array_equal(part.ratios, second[name].ratios)
        assert np.isfinite(part.mean()).all()


def test_gradients_that_are_computed_twice_give_the_same(questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = measure(questions, batches=2, layers=[1])
    monkeypatch.setattr(module, "KEPT", 0)
    np.testing.assert_array_equal(measure(questions, batches=2, layers=[1])["1"].ratios, kept["1"].ratios)


@pytest.mark.parametrize("linear", ["down", "up", "qkv", "out"])
def test_every_linear_is_measured_by_the_gradients_of_training(questions: Questions, linear: str) -> None:
    """One task against itself on the same loss that a training step has."""
    model = questions.model.eval()
    (weight,) = [p for n, p in model.named_parameters() if n.endswith(f"blocks.0.{module.LINEARS[linear]}.weight")]
    gradients = []
    for task in questions.tasks[:2]:
        for number in range(2):
            model.zero_grad()
            questions.loss(task, number).backward()
            assert weight.grad is not None
            gradients.append(weight.grad.flatten().clone())
    model.zero_grad()
    expected = by_the_paper(torch.stack(gradients).unflatten(0, (2, 2)))
    found = measure(questions, linear=linear, layers=[0], batches=2)["0"].mean()
    np.testing.assert_allclose(found[:2, :2], expected, rtol=1e-3, atol=1e-5)


def test_another_seed_asks_other_questions(subject: Subject, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    keys = {s: Questions(subject, recipe, seed=s).batch("colour", 0).keys for s in (0, 1)}
    assert keys[0] != keys[1]
    assert Questions(subject, recipe, seed=0).batch("colour", 0).keys == keys[0]


# The command.


@pytest.fixture
def models(subject: Subject, tmp_path: Path) -> dict[str, str]:
    """An exported folder, and a second one with other weights."""
    processor = build(tiny_recipe(tmp_path)).processor
    for name in ("before", "after"):
        subject.model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        with torch.no_grad():
            subject.model.encoder.blocks[1].mlp.down.weight.mul_(1.5)
    return {name: str(tmp_path / name) for name in ("before", "after")}


def test_the_command_writes_numbers_and_a_figure_and_the_same_ones_again(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out, ask = str(write_recipe(tmp_path)), tmp_path / "out", Ask(batches=2, seed=4)
    texts = []
    for _ in range(2):
        interference_command(models["after"], ask, data=recipe, against=models["before"], out=out)
        texts.append((out / "interference.json").read_text())
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert found["format"] == 1
    assert (found["batches"], found["seed"], found["linear"]) == (2, 4, "mlp.down")
    assert found["tasks"] == ["caption", "colour", "hidden", "next", "retrieve"]
    assert found["layers"] == found["against"]["layers"] == [0, 1]
    mean = {name: np.array(entry["matrices"]["all"]["mean"]) for name, entry in (("a", found), ("b", found["against"]))}
    np.testing.assert_allclose(found["difference"]["all"], mean["a"] - mean["b"])
    assert np.abs(found["difference"]["all"]).max() > 0
    assert set(found["matrices"]["1"]) == {"mean", "median", "standard_error", "sign_flips", "dropped"}
    with Image.open(out / "interference.png") as figure:
        assert figure.width > 1000
    assert "affected \\ causing" in capsys.readouterr().out


def test_a_run_brings_its_recipe(subject: Subject, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(UserError, match=r"--data RECIPE\.yaml"):
        find_recipe(tmp_path / "run", None)
    with RunFolder(tmp_path / "run") as run:
        run.start(recipe, 0)
        assert find_recipe(tmp_path / "run", None) == recipe, "also while it is trained"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Ask(batches=1), "at least 2"),
        (Ask(tasks=("colours",)), "did you mean 'colour'"),
        (Ask(batches=2, layers=(2,)), "2 is not a layer of this model, which has 0 to 1"),
    ],
)
def test_wrong_questions_are_clear_errors(models: dict[str, str], tmp_path: Path, wrong: Ask, message: str) -> None:
    with pytest.raises((UserError, RecipeError), match=message):
        interference_command(models["after"], wrong, data=str(write_recipe(tmp_path)), out=tmp_path / "out")


def test_missing_data_and_unknown_families_are_named(subject: Subject, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)

    def edited(**changes: Any) -> Recipe:
        return replace(recipe, tasks={name: replace(task, **changes) for name, task in recipe.tasks.items()})

    with pytest.raises(DataError, match=r"nowhere.*count from the current folder"):
        Questions(subject, edited(data=str(tmp_path / "nowhere")), 0)
    with pytest.raises(RecipeError, match="not trained on the family 'other'"):
        Questions(subject, edited(family="other"), 0)


def test_tasks_are_chosen_in_the_order_given(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    assert list(chosen_tasks(recipe, ["next", "colour"]).tasks) == ["next", "colour"]
    assert chosen_tasks(recipe, []) == recipe
