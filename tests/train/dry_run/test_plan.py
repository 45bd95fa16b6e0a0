"""The plan of a run: with data and without, on one process and on many, and how far its memory is from the real one."""

import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import tiny_recipe, write_recipe

from unified.answers.table import read_specs
from unified.config.recipe import EngineSettings, Recipe
from unified.core.errors import DataError, RecipeError
from unified.core.schema import build, read_yaml
from unified.data.shards.write import ShardWriter
from unified.nn.moe.settings import ExpertSettings
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import schedule
from unified.train.build import build as build_parts
from unified.train.dry_run.flops import Cost
from unified.train.dry_run.plan import make_plan
from unified.train.dry_run.report import describe, dry_run
from unified.train.dry_run.workload import work

ROOT = Path(__file__).parent.parent.parent.parent


def published(name: str) -> Recipe:
    """A recipe whose tokenizer and data are not there."""
    recipe = build(Recipe, read_yaml(ROOT / "recipes" / f"{name}.yaml"), name)
    text = replace(recipe.model.modalities["text"], tokenizer="./absent/text")
    return replace(recipe, model=replace(recipe.model, modalities={**recipe.model.modalities, "text": text}))


def test_the_mean_over_the_schedule_is_what_the_steps_hold(tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(tmp_path, slots=3), max_steps=500)
    weights = dict(zip(recipe.tasks, (3.0, 2.0, 1.0, 1.0, 1.0), strict=True))
    tasks = {name: replace(task, sample_weight=weights[name]) for name, task in recipe.tasks.items()}
    recipe = replace(recipe, tasks=tasks)
    plan = make_plan(recipe)
    slots = [slot for step in range(400) for slot in schedule(recipe, recipe.seed, step)]
    assert plan.tokens == pytest.approx(sum(plan.slots[slot.task].work.tokens for slot in slots) / 400, rel=1e-9)
    assert plan.flops == pytest.approx(sum(plan.slots[slot.task].flops for slot in slots) / 400, rel=1e-9)
    parts = build_parts(recipe)
    for slot, batch in StepLoader(recipe, parts.tokenizers, parts.labels).probe():
        labels = parts.label_tokens.get(slot.task)
        done = work(recipe.tasks[slot.task], batch, labels, parts.model.config.vocabulary_size)
        assert plan.slots[slot.task].work == done
        assert plan.slots[slot.task].flops == 3 * Cost(parts.model).forward(done)
        assert plan.slots[slot.task].samples == 48
    assert plan.notes == ()


def test_without_data_shapes_are_assumed_and_said(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    absent = replace(recipe.tasks["retrieve"], data=str(tmp_path / "nothing" / "{0..3}.tar"))
    plan = make_plan(replace(recipe, tasks={**recipe.tasks, "retrieve": absent}))
    # 16 x 16 pixels in patches of 8 are 4 tokens, a text has 16, and [SPE] comes before both.
    assert plan.slots["retrieve"].work.sequences == ((8, 1 + 4, 1), (8, 1 + 16, 1))
    assert plan.slots["retrieve"].samples is None
    assert plan.slots["colour"].samples == 48
    text = describe(plan)
    assert re.search(r"retrieve +\d\.\d+ +8 +176 +[\d.]+ +not found", text)
    assert "assumed in their place: images of 16 x 16 pixels, texts of 16 tokens" in text
    assert "no shard" in text


@pytest.mark.parametrize("name", ["queries_cpu", "sharing_cpu"])
def test_label_sets_that_come_with_the_data_are_assumed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = build(Recipe, read_yaml(ROOT / "recipes" / f"{name}.yaml"), name)
    names = {task: listed for task, answer in answers(recipe).items() if (listed := answer.query_names()) is not None}
    plan = make_plan(recipe)
    specs = read_specs(plan.config.queries["tasks"])
    assert {len(specs[task].names) for task in names} == {80}
    for task in names:
        assert any(note.startswith(f"tasks.{task}: ") and "Assumed: 80 names" in note for note in plan.notes)


def test_a_label_set_that_is_there_and_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = build(Recipe, read_yaml(ROOT / "recipes" / "sharing_cpu.yaml"), "sharing_cpu")
    listed = next(Path(listed) for answer in answers(recipe).values() if (listed := answer.query_names()) is not None)
    listed.mkdir(parents=True)  # without names
    with pytest.raises(RecipeError, match=re.escape(str(listed))):
        make_plan(recipe)


def answers(recipe: Recipe) -> dict[str, Any]:
    """The answers of queries by task."""
    return {name: task.answer for name, task in recipe.tasks.items() if task.answer.queried}


def test_engines_are_compared_the_recipes_own_first(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    plan = make_plan(recipe, 2)
    assert next(iter(plan.engines)) == "ddp"
    assert plan.sizes.total == plan.stored.total >= plan.sizes.group > plan.sizes.largest
    assert next(iter(make_plan(recipe).engines)) == "none"
    offloaded = replace(recipe, engine=EngineSettings("deepspeed", 3, "all"))
    engines = make_plan(offloaded, 2).engines
    assert (next(iter(engines)), len(engines)) == ("ZeRO 3, all on host", 7)
    first = replace(recipe, engine=EngineSettings("deepspeed", 1, "optimizer"))
    assert len(make_plan(first, 2).engines) == 8
    for name in make_plan(first, 2).engines:
        assert name in describe(make_plan(first, 2))
    total = {name: plan.states(engine).total for name, engine in plan.engines.items()}
    sent = {what: one.sent for one in plan.traffic(plan.engines["ddp"]) for what in [one.what]}
    assert sent["gradients"] == 4 * plan.stored.total
    rows = recipe.slots / 5 * (2 * 8 + 4)  # a task has candidates of its batch on both sides, one has four labels
    assert sent["features"] == pytest.approx(rows * 32 * 4 / 2)
    assert total["ZeRO 3, all on host"] < total["ZeRO 3"]


@pytest.mark.parametrize("name", ["uni_perceiver_base", "uni_perceiver_tiny_moe"])
def test_a_published_recipe_is_planned_before_there_are_data(name: str) -> None:
    recipe = published(name)
    processes = 56 if "moe" in name else 64
    plan = make_plan(recipe, processes)
    assert plan.config.vocabulary_size == 49411
    assert plan.slots["imagenet22k"].work.sequences == ((180, 1 + 100, 1), (1000 // processes, 1 + 8, 1))
    assert plan.slots["books_wiki"].work.sequences == ((128, 1 + 128, 1 + 128),)
    assert plan.slots["caption_coco"].work.sequences == ((75, 1 + 100 + 2 * 128, 128),)
    assert plan.slots["books_wiki"].work.read == 128 * round(0.15 * 128) + 49411
    text = describe(plan)
    for said in ("49,411 ids", "1,000 names of 8 tokens", "images of 160 x 160 pixels", f"on {processes} processes"):
        assert said in text
    assert text.count("no shard") == len(recipe.tasks)
    assert plan.activations < make_plan(recipe, processes // 2).activations


def test_activation_checkpointing_needs_less(tmp_path: Path) -> None:
    recipe = published("uni_perceiver_base")
    less = replace(recipe, train=replace(recipe.train, checkpoint_activations=True))
    plain, recomputed = make_plan(recipe, 64), make_plan(less, 64)
    assert recomputed.activations < 0.5 * plain.activations
    engine = plain.engines["ZeRO 2"]
    assert recomputed.states(engine) == plain.states(engine)


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match="cannot be split evenly over 3 processes"):
        make_plan(recipe, 3)
    wrong = replace(recipe.tasks["retrieve"], target="caption")
    with pytest.raises(DataError, match="caption"):
        make_plan(replace(recipe, tasks={"retrieve": wrong}))


def test_a_dry_run_prints_recipe_parameters_work_memory_and_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(tmp_path)
    settings = ExpertSettings(count=4, layers="all")
    dry_run(replace(recipe, model=replace(recipe.model, experts=settings)), 2)
    text = capsys.readouterr().out
    stored, used = (int(number.replace(",", "")) for number in re.findall(r"experts +([\d,]+) +([\d,]+)", text)[0])
    assert stored == 4 * used == 4 * 2 * (12 * 32 * 32 - 4 * 32 * 32 + 4 * 32 + 32 + 64)
    for said in (
        r"router: attribute",
        r"colour +\d",
        r"mean step",
        r"on 2 processes",
        r"\* ddp +0\.00 +– +– +0\.00",
        r"ZeRO 3, all on host",
        r"step 0: \w+ 0…",
    ):
        assert re.search(said, text), said


MEASURE = """
import sys
from pathlib import Path
from unified.core.schema import build, merge, read_yaml
from unified.pipeline.loader import StepLoader
from unified.config.recipe import Recipe
from unified.train.build import build as build_parts
from unified.train.engines.accelerator import make_accelerator
from unified.train.dry_run.plan import make_plan
from unified.train.trainer import Trainer

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

content, folder = read_yaml(sys.argv[1]), Path(sys.argv[2])
accelerator = make_accelerator(build(Recipe, content, "small"), folder)
def total(plan):
    return plan.activations + plan.states(recipe_engine(plan)).total

def recipe_engine(plan):
    return next(iter(plan.engines.values()))

def session(change):
    recipe = build(Recipe, merge(content, {"model": change}), "measured")
    parts = build_parts(recipe)
    probe = StepLoader(recipe, parts.tokenizers, parts.labels).probe()
    before = resident("VmRSS")
    trainer = Trainer(recipe, accelerator, parts, probe)
    for _ in range(2):
        trainer.train_step(probe)
    return resident("VmHWM") - before, total(make_plan(recipe))
session({})  # code of libraries that training loads
print(*session({"width": 256, "hidden": 1024, "depth": 3}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_the_estimate_is_near_the_memory_that_training_takes(tmp_path: Path) -> None:
    # All tasks in one step, so that every step is the largest.
    path = write_recipe(tmp_path, slots=5)
    content = path.read_text()
    for name in ("retrieve", "colour", "caption", "hidden", "next"):
        content = re.sub(rf"(  {name}:\n(?:    .*\n)*?    batch:) \d+", r"\1 64", content)
    path.write_text(content)
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured, estimated = map(float, done.stdout.split()[-2:])
    assert measured > 100 * 2**20
    assert estimated == pytest.approx(measured, rel=0.3)


@pytest.mark.parametrize(("side", "warned"), [(16, False), (24, False), (32, True), (200, True)])
def test_a_dry_run_tells_sizes_and_epochs_and_warns_where_images_lose_half(
    tmp_path: Path, side: int, warned: bool
) -> None:
    with ShardWriter(tmp_path / "photos", kind="test", source="here") as writer:
        for number in range(8):
            png = BytesIO()
            Image.new("RGB", (side, side)).save(png, "png")
            writer.write(f"{number}", {"png": png.getvalue(), "txt": "grey", "cls": 0})
    recipe = tiny_recipe(tmp_path)
    task = replace(recipe.tasks["colour"], data=str(tmp_path / "photos"), target="cls", batch=4)
    plan = make_plan(replace(recipe, tasks={"colour": task}, slots=1, max_steps=10))
    text = describe(plan)
    assert re.search(rf"colour +{side} × {side} +16 × 16 +8 +4\n", text)
    assert re.search(r"colour +1\.000 +4 .* 8 +5\.0\n", text)  # 10 steps of 4 over 8 samples
    assert ("are reduced to 16 × 16 and lose half of a side or more" in text) == warned
