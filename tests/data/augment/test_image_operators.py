"""Image operators give what they say, and the same for the same draws."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unified.core import seed
from unified.data.augment.image_operators import DRAWS, OPERATORS, grey

HALF = np.full(DRAWS, 0.5)
RESTORING = ("denoise", "deblur", "inpaint", "colourise", "enlighten")


def smooth_picture() -> Tensor:
    noise = torch.rand(1, 3, 6, 7, generator=seed.torch_generator("picture"))
    return F.interpolate(noise, (24, 28), mode="bilinear")[0]


PICTURE = smooth_picture()


def applied(name: str, draws: np.ndarray = HALF, picture: Tensor = PICTURE) -> tuple[Tensor, Tensor]:
    return OPERATORS[name](picture, draws)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_keeps_shape_range_and_its_input(name: str) -> None:
    for picture in (PICTURE, torch.zeros(3, 9, 5), torch.ones(3, 1, 1)):
        before = picture.clone()
        given, asked = applied(name, picture=picture)
        assert given.shape == asked.shape == picture.shape
        assert min(given.min(), asked.min()) >= 0
        assert max(given.max(), asked.max()) <= 1 + 1e-6
        assert picture.equal(before)
        assert all(a.equal(b) for a, b in zip((given, asked), applied(name, picture=picture), strict=True))


@pytest.mark.parametrize("name", RESTORING)
def test_restoring_operators_ask_for_the_picture(name: str) -> None:
    given, asked = applied(name)
    assert asked.equal(PICTURE)
    assert not given.equal(PICTURE)


@pytest.mark.parametrize("name", ["denoise", "deblur", "inpaint", "enlighten"])
def test_other_draws_spoil_in_another_way(name: str) -> None:
    assert not applied(name)[0].equal(applied(name, np.full(DRAWS, 0.1))[0])


def test_noise_is_as_strong_as_drawn() -> None:
    grey_picture = torch.full((3, 64, 64), 0.5)
    for share, deviation in ((0.0, 0.05), (0.6, 0.14)):
        given, _ = applied("denoise", np.array([0.3, share, *[0.0] * 6]), grey_picture)
        assert (given - 0.5).std().item() == pytest.approx(deviation, rel=0.05)


def test_a_rectangle_is_grey_and_the_rest_is_kept() -> None:
    given, _ = applied("inpaint", np.array([0.5, 0.0, 1 - 1e-9, 0.0, *[0.0] * 4]))
    changed = (given != PICTURE).any(0)
    rows, columns = torch.where(changed)
    assert (given[:, changed] == 0.5).all()
    assert (rows.min(), rows.max()) == (24 - 7, 23)  # 0.3 of 24 rows, at the bottom
    assert (columns.min(), columns.max()) == (0, 4)  # 0.2 of 28 columns, at the left


def test_what_is_to_be_coloured_is_grey() -> None:
    given, _ = applied("colourise")
    assert given[0].equal(given[1])
    torch.testing.assert_close(given[:1], grey(PICTURE))


def test_the_dark_picture_is_darker_everywhere() -> None:
    given, _ = applied("enlighten")
    assert (given <= 0.5 * PICTURE**2 + 1e-6).all()


def test_smoothing_is_a_gaussian_and_sharpening_its_opposite() -> None:
    point = torch.zeros(3, 21, 21)
    point[:, 10, 10] = 1
    blurred = applied("smooth", picture=point)[1][0]
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    place = torch.arange(21) - 10.0
    assert (blurred.sum(0) * place**2).sum().item() == pytest.approx(4, rel=0.03)  # the variance of 2 pixels
    given, sharp = applied("sharpen", picture=0.3 + 0.4 * PICTURE)
    assert sharp.std() > given.std()


def test_sobel_is_the_slope_of_brightness() -> None:
    ramp = (torch.arange(10.0) / 20).expand(3, 8, 10)
    slope = applied("sobel", picture=ramp)[1]
    torch.testing.assert_close(slope[:, :, 1:-1], torch.full((3, 8, 8), 0.1))
    torch.testing.assert_close(applied("sobel", picture=ramp.mT.contiguous())[1], slope.mT)


def test_equalised_brightness_is_spread_evenly() -> None:
    dull = (0.4 + 0.1 * torch.arange(256.0).view(1, 16, 16) / 255).expand(3, -1, -1)
    levels = grey(applied("equalise", picture=dull)[1]).flatten().sort().values
    assert levels[-1] == pytest.approx(1, abs=1e-5)
    assert (levels - (torch.arange(256) + 1) / 256).abs().max() < 0.05
    assert applied("equalise", picture=torch.zeros(3, 4, 4))[1].isfinite().all()


def test_the_picture_itself() -> None:
    given, asked = applied("identity")
    assert given.equal(PICTURE)
    assert asked.equal(PICTURE)
