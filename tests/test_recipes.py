"""Every recipe reads, says in its header what it is and how it is run, and names things that exist."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from unified.config.labels import load_labels
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import build, read_yaml
from unified.data.augment.augment import build_transforms
from unified.data.commands.shards import KINDS
from unified.evaluate.spec import load_spec
from unified.modalities import load_tokenizers
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.nn.moe.settings import ExpertSettings
from unified.pipeline.dense_collate import SceneCollator
from unified.train.validate import check_task

RECIPES = Path(__file__).parent.parent / "recipes"


def header(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines[:4] if line.startswith("#"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_reads_and_its_header_says_how_to_run_it(path: Path) -> None:
    recipe = build(Recipe, read_yaml(path), path.name)
    for name, task in recipe.tasks.items():
        check_task(name, task)
        if task.answer.queried:
            continue
        assert isinstance(build_transforms(task.augment, name, task.inputs.values()), dict)
        if task.answer.candidates.startswith("labels/"):
            assert len(load_labels(task.answer.candidates)) > 1
    for word in ("# run:", "# on:", "score:"):
        assert word in header(path), f"{path}: the header lacks {word}"
    command = re.search(r"python train.py (\S+)", header(path))
    assert command
    assert (RECIPES.parent / command[1].rstrip(",)")).is_file()


@pytest.mark.parametrize("path", sorted((RECIPES / "tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_of_tasks_makes_batches_after_the_command_in_its_header(path: Path) -> None:
    model = read_yaml(RECIPES / "queries_cpu.yaml")["model"]
    recipe = build(Recipe, read_yaml(path) | {"model": model, "max_steps": 1, "slots": 1}, path.name)
    tokenizers = load_tokenizers(recipe.model.modalities)
    text = path.read_text(encoding="utf-8").replace(" \\\n#  ", "")
    assert f"extends: tasks/{path.name}" in text
    command = re.search(r"^# data: unified shards build \S+ (\S+) --kind (\S+) .*--held-out 0.2", text, re.MULTILINE)
    assert command
    assert command[2] in KINDS
    for name, task in recipe.tasks.items():
        check_task(name, task)
        assert task.data == f"{command[1]}/train"
        for key in ("names", "identities"):
            reference = getattr(task.answer, key, None)
            assert reference is None or reference.startswith(f"{command[1]}/train")
        SceneCollator(name, task, tokenizers["image"], ("one", "two"), (), recipe.seed)  # knows operators and changes


PER_GPU = {"": (720, 512, 300, 512), "_stage2": (440, 512, 200, 320)}
"""Samples of image classification, hidden words, captions and retrieval in a published GPU's batch."""
STEPS = {("", ""): 200_000, ("_moe", ""): 230_000, ("", "_stage2"): 45_000, ("_moe", "_stage2"): 50_000}


def published(size: str, experts: str, stage: str) -> Recipe:
    name = f"uni_perceiver_{size}{experts}{stage}.yaml"
    return build(Recipe, read_yaml(RECIPES / name), name)


@pytest.mark.parametrize("stage", PER_GPU)
@pytest.mark.parametrize(("experts", "gpus"), [("", 64), ("_moe", 56)])
def test_a_published_step_has_as_many_samples_of_each_task_here(experts: str, gpus: int, stage: str) -> None:
    recipe = published("base", experts, stage)
    assert recipe.max_steps == STEPS[experts, stage]
    kinds = ("imagenet22k", "books_wiki", "caption", "retrieve")
    for kind, per_gpu in zip(kinds, PER_GPU[stage], strict=True):
        batches = {task.batch for name, task in recipe.tasks.items() if name.startswith(kind)}
        assert batches == {per_gpu * gpus // recipe.slots}, kind
        assert not batches.pop() % gpus, kind
    assert sum(task.sample_weight for task in recipe.tasks.values()) == pytest.approx(10 - 0.76 - 0.44, abs=0.01)
    sides = {entry["size"] for task in recipe.tasks.values() for entry in task.augment if entry["kind"] == "crop"}
    tokenizer = ImageTokenizer.load(recipe.model.modalities["image"].tokenizer, 16)
    assert sides == {tokenizer.height} == {224 if stage else 160}
    assert recipe.model.modalities["image"].position_scale * tokenizer.height == pytest.approx(160)


@pytest.mark.parametrize("experts", ["", "_moe"])
@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_stages_and_experts_change_nothing_else_of_the_network(size: str, experts: str) -> None:
    dense, first, second = published(size, "", ""), published(size, experts, ""), published(size, experts, "_stage2")
    assert replace(first.model, experts=None) == dense.model
    assert (
        replace(second.model, modalities={**second.model.modalities, "image": first.model.modalities["image"]})
        == first.model
    )
    assert dense.model.drop_path == (0.2 if size == "large" else 0.1)
    if first.model.experts is not None:
        layers = "all" if size == "tiny" else "even"
        assert first.model.experts == ExpertSettings(count=8, top=2, router="attribute", layers=layers)
    assert second.start is not None
    assert second.start.model == f"runs/uni_perceiver_{size}{experts}"
    assert (first.optim.lr, first.optim.weight_decay, first.optim.clip) == (1e-3, 0.2, 0.1)
    assert (second.optim.lr, second.optim.weight_decay, second.optim.warmup) == (2e-5, 0.05, 5000)


def test_the_quickstart_with_experts_differs_in_the_experts_alone() -> None:
    dense, conditional = (
        build(Recipe, read_yaml(RECIPES / f"{name}.yaml"), name) for name in ("quickstart", "quickstart_moe")
    )
    assert conditional.model.experts is not None
    assert replace(conditional, model=replace(conditional.model, experts=None)) == dense


@pytest.mark.parametrize("path", sorted((RECIPES / "eval").glob("*.yaml")), ids=lambda path: path.stem)
def test_evaluation_spec_reads_and_says_how_to_run_it(path: Path) -> None:
    assert load_spec(path).evaluations
    assert "unified eval" in header(path)


@pytest.mark.parametrize("path", sorted((RECIPES / "labels").glob("*.yaml")), ids=lambda path: path.stem)
def test_label_set_reads(path: Path) -> None:
    assert len(load_labels(f"labels/{path.stem}")) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"png": "imge"}}, "did you mean 'image'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"answer": {"candidates": "vocabulary"}}, "masked, caption or causal"),
        (
            {"answer": {"candidates": "batch", "read": "masked"}},
            "read: expected none with these candidates, got 'masked'",
        ),
        ({"answer": {"candidates": "vocabulary", "read": "masked"}}, "needs a text column"),
    ],
)
def test_a_task_that_cannot_be_is_refused_before_data_is_read(change: dict[str, object], message: str) -> None:
    content = read_yaml(RECIPES / "quickstart.yaml")
    content["tasks"]["retrieve"] |= change
    with pytest.raises(RecipeError, match=message):
        check_task("retrieve", build(Recipe, content, "changed.yaml").tasks["retrieve"])


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ({"detail": 8, "doublings": 3}, "places of maps hold no whole number of pixels, as patches of 4"),
        ({"object_content": "memory", "place": "encoder"}, "object_content: memory is what a decoder looks at"),
        ({"object_content": "memory", "sharing": "head"}, "object_content: memory is what a decoder looks at"),
    ],
)
def test_queries_that_cannot_be_are_refused(queries: dict[str, object], message: str) -> None:
    content = read_yaml(RECIPES / "quickstart.yaml")
    content["model"]["modalities"]["image"]["patch"] = 4
    content["model"]["queries"] = queries
    with pytest.raises(RecipeError, match=f"model.queries.*{message}"):
        build(Recipe, content, "changed.yaml")


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    content = read_yaml(RECIPES / "quickstart.yaml")
    content["model"]["heads"] = 5
    with pytest.raises(RecipeError, match=r"changed.yaml.*model.heads: 5 does not divide"):
        build(Recipe, content, "changed.yaml")
