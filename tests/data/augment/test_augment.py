import time

import numpy as np
import pytest
import torch
from torch import Tensor

from unified.core.errors import RecipeError
from unified.data.augment.augment import augment, build_transforms

EVERY = [
    {"kind": "affine", "degrees": 20, "translate": 0.1, "scale": [0.8, 1.2], "shear": 10, "stretch": 1.3},
    {"kind": "elastic"},
    {"kind": "stroke"},
    {"kind": "pixelate", "cells": [5, 9]},
    {"kind": "blur", "probability": 0.5},
    {"kind": "contrast", "contrast": [0.5, 1.5], "brightness": [-0.1, 0.1], "gamma": [0.7, 1.5]},
    {"kind": "saturation"},
    {"kind": "noise"},
    {"kind": "flip"},
    {"kind": "invert"},
]


def pictures(count: int, height: int = 18, width: int = 20, grey: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    shape = (count, 1 if grey else 3, height, width)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return list(pixels.expand(count, 3, height, width).contiguous().unbind())


def changed(images: list[Tensor], *entries: dict, indices: list[int] | None = None, seed: int = 0) -> list[Tensor]:
    rows = np.arange(len(images)) if indices is None else np.array(indices)
    return augment(images, build_transforms(entries, "augment", ["image"]).get("image", ()), rows, seed, "task")


def dot(row: int, column: int, side: int = 9) -> Tensor:
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    image[:, row, column] = 255
    return image


@pytest.mark.parametrize("entry", [*EVERY, {"kind": "crop", "size": 8}], ids=lambda entry: entry["kind"])
def test_a_sample_is_changed_alike_in_any_batch(entry: dict) -> None:
    images = pictures(5) + pictures(2, 9, 7) + pictures(3, grey=True)
    indices = [7, 100, 3, 4, 10**12, 6, 8, 9, 11, 12]
    whole = changed(images, entry, indices=indices)
    parts = changed(images[6:], entry, indices=indices[6:]) + changed(images[:6], entry, indices=indices[:6])
    for a, b in zip(whole, parts[4:] + parts[:4], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["kind"])
def test_images_keep_their_type_and_size(entry: dict) -> None:
    for before, after in zip(pictures(4), changed(pictures(4), entry), strict=True):
        assert after.dtype == torch.uint8
        assert after.shape == before.shape


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["kind"])
def test_samples_and_seeds_are_changed_differently(entry: dict) -> None:
    same = pictures(1) * 40
    first, second = changed(same, entry), changed(same, entry, seed=1)
    assert any(not torch.equal(a, first[0]) for a in first)
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_equal_channels_stay_equal_and_colour_agrees_with_grey() -> None:
    grey = pictures(3, grey=True)
    alone = changed(grey, *EVERY)
    assert all(torch.equal(image[0], image[2]) for image in alone)
    coloured = [torch.cat([image[:2], 255 - image[2:]]) for image in grey]
    entries = [entry for entry in EVERY if entry["kind"] not in ("invert", "saturation")]
    for a, b in zip(changed(coloured, *entries), changed(grey, *entries), strict=True):
        assert torch.equal(a[:2], b[:2])


def test_a_transform_of_no_strength_changes_nothing() -> None:
    images = pictures(4)
    for entry in (
        {"kind": "affine"},
        {"kind": "elastic", "strength": 0},
        {"kind": "blur", "sigma": [0, 0]},
        {"kind": "stroke", "strength": [0, 0]},
        {"kind": "noise", "std": [0, 0]},
        {"kind": "contrast"},
        {"kind": "saturation", "factor": [1, 1]},
        {"kind": "pixelate", "cells": [20, 20]},
        {"kind": "flip", "probability": 0},
    ):
        for before, after in zip(images, changed(images, entry), strict=True):
            assert torch.equal(before, after), entry


def test_affine_moves_by_the_share_of_the_side() -> None:
    images = [dot(4, 4)] * 200
    for after in changed(images, {"kind": "affine", "translate": 1 / 9, "fill": "black"}):
        y, x = (after[0].float() * torch.arange(9.0)[:, None]).sum(), (after[0].float() * torch.arange(9.0)).sum()
        mass = after[0].float().sum()
        assert abs(y / mass - 4) < 1.02
        assert abs(x / mass - 4) < 1.02


def test_affine_turns_about_the_centre_and_scales() -> None:
    for after in changed([dot(4, 8)] * 50, {"kind": "affine", "degrees": 90, "fill": "black"}):
        row, column = divmod(int(after[0].argmax()), 9)
        assert 3 <= np.hypot(row - 4, column - 4) <= 5
    square = torch.zeros(3, 20, 20, dtype=torch.uint8)
    square[:, 6:14, 6:14] = 255
    doubled = changed([square], {"kind": "affine", "scale": [2, 2], "fill": "black"})[0]
    assert float(doubled.float().mean()) == pytest.approx(4 * float(square.float().mean()), rel=0.1)


def test_affine_shrinks_as_often_as_it_grows() -> None:
    square = torch.zeros(3, 40, 40, dtype=torch.uint8)
    square[:, 15:25, 15:25] = 255
    images = changed([square] * 400, {"kind": "affine", "scale": [0.5, 2], "fill": "black"})
    factors = np.array([float(image[0].float().mean() / square[0].float().mean()) ** 0.5 for image in images])
    assert 0.48 < factors.min() < 0.52
    assert 1.9 < factors.max() < 2.1
    assert np.median(factors) == pytest.approx(1, abs=0.1)
    assert np.log(factors).mean() == pytest.approx(0, abs=0.06)


def test_affine_fills_from_outside() -> None:
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    shrink = {"kind": "affine", "scale": [0.5, 0.5]}
    assert changed([image], shrink)[0][0, 0, 0] == 100
    assert changed([image], {**shrink, "fill": "white"})[0][0, 0, 0] == 255
    assert changed([image], {**shrink, "fill": "black"})[0][0, 0, 0] == 0


def test_stroke_grows_bright_or_dark_pixels() -> None:
    grown = changed([dot(4, 4)], {"kind": "stroke", "strength": [1, 1]})[0]
    assert (grown[0] == 255).sum() == 9
    gone = changed([dot(4, 4)], {"kind": "stroke", "strength": [-1, -1]})[0]
    assert gone.max() == 0


def test_blur_spreads_and_keeps_the_mean() -> None:
    blurred = changed([dot(10, 10, side=21)], {"kind": "blur", "sigma": [2, 2]})[0][0].float()
    assert blurred.max() < 20
    assert blurred.sum() == pytest.approx(255, rel=0.1)


def test_pixelate_leaves_as_many_levels_as_cells() -> None:
    ramp = torch.arange(32, dtype=torch.uint8).expand(3, 32, 32).contiguous() * 8
    flat = changed([ramp], {"kind": "pixelate", "cells": [1, 1]})[0]
    assert len(flat.unique()) == 1
    assert flat[0, 0, 0] == 124
    board = torch.zeros(3, 32, 32, dtype=torch.uint8)
    board[:, ::2, ::2] = 255
    assert changed([board], {"kind": "pixelate", "cells": [16, 16]})[0].float().std() < 1


def test_crop_has_the_size_and_area_asked_for() -> None:
    ramp = torch.linspace(0, 255, 100).to(torch.uint8).expand(3, 60, 100).contiguous()
    crops = changed([ramp] * 50, {"kind": "crop", "size": 16, "area": [0.2, 0.3], "ratio": [1, 1]})
    widths = [float(crop[0, 0, -1]) - float(crop[0, 0, 0]) for crop in crops]
    assert all(crop.shape == (3, 16, 16) for crop in crops)
    assert min(widths) > 75
    assert max(widths) < 115  # √(0.2…0.3 × 6000) = 35…42 of 100 columns, less half a cell at both ends


def test_crop_brings_images_to_one_size_for_those_after_it() -> None:
    images = pictures(3) + pictures(3, 30, 50)
    shapes = {image.shape for image in changed(images, {"kind": "crop", "size": 12}, *EVERY)}
    assert shapes == {(3, 12, 12)}


def test_noise_has_its_standard_deviation() -> None:
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    assert changed([grey], {"kind": "noise", "std": [0.1, 0.1]})[0].float().std() == pytest.approx(25.5, rel=0.05)


def test_probability_is_the_share_of_changed_images() -> None:
    after = changed([dot(4, 1)] * 1000, {"kind": "flip", "probability": 0.3})
    assert sum(bool(image[0, 4, 7]) for image in after) == pytest.approx(300, abs=50)


def test_invert_exchanges_black_and_white() -> None:
    assert torch.equal(changed([dot(1, 1)], {"kind": "invert", "probability": 1})[0], 255 - dot(1, 1))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"kind": "afine"}, "'afine' is not an augmentation; did you mean 'affine'"),
        ({"degrees": 3}, "None is not an augmentation"),
        ({"kind": "affine", "degree": 3}, "did you mean 'degrees'"),
        ({"kind": "blur", "sigma": [2, 1]}, "lowest value comes first"),
        ({"kind": "flip", "probability": 2}, "from 0 to 1"),
        ({"kind": "pixelate", "cells": [0, 4]}, "at least 1"),
        ({"kind": "affine", "scale": [0, 1]}, "above 0"),
        ({"kind": "crop"}, "size must be given"),
    ],
)
def test_senseless_entries_are_errors(entry: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=r"tasks\.a\.augment\[0\]") as error:
        build_transforms([entry], "tasks.a.augment", ["image"])
    assert words in str(error.value)


def test_the_usual_chain_is_cheap() -> None:
    """256 glyphs of 32×32; 7 ms on one core of the machine it was measured on, and a wide margin for a busy one."""
    images = pictures(256, 32, 32, grey=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        changed(images, EVERY[0], {"kind": "stroke"}, {"kind": "blur"})
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    assert min(times) < 0.06


def test_saturation_keeps_the_luminance_and_takes_the_colour() -> None:
    red, grey = torch.zeros(3, 4, 4, dtype=torch.uint8), pictures(1, grey=True)[0]
    red[0] = 200
    pale, same = changed([red, grey], {"kind": "saturation", "factor": [0, 0]})
    assert (pale == round(0.299 * 200)).all()
    assert torch.equal(same, grey)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    for after in changed([red] * 20, {"kind": "saturation", "factor": [0.2, 0.8]}):
        assert ((after * weights).sum(0) - 59.8).abs().max() < 1
        assert 0.2 * 200 - 1 <= int(after[0, 0, 0]) - int(after[1, 0, 0]) <= 0.8 * 200 + 1
