"""Patches as vectors: a projection with positions, and normalisation on the device."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from unified.core.errors import DataError, RecipeError
from unified.core.transfers import kept, sent
from unified.core.types import Tokens, weight_of
from unified.modalities.base import shared

TEMPERATURE = 10000.0


class PatchProjection(nn.Linear):
    """A linear layer on patches (row, column, channel), whose weight is a convolution's (channel, row, column)."""

    def forward(self, input: Float[Tensor, "b n d"]) -> Float[Tensor, "b n w"]:
        """The same as the convolution."""
        weight = self.weight.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)
        return F.linear(input, weight, self.bias)


class ImageEmbedding(nn.Module):
    """Patches to vectors: norm(linear(normalised pixels) + temporal[t] + spatial[y, x])."""

    def __init__(
        self,
        width: int,
        patch: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        positions: Literal["sincos", "learned"],
        position_scale: float,
        grid: int,
        frames: int,
    ) -> None:
        super().__init__()
        if positions == "sincos" and width % 4:
            raise RecipeError(f"model.width: {width} must be a multiple of 4 for fixed positions")
        self.width, self.patch = width, patch
        self.mean, self.std = tuple(mean), tuple(std)
        self.position_scale, self.grid, self.frames = position_scale, grid, frames
        self.projection = PatchProjection(3 * patch * patch, width)
        self.temporal = nn.Embedding(frames, width)
        self.spatial = nn.Embedding(grid * grid, width) if positions == "learned" else None

    def forward(self, tokens: Tokens, norm: nn.Module) -> Float[Tensor, "b n w"]:
        """`norm` is the one that all modalities share; the model holds it, once. Pixels are on the scale 0 to 255."""
        states = self.projection(self.normalise(tokens.values))
        position = shared(tokens.position)
        time = position[..., 0].long()
        frames = None if tokens.extent is None else tokens.extent[0]
        if frames is None and time.device.type == "cpu" and not torch.compiler.is_compiling():
            frames = int(time.max()) + 1
        if frames is not None and frames > self.frames:
            raise DataError(
                f"a video of {frames} frames exceeds the {self.frames} of this model (image.frames); take fewer"
            )
        mask = tokens.mask[: position.shape[0]]
        states = states + self.temporal(time) + self._where(position, mask)
        return norm(states.to(weight_of(norm).dtype))

    def normalise(self, values: Tensor) -> Tensor:
        """Pixels (b, n, 3 * patch * patch) less their mean, over their deviation, in the precision of the weights."""
        shift, scale = _normalisation(self.mean, self.std, self.patch * self.patch, values.device)
        return torch.addcmul(shift, values.float(), scale).to(weight_of(self.projection).dtype)

    def _where(self, position: Float[Tensor, "b n 3"], mask: Tensor) -> Float[Tensor, "b n w"]:
        if self.spatial is None:
            return sincos(position[..., 1:] * self.position_scale, self.width)
        # The table covers the whole image whatever its size: centres of patches in units of the image, -1 to 1.
        extent = (position * mask[..., None]).amax(dim=1, keepdim=True)[..., 1:] + 1
        centres = ((position[..., 1:] + 0.5) / extent * 2 - 1).flip(-1)  # x, y
        table = self.spatial(torch.arange(self.grid * self.grid, device=position.device))
        table = table.T.reshape(1, self.width, self.grid, self.grid).float()
        read = F.grid_sample(table, centres.reshape(1, -1, 1, 2), padding_mode="border", align_corners=False)
        return read[0, :, :, 0].T.reshape(*position.shape[:2], self.width)


@kept(16)
def _normalisation(
    mean: tuple[float, ...], std: tuple[float, ...], area: int, device: torch.device
) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """`shift` and `scale` of pixels 0 to 255 in patches of `area` pixels: always fp32, no buffers to cast or refill."""
    centre, spread = torch.tensor(mean), torch.tensor(std)
    shift, scale = -centre / spread, 1 / (255 * spread)
    return tuple(sent(part.repeat(area), device) for part in (shift, scale))  # type: ignore[return-value]


def sincos(place: Float[Tensor, "b n 2"], width: int) -> Float[Tensor, "b n w"]:
    """Fixed positions of (y, x): [sin y, cos y, sin x, cos x], a quarter of the channels each.

    The published code calls the first half "w", but builds its grid with the first axis slow, so that with patches in
    reading order it holds the row: uniperceiver/utils/transformer_util.py of fundamentalvision/Uni-Perceiver.
    """
    quarter = width // 4
    frequency = 1 / TEMPERATURE ** (torch.arange(quarter, dtype=torch.float32, device=place.device) / quarter)
    angle = place.float()[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
