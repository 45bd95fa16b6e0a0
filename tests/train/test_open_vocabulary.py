"""Queries made from names find a class that was never trained, whose colour and shape were, but not together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from squares import png, trainer_of

from unified.answers.map.semantic import class_logits
from unified.config.recipe import Recipe
from unified.core import seed
from unified.core.schema import build
from unified.core.statistics import Interval, bootstrap
from unified.data.shards.write import ShardWriter

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230), "yellow": (220, 210, 30)}
SHAPES = ("square", "ring", "cross", "bar")
UNSEEN = "green square"
NAMES = ("ground", *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES))
SEEN = tuple(name for name in NAMES if name != UNSEEN)
SIDE, CELL = 32, 16
STEPS, BATCH, PICTURES = 400, 16, 480


def outline(shape: str) -> NDArray[np.bool_]:
    """A shape of 11 x 11 pixels."""
    away = np.abs(np.arange(11) - 5)
    across, down = np.meshgrid(away, away)
    return {
        "square": np.maximum(across, down) < 6,
        "ring": np.maximum(across, down) > 2,
        "cross": np.minimum(across, down) < 2,
        "bar": across < 2,
    }[shape]


def picture(number: int, split: str, names: tuple[str, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels, and the class of each: a shape in each quarter, its place and name drawn anew."""
    draw = seed.generator("open vocabulary", split, number)
    image = draw.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    classes = np.zeros((SIDE, SIDE), np.uint8)
    for corner in range(4):
        name = names[1 + int(draw.integers(len(names) - 1))]
        colour, shape = name.split()
        top, left = (CELL * at + int(draw.integers(6)) for at in divmod(corner, 2))
        inside = outline(shape)
        image[top : top + 11, left : left + 11][inside] = COLOURS[colour]
        classes[top : top + 11, left : left + 11][inside] = names.index(name)
    return image, classes


def trained(folder: Path) -> Any:
    """A model that has seen all names but one, in pictures that never show it."""
    with ShardWriter(folder / "data", kind="test", source="test") as writer:
        for number in range(PICTURES):
            image, classes = picture(number, "train", SEEN)
            facts = {"width": SIDE, "height": SIDE}
            writer.write(f"{number:03d}", {"png": png(image), "classes.png": png(classes), "json": facts})
    (folder / "names.txt").write_text("\n".join(SEEN) + "\n")
    answer = {"map": "classes", "names": str(folder / "names.txt"), "softmax": True, "from_names": True}
    task = {"data": str(folder / "data"), "inputs": {"png": "image"}, "target": "classes.png", "metric": "score"}
    model = {
        "width": 64,
        "depth": 3,
        "heads": 4,
        "hidden": 128,
        "layer_scale": None,
        "modalities": {
            "image": {"tokenizer": "image_glyph", "patch": 4, "frames": 1},
            "text": {"max_length": 8, "positions": 8},
        },
        "queries": {"depth": 2, "width": 64, "heads": 4, "hidden": 128, "norm": "pre", "doublings": 1},
    }
    content = {
        "max_steps": STEPS,
        "slots": 1,
        "model": model,
        "data": {"workers": 0, "cache_mb": 50},
        "optim": {"lr": 1e-3, "warmup": 20},
        "tasks": {"shapes": {**task, "answer": answer, "batch": BATCH, "size": [SIDE, SIDE]}},
    }
    trainer, loader, _ = trainer_of(build(Recipe, content, "shapes.yaml"), folder)
    for _, slots, _ in loader:
        trainer.train_step(slots)
    return trainer.model.eval()


@torch.no_grad()
def logits_of(model: Any, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """How much each name is at each pixel, the new one among them."""
    tokens = model.processor.tokenizers["image"].tokens([torch.from_numpy(p).permute(2, 0, 1) for p in pictures])
    found = model.ask({"image": tokens}, ["shapes"], names={"shapes": list(NAMES)})["shapes"]
    return class_logits(found, (SIDE, SIDE)).numpy()


def ranked(scores: NDArray[np.float32], there: NDArray[np.bool_]) -> Interval:
    """The area under the ROC curve over pixels, by resampling pictures; 0.5 is chance."""

    def area(picked: NDArray[np.int64]) -> float:
        return float(roc_auc_score(there[picked].ravel(), scores[picked].ravel()))

    return bootstrap(area, len(scores), "open vocabulary", draws=200)


@pytest.mark.slow
def test_a_name_that_was_never_trained_gets_a_mask_better_than_chance(tmp_path: Path) -> None:
    model = trained(tmp_path)
    shown = [picture(number, "test", NAMES) for number in range(400)]
    shown = [(image, classes) for image, classes in shown if (classes == NAMES.index(UNSEEN)).any()]
    classes = np.stack([of for _, of in shown])
    logits = logits_of(model, [image for image, _ in shown])
    there, guess = classes == NAMES.index(UNSEEN), logits.argmax(1)
    seen, chosen = (guess == classes)[(classes > 0) & ~there].mean(), (guess == classes)[there].mean()
    own = logits[:, NAMES.index(UNSEEN)]
    area = ranked(own, there)
    # Among shapes alone, where the ground is no help.
    values = np.array([roc_auc_score(t[c > 0], s[c > 0]) for s, t, c in zip(own, there, classes, strict=True)])
    inside = bootstrap(lambda picked: float(values[picked].mean()), len(values), "shapes", draws=200)
    # A mask of as many pixels as are right, of all pictures together.
    rate = float(there.mean())
    mask = own >= np.quantile(own, 1 - rate)

    def overlap(picked: NDArray[np.int64]) -> float:
        return float((there & mask)[picked].sum() / (there | mask)[picked].sum())

    shared, chance = bootstrap(overlap, len(shown), "overlap", draws=200), rate / (2 - rate)
    print(
        f"{len(shown)} pictures with a {UNSEEN}, which no training picture has\n"
        f"area under ROC {area.value:.3f} [{area.low:.3f}, {area.high:.3f}], among pixels of shapes {inside.value:.3f} "
        f"[{inside.low:.3f}, {inside.high:.3f}]; chance 0.5\n"
        f"IoU of a mask of that area {shared.value:.3f} [{shared.low:.3f}, {shared.high:.3f}]; chance {chance:.3f}\n"
        f"where all names compete: {seen:.1%} of pixels of trained names are right, {chosen:.1%} of the new one"
    )
    assert area.low > 0.5
    assert inside.low > 0.5
    assert shared.low > chance
