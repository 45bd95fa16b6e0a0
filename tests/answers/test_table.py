"""Every kind of reading learns made-up pictures, in a model as recipes make it, and answers in their pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from squares import SIDE, content, recipe, tasks, trainer_of, write_squares
from torch import Tensor

from unified.answers import ANSWERS
from unified.answers.base import QueryStates
from unified.answers.boxes import centres
from unified.answers.kind import QueryKind
from unified.answers.regress.attributes import presence_loss
from unified.answers.table import answers, loss_and_score, make_spec, read_specs
from unified.core.types import IGNORE, Batch
from unified.data.shards.patterns import MANIFEST, read_manifest
from unified.data.shards.write import write_json
from unified.model.config import UnifiedConfig

KINDS = sorted(tasks(Path()))
LEARNED = {"depth": 0.94, "normals": 0.96, "denoise": 0.95, "count": 0.9}
"""What a score must reach after 200 steps on four pictures, where that is not 0.97: edges of squares lie between the
places of maps, noise cannot be learned, and a count is the sum of many small numbers."""
ADDED = {"denoise": 0.8, "larger": 0.9}
"""What is left of the loss after 200 steps of answers that are added to images, which begin as near as these are."""
WIDER = {"width": 64, "heads": 4, "hidden": 128}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"), 4)


def trained(folder: Path, name: str, steps: int, **changes: Any) -> tuple[list[float], Any, Batch, Any]:
    """The losses of steps on the same batch, the last score, the batch and the trainer."""
    optim = {"lr": 2e-3, "warmup": 5}
    trainer, loader, _ = trainer_of(recipe(folder, name, max_steps=400, optim=optim, **changes), folder)
    slots = loader.probe()
    found = [trainer.train_step(slots) for _ in range(steps)]
    return [step.losses[name] for step in found], found[-1].metrics[f"{name}.score"], slots[0][1], trainer


def test_there_is_a_task_for_every_reading(squares: Path) -> None:
    made = recipe(squares, *KINDS)
    known = {kind.name for kind in ANSWERS.values() if isinstance(kind, QueryKind)}
    assert {task.answer.kind for task in made.tasks.values()} == known


@pytest.mark.parametrize("name", KINDS)
def test_the_loss_of_every_reading_falls(squares: Path, name: str) -> None:
    losses, score, batch, trainer = trained(squares, name, 100 if name in ADDED else 12)
    assert min(losses[4:]) < 0.9 * losses[0]
    assert 0 <= score <= 1
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.model.ask(batch.inputs, [name])[name]
        loss, scores = loss_and_score(found, batch.target)
    assert loss.shape == scores.shape == (4,)
    assert loss.dtype == torch.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    _check_answers(found, answers(found, [(20, 30), (SIDE, SIDE), (1, 1), (5, 80)]))


def _check_answers(found: QueryStates, read: list[dict[str, Any]]) -> None:
    first = read[0]
    shapes = {key: tuple(value.shape) for key, value in first.items() if isinstance(value, Tensor)}
    objects = {"boxes": (12, 4), "labels": (12,), "scores": (12,)}
    points = {"points": (2, 2), "scores": (2,)}
    scale = getattr(found.spec, "scale", 1)
    assert (
        shapes
        == {
            "classes": {"labels": (20, 30)},
            "bins": {"values": (20, 30)},
            "directions": {"vectors": (3, 20, 30)},
            "share": {"share": (20, 30)},
            "pixels": {"image": (3, 20 * scale, 30 * scale)},
            "density": {"density": (8, 8)},
            "boxes": objects,
            "masks": {**objects, "masks": (12, 20, 30)},
            "points": points,
            "places": points,
            "presence": {"presence": (2,)},
            "identity": {"features": (64,)},
        }[found.spec.read]
    )
    assert all(value.isfinite().all() for row in read for value in row.values() if isinstance(value, Tensor))
    if "boxes" in first:
        for row, (height, width) in zip(read, [(20, 30), (SIDE, SIDE), (1, 1), (5, 80)], strict=True):
            assert (row["boxes"] >= 0).all()
            assert (row["boxes"] <= torch.tensor([width, height, width, height])).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_four_pictures_are_learned_by_heart(squares: Path, name: str) -> None:
    model = content(squares, name)["model"]
    wider = {**model, **WIDER, "queries": {**model["queries"], **WIDER}}
    losses, score, batch, trainer = trained(squares, name, 200, model=wider)
    assert losses[-1] < ADDED.get(name, 0.5) * losses[0]
    assert score >= LEARNED.get(name, 0.97)
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.model.ask(batch.inputs, [name])[name]
        assert loss_and_score(found, batch.target)[1].mean() >= LEARNED.get(name, 0.97)
    read = answers(found, [(2 * SIDE, SIDE)] * 4)  # a picture twice as high
    for row in range(4):
        if "boxes" in read[row]:
            _check_boxes(read[row], batch.target, row)
        if "points" in read[row]:
            right = batch.target["points"][row]
            distance = (read[row]["points"] / torch.tensor([SIDE, 2 * SIDE]) - right[:, :2]).norm(dim=1)
            assert (distance[right[:, 2] > 0] < 0.1).all()


def _check_boxes(answer: dict[str, Tensor], target: dict[str, Tensor], row: int) -> None:
    """Whether each object has a detection of its class in its place."""
    found = centres(answer["boxes"] / torch.tensor([SIDE, 2 * SIDE, SIDE, 2 * SIDE]))
    for label, box in zip(target["labels"][row], target["boxes"][row], strict=True):
        if label != IGNORE:
            near = (found - box).abs().amax(1) < 0.08
            assert (near & (answer["labels"] == label) & (answer["scores"] > 0.2)).any()


@pytest.mark.parametrize("name", ["boxes", "masks", "count", "points"])
def test_pictures_without_anything_have_a_loss_that_teaches(squares: Path, name: str) -> None:
    losses, _, batch, trainer = trained(squares, name, 1)
    target = {
        key: torch.full_like(value, IGNORE) if key == "labels" else torch.zeros_like(value)
        for key, value in batch.target.items()
    }
    trainer.model.train()
    loss, _ = loss_and_score(trainer.model.ask(batch.inputs, [name])[name], target)
    assert loss.isfinite().all()
    assert (loss > 0).all()
    loss.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trainer.model.parameters())
    assert len(losses) == 1


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        ("masks", {}),
        ("larger", {}),
        ("who", {}),
        ("named", {}),
        ("boxes", {"place": "encoder"}),
        ("classes", {"sharing": "head"}),
        ("attributes", {"sharing": "head"}),
        ("points", {"sharing": "attention"}),
        ("depth", {"sharing": "projector", "reduction": 4}),
    ],
)
def test_half_precision_trains_near_full(squares: Path, name: str, queries: dict[str, Any]) -> None:
    model = content(squares, name)["model"]
    changes = {"model": {**model, "queries": {**model["queries"], **queries}}}
    exact = trained(squares, name, 3, **changes)[0]
    found, _, batch, trainer = trained(squares, name, 3, **changes, train={"precision": "bf16"})
    assert found != exact
    assert found == pytest.approx(exact, rel=0.1)
    with torch.no_grad():
        half = trainer.model.eval().to(torch.bfloat16)
        read = answers(half.ask(batch.inputs, [name])[name], [(8, 8)] * 4)
    assert all(torch.as_tensor(value).isfinite().all() for row in read for value in row.values())


def test_no_edges_are_found_right_where_there_are_none() -> None:
    class Flat:
        def maps(self, _states: Tensor, _features: Tensor) -> Tensor:
            return torch.tensor([-5.0, 5.0, -5.0])[:, None, None, None].expand(3, 1, 4, 4)

    found = QueryStates(make_spec("share", 1), (torch.zeros(3, 1, 2),), torch.zeros(3, 4, 4, 2), Flat())
    share = torch.zeros(3, 1, 8, 8)
    share[2, :, 3] = 1
    _, scores = loss_and_score(found, {"map": share, "valid": torch.ones(3, 1, 8, 8, dtype=torch.bool)})
    assert scores.tolist() == [1, 0, 0]


@pytest.mark.parametrize("known", [{"red": 1.0, "green": 0.75}, {"red": 1.0}, None])
def test_attributes_weigh_by_how_often_they_hold_in_the_data(tmp_path: Path, known: dict[str, float] | None) -> None:
    folder = write_squares(tmp_path, 4)
    if known is not None:
        manifest = read_manifest(folder / "data")
        write_json(folder / "data" / MANIFEST, {**manifest, "positives": known})
    _, _, batch, trainer = trained(folder, "attributes", 1)
    trainer.model.save_pretrained(tmp_path / "model")
    (folder / "data" / MANIFEST).unlink()
    spec = read_specs(UnifiedConfig.from_pretrained(tmp_path / "model").queries["tasks"])["attributes"]
    assert spec.positives == ((1.0, 0.75) if known and len(known) == 2 else ())
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.model.ask(batch.inputs, ["attributes"])["attributes"]
        assert found.spec == spec
        logits = found.presence(found.states[-1])
        weights = torch.tensor(spec.positives) if spec.positives else None
        expected = presence_loss(logits, batch.target["presence"], weights)
        torch.testing.assert_close(loss_and_score(replace(found, states=found.states[-1:]), batch.target)[0], expected)
    plain = presence_loss(logits, batch.target["presence"])
    assert torch.equal(expected, plain) == (not spec.positives)
