"""Attention within windows of an image, for pictures with more patches than all pairs of them can be compared."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unified.nn.scaled_dot_product import attend


@dataclass(frozen=True)
class Windows:
    """Where the patches of an image stand in a sequence, and the side of the windows that they attend in.

    A patch sees its window and every token that is no patch; other tokens see everything. So no information needs to
    cross a window in these layers: layers between them attend globally (ViTDet, ECCV 2022).
    """

    start: int  # the first patch
    rows: int
    columns: int
    side: int  # patches along each axis of a window

    def attend(
        self,
        query: Float[Tensor, "b h n d"],
        key: Float[Tensor, "b h n d"],
        value: Float[Tensor, "b h n d"],
        mask: Bool[Tensor, "b 1 1 n"] | None,
        *,
        eager: bool = False,
    ) -> Float[Tensor, "b h n d"]:
        """`mask`: keys that may be attended, of which patches are all; None = all. `eager`: as in `attend`."""
        stop = self.start + self.rows * self.columns
        place = torch.cat(
            [torch.arange(self.start, device=query.device), torch.arange(stop, query.shape[2], device=query.device)]
        )
        seen = None if mask is None else mask[..., place]
        keys, values = key[:, :, place], value[:, :, place]
        inside = slice(self.start, stop)
        patches = self._patches(query[:, :, inside], key[:, :, inside], value[:, :, inside], keys, values, seen, eager)
        rest = attend(query[:, :, place], key, value, mask=mask, eager=eager)
        return torch.cat([rest[:, :, : self.start], patches, rest[:, :, self.start :]], dim=2)

    def _patches(
        self, query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, eager: bool
    ) -> Float[Tensor, "b h p d"]:
        query, key, value = (self._cut(part) for part in (query, key, value))
        count = query.shape[0] // keys.shape[0]  # windows of an image
        keys, values = (part.repeat_interleave(count, dim=0) for part in (keys, values))
        real = self._real(query.device).repeat(query.shape[0] // count, 1)[:, None, None]
        beside = real.new_ones(query.shape[0], 1, 1, keys.shape[2])
        if seen is not None:
            beside = seen.repeat_interleave(count, dim=0)
        full = seen is None and self.rows % self.side == 0 and self.columns % self.side == 0
        mask = None if full else torch.cat([real, beside], dim=-1)
        both = torch.cat([key, keys], dim=2), torch.cat([value, values], dim=2)
        mixed = attend(query, *both, mask=mask, eager=eager)
        return self._joined(mixed)

    def _grid(self) -> tuple[int, int]:
        return -(-self.rows // self.side), -(-self.columns // self.side)

    def _cut(self, x: Tensor) -> Tensor:
        """(b, h, patches, d) as windows (w, h, side², d) of each image, the last ones filled up."""
        down, across = self._grid()
        batch, heads, _, width = x.shape
        grid = x.unflatten(2, (self.rows, self.columns))
        fill = (0, 0, 0, across * self.side - self.columns, 0, down * self.side - self.rows)
        cut = F.pad(grid, fill).view(batch, heads, down, self.side, across, self.side, width)
        return cut.permute(0, 2, 4, 1, 3, 5, 6).reshape(batch * down * across, heads, self.side**2, width)

    def _joined(self, windows: Float[Tensor, "w h s d"]) -> Float[Tensor, "b h p d"]:
        down, across = self._grid()
        _, heads, _, width = windows.shape
        cut = windows.view(-1, down, across, heads, self.side, self.side, width).permute(0, 3, 1, 4, 2, 5, 6)
        grid = cut.reshape(-1, heads, down * self.side, across * self.side, width)
        return grid[:, :, : self.rows, : self.columns].flatten(2, 3)

    def _real(self, device: torch.device) -> Bool[Tensor, "v s"]:
        """Which places of the windows of one image hold a patch."""
        there = torch.ones(1, 1, self.rows * self.columns, 1, dtype=torch.uint8, device=device)
        return self._cut(there)[:, 0, :, 0].bool()
