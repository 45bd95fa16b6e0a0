"""Images as callers have them: paths, Pillow images, arrays and tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from unified.core.errors import DataError
from unified.modalities.image.files import ImageError, decode_frames, read_pixels


def read_images(images: Any) -> list[UInt8[Tensor, "*t 3 h w"]]:
    """One or several images, of any kind that `UnifiedImageProcessor.preprocess` takes, as uint8 tensors."""
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 5:
        images = list(images)
    elif isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = [_tensor(item) for item in images]
    elif not isinstance(images, list | tuple):
        images = [images]
    if not len(images):
        raise DataError("images: the list is empty; give at least one image")
    return [_tensor(item) for item in images]


def _tensor(image: Any) -> UInt8[Tensor, "*t 3 h w"]:
    if isinstance(image, str | Path):
        return _read(Path(image))
    if isinstance(image, Image.Image):
        return _opened(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.ascontiguousarray(image))
        if image.dim() == 2:
            image = image[..., None].expand(-1, -1, 3)
        image = image.movedim(-1, -3)
    if isinstance(image, Tensor) and image.dim() == 2:
        image = image.expand(3, -1, -1)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.dim() in (3, 4) and image.shape[-3] == 3:
        return image.contiguous()
    found = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise DataError(
        f"images: found {found}; expected a Pillow image, a path, an array (h, w, 3) or a tensor (3, h, w) of uint8 "
        "values from 0 to 255"
    )


def _read(path: Path) -> UInt8[Tensor, "*t 3 h w"]:
    """The upright image in a file, or all frames of an animated one."""
    if not path.is_file():
        raise DataError(f"images: {path}: no such file (addresses of the web are not fetched)")
    try:
        return decode_frames(path.read_bytes()).contiguous()
    except (ImageError, OSError) as error:
        raise DataError(f"images: {path}: not a readable image: {error}") from error


def _opened(image: Image.Image) -> UInt8[Tensor, "*t 3 h w"]:
    """The same of an image that is opened; it is upright by the EXIF orientation that it still has."""
    try:
        return read_pixels(image).contiguous()
    except ImageError as error:
        name = getattr(image, "filename", "") or "a Pillow image"
        raise DataError(f"images: {name}: not a readable image: {error}") from error
