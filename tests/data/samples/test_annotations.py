"""Decoded samples as arrays, and what is refused in them."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from unified.core.errors import DataError
from unified.core.types import IGNORE
from unified.data.samples import annotations
from unified.data.samples.decode import decode, decode_map

CLASSES = {"car": 0, "dog": 1}


def png(values: Any, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(values))
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def run_lengths(pixels: Any) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


PIXELS = np.array([[0, 1, 1], [0, 1, 0]], np.uint8)


def sample(**facts: Any) -> dict[str, Any]:
    return {"__key__": "7", "__shard__": "s.tar", "json": {"width": 3, "height": 2, **facts}}


def item(**changes: Any) -> dict[str, Any]:
    return {"label": "dog", "box": [1, 0, 3, 2], "mask": run_lengths(PIXELS), "points": {"nose": [1.5, 1, 2]}} | changes


def test_objects() -> None:
    read = sample(objects=[item(), item(label="car", mask=None, crowd=True, points=None, box=[-0.5, 0, 3.9, 2])])
    found = annotations.objects(read, CLASSES, ["tail", "nose"])
    assert found.boxes.tolist() == [[1, 0, 3, 2], [0, 0, 3, 2]]
    assert (found.labels.tolist(), found.crowd.tolist()) == ([1, 0], [False, True])
    assert found.points.tolist() == [[[0, 0, 0], [1.5, 1, 2]], [[0, 0, 0], [0, 0, 0]]]
    masks = annotations.decode_masks(read, found.masks)
    assert masks.tolist() == [PIXELS.astype(bool).tolist(), [[False] * 3] * 2]


def test_no_objects_are_fine() -> None:
    found = annotations.objects(sample(objects=[]), CLASSES, ["nose"])
    assert [tuple(value.shape) for value in (found.boxes, found.labels, found.points)] == [(0, 4), (0,), (0, 1, 3)]
    assert annotations.decode_masks(sample(), found.masks).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": [1, 0, 1, 2]}, "without area"),
        ({"box": [2, 0, 1, 2]}, "without area"),
        ({"box": [-2, 0, 2, 2]}, "box outside the image: .* in an image of 3×2"),
        ({"box": [3.2, 0, 3.6, 2]}, "outside the image"),
        ({"box": [0, 0, float("nan"), 2]}, "not four finite numbers"),
        ({"box": None}, "not four finite numbers"),
        ({"label": "dgo"}, "'dgo' is none of the 2 classes; did you mean 'dog'"),
        ({"mask": run_lengths(PIXELS.T)}, r"mask of \[3, 2\], the image has \[height, width\] = \[2, 3\]"),
        ({"mask": [[1, 2]]}, "run lengths"),
        ({"points": {"nose": [1, 2]}}, "point 'nose': expected"),
        ({"points": {"nose": [1, 2, 3]}}, "point 'nose': expected"),
    ],
)
def test_wrong_objects_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"s\.tar: 7: column 'json': .*{message}"):
        annotations.objects(sample(objects=[item(**changes)]), CLASSES)


def test_broken_run_lengths_are_named() -> None:
    broken = {"size": [2, 3], "counts": "zzzzzz"}
    with pytest.raises(DataError, match=r"s\.tar: 7: column 'json': mask 0"):
        annotations.decode_masks(sample(), [broken])


def test_sizes_that_would_take_all_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = {"size": [60_000, 60_000], "counts": "0"}
    bomb = sample(width=60_000, height=60_000, objects=[item(mask=large, points=None)])
    with pytest.raises(DataError, match=r"s.tar: 7: .*expected at most 64,000,000 pixels, found 60,000×60,000"):
        annotations.objects(bomb, CLASSES)
    monkeypatch.setattr(annotations, "MASK_LIMIT", 11)
    with pytest.raises(DataError, match=r"masks: expected at most 11 pixels in all, found 2 of \(2, 3\)"):
        annotations.decode_masks(sample(), [run_lengths(PIXELS)] * 2)


def test_segments_joints_attributes_identity() -> None:
    read = sample(
        segments=[{"label": "car", "thing": True, "mask": run_lengths(PIXELS)}],
        points={"nose": [1, 2, 1]},
        attributes={"red": 1, "old": 0},
        identity="rex",
    )
    found = annotations.segments(read, CLASSES)
    assert (found.labels.tolist(), found.things.tolist(), len(found.masks)) == ([0], [True], 1)
    assert annotations.joints(read, ["tail", "nose"]).tolist() == [[0, 0, 0], [1, 2, 1]]
    assert annotations.presence(read, ["old", "new", "red"]).tolist() == [0, -1, 1]
    assert annotations.identity(read) == "rex"
    for wrong, read_it in (
        ({}, lambda bad: annotations.segments(bad, CLASSES)),
        ({"segments": [{"label": "car"}]}, lambda bad: annotations.segments(bad, CLASSES)),
        ({"attributes": {"red": 2}}, lambda bad: annotations.presence(bad, ["red"])),
        ({"identity": 3}, annotations.identity),
        ({"width": 0}, annotations.image_size),
    ):
        with pytest.raises(DataError, match=r"s\.tar: 7: column 'json'"):
            read_it(sample(**wrong))


def with_map(name: str, data: bytes, **facts: Any) -> dict[str, Any]:
    return {**sample(**facts), **decode({"__key__": "7", "__shard__": "s.tar", name: data}, [name])}


def test_class_maps_keep_their_numbers() -> None:
    read = with_map("classes.png", png(np.array([[0, 1, 255], [1, 0, 0]], np.uint8)))
    assert annotations.class_map(read, 2).tolist() == [[0, 1, IGNORE], [1, 0, 0]]
    with pytest.raises(DataError, match=r"column 'classes\.png': class 1 is beyond the list of 1; no label is 255"):
        annotations.class_map(read, 1)
    deep = with_map("classes.png", png(np.array([[0, 300, 65535], [1, 0, 255]], np.uint16)))
    assert annotations.class_map(deep, 301).tolist() == [[0, 300, IGNORE], [1, 0, 255]]


def test_depth_maps_are_read_in_sixteen_bits() -> None:
    stored = np.array([[0, 300, 65535], [1, 0, 255]], np.uint16)
    depth, valid = annotations.depth_map(with_map("depth.png", png(stored), depth_unit=0.001))
    torch.testing.assert_close(depth, torch.from_numpy(stored.astype(np.float32)) * 0.001)
    assert valid.tolist() == (stored > 0).tolist()
    with pytest.raises(DataError, match=r"column 'depth\.png': 8 bits a pixel; expected 16"):
        with_map("depth.png", png(np.zeros((2, 3), np.uint8)))
    with pytest.raises(DataError, match="depth_unit"):
        annotations.depth_map(with_map("depth.png", png(stored)))


def test_normals_and_edges() -> None:
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = (128, 128, 0)
    normals, valid = annotations.normal_map(with_map("normals.png", png(stored)))
    torch.testing.assert_close(normals[:, 0, 0], torch.tensor([0.0, 0.0, -1.0]), atol=0.01, rtol=0)
    assert valid.sum() == 1
    assert normals[:, 1, 1].tolist() == [0, 0, 0]
    edges = annotations.edge_map(with_map("edges.png", png(np.full((2, 3), 51, np.uint8))))
    torch.testing.assert_close(edges, torch.full((2, 3), 0.2))


def test_a_map_of_another_size_is_named() -> None:
    read = with_map("classes.png", png(np.zeros((3, 3), np.uint8)))
    with pytest.raises(DataError, match=r"column 'classes\.png': 3×3 pixels, the image has 3×2"):
        annotations.class_map(read, 2)
    with pytest.raises(DataError, match=r"column 'edges\.png': missing"):
        annotations.edge_map(read)


@pytest.mark.parametrize(("mode", "highest"), [("1", 1), ("L", 200), ("P", 3)])
def test_maps_of_every_depth(mode: str, highest: int) -> None:
    values = np.array([[0, highest, 1]], np.uint8)
    buffer = io.BytesIO()
    if mode == "1":
        Image.fromarray(values.astype(bool)).save(buffer, "PNG")
    elif mode == "P":
        image = Image.fromarray(values).convert("L")
        image.putpalette([255, 0, 0] * 4)
        image.save(buffer, "PNG", bits=2)
    else:
        Image.fromarray(values).save(buffer, "PNG")
    assert decode_map(buffer.getvalue()).tolist() == values.tolist()


def test_maps_are_no_colours() -> None:
    with pytest.raises(ValueError, match="a picture in colours"):
        decode_map(png(np.zeros((2, 2, 3), np.uint8)))
    with pytest.raises(ValueError, match="not a PNG"):
        decode_map(b"GIF89a")
