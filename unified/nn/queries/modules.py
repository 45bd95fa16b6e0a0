"""Where things are, what queries look at, and what is read from them (UniHCP, CVPR 2023).

All that is a task's own are its queries: rows of tables. Whatever turns them into answers is shared by all tasks.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unified.core.types import weight_of

BASE = 10000.0
"""The longest wave of a position, in units of the shortest."""
EDGE = 1e-5
"""How near to 0 and 1 a coordinate is taken before its logit."""
RARE = -4.6
"""The logit of a class before anything is learned: 1 %, as most queries find nothing (RetinaNet, ICCV 2017)."""
SMALL = -2.0
"""The logit of the sides of boxes before anything is learned (Deformable DETR, ICLR 2021)."""


def sincos_xy(points: Float[Tensor, "*n 2"], width: int) -> Float[Tensor, "*n {width}"]:
    """Fixed codes of points (x, y) in 0..1: sines and cosines of y in the first half, of x in the second, in fp32.

    2π·p / 10000^(2⌊k/2⌋ / (width/2)), the sine on even k and the cosine on odd k. `width` is a multiple of 4.
    """
    pairs = torch.arange(width // 4, dtype=torch.float32, device=points.device)
    waves = 2 * math.pi / BASE ** (4 * pairs / width)
    angles = points.float().flip(-1)[..., None] * waves
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def grid_points(height: int, width: int, device: torch.device | str | None = None) -> Float[Tensor, "n 2"]:
    """The centres (x, y) of the cells of a grid, row by row, in 0..1 of its sides."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)


def spread_points(count: int, device: torch.device | str | None = None) -> Float[Tensor, "{count} 2"]:
    """So many points all over the image, at equal distances as far as the number allows."""
    side = math.isqrt(count - 1) + 1
    chosen = torch.linspace(0, side**2 - 1, count, device=device).round().long()
    return grid_points(side, side, device)[chosen]


def sampled_at(features: Float[Tensor, "b h w d"], points: Float[Tensor, "q 2"]) -> Float[Tensor, "b q d"]:
    """What lies at points (x, y) in 0..1, between the centres of four cells in proportion, computed in fp32."""
    places = (2 * points.float() - 1).expand(len(features), 1, -1, -1)
    cells = features.float().permute(0, 3, 1, 2)
    found = F.grid_sample(cells, places, padding_mode="border", align_corners=False)  # autocast leaves fp32 as it is
    return found[:, :, 0].mT.to(features.dtype)


def inverse_sigmoid(p: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """log(p / (1 − p)) of numbers in 0..1, finite also at the ends, in fp32."""
    p = p.float().clamp(0, 1)
    return (p.clamp(min=EDGE) / (1 - p).clamp(min=EDGE)).log()


class PointEmbedding(nn.Module):
    """Learned codes of points, for the positions of a memory and the anchors of queries alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, points: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n w"]:
        """`points` are (x, y) in 0..1."""
        codes = sincos_xy(points, self.width)
        return self.out(F.relu(self.hidden(codes.to(weight_of(self.hidden).dtype))))


class Memory(nn.Module):
    """What queries look at: states of an encoder, brought to the decoder's width, and a learned mark of their level."""

    def __init__(self, width: int, decoder_width: int, levels: int) -> None:
        """`levels`: kinds of states that are told apart, such as modalities."""
        super().__init__()
        self.linear = nn.Linear(width, decoder_width)
        self.level = nn.Embedding(levels, decoder_width)

    def forward(self, states: Float[Tensor, "b n w"], level: int = 0) -> Float[Tensor, "b n d"]:
        """States of one level."""
        row = torch.full((1,), level, dtype=torch.long, device=states.device)
        return self.linear(states) + self.level(row)


class ZeroLinear(nn.Linear):
    """The last linear of an answer: its weights begin at zero, so that an answer begins at its baseline exactly.

    They learn from the first step on, and what lies before them from the second.
    """


class BoxLinear(ZeroLinear):
    """The last linear of boxes: they begin at their anchors, an eighth of the image wide and high (`SMALL`)."""


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, outputs: int, last: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), last(width, outputs)])

    def forward(self, x: Float[Tensor, "*n w"]) -> Float[Tensor, "*n o"]:
        """Each vector on its own."""
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class Interpreter(nn.Module):
    """Reads answers from the states of queries; which of them a task wants is all that differs between tasks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.presence_logit = ZeroLinear(width, 1)
        self.map_filter = Perceptron(width, width, ZeroLinear)
        self.box_offset = Perceptron(width, 4, BoxLinear)
        self.class_query = ZeroLinear(width, width)

    def presence(self, states: Float[Tensor, "b q d"]) -> Float[Tensor, "b q"]:
        """Logits of whether there is what each query asks for."""
        return self.presence_logit(states).squeeze(-1)

    def maps(
        self,
        states: Float[Tensor, "b q d"],
        features: Float[Tensor, "b h w d"],
        own: Float[Tensor, "q d"] | None = None,
    ) -> Float[Tensor, "b q h w"]:
        """A value of each query at each position: dot products with the features of a pyramid.

        `own`: filters of the queries whatever they found, which are added to those that their states say.
        """
        filters = self.map_filter(states)
        if own is not None:
            filters = filters + own
        # Outside autocast features may still be of its type, and states, which passed a norm, are not.
        return torch.einsum("bqd,bhwd->bqhw", filters, features.to(filters.dtype))

    def boxes(
        self,
        states: Float[Tensor, "b q d"],
        anchors: Float[Tensor, "*k q 2"],
        shift: Float[Tensor, "#q 4"] | None = None,
    ) -> Float[Tensor, "b q 4"]:
        """Boxes (cx, cy, w, h) in 0..1, in fp32. `anchors` (x, y) in 0..1 move centres, `shift` is added to logits."""
        offset = self.box_offset(states).float()
        if shift is not None:
            offset = offset + shift.float()
        return (offset + F.pad(inverse_sigmoid(anchors), (0, 2))).sigmoid()

    def classes(self, states: Float[Tensor, "b q d"], rows: Float[Tensor, "c d"]) -> Float[Tensor, "b q c"]:
        """Logits of each query for each class, a row each: one more class is one more row. Presence counts for all.

        Rows may have any scale, learned or encoded from names: they are normed.
        """
        similarity = self.class_query(states) @ F.layer_norm(rows, rows.shape[-1:]).T * rows.shape[-1] ** -0.5
        return similarity + self.presence_logit(states) + RARE


class Doubling(nn.Module):
    """A transposed convolution with kernel and stride 2: each position becomes four."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 4 * outputs)

    def forward(self, x: Float[Tensor, "b h w i"]) -> Float[Tensor, "b h2 w2 o"]:
        """Channels last, before and after."""
        batch, height, width, _ = x.shape
        y = self.linear(x).view(batch, height, width, 2, 2, -1)
        return y.transpose(2, 3).reshape(batch, 2 * height, 2 * width, -1)


def unpatched(patches: Float[Tensor, "b r c p"]) -> Float[Tensor, "b 3 h w"]:
    """Pictures of which patches (row, column, channel) lie in their grid."""
    batch, rows, columns, numbers = patches.shape
    side = math.isqrt(numbers // 3)
    cut = patches.view(batch, rows, columns, side, side, 3)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, rows * side, columns * side)


class PixelDetail(nn.Module):
    """What pixels say at each place of a pyramid, as the state of a patch keeps less than the patch shows.

    Two 3×3 convolutions at full resolution, then a linear over the pixels of a place and what was found at them, as
    ViTMatte (2023) has a stream of convolutions beside a plain ViT.
    """

    def __init__(self, patch: int, places: int, hidden: int, outputs: int) -> None:
        """`places`: of a patch, along each of its sides, which they divide; `hidden`: numbers found at each pixel."""
        super().__init__()
        self.cell = patch // places
        self.first, self.second = nn.Conv2d(3, hidden, 3, padding=1), nn.Conv2d(hidden, hidden, 3, padding=1)
        self.out = nn.Linear((3 + hidden) * self.cell**2, outputs)

    def forward(self, patches: Float[Tensor, "b r c p"]) -> Float[Tensor, "b h w d"]:
        """Normalised pixels of patches (row, column, channel) in their grid, to features with channels last."""
        pixels = unpatched(patches)
        found = F.gelu(self.second(F.gelu(self.first(pixels))))
        cells = F.pixel_unshuffle(torch.cat([pixels, found], dim=1), self.cell)
        return self.out(cells.permute(0, 2, 3, 1))


class Pyramid(nn.Module):
    """Features of finer resolution from patch states of any grid: doublings with LayerNorm and GELU between them."""

    def __init__(self, width: int, outputs: int, doublings: int, detail: PixelDetail | None = None) -> None:
        """`doublings`: 2 lead from patches of 16 pixels to a feature every 4 pixels; 0 is a linear alone.

        `detail`: of as many places, is added at the end.
        """
        super().__init__()
        self.detail = detail
        last = Doubling(width, outputs) if doublings else nn.Linear(width, outputs)
        self.steps = nn.ModuleList([*(Doubling(width, width) for _ in range(doublings - 1)), last])
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(doublings - 1))

    def forward(
        self, states: Float[Tensor, "b h w c"], patches: Float[Tensor, "b h w p"] | None = None
    ) -> Float[Tensor, "b h2 w2 d"]:
        """Patch states in their grid, and with `detail` the pixels of the patches, to features with channels last."""
        *steps, last = self.steps
        for step, norm in zip(steps, self.norms, strict=True):
            states = F.gelu(norm(step(states)))
        features = last(states)
        return features if self.detail is None else features + self.detail(patches)


class MapHead(nn.Module):
    """The usual head of one task's own for maps: a pyramid and a 1×1 convolution."""

    def __init__(
        self, width: int, hidden: int, outputs: int, doublings: int, detail: PixelDetail | None = None
    ) -> None:
        super().__init__()
        self.pyramid = Pyramid(width, hidden, doublings, detail)
        self.norm = nn.LayerNorm(hidden, eps=1e-6)
        self.out = ZeroLinear(hidden, outputs)

    def forward(self, features: Float[Tensor, "b h w d"]) -> Float[Tensor, "b q h w"]:
        """Features of its pyramid, to maps."""
        return self.out(F.gelu(self.norm(features))).permute(0, 3, 1, 2)


class PresenceHead(nn.Module):
    """The usual head of one task's own for presence: a linear on the mean of the states."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = ZeroLinear(width, outputs)

    def forward(self, states: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b q"]:
        """`mask`: True = a real token; None = all."""
        return self.linear(mean_of_real(states, mask))


def mean_of_real(states: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, "b w"]:
    """The mean over real tokens; 0 where there is none."""
    if mask is None:
        return states.mean(dim=1)
    real = mask[..., None].to(states.dtype)
    return (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
