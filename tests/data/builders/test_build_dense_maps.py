"""Shards of depth, normals and boundaries, and what can be wrong with them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_sources import build, fill, picture, png, samples
from scipy.io import savemat

from unified.core.errors import DataError
from unified.data.builders.depth import encode_normals, normals_of_depth
from unified.data.samples import annotations
from unified.data.shards.verify import verify

SIZE = (40, 48)
CAMERA = [50.0, 60.0, 24.0, 20.0]


def rays() -> np.ndarray:
    rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    return np.stack([(columns - CAMERA[2]) / CAMERA[0], (rows - CAMERA[3]) / CAMERA[1], np.ones(SIZE)], -1)


def plane(normal: Any, distance: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the plane n · p = −distance, and its unit normal, which looks at the camera."""
    unit = np.asarray(normal, float) / np.linalg.norm(normal)
    return -distance / (rays() @ unit), unit


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0, -1), (0, -0.4, -1), (-0.3, 0.3, -1)])
def test_normals_of_a_plane_are_exact(normal: Any) -> None:
    depth, unit = plane(normal)
    normals, valid = normals_of_depth(depth, CAMERA, reach=3, jump=0.2)
    assert valid[3:-3, 3:-3].all()
    assert not valid[:3].any()
    assert np.abs(normals[valid] - unit).max() < 1e-9
    assert not normals[~valid].any()


def test_normals_of_a_sphere_point_from_its_centre() -> None:
    centre, radius = np.array([0.1, -0.1, 3.0]), 1.0
    lines = rays() / np.linalg.norm(rays(), axis=-1, keepdims=True)
    along = lines @ centre
    under = along**2 - (centre @ centre - radius**2)
    distance = along - np.sqrt(np.maximum(under, 0))
    depth = np.where(under > 0, distance * lines[..., 2], 0)
    normals, valid = normals_of_depth(depth, CAMERA, reach=1, jump=0.05)
    truth = (lines * distance[..., None] - centre) / radius
    angle = np.degrees(np.arccos(np.clip((normals * truth).sum(-1)[valid], -1, 1)))
    assert valid.sum() > 500
    assert not valid[under <= 0].any()
    assert np.median(angle) < 0.5
    assert angle.max() < 10


def test_no_normals_at_holes_and_steps() -> None:
    depth = np.full(SIZE, 1.0)
    depth[:, 24:] = 1.2
    depth[20, 10] = 0
    _, valid = normals_of_depth(depth, CAMERA, reach=2, jump=0.05)
    assert not valid[:, 22:26].any()
    assert valid[5, [20, 21, 26, 30]].all()
    assert [bool(valid[y, x]) for y, x in [(20, 10), (18, 10), (20, 12), (18, 12)]] == [False, False, False, True]
    assert not normals_of_depth(np.ones((1, 1)), CAMERA)[1].any()


def depth_files(stored: np.ndarray) -> dict[str, Any]:
    return {
        "f-1.color.png": picture(*SIZE),
        "f-1.depth.png": png(stored),
        "camera-intrinsics.txt": f"{CAMERA[0]} 0 {CAMERA[2]}\n0 {CAMERA[1]} {CAMERA[3]}\n0 0 1\n",
    }


def test_depth_with_normals(tmp_path: Path) -> None:
    depth, unit = plane((0.3, 0, -1))
    stored = np.rint(depth * 5000).astype(np.uint16)
    stored[0, :2] = 0, 65535
    fill(tmp_path / "s", depth_files(stored))
    manifest = build("depth", tmp_path / "s", tmp_path / "out", depth_unit=0.0002)[""]
    found = samples(tmp_path / "out")["f-1"]
    metres, valid = annotations.depth_map(found)
    assert valid[0].tolist() == [False, False] + [True] * (SIZE[1] - 2)
    np.testing.assert_allclose(metres[1:], depth[1:], atol=2e-4)
    assert found["json"]["intrinsics"] == list(CAMERA)
    normals, there = annotations.normal_map(found)
    assert there.float().mean() > 0.6
    assert (normals[:, there] * torch.tensor(unit, dtype=torch.float32)[:, None]).sum(0).min() > 0.999
    assert manifest["depth_unit"] == 0.0002
    assert verify(tmp_path / "out").problems == []


def test_depth_in_folders_without_intrinsics(tmp_path: Path) -> None:
    stored = np.full((4, 5), 700, np.uint16)
    build("depth", fill(tmp_path / "s", {"rgb/1.png": picture(4, 5), "depth/1.png": png(stored)}), tmp_path / "out")
    found = samples(tmp_path / "out")["1"]
    torch.testing.assert_close(annotations.depth_map(found)[0], torch.full((4, 5), 0.7))
    assert "normals.png" not in found


def test_normals_are_stored_to_half_a_degree() -> None:
    normal = np.array([[[0.6, 0.0, -0.8]]])
    coded = encode_normals(normal, np.array([[True]]))
    assert np.abs(coded / 127.5 - 1 - normal).max() <= 1 / 255
    assert not encode_normals(normal, np.array([[False]])).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"f-1.depth.png": png(np.zeros(SIZE, np.uint8))},
            "unreadable depth: f-1.depth.png: 8 bits a pixel; expected 16",
        ),
        ({"f-1.depth.png": picture(*SIZE)}, "unreadable depth: .*a picture in colours"),
        ({"f-1.depth.png": png(np.zeros((9, 9), np.uint16))}, "depth of another size than the image: .* 9×9"),
        ({"f-2.depth.png": png(np.zeros(SIZE, np.uint16))}, "depth without image: f-2.depth.png"),
        ({"f-2.color.png": picture(*SIZE)}, "missing depth: f-2.color.png"),
        ({"camera-intrinsics.txt": "1 2 3"}, "expected a 3×3 matrix"),
        ({"camera-intrinsics.txt": "a b"}, "camera-intrinsics.txt: could not convert"),
        ({"my.intrinsics.txt": "1 1 1 1"}, "expected one file of intrinsics"),
    ],
)
def test_wrong_depth_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = fill(tmp_path / "s", depth_files(np.full(SIZE, 1000, np.uint16)) | changes)
    with pytest.raises(DataError, match=message):
        build("depth", source, tmp_path / "out")


def test_a_unit_of_depth_is_above_zero(tmp_path: Path) -> None:
    source = fill(tmp_path / "s", depth_files(np.full(SIZE, 1000, np.uint16)))
    with pytest.raises(DataError, match="--depth-unit: expected metres"):
        build("depth", source, tmp_path / "out", depth_unit=-1)


def matlab(*drawn: np.ndarray) -> bytes:
    """Ground truth as BSDS500 has it: a row of cells, each a struct."""
    cells = np.empty((1, len(drawn)), dtype=object)
    for number, one in enumerate(drawn):
        cells[0, number] = {"Segmentation": one.astype(np.uint16), "Boundaries": one.astype(np.uint8)}
    buffer = io.BytesIO()
    savemat(buffer, {"groundTruth": cells})
    return buffer.getvalue()


@pytest.mark.parametrize("people", [1, 3])
def test_edges_are_the_share_of_annotators(tmp_path: Path, people: int) -> None:
    drawn = [np.eye(4, 5, k) for k in range(people)]
    build("boundaries", fill(tmp_path / "s", {"i/1.png": picture(4, 5), "g/1.mat": matlab(*drawn)}), tmp_path / "out")
    found = samples(tmp_path / "out")["1"]
    np.testing.assert_allclose(annotations.edge_map(found), np.mean(drawn, axis=0), atol=1 / 255)
    assert found["json"]["annotators"] == people
    assert verify(tmp_path / "out").problems == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"g/1.mat": matlab(np.eye(3), np.eye(3))}, "boundaries of another size than the image: g/1.mat: 3×3"),
        ({"g/1.mat": matlab(np.eye(3), np.eye(4))}, "unreadable boundaries: g/1.mat: expected maps of one size"),
        ({"g/1.mat": b"no matrix"}, "unreadable boundaries: g/1.mat"),
        ({"g/2.mat": matlab(np.eye(3), np.eye(3))}, "boundaries without image: g/2.mat"),
        ({"i/2.png": picture(4, 5)}, "missing boundaries: i/2.png"),
    ],
)
def test_wrong_boundaries_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    files = {"i/1.png": picture(4, 5), "g/1.mat": matlab(np.eye(4, 5), np.eye(4, 5)), **changes}
    with pytest.raises(DataError, match=message):
        build("boundaries", fill(tmp_path / "s", files), tmp_path / "out")
