"""An independent restatement of Uni-Perceiver's published arithmetic, in plain loops over a dict of tensors.

It shares no code with the package: masks are written out cell by cell, attention is softmax(QKᵀ/√d)V by hand,
patches come from a convolution, positions from the formula. Tests compare the model with it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def spatial(height: int, width: int, channels: int, scale: float) -> Tensor:
    """The official code names its first half after the width, but its grid runs with that axis slow: it is the row."""
    quarter = channels // 4
    omega = [1 / 10000 ** (i / quarter) for i in range(quarter)]
    rows = []
    for y in range(height):
        for x in range(width):
            row = [math.sin(y * scale * o) for o in omega] + [math.cos(y * scale * o) for o in omega]
            row += [math.sin(x * scale * o) for o in omega] + [math.cos(x * scale * o) for o in omega]
            rows.append(row)
    return torch.tensor(rows)


def image_vectors(w: Weights, video: Tensor, patch: int, mean: Tensor, std: Tensor, scale: float) -> Tensor:
    """uint8 video (b, t, 3, h, w) -> (b, t·patches, C)."""
    frames = []
    for t in range(video.shape[1]):
        pixels = (video[:, t].float() / 255 - mean[:, None, None]) / std[:, None, None]
        kernel = w["embeddings.image.projection.weight"].view(-1, 3, patch, patch)
        grid = F.conv2d(pixels, kernel, w["embeddings.image.projection.bias"], stride=patch)
        place = spatial(grid.shape[2], grid.shape[3], grid.shape[1], scale)
        frames.append(grid.flatten(2).transpose(1, 2) + place + w["embeddings.image.temporal.weight"][t])
    return norm(w, "norm", torch.cat(frames, 1))


def text_vectors(w: Weights, ids: Tensor) -> Tensor:
    length = ids.shape[1]
    x = (
        w["embeddings.text.word.weight"][ids]
        + w["embeddings.text.position.weight"][:length]
        + w["embeddings.text.token_type.weight"][0]
    )
    return norm(w, "norm", x)


def spe(w: Weights, rows: int, spe_id: int) -> Tensor:
    return norm(w, "norm", w["embeddings.text.word.weight"][spe_id])[None, None].expand(rows, 1, -1)


def encoder(w: Weights, x: Tensor, blocked: Tensor, heads: int, depth: int) -> Tensor:
    """`blocked` (b, q, k): True = may not attend."""
    batch, length, width = x.shape
    size = width // heads
    for layer in range(depth):
        p = f"encoder.blocks.{layer}"
        h = norm(w, f"{p}.norm1", x)
        q, k, v = (
            (h @ w[f"{p}.attention.qkv.weight"].T + w[f"{p}.attention.qkv.bias"])
            .view(batch, length, 3, heads, size)
            .permute(2, 0, 3, 1, 4)
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(size)).masked_fill(blocked[:, None], float("-inf")).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + w[f"{p}.scale1"] * (mixed @ w[f"{p}.attention.out.weight"].T + w[f"{p}.attention.out.bias"])
        h = norm(w, f"{p}.norm2", x) @ w[f"{p}.mlp.up.weight"].T + w[f"{p}.mlp.up.bias"]
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + w[f"{p}.scale2"] * (h @ w[f"{p}.mlp.down.weight"].T + w[f"{p}.mlp.down.bias"])
    return x


def features(w: Weights, states: Tensor) -> Tensor:
    y = norm(w, "ln_post", states) @ w["proj.weight"].T + w["proj.bias"]
    return y / y.norm(dim=-1, keepdim=True)


def caption_blocked(prefix: int, length: int) -> Tensor:
    """The published table, cell by cell; `prefix` = 1 + image tokens."""
    total = prefix + 2 * length
    blocked = torch.zeros(total, total, dtype=torch.bool)
    for query in range(total):
        for key in range(total):
            key_text, key_query = prefix <= key < prefix + length, key >= prefix + length
            j = key - prefix if key_text else key - prefix - length
            if query < prefix:
                blocked[query, key] = key_text or key_query
            elif query < prefix + length:
                i = query - prefix
                blocked[query, key] = (key_text and j > i) or key_query
            else:
                i = query - prefix - length
                blocked[query, key] = (key_text and j >= i) or (key_query and j != i)
    return blocked
