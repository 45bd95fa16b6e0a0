"""Every kind of answer begins at its baseline, measured from the first samples of the data, and old weights load."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dense_models import outspoken
from safetensors.torch import load_file, save_file
from squares import LISTS, content, matching, picture, tasks, trainer_of, write_squares
from squares import recipe as recipe_of
from torch import Tensor

from unified import checkpoint
from unified.answers import ANSWERS
from unified.answers.kind import QueryKind
from unified.answers.table import answers, baseline_shapes, loss_and_score, make_spec
from unified.config.recipe import Recipe
from unified.core import seed
from unified.core.schema import build
from unified.data.shards.write import ShardWriter
from unified.evaluate.dense.nearest_neighbour import NEAREST
from unified.evaluate.run import evaluate
from unified.evaluate.table import LOWER, MAIN
from unified.hub.load import Loaded, load, write
from unified.model.task_queries import NEWER
from unified.nn.queries.modules import ZeroLinear
from unified.pipeline.loader import StepLoader
from unified.train import loop
from unified.train.build import Parts
from unified.train.build import build as build_parts
from unified.train.engines.accelerator import make_accelerator
from unified.train.first_samples import begin_at_baselines
from unified.train.trainer import Trainer

TRAINING, HELD_OUT = 24, 16
LATER = {"named", "who"}
"""Made from names, which have no baseline of their own, and an embedding, which has none."""


def all_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """A task of every kind of answer; of images also those that nothing is added to, of points also by shares."""
    known = tasks(folder)
    likely = {**known["points"], "answer": {**known["points"]["answer"], "softmax": True}}
    edges = {**known["denoise"], "answer": {"map": "pixels", "operator": "sobel"}}
    return {**known, "likely": likely, "sobel": edges}


def write_held_out(folder: Path) -> None:
    with ShardWriter(folder / "held_out", kind="test", source="test") as writer:
        writer.manifest["classes"] = list(LISTS["classes"])
        for number in range(TRAINING, TRAINING + HELD_OUT):
            writer.write(f"{number:03d}", picture(number))


def begun(folder: Path, *names: str, augment: Any = (), **queries: Any) -> tuple[Parts, StepLoader]:
    """A model before its first step."""
    known, given = all_tasks(folder), content(folder)
    given["model"]["queries"] |= {"doublings": 2, **queries}  # squares are as small as places of 4 pixels
    chosen = {name: {**known[name], "augment": list(augment)} for name in names}
    made = build(Recipe, {**given, "tasks": chosen}, "squares.yaml")
    parts = build_parts(made)
    loader = StepLoader(made, parts.tokenizers, parts.labels)
    begin_at_baselines(parts, loader)
    parts.model.processor = parts.processor
    return parts, loader


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_squares(tmp_path_factory.mktemp("squares"), TRAINING)
    write_held_out(folder)
    return folder


@cache
def scored(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of an evaluation of all tasks of a model before its first step, by task."""
    names = [name for name in all_tasks(folder) if name not in LATER]
    parts, _ = begun(folder, *names)
    common = {"kind": "dense", "data": str(folder / "held_out"), "inputs": {"png": "image"}}
    spec = folder / "spec.yaml"
    evaluations = {name: {**common, "task": name, "floor": str(folder / "data")} for name in names}
    spec.write_text(yaml.safe_dump({"evaluations": evaluations}))
    rows = evaluate(parts.model.eval(), parts.processor, [spec])["results"]
    return {name: [row for row in rows if row["dataset"] == name] for name in names}


@pytest.mark.parametrize("name", sorted(set(all_tasks(Path())) - LATER))
def test_the_first_score_is_not_below_the_baseline(squares: Path, name: str) -> None:
    model, *baselines = scored(squares)[name]
    answer = all_tasks(squares)[name]["answer"]
    metric = MAIN[answer.get("map") or answer["regress"]]
    known = [row for row in baselines if NEAREST not in row["features"]]
    assert known
    for row in known:
        interval, found = row["ci"][metric], model["metrics"][metric]
        above = found <= interval["high"] if metric in LOWER else found >= interval["low"]
        assert above, f"{found} against {row['features']} {row['metrics'][metric]}"


def test_there_is_a_baseline_of_every_kind_but_embeddings() -> None:
    specs = [make_spec(kind.name, 4, names=("a",) * 4) for kind in ANSWERS.values() if isinstance(kind, QueryKind)]
    assert {spec.read for spec in specs if not baseline_shapes(spec)} == {"identity"}


@pytest.mark.parametrize("sharing", ["all", "head"])
def test_an_image_that_is_added_to_begins_as_itself_exactly(squares: Path, sharing: str) -> None:
    parts, loader = begun(squares, "denoise", sharing=sharing)
    ((_, batch),) = loader.probe()
    with torch.no_grad():
        found = parts.model.ask(batch.inputs, ["denoise"])["denoise"]
        said = answers(found, [(32, 32)] * 4)
    assert found.picture is not None
    for row, of in enumerate(said):
        assert torch.equal(of["image"], found.picture[row])


def test_every_answer_learns_from_the_first_step(squares: Path) -> None:
    parts, loader = begun(squares, *sorted(set(all_tasks(squares)) - LATER))
    queries = parts.model.queries
    assert queries is not None
    for slot, batch in loader.probe():
        loss, _ = loss_and_score(parts.model.ask(batch.inputs, [slot.task])[slot.task], batch.target)
        parts.model.zero_grad()
        loss.mean().backward()
        last = [module for module in queries.modules() if isinstance(module, ZeroLinear)]
        assert any(module.weight.grad is not None and module.weight.grad.any() for module in last), slot.task


def test_measuring_again_gives_the_same_whatever_changes_at_random(squares: Path) -> None:
    names = sorted(set(all_tasks(squares)) - {"who"})
    first, _ = begun(squares, *names)
    again, _ = begun(squares, *names, augment=[{"kind": "flip"}])
    one, two = first.model.state_dict(), again.model.state_dict()
    assert [name for name in one if name.startswith(NEWER)]
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_model_without_queries_is_left_alone(squares: Path) -> None:
    known = matching(squares)
    made = build(Recipe, {**content(squares), "tasks": {"person": known["person"]}}, "squares.yaml")
    parts = build_parts(made)
    before = {name: tensor.clone() for name, tensor in parts.model.state_dict().items()}
    begin_at_baselines(parts, StepLoader(made, parts.tokenizers, parts.labels))
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.model.state_dict().items())


def drop_newer(file: Path) -> int:
    """Rewrite a file of weights as older versions wrote it; how many were dropped."""
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(NEWER)}
    save_file(kept, file, metadata={"format": "pt"})
    return len(tensors) - len(kept)


def test_an_exported_model_of_before_answers_as_it_did(squares: Path, tmp_path: Path) -> None:
    names = sorted(all_tasks(squares))
    known = all_tasks(squares)
    made = build(Recipe, {**content(squares), "tasks": {name: known[name] for name in names}}, "squares.yaml")
    parts = build_parts(made)
    with seed.seeded("trained"), torch.no_grad():
        outspoken(parts.model)
        assert parts.model.queries is not None
        for rows in parts.model.queries.anchors.values():
            rows.uniform_()
    parts.model.processor = parts.processor
    write(Loaded(parts.model.eval(), parts.processor, "a test"), tmp_path / "old", "old")
    assert drop_newer(tmp_path / "old" / "model.safetensors")
    loaded, _ = load(tmp_path / "old")
    ((_, batch),) = StepLoader(
        replace(made, tasks={"boxes": made.tasks["boxes"]}), parts.tokenizers, parts.labels
    ).probe()
    with torch.no_grad():
        before, after = (model.ask(batch.inputs, names) for model in (parts.model, loaded))
    for name in names:
        said = [answers(found[name], [(32, 32)] * 4) for found in (before, after)]
        for one, two in zip(*said, strict=True):
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one), name


def test_an_older_run_goes_on_without_baselines(squares: Path, tmp_path: Path) -> None:
    made = recipe_of(squares, "softmax", "denoise", optim={"lr": 2e-3, "warmup": 1, "ema": 0.9})
    trainer, loader, _ = trainer_of(made, squares)
    trainer.train_step(loader.probe())
    groups: dict[str, dict[str, Tensor]] = {}
    for group, name, tensor in trainer.tensors():
        if not name.startswith(NEWER):
            groups.setdefault(group, {})[name] = tensor
    where = checkpoint.save(tmp_path / "old", 1, groups, {"step": 1, "skipped": []}, keep_last=1)
    parts = build_parts(made)  # as of a run that goes on: nothing is measured
    again = Trainer(made, make_accelerator(made, squares), parts, loader.probe())
    again.load(where)
    newer = [tensor for name, tensor in again.model.state_dict().items() if name.startswith(NEWER)]
    assert newer
    assert not any(bool(tensor.any()) for tensor in newer)
    assert torch.isfinite(torch.tensor(again.train_step(loader.probe()).norm))


def test_a_run_keeps_its_baselines(squares: Path, tmp_path: Path) -> None:
    made = recipe_of(squares, "softmax", "denoise", optim={"lr": 2e-3, "warmup": 1, "ema": 0.9})
    loop.run(replace(made, max_steps=2), tmp_path / "run")
    file = next((tmp_path / "run").glob("checkpoints/step_*2"))
    stored = checkpoint.opened(file, groups=("weights",)).tensors["weights"]
    slot = "queries.baselines.maps.softmax"
    assert stored[slot].std() > 0.1
    trainer, _, _ = trainer_of(made, squares)
    trainer.load(file)
    assert torch.equal(trainer.model.state_dict()[slot], stored[slot])
