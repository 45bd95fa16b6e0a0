"""Recipes with task queries: exact on every engine, exact when they go on, and refused where they cannot be."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from squares import content, recipe, trainer_of, write_squares
from torch import Tensor

from tests.train import engine_cases
from tests.train.launched import launch
from unified import checkpoint
from unified.config.recipe import Recipe
from unified.core.errors import DataError, RecipeError
from unified.core.schema import build, merge
from unified.train.validate import check

TASKS = ("named", "masks", "who", "attributes")
MORE = (*TASKS, "classes", "boxes", "count", "points", "depth", "places", "larger")
KINDS = ("content", "place", "anchors", "classes", "identities")


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


def launched(folder: Path, tasks: Sequence[str], cases: list[str]) -> dict[str, Any]:
    """The results of cases on two processes, and what one process computes."""
    made = content(folder, *tasks, optim={"lr": 1e-3, "warmup": 2, "ema": 0.9})
    made["model"]["drop_path"] = 0.1
    made["model"]["queries"] |= {"detail": 4, "object_content": "memory"}
    made["tasks"]["who"]["answer"]["parts"] = True
    (folder / "tiny.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    for stage in (2, 3):
        # Otherwise all parameters of a model as small as this one stay whole.
        whole = "  stage3_param_persistence_threshold: 40\n" if stage == 3 else ""
        (folder / f"zero{stage}.yaml").write_text(f"zero_optimization:\n  stage: {stage}\n{whole}")
    alone = engine_cases.recipe_of(folder, "none", "dense")
    return {"none": engine_cases.curve(alone, folder), **launch(folder, 2, cases)}


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for losses, right in zip(found["losses"], expected["losses"], strict=True):
        assert losses == pytest.approx(right, abs=2e-5, rel=1e-5)
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    ours, theirs = load_file(found["tensors"]), load_file(expected["tensors"])
    assert ours.keys() == theirs.keys()
    for name, right in theirs.items():
        largest = float((ours[name] - right).abs().max())
        assert largest < (2e-5 if name.startswith(("weights", "ema")) else 1e-4), (name, largest)


@pytest.mark.distributed
def test_two_processes_compute_what_one_computes(squares: Path) -> None:
    results = launched(squares, TASKS, ["ddp/dense/curve", "ddp/dense/idle"])
    assert len(results["none"]["losses"]) == len(TASKS) + 1
    check_same(results["ddp/dense/curve"], results["none"])
    changed = results["ddp/dense/idle"]  # by a step of attributes alone
    for group in ("weights", "exp_avg", "exp_avg_sq", "steps"):
        rows = [name for name in changed[group] if name.startswith("queries.") and name.split(".")[1] in KINDS]
        assert rows == ["queries.content.attributes", "queries.place.attributes"], group
        assert "queries.decoder.layers.0.up.weight" in changed[group]
        assert "queries.names.0.weight" not in changed[group]


@pytest.mark.slow
@pytest.mark.distributed
def test_all_readings_are_the_same_on_all_engines(squares: Path) -> None:
    cases = [f"{engine}/dense/curve" for engine in ("ddp", "zero2", "zero3", "zero3+chunks")]
    results = launched(squares, MORE, [*cases, "zero3/dense/resumed"])
    for case in cases:
        check_same(results[case], results["none"])
    assert results["zero3/dense/resumed"]["differ"] == []


def state(trainer: Any) -> dict[str, Tensor]:
    return {f"{group}/{name}": tensor.clone() for group, name, tensor in trainer.tensors()}


def test_a_run_goes_on_bit_for_bit_from_its_checkpoint(squares: Path, tmp_path: Path) -> None:
    made = recipe(squares, "named", "masks", "who", max_steps=6)

    trainer, loader, _ = trainer_of(made, squares)
    batches = {number: slots for number, slots, _ in loader}
    first, *_, last = batches
    middle = (first + last) // 2
    losses = []
    for number, slots in batches.items():
        losses.append(trainer.train_step(slots).losses)
        if number == middle:
            trainer.save(checkpoint.Writer(tmp_path, keep_last=1), {})
    again, _, _ = trainer_of(made, squares)
    again.load(next(tmp_path.glob("step_*")))
    continued = [again.train_step(slots).losses for number, slots in batches.items() if number > middle]
    assert continued == losses[-len(continued) :]
    before, after = state(trainer), state(again)
    assert before.keys() == after.keys()
    assert [name for name in before if not before[name].equal(after[name])] == []


def test_what_a_task_does_not_use_stays_bit_equal(squares: Path) -> None:
    trainer, loader, _ = trainer_of(recipe(squares, *TASKS), squares)
    slots = loader.probe()
    trainer.train_step(slots)
    before = state(trainer)
    trainer.train_step([slot for slot in slots if slot[0].task == "masks"])
    changed = {name for name, tensor in state(trainer).items() if not tensor.equal(before[name])}
    rows = {name for name in changed if any(f"/queries.{kind}." in name for kind in KINDS)}
    assert {name.partition("/")[2] for name in rows} == {
        f"queries.{k}.masks" for k in ("content", "anchors", "classes")
    }
    assert not any("names" in name for name in changed)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classes", {"answer": {"map": "classes"}}, r"tasks\.classes\.answer: names must be given"),
        ("boxes", {"answer": {"regress": "boxes"}}, r"tasks\.boxes\.answer: names must be given"),
        (
            "depth",
            {"answer": {"map": "bins", "names": "x"}},
            "'names' is not a key of DepthSettings. There are: bins, limits, map",
        ),
        ("depth", {"answer": {"map": "bins", "from_names": True}}, "'from_names' is not a key of DepthSettings"),
        ("depth", {"answer": {"map": "bins", "limits": [3, 1]}}, "0 < nearest < farthest limit"),
        ("depth", {"answer": {"map": "depth"}}, "answer.map: 'depth' does not fit"),
        ("boxes", {"answer": {"queries": 0}}, "answer.queries: expected at least 1, found 0"),
        ("boxes", {"size": [32, 36]}, r"tasks\.boxes\.size: 32 x 36 pixels cannot be cut into patches of 8"),
        ("boxes", {"size": [0, 32]}, r"tasks\.boxes\.size: 0 x 32 pixels cannot be cut"),
        ("boxes", {"inputs": {"png": "image", "txt": "text"}}, "queries are asked about one image"),
        ("denoise", {"answer": {"operator": "denoize"}}, "'denoize' is not an image operator; did you mean 'denoise'"),
        ("denoise", {"answer": {"map": "pixels", "operator": None}}, "answer.operator: expected str, found None"),
        ("edges", {"answer": {"operator": "sobel"}}, "'operator' is not a key of EdgeSettings"),
        ("edges", {"answer": {"residual": True}}, "'residual' is not a key of EdgeSettings"),
        ("who", {"answer": {"identities": None}}, "answer.identities: expected str, found None"),
        ("attributes", {"answer": {"parts": True}}, "'parts' is not a key of AttributeSettings"),
        ("attributes", {"metric": "scroe"}, "'scroe' is not a metric; did you mean 'score'"),
    ],
)
def test_recipes_that_cannot_be(squares: Path, name: str, change: dict[str, Any], message: str) -> None:
    made = copy.deepcopy(content(squares, name))
    if set(change.get("answer", {})) & {"map", "regress"}:
        made["tasks"][name].pop("answer")
    with pytest.raises(RecipeError, match=message):
        check(build(Recipe, merge(made, {"tasks": {name: change}}), "squares.yaml"))


def test_parts_need_a_decoder(squares: Path) -> None:
    made = merge(content(squares, "who"), {"tasks": {"who": {"answer": {"parts": True}}}})
    check(build(Recipe, made, "squares.yaml"))
    inside = merge(made, {"model": {"queries": {"place": "encoder"}}})
    with pytest.raises(RecipeError, match=r"tasks\.who\.answer\.parts: they begin with what a decoder looks at"):
        check(build(Recipe, inside, "squares.yaml"))


def test_queries_without_a_decoder_and_reserved_names(squares: Path) -> None:
    made = content(squares, "boxes")
    del made["model"]["queries"]
    with pytest.raises(RecipeError, match=r"tasks\.boxes\.answer: queries need a decoder; write `queries: {}`"):
        check(build(Recipe, made, "squares.yaml"))
    made = content(squares, "boxes")
    made["tasks"] = {"keys": {**made["tasks"]["boxes"], "family": "fine"}}
    with pytest.raises(RecipeError, match="torch keeps the name 'keys' for itself"):
        check(build(Recipe, made, "squares.yaml"))


def test_pictures_with_more_objects_than_queries_are_told(squares: Path) -> None:
    made = content(squares, "boxes")
    made["tasks"]["boxes"]["answer"]["queries"] = 1
    _, loader, _ = trainer_of(build(Recipe, made, "squares.yaml"), squares)
    with pytest.raises(DataError, match="2 objects, and task 'boxes' has 1 queries"):
        list(loader)
