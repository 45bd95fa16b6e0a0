"""Flags change single values of a recipe that was read from YAML."""

import dataclasses
from pathlib import Path

import pytest

from unified.cli.flags import with_flags
from unified.config.recipe import Recipe, StartSettings
from unified.core.errors import RecipeError
from unified.core.schema import build, read_yaml
from unified.nn.moe.settings import ExpertSettings

YAML = """
tasks:
  caption:
    data: cc/{00..03}.tar
    inputs: {"png;jpg": image}
    target: txt
    answer: {candidates: vocabulary, read: caption}
    metric: perplexity
    batch: 32
    augment:
    - {kind: affine, degrees: 10, scale: [0.9, 1.1], fill: null, nested: {a: [1, x]}}
    - {kind: flip, empty: []}
  read_aloud:
    data: [a.tar, b.tar]
    inputs: {png: image}
    target: json.script
    answer: {candidates: labels/scripts}
    metric: accuracy
    batch: 16
max_steps: 100
slots: 2
optim: {lr: 5e-4}
train: {trackers: [tensorboard]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "x.yaml").write_text(YAML)
    return build(Recipe, read_yaml(tmp_path / "x.yaml"), "x.yaml")


def flags(recipe: Recipe, line: str) -> Recipe:
    return with_flags(recipe, line.split(), "train.py x.yaml")


def test_without_flags_the_recipe_is_the_same(recipe: Recipe) -> None:
    assert flags(recipe, "") == recipe
    assert recipe.tasks["caption"].augment[0]["scale"] == [0.9, 1.1]


def test_flags_reach_every_level(recipe: Recipe) -> None:
    found = flags(
        recipe,
        "--optim.lr 1e-3 --max-steps 20 --tasks.caption.batch 64 --model.width 96 --model.modalities.text.max-length 9 "
        "--tasks.read-aloud.answer.candidates batch --optim.betas 0.8 0.9 --model.layer-scale None "
        "--train.eval-every 5 --train.precision bf16 --train.checkpoint-activations",
    )
    assert (found.optim.lr, found.max_steps, found.optim.betas) == (1e-3, 20, (0.8, 0.9))
    assert (found.model.width, found.model.modalities["text"].max_length, found.model.layer_scale) == (96, 9, None)
    assert (found.train.eval_every, found.train.precision, found.train.checkpoint_activations) == (5, "bf16", True)
    assert found.tasks["read_aloud"].answer.candidates == "batch"
    assert found.tasks["caption"] == dataclasses.replace(recipe.tasks["caption"], batch=64)
    assert found.data == recipe.data


def test_lists_of_words(recipe: Recipe) -> None:
    found = flags(recipe, "--tasks.caption.data x.tar y.tar --tasks.read-aloud.data z.tar --evaluate digits names")
    assert found.tasks["caption"].data == ("x.tar", "y.tar")
    assert found.tasks["read_aloud"].data == "z.tar"
    assert found.evaluate == ("digits", "names")
    assert found.train.trackers == ("tensorboard",)
    assert flags(recipe, "--train.trackers").train.trackers == ()


def test_augmentations_are_given_whole(recipe: Recipe) -> None:
    found = with_flags(recipe, ["--tasks.caption.augment", '[{"kind": "blur", "sigma": 1.5}]'], "train.py")
    assert found.tasks["caption"].augment == ({"kind": "blur", "sigma": 1.5},)
    assert found.tasks["read_aloud"] == recipe.tasks["read_aloud"]


def test_a_misspelt_flag_names_the_nearest(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        flags(recipe, "--optim.lrr 1e-3")
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "--optim.lrr" in message
    assert "Perhaps you meant" in message
    assert "--optim.lr FLOAT" in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--optim.lr fast", "--optim.lr"),
        ("--max-steps 1.5", "--max-steps"),
        ("--train.precision fp8", "fp32"),
        ("--tasks.captoin.batch 3", "--tasks.caption.batch"),
        ("--tasks.caption.augment [", "--tasks.caption.augment"),
        ("--tasks.caption.augment 3", "--tasks.caption.augment"),
    ],
)
def test_wrong_values_name_their_flag(
    line: str, expected: str, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        flags(recipe, line)
    assert expected in capsys.readouterr().err


def test_values_that_do_not_fit_together_are_refused(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags(recipe, "--model.width 100")
    assert "model.heads: 12 does not divide model.width 100" in capsys.readouterr().err


def test_help_shows_the_values_of_the_recipe(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")  # one column of boxes
    with pytest.raises(SystemExit) as caught:
        flags(recipe, "--help")
    assert caught.value.code in (0, None)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: 0.0005)" in shown
    assert "Steps of linear warm-up. (default: 100)" in shown
    assert "Example: train.py x.yaml --optim.lr 1e-3" in shown
    assert '"degrees": 10' in shown
    assert "(default: a.tar b.tar)" in shown


def test_parts_that_may_be_null_have_flags_where_the_recipe_has_them(recipe: Recipe) -> None:
    given = dataclasses.replace(
        recipe,
        start=StartSettings("runs/dense"),
        model=dataclasses.replace(recipe.model, experts=ExpertSettings(count=4)),
    )
    found = with_flags(given, ["--start.noise", "0.1", "--model.experts.count", "16", "--max-steps", "7"], prog="x")
    assert found.start == StartSettings("runs/dense", 0.1)
    assert found.model.experts == ExpertSettings(count=16)
    without = with_flags(recipe, ["--max-steps", "7"], prog="x")
    assert (without.start, without.model.experts, without.max_steps) == (None, None, 7)


@pytest.mark.parametrize("flag", ["--model.experts.count", "--start.model=x"])
def test_a_flag_of_a_part_that_is_null_says_how_to_get_it(recipe: Recipe, flag: str) -> None:
    with pytest.raises(RecipeError, match=r"the recipe has no (model\.experts|start), .*extends"):
        with_flags(recipe, [flag, "4"], prog="x")


def test_an_earlier_flag_names_the_new_one(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"--model\.image\.patch: expected --model\.modalities\.image\.patch"):
        flags(recipe, "--model.image.patch 4")
