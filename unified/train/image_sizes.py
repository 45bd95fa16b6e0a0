"""How large the images of a recipe's data are, and how large the model sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from unified.config.task import Task
from unified.core.errors import DataError
from unified.data.samples.decode import column, decode
from unified.data.shards.shards import Shards
from unified.modalities import MODALITIES
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.model.config import UnifiedConfig

SAMPLES = 16
LOST = 0.5
"""Fraction of a side that images may lose before a dry run warns."""


@dataclass(frozen=True)
class ImageSizes:
    """The images of one task; sizes are (height, width) in pixels."""

    stored: tuple[int, int] | None
    """Medians over some samples of the data; None where there are none to read."""
    seen: tuple[int, int]
    patch: int
    kept: float | None = None
    """The fraction of the longer loss: how many pixels of the model stand for one pixel of the data, along a side."""

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return (self.seen[0] // self.patch) * (self.seen[1] // self.patch)

    @property
    def shrinks(self) -> bool:
        """Whether half of a side or more is lost."""
        return self.kept is not None and self.kept <= 1 - LOST


def image_sizes(task: Task, config: UnifiedConfig, tokenizer: ImageTokenizer, shards: Shards | None) -> ImageSizes:
    """Return the sizes of a task's images.

    Args:
        task: A task with an input of modality `image`.
        config: Of the network; gives the patch.
        tokenizer: Gives the size that the model sees, unless the task has one of its own.
        shards: The task's data; None where they are not there.
    """
    seen, patch = task.size or (tokenizer.height, tokenizer.width), int(config.spatial["patch"])
    found = [] if shards is None else _stored(task.inputs, shards)
    if not found:
        return ImageSizes(None, seen, patch)
    height, width = (round(median(size[axis] for size in found)) for axis in (0, 1))
    across = seen[0] / height, seen[1] / width
    if task.size is None and tokenizer.spec.mode == "crop":
        kept = max(across) / tokenizer.spec.crop_fraction  # both sides shrink alike, then the middle is cut out
    else:
        kept = min(across)
    return ImageSizes((height, width), seen, patch, min(kept, 1.0))


def _stored(inputs: Mapping[str, str], shards: Shards) -> list[tuple[int, int]]:
    """Heights and widths of images, spread over the data; those that cannot be read are passed over."""
    names = [name for name, modality in inputs.items() if modality == MODALITIES.spatial]
    count, found = min(SAMPLES, len(shards)), []
    for number in range(count):
        try:
            raw = shards[number * len(shards) // count]
            values = [column(decode(raw, [name]), name) for name in names]
        except DataError:
            continue  # the batches of the same dry run name what cannot be read
        found += [(int(v.shape[-2]), int(v.shape[-1])) for v in values if isinstance(v, Tensor)]
    return found
