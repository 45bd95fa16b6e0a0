"""Map: a value at each position. Losses of one number a sample, and what is read out of the maps of queries.

Maps are what queries say at the positions of a feature pyramid, of any size; targets have the size of the picture, and
`valid` says where they are known. A sample without a valid position has the loss 0. All in fp32.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.core.errors import UserError
from unified.core.types import IGNORE

LOG_SHIFT = 1e-3
"""What is added to values before their logarithm (the depth losses of DINOv3)."""
SIG_BALANCE = 0.15
"""What the mean of the logarithmic error counts in SigLoss, beside its variance."""


def resized(maps: Float[Tensor, "b q h w"], size: tuple[int, int]) -> Float[Tensor, "b q H W"]:
    """Maps brought to (height, width), bilinearly, in fp32."""
    if maps.shape[2:] == size:
        return maps.float()
    return F.interpolate(maps.float(), size, mode="bilinear", align_corners=False)


def mean_of_valid(values: Float[Tensor, "b *n"], valid: Bool[Tensor, "b *#n"]) -> Float[Tensor, "b"]:
    """The mean of each sample over its valid positions; 0 where there is none."""
    valid = valid.expand_as(values).flatten(1)
    return torch.where(valid, values.flatten(1), 0.0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def class_loss(maps: Float[Tensor, "b q h w"], labels: Int[Tensor, "b H W"]) -> Float[Tensor, "b"]:
    """Cross entropy of the softmax over class queries, pixel by pixel; IGNORE counts nowhere."""
    logits = resized(maps, (labels.shape[1], labels.shape[2]))
    return mean_of_valid(
        F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="none"), labels != IGNORE
    )


def gaussian_maps(
    points: Float[Tensor, "b j 3"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "b j {size[0]} {size[1]}"]:
    """Heat maps of points (x, y in 0..1, v): Gaussians of height 1 and `sigma` positions; v = 0 has none."""
    height, width = size
    x = points[..., 0, None] * width - 0.5 - torch.arange(width, device=points.device)
    y = points[..., 1, None] * height - 0.5 - torch.arange(height, device=points.device)
    there = (points[..., 2] > 0)[..., None, None]
    heat = _bell(y, sigma)[..., :, None] * _bell(x, sigma)[..., None, :]
    return torch.where(there, heat, 0.0)


def _bell(distance: Tensor, sigma: float) -> Tensor:
    return (-distance.float().square() / (2 * sigma**2)).exp()


def heat_loss(maps: Float[Tensor, "b j h w"], points: Float[Tensor, "b j 3"], sigma: float) -> Float[Tensor, "b"]:
    """Mean squared error against heat maps, over the points that are known (v > 0) and inside the picture."""
    target = gaussian_maps(points.nan_to_num(), (maps.shape[2], maps.shape[3]), sigma)
    return mean_of_valid((maps.float() - target).square(), _inside(points)[..., None, None])


def place_loss(maps: Float[Tensor, "b j h w"], points: Float[Tensor, "b j 3"], sigma: float) -> Float[Tensor, "b"]:
    """The divergence of the softmax over positions from the heat map as shares, over points as in `heat_loss`.

    Squared errors of a small bell are nearly as small where nothing is said at all; this loss is not, and so places
    points after far fewer steps. Its maps are logits: presence says whether a point can be seen, not their height.
    """
    heat = gaussian_maps(points.nan_to_num(), (maps.shape[2], maps.shape[3]), sigma).flatten(2)
    share = heat / heat.sum(dim=2, keepdim=True).clamp(min=1e-12)
    apart = torch.xlogy(share, share) - share * maps.float().flatten(2).log_softmax(dim=2)
    return mean_of_valid(apart.sum(dim=2), _inside(points))


def _inside(points: Tensor) -> Tensor:
    """Which points are known, and inside the picture."""
    return (points[..., :2] >= 0).all(dim=-1) & (points[..., :2] <= 1).all(dim=-1) & (points[..., 2] > 0)


def heat_points(maps: Float[Tensor, "b j h w"]) -> Float[Tensor, "b j 3"]:
    """The highest position of each map as x, y in 0..1 and its height; a parabola through its neighbours places it."""
    height, width = maps.shape[2:]
    heat = maps.float()
    top, index = heat.flatten(2).max(dim=-1)
    y, x = index // width, index % width
    padded = F.pad(heat, (1, 1, 1, 1), mode="replicate").flatten(2)

    def at(dy: int, dx: int) -> Tensor:
        return padded.gather(2, ((y + 1 + dy) * (width + 2) + x + 1 + dx)[..., None])[..., 0]

    right = torch.where((x > 0) & (x < width - 1), _peak(at(0, -1), top, at(0, 1)), 0.0)
    down = torch.where((y > 0) & (y < height - 1), _peak(at(-1, 0), top, at(1, 0)), 0.0)
    return torch.stack([(x + 0.5 + right) / width, (y + 0.5 + down) / height, top], dim=-1)


def _peak(before: Tensor, top: Tensor, after: Tensor) -> Tensor:
    """Where the parabola through three neighbours is highest, from the middle one."""
    bend = 2 * top - before - after
    return torch.where(bend > 0, (after - before) / (2 * bend.clamp(min=1e-12)), 0.0).clamp(-0.5, 0.5)


def bin_centres(count: int, low: float, high: float, *, log: bool) -> Float[Tensor, "{count}"]:
    """The middles of `count` equal parts of low..high, or of its logarithm."""
    if not (low < high and (low > 0 or not log)):
        raise UserError(f"bins from {low} to {high}: expected low < high, and low > 0 for logarithmic ones")
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    if log:
        return (low * (high / low) ** middles).float()
    return (low + (high - low) * middles).float()


def expected_value(
    maps: Float[Tensor, "b q h w"], centres: Float[Tensor, "q"], size: tuple[int, int]
) -> Float[Tensor, "b 1 H W"]:
    """Σ softmax(maps) · centres: one query a bin, the value in between by their shares."""
    values = torch.einsum("bqhw,q->bhw", maps.float().softmax(dim=1), centres.float())
    return resized(values[:, None], size)


def _log_error(value: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    safe = torch.where(valid, target, 1.0)
    return torch.where(valid, (value.float() + LOG_SHIFT).log() - (safe + LOG_SHIFT).log(), 0.0).flatten(1)


def sig_loss(
    value: Float[Tensor, "b 1 H W"], target: Float[Tensor, "b 1 H W"], valid: Bool[Tensor, "b 1 H W"], *, warm: bool
) -> Float[Tensor, "b"]:
    """SigLoss: sqrt(Var(g) + 0.15 mean(g)²), g the difference of logarithms; before it is `warm` without the variance.

    Source: the depth protocol of DINOv3, which is not warm during its first 100 steps.
    """
    error, count = _log_error(value, target, valid), valid.flatten(1).sum(dim=1)
    mean = error.sum(dim=1) / count.clamp(min=1)
    squared = SIG_BALANCE * mean.square()
    if warm:
        centred = torch.where(valid.flatten(1), error - mean[:, None], 0.0)
        squared = squared + centred.square().sum(dim=1) / (count - 1).clamp(min=1)
    return torch.where(squared > 0, squared.where(squared > 0, 1.0).sqrt(), 0.0)


def directions(maps: Float[Tensor, "b 3 h w"], size: tuple[int, int]) -> Float[Tensor, "b 3 H W"]:
    """Unit vectors of three queries."""
    return F.normalize(resized(maps, size), dim=1)


def direction_loss(
    maps: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 H W"], valid: Bool[Tensor, "b 1 H W"]
) -> Float[Tensor, "b"]:
    """1 − cosine to the target's direction, whatever its length."""
    known = F.normalize(torch.where(valid, target, 0.0), dim=1)
    cosine = (directions(maps, (target.shape[2], target.shape[3])) * known).sum(dim=1, keepdim=True)
    return mean_of_valid(1 - cosine, valid)


def edge_loss(
    maps: Float[Tensor, "b q h w"], target: Float[Tensor, "b q H W"], valid: Bool[Tensor, "b #q H W"]
) -> Float[Tensor, "b"]:
    """Binary cross entropy in which what is and what is not count the same (HED, ICCV 2015), however rare either is.

    `target`: shares in 0..1. Half the mean over positives, weighted by the target, and half that over negatives.
    """
    logits = resized(maps, (target.shape[2], target.shape[3]))
    share = torch.where(valid, target.float(), 0.0)
    rest = torch.where(valid, 1 - target.float(), 0.0)
    positive = (share * F.softplus(-logits)).flatten(1).sum(dim=1) / share.flatten(1).sum(dim=1).clamp(min=1e-6)
    negative = (rest * F.softplus(logits)).flatten(1).sum(dim=1) / rest.flatten(1).sum(dim=1).clamp(min=1e-6)
    return (positive + negative) / 2


def pixels(maps: Float[Tensor, "b q h w"], channels: int) -> Float[Tensor, "b {channels} H W"]:
    """An image of `channels`·r² queries, each a place in cells of r × r pixels (pixel shuffle, CVPR 2016)."""
    factor = round((maps.shape[1] / channels) ** 0.5)
    if channels * factor**2 != maps.shape[1]:
        raise UserError(
            f"{maps.shape[1]} queries are no image of {channels} channels: expected {channels} times a square, "
            f"such as {channels * max(factor, 1) ** 2}"
        )
    return F.pixel_shuffle(maps.float(), factor)


def pixel_loss(
    image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c H W"], valid: Bool[Tensor, "b #c H W"], epsilon: float
) -> Float[Tensor, "b"]:
    """Charbonnier: sqrt(d² + ε²) − ε, which is the absolute difference where ε is 0."""
    if image.shape != target.shape:
        raise UserError(
            f"an image of {tuple(image.shape[1:])} cannot be compared with a target of {tuple(target.shape[1:])}; "
            "as many queries as channels · r² give pictures r times as large as the features"
        )
    error = image.float() - torch.where(valid, target.float(), 0.0)
    if epsilon == 0:
        return mean_of_valid(error.abs(), valid)
    return mean_of_valid((error.square() + epsilon**2).sqrt() - epsilon, valid)


def density(maps: Float[Tensor, "b q h w"]) -> Float[Tensor, "b q h w"]:
    """How many there are at each position; the sum is the count."""
    return F.softplus(maps.float())


def density_maps(points: Float[Tensor, "b m 3"], size: tuple[int, int], sigma: float) -> Float[Tensor, "b 1 h w"]:
    """A Gaussian for each point (x, y in 0..1, v), each with the sum 1 also at the border; v = 0 has none."""
    heat = gaussian_maps(points, size, sigma)
    return (heat / heat.sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)).sum(dim=1, keepdim=True)


def density_loss(
    maps: Float[Tensor, "b q h w"],
    target: Float[Tensor, "b q H W"],
    valid: Bool[Tensor, "b #q H W"],
    *,
    map_weight: float,
    count_weight: float,
) -> Float[Tensor, "b"]:
    """Squared error of the map, and the absolute error of the count over valid positions; target of the maps' size."""
    if maps.shape != target.shape:
        raise UserError(
            f"a density of {tuple(maps.shape[1:])} cannot be compared with one of {tuple(target.shape[1:])}: "
            "make the target at the size of the maps, for its sum to be the count"
        )
    error = density(maps) - torch.where(valid, target.float(), 0.0)
    count = torch.where(valid, error, 0.0).sum(dim=(2, 3)).abs().mean(dim=1)
    return map_weight * mean_of_valid(error.square(), valid) + count_weight * count


def whereabouts_loss(maps: Float[Tensor, "b 1 h w"], target: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b"]:
    """The divergence of a density's shares of its sum from the target's: where things are, whatever their number.

    Squared errors of a density are small beside its count, so that a network learns the mean count alone; this is not.
    0 where there is nothing.
    """
    found, right = density(maps).flatten(1), target.float().flatten(1)
    share = right / right.sum(dim=1, keepdim=True).clamp(min=1e-12)
    ours = found / found.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (torch.xlogy(share, share) - share * ours.clamp(min=1e-12).log()).sum(dim=1)
