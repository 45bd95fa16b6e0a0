"""Images: resizing to a spec, their patches, and the embedding's sum."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.core.errors import DataError, RecipeError
from unified.modalities.image.embedding import ImageEmbedding, sincos
from unified.modalities.image.patches import patches
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer

SPEC = ImageSpec(height=8, width=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


def picture(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def embedding(**changes: object) -> ImageEmbedding:
    settings = {"positions": "sincos", "position_scale": 1.0, "grid": 4, "frames": 3, **changes}
    return ImageEmbedding(16, 4, SPEC.mean, SPEC.std, **settings)  # type: ignore[arg-type]


def reference(module: ImageEmbedding, pixels: Tensor) -> Tensor:
    """The published computation: a strided convolution over normalised frames (b, t, 3, h, w), then its rows."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (SPEC.mean, SPEC.std))
    frames = ((pixels.float() / 255 - mean) / std).flatten(0, 1)
    rows = F.conv2d(frames, module.projection.weight.view(16, 3, 4, 4), module.projection.bias, stride=4)
    return rows.flatten(2).transpose(1, 2).unflatten(0, pixels.shape[:2])


def published_positions(side: int, width: int, scale: float) -> Tensor:
    """The fixed table of the published code: a grid whose first axis, named w there, is the slow one."""
    w, h = torch.meshgrid(torch.arange(side) * scale, torch.arange(side) * scale, indexing="ij")
    omega = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
    w, h = w.reshape(-1, 1) * omega, h.reshape(-1, 1) * omega
    return torch.cat([w.sin(), w.cos(), h.sin(), h.cos()], dim=1)


def test_patches_list_pixels_row_by_row_with_their_channels() -> None:
    pixels = picture(2, 3, 8, 12)
    tokens = patches(pixels, 4)
    assert tokens.values.dtype == torch.uint8
    by_channel = F.unfold(pixels.float(), 4, stride=4).transpose(1, 2).byte()
    assert torch.equal(tokens.values, by_channel.unflatten(2, (3, 16)).transpose(2, 3).flatten(2))
    assert tokens.position[1, :4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]


@pytest.mark.parametrize("shape", [(3, 8, 12), (2, 3, 8, 12)])
def test_a_tokenizer_cuts_the_same_patches_whatever_the_layout_in_memory(shape: tuple[int, ...]) -> None:
    pixels = picture(3, *shape)
    expected = patches(pixels, 4)
    channels_last = [image.movedim(-3, -1).contiguous().movedim(-1, -3) for image in pixels]
    for images in (list(pixels), channels_last):
        tokens = ImageTokenizer(SPEC, 4).tokens(images)
        assert torch.equal(tokens.values, expected.values)
        assert torch.equal(tokens.position, expected.position)
        assert tokens.mask.shape == expected.mask.shape


def test_embedding_equals_the_published_arithmetic() -> None:
    module, norm = embedding(position_scale=160 / 224), nn.LayerNorm(16)
    pixels = picture(2, 3, 3, 16, 16)
    spatial = published_positions(4, 16, 160 / 224)
    expected = norm(reference(module, pixels) + module.temporal.weight[:3, None] + spatial).flatten(1, 2)
    torch.testing.assert_close(module(patches(pixels, 4), norm), expected, atol=1e-5, rtol=0)


def test_fixed_positions_hold_the_row_in_their_first_half() -> None:
    rows = sincos(torch.tensor([[[2.0, 0.0], [2.0, 5.0]]]), 8)[0]
    assert torch.equal(rows[0, :4], rows[1, :4])
    assert rows[0, 0] == pytest.approx(math.sin(2))
    assert rows[1, 4] == pytest.approx(math.sin(5))
    assert rows[1, 7] == pytest.approx(math.cos(5 / 100))


def test_learned_positions_are_the_table_at_its_own_size() -> None:
    module, norm = embedding(positions="learned"), nn.LayerNorm(16)
    pixels = picture(2, 1, 3, 16, 16)
    assert module.spatial is not None
    expected = norm(reference(module, pixels) + module.temporal.weight[0] + module.spatial.weight).flatten(1, 2)
    torch.testing.assert_close(module(patches(pixels, 4), norm), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(2, 8), (7, 3), (1, 1)])
def test_learned_positions_are_interpolated_to_any_grid(rows: int, columns: int) -> None:
    module = embedding(positions="learned")
    assert module.spatial is not None
    table = module.spatial.weight.T.view(1, 16, 4, 4)
    expected = F.interpolate(table, (rows, columns), mode="bilinear", align_corners=False).flatten(2)[0].T
    tokens = patches(picture(2, 3, 4 * rows, 4 * columns), 4)
    found = module._where(tokens.position, tokens.mask)
    torch.testing.assert_close(found, expected.expand(2, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(positions: str) -> None:
    module, norm = embedding(positions=positions), nn.LayerNorm(16)
    small, large = picture(3, 8, 4), picture(3, 12, 16)
    tokens = ImageTokenizer(SPEC, 4).tokens([small, large])
    assert tokens.mask.sum(1).tolist() == [2, 12]
    both = module(tokens, norm)
    torch.testing.assert_close(both[:1, :2], module(patches(small[None], 4), norm), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[1:], module(patches(large[None], 4), norm), atol=1e-5, rtol=0)


def test_learned_positions_receive_gradient() -> None:
    module = embedding(positions="learned")
    assert module.spatial is not None
    module(patches(picture(2, 3, 8, 8), 4), nn.LayerNorm(16))[..., 0].sum().backward()
    assert module.spatial.weight.grad is not None
    assert module.spatial.weight.grad.abs().sum() > 0


def test_embedding_has_no_buffers_and_copies() -> None:
    module = copy.deepcopy(embedding()).to(torch.bfloat16)
    assert not list(module.buffers())
    assert module(patches(picture(1, 3, 8, 8), 4), nn.LayerNorm(16).to(torch.bfloat16)).dtype == torch.bfloat16


def test_normalisation_stays_exact_in_half_precision() -> None:
    module = embedding().to(torch.bfloat16)
    white = torch.full((1, 1, 48), 255, dtype=torch.uint8)
    expected = ((1 - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)).repeat(16)
    assert torch.equal(module.normalise(white)[0, 0], expected.bfloat16())


def test_squash_resizes_both_sides() -> None:
    tokenizer = ImageTokenizer(replace(SPEC, resample=2), 4)
    image = picture(3, 30, 20)
    expected = F.interpolate(image[None].float(), (8, 12), mode="bilinear", antialias=True)[0]
    found = tokenizer.prepare(image)
    assert found.dtype == torch.uint8
    assert (found.float() - expected).abs().max() <= 1
    assert tokenizer.prepare(picture(2, 3, 30, 20)).shape == (2, 3, 8, 12)


def test_crop_keeps_the_aspect_and_the_centre() -> None:
    tokenizer = ImageTokenizer(replace(SPEC, mode="crop"), 4)
    image = torch.zeros(3, 8, 36, dtype=torch.uint8)
    image[:, :, 12:24] = 200
    assert tokenizer.prepare(image).eq(200).all()
    part = ImageTokenizer(replace(SPEC, mode="crop", crop_fraction=0.5), 4)
    assert part.prepare(picture(3, 40, 60)).shape == (3, 8, 12)
    assert part.prepare(picture(3, 3, 200)).shape == (3, 8, 12)


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = picture(3, 8, 12)
    assert ImageTokenizer(SPEC, 4).prepare(image) is image


def test_spec_round_trip(tmp_path: Path) -> None:
    spec = replace(SPEC, mode="crop", resample=2, crop_fraction=0.875)
    ImageTokenizer(spec, 4).save(tmp_path)
    assert ImageTokenizer.load(str(tmp_path), 4).spec == spec


@pytest.mark.parametrize("name", ["image", "image_glyph"])
def test_committed_specs_load(name: str) -> None:
    tokenizer = ImageTokenizer.load(name, 4)
    tokens = tokenizer.tokens([tokenizer.prepare(picture(3, 50, 40))])
    assert len(tokens.position[0]) == tokenizer.height * tokenizer.width // 16


def test_mistakes_have_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not divide the 8 x 12 pixels"):
        ImageTokenizer(SPEC, 5)
    with pytest.raises(DataError, match="cannot be cut into patches of 5"):
        patches(picture(1, 3, 10, 12), 5)
    with pytest.raises(DataError, match=r"uint8 \(3, h, w\).*found torch.float32"):
        ImageTokenizer(SPEC, 4).prepare(torch.zeros(3, 8, 8))
    with pytest.raises(DataError, match="at least one image"):
        ImageTokenizer(SPEC, 4).tokens([])
    with pytest.raises(RecipeError, match=r"did you mean 'image'\?"):
        ImageTokenizer.load("imag", 4)
    with pytest.raises(DataError, match="4 frames exceeds the 3"):
        embedding()(patches(picture(1, 4, 3, 4, 4), 4), nn.LayerNorm(16))
    file = tmp_path / "preprocessor_config.json"
    ImageTokenizer(SPEC, 4).save(tmp_path)
    content = json.loads(file.read_text())
    for wrong, message in [
        ({"resize_mod": "crop"}, "did you mean"),
        ({"resample": 9}, "resample"),
        ({"size": 224}, 'expected "size"'),
        ({"format": 2}, "expected a format up to 1, got 2"),
    ]:
        file.write_text(json.dumps({**content, **wrong}))
        with pytest.raises(RecipeError, match=message):
            ImageTokenizer.load(str(tmp_path), 4)
    file.write_text("{")
    with pytest.raises(DataError, match="expected JSON, got"):
        ImageTokenizer.load(str(tmp_path), 4)
