"""Made-up pictures of a red and a green square with everything that task queries learn from, and recipes over them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from unified.config.recipe import Recipe
from unified.core import seed
from unified.core.schema import build
from unified.data.shards.write import ShardWriter
from unified.pipeline.loader import StepLoader
from unified.train.build import Parts
from unified.train.build import build as build_parts
from unified.train.engines.accelerator import make_accelerator
from unified.train.first_samples import begin_at_baselines
from unified.train.trainer import Trainer

COLOURS = ("red", "green")
SIDE = 32
LISTS = {"classes": ("ground", *COLOURS), "colours": COLOURS, "people": ("ada", "bo")}
PEOPLE = LISTS["people"]


def png(values: Any) -> bytes:
    """Pixels as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(buffer, "png")
    return buffer.getvalue()


def run_lengths(pixels: Any) -> dict[str, Any]:
    """A mask as shards hold it."""
    encoded = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def picture(number: int, side: int = SIDE) -> dict[str, Any]:
    """The columns of one sample: a red square at the left, and a green one at the right in three of four."""
    draw = seed.generator("squares", number)
    image = draw.integers(0, 20, (side, side, 3)).astype(np.uint8)
    classes, objects, points = np.zeros((side, side), np.uint8), [], {}
    for place, name in enumerate(COLOURS):
        if name == "green" and number % 4 == 3:
            continue
        length, across, down = (
            int(draw.integers(side * low // 32, side * high // 32)) for low, high in ((8, 13), (1, 4), (1, 19))
        )
        left, top = across + place * side // 2, down
        rows, columns = slice(top, top + length), slice(left, left + length)
        image[rows, columns] = 0
        image[rows, columns, place] = 230
        classes[rows, columns] = place + 1
        mask = np.zeros((side, side), np.uint8)
        mask[rows, columns] = 1
        box = [float(left), float(top), float(left + length), float(top + length)]
        objects.append({"label": name, "box": box, "mask": run_lengths(mask)})
        points[name] = [left + length / 2, top + length / 2, 2]
    normals = np.where(classes[..., None] > 0, (255, 128, 128), (128, 128, 1)).astype(np.uint8)
    facts = {
        "width": side,
        "height": side,
        "objects": objects,
        "points": points,
        "attributes": {"red": 1, "green": int("green" in points)},
        "identity": PEOPLE[int("green" in points)],
        "depth_unit": 0.001,
    }
    return {
        "png": png(image),
        "txt": " and ".join(f"a {name} square" for name in points),
        "classes.png": png(classes),
        "depth.png": png(1000 + 500 * classes.astype(np.uint16)),
        "normals.png": png(normals),
        "edges.png": png(255 * (classes > 0).astype(np.uint8)),
        "json": facts,
    }


def write_squares(folder: Path, samples: int = 8) -> Path:
    """Shards of such pictures in folder/data, and the lists of names beside them."""
    with ShardWriter(folder / "data", kind="test", source="test") as writer:
        for number in range(samples):
            writer.write(f"{number:03d}", picture(number))
    for name, listed in LISTS.items():
        (folder / f"{name}.txt").write_text("\n".join(listed) + "\n")
    return folder


def tasks(folder: Path, batch: int = 4) -> dict[str, dict[str, Any]]:
    """A task of every kind of reading, as YAML would hold them."""

    def task(target: str, **answer: Any) -> dict[str, Any]:
        common = {"data": str(folder / "data"), "inputs": {"png": "image"}, "metric": "score", "batch": batch}
        return {**common, "target": target, "answer": answer, "size": [SIDE, SIDE]}

    classes, colours = str(folder / "classes.txt"), str(folder / "colours.txt")
    return {
        "classes": task("classes.png", map="classes", names=classes),
        "softmax": task("classes.png", map="classes", names=classes, softmax=True),
        "named": task("classes.png", map="classes", names=classes, from_names=True),
        "points": task("json.points", map="points", names=colours),
        "depth": task("depth.png", map="bins", bins=8, limits=[0.5, 3.0]),
        "normals": task("normals.png", map="directions"),
        "edges": task("edges.png", map="share"),
        "denoise": task("png", map="pixels", operator="denoise", residual=True),
        "larger": task("png", map="pixels", operator="identity", scale=2, residual=True),
        "count": task("json.objects", map="density"),
        "boxes": task("json.objects", regress="boxes", names=colours, queries=6),
        "masks": task("json.objects", regress="masks", names=colours, queries=6),
        "attributes": task("json.attributes", regress="presence", names=colours),
        "places": task("json.points", regress="places", names=colours),
        "who": task("json.identity", regress="identity", queries=2, identities=str(folder / "people.txt")),
    }


def matching(folder: Path, batch: int = 4) -> dict[str, dict[str, Any]]:
    """Tasks that match, for a recipe that also has others: a caption, and which person it belongs to."""
    common = {"data": str(folder / "data"), "inputs": {"png": "image"}, "batch": batch}
    people = folder / "people.yaml"
    people.write_text("names: [ada, bo]\n")
    words = {"candidates": "vocabulary", "read": "caption"}
    return {
        "caption": {**common, "target": "txt", "answer": words, "metric": "perplexity"},
        "person": {**common, "target": "json.identity", "answer": {"candidates": str(people)}, "metric": "accuracy"},
    }


def content(folder: Path, *names: str, **changes: Any) -> dict[str, Any]:
    """A recipe of some of the tasks, as YAML would hold it; the shards must be there."""
    queries = {"depth": 2, "width": 32, "heads": 2, "hidden": 64, "doublings": 1}
    image, text = {"tokenizer": "image_glyph", "patch": 8, "frames": 1}, {"max_length": 16, "positions": 16}
    model = {"width": 32, "depth": 2, "heads": 2, "hidden": 64, "layer_scale": None}
    model["modalities"] = {"image": image, "text": text}
    known = tasks(folder)
    return {
        "max_steps": 4,
        "slots": max(1, len(names)),
        "seed": 5,
        "model": {**model, "queries": queries},
        "optim": {"lr": 2e-3, "warmup": 5},
        "data": {"workers": 0},
        "train": {"log_every": 1, "save_every": 2, "keep_last": 2},
        "tasks": {name: known[name] for name in names},
        **changes,
    }


def recipe(folder: Path, *names: str, **changes: Any) -> Recipe:
    """The same, read."""
    return build(Recipe, content(folder, *names, **changes), "squares.yaml")


def trainer_of(made: Recipe, folder: Path) -> tuple[Trainer, StepLoader, Parts]:
    """What trains a recipe."""
    parts = build_parts(made)
    loader = StepLoader(made, parts.tokenizers, parts.labels)
    begin_at_baselines(parts, loader)
    trainer = Trainer(made, make_accelerator(made, folder), parts, loader.probe())
    trainer.model.processor = parts.processor
    return trainer, loader, parts
