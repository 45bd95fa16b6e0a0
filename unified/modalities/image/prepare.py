"""Images of one batch at the sizes that their tokenizer makes."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from unified.modalities.base import Tokenizer


def prepare_images(images: Sequence[Tensor], tokenizer: Tokenizer) -> list[Tensor]:
    """The images and videos resized by the tokenizer: images of one size together, as it resizes a video's frames."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(row)
    result = list(images)
    for rows in sizes.values():
        first = images[rows[0]]
        if first.dim() == 4:
            for row in rows:
                result[row] = tokenizer.prepare(images[row])
        elif tokenizer.prepare(first) is not first:  # otherwise this size is the one that the tokenizer wants
            prepared = tokenizer.prepare(stack_images([images[row] for row in rows]))
            for row, image in zip(rows, prepared.unbind(), strict=True):
                result[row] = image
    return result


def stack_images(images: Sequence[UInt8[Tensor, "*t 3 h w"]]) -> UInt8[Tensor, "b *t 3 h w"]:
    """Images of one size as a batch; decoders lay channels last, which is copied and resized faster."""
    if images[0].dim() == 3 and images[0].permute(1, 2, 0).is_contiguous():
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return torch.stack(list(images))
