"""Images as patches: from pixels to tokens, and batches of several sizes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unified.core.errors import DataError
from unified.core.transfers import kept, sent
from unified.core.types import Tokens
from unified.modalities.base import pad


def patches(pixels: UInt8[Tensor, "b *t 3 h w"] | Float[Tensor, "b *t 3 h w"], patch: int) -> Tokens:
    """Images (b, 3, h, w) or videos (b, t, 3, h, w), all of one size, as rows of patches.

    A patch lists its pixels row by row, each with its channels: so decoders lay them, and whole rows are copied.
    """
    video = pixels if pixels.dim() == 5 else pixels[:, None]
    samples, frames, channels, height, width = video.shape
    rows, columns = _grid_size(height, width, patch)
    cut = video.reshape(samples, frames, channels, rows, patch, columns, patch).permute(0, 1, 3, 5, 4, 6, 2)
    return _tokens(cut.reshape(samples, -1, channels * patch * patch), frames, rows, columns)


class PatchRows:
    """A batch that is filled with patches picture by picture: each is copied once, in runs of a patch's row of pixels.

    All pictures are of one `shape`, (3, h, w) or (t, 3, h, w), uint8. The tokens are what `patches` makes of them. One
    of another number of frames is kept aside until `tokens`, which pads all to the longest.
    """

    def __init__(self, count: int, shape: Sequence[int], patch: int) -> None:
        *time, channels, height, width = shape
        self._frames = math.prod(time)
        self._rows, self._columns = _grid_size(height, width, patch)
        self._run = np.dtype((np.void, channels * patch))
        self._values = np.empty((count, self._frames, self._rows, self._columns, patch), self._run)
        self._pictures = self._values.swapaxes(3, 4)  # as pictures list their runs
        self._patch, self._aside = patch, dict[int, Tensor]()

    def put(self, row: int, picture: UInt8[Tensor, "*t 3 h w"]) -> None:
        """Fill a row of the batch, also one that was filled before."""
        self._aside.pop(row, None)
        if math.prod(picture.shape[:-3]) != self._frames:
            self._aside[row] = picture
            return
        target = self._pictures[row]
        pixels = np.ascontiguousarray(picture.numpy().swapaxes(-3, -2).swapaxes(-2, -1))  # channels last
        target[...] = pixels.reshape(-1).view(self._run).reshape(target.shape)

    def tokens(self) -> Tokens:
        """The batch, once every row is filled."""
        values = torch.from_numpy(self._values.view(np.uint8)).flatten(1, 3)
        found = _tokens(values, self._frames, self._rows, self._columns)
        if not self._aside:
            return found
        aside = {row: patches(picture[None], self._patch) for row, picture in self._aside.items()}
        return pad([aside.get(row, found.rows(slice(row, row + 1))) for row in range(len(found))])


def _grid_size(height: int, width: int, patch: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    if height % patch or width % patch:
        raise DataError(
            f"an image of {height} x {width} pixels cannot be cut into patches of {patch}; resize it to multiples of "
            f"{patch} first (the image tokenizer and the processor do)"
        )
    return height // patch, width // patch


def _tokens(values: Tensor, frames: int, rows: int, columns: int) -> Tokens:
    position, mask = _grid(frames, rows, columns, values.device)
    samples = values.shape[0]
    mask, position = mask.expand(samples, -1), position.expand(samples, -1, -1)
    return Tokens("image", values, mask, position, padded=False, extent=(frames, rows, columns))


@kept(64)
def _grid(frames: int, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions (1, n, 3) of all patches in reading order, and a mask (1, n) that is true throughout."""
    axes = [torch.arange(size, dtype=torch.float32) for size in (frames, rows, columns)]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)
    return sent(position, device), torch.ones(position.shape[:2], dtype=torch.bool, device=device)
