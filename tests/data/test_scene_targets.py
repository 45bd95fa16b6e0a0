"""Targets that are made from others: regions as objects, shading from normals, corners."""

import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from unified.config.task import Answer, Task
from unified.core.types import Sample
from unified.data.augment.image_operators import OPERATORS, reshaded
from unified.data.samples.decode import decode
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.pipeline.dense_collate import SceneCollator

TOKENIZER = ImageTokenizer(ImageSpec(16, 16, (0.5,) * 3, (0.5,) * 3), 8)


def png(pixels: np.ndarray) -> bytes:
    data = BytesIO()
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


def region(rows: slice, columns: slice) -> dict[str, object]:
    pixels = np.zeros((16, 16), np.uint8, order="F")
    pixels[rows, columns] = 1
    found = coco_mask.encode(pixels)
    return {"size": found["size"], "counts": found["counts"].decode()}


def sample(columns: tuple[str, ...]) -> Sample:
    normals = np.full((16, 16, 3), 128, np.uint8)
    normals[:, :8, 2], normals[:, 8:, 0] = 0, 255  # towards the camera; to the right
    normals[0] = 0
    facts = {
        "width": 16,
        "height": 16,
        "segments": [
            {"label": "sky", "thing": False, "mask": region(slice(0, 4), slice(0, 16))},
            {"label": "cat", "thing": True, "mask": region(slice(8, 16), slice(4, 12))},
        ],
    }
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[4:12, 4:12] = 255
    raw = {"png": png(picture), "normals.png": png(normals), "json": json.dumps(facts).encode()}
    return decode({"__key__": "a", **raw}, columns)


def collator(target: str, answer: Answer) -> SceneCollator:
    task = Task("x", {"png": "image"}, target, answer, "score", 1)
    return SceneCollator("t", task, TOKENIZER, ("cat", "sky"), (), 0)


def test_regions_become_objects_with_the_boxes_of_their_masks() -> None:
    made = collator("json.segments", Answer.of(regress="masks", names="x"))
    batch = made.batch([made.example(sample(made.columns))], np.array([0]))
    assert batch.target["labels"].tolist() == [[1, 0]]
    assert batch.target["boxes"].tolist() == [[[0.5, 0.125, 1.0, 0.25], [0.5, 0.75, 0.5, 0.5]]]
    assert batch.target["masks"][0, 1].tolist() == [[r >= 2 and 1 <= c < 3 for c in range(4)] for r in range(4)]


def test_shading_comes_from_normals() -> None:
    made = collator("normals.png", Answer.of(map="pixels", operator="reshade"))
    batch = made.batch([made.example(sample(made.columns))], np.array([0]))
    shade, valid = batch.target["map"][0, 0], batch.target["valid"][0, 0]
    assert shade[8, 2].item() == pytest.approx(2 / 6**0.5, abs=0.02)  # lit from the front
    assert shade[8, 12].item() == 0.0  # turned away from the light
    assert not valid[0].any()
    assert valid[1:].all()
    towards = torch.tensor([0.0, 0.0, -1.0])[:, None, None].expand(3, 2, 2)
    assert reshaded(towards)[:, 0, 0].tolist() == pytest.approx([2 / 6**0.5] * 3)


def test_corners_are_where_both_directions_change() -> None:
    picture = torch.zeros(3, 24, 24)
    picture[:, 8:, 8:] = 1
    given, found = OPERATORS["corners"](picture, np.zeros(8))
    assert given is picture
    assert divmod(int(found[0].argmax()), 24) in [(row, column) for row in (7, 8) for column in (7, 8)]
    assert found[0, 8, 8] > 3 * found[0, 16, 8]  # an edge is no corner
    assert found[0, 2, 2] == 0
