"""What every modality offers: a tokenizer that runs on the CPU, driven by a spec folder in tokenizers/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unified.core import json_files
from unified.core.errors import RecipeError
from unified.core.types import Tokens
from unified.core.version import check_format

FORMAT = 1
"""Version of the specs and configurations that this package writes."""


@runtime_checkable
class Tokenizer(Protocol):
    """The CPU half of a modality: no weights, everything it does is written in its spec."""

    modality: str

    def prepare(self, raw: Any) -> Any:
        """A decoded value in the fixed form that augmentations work on and `tokens` takes."""
        ...

    def tokens(self, prepared: Sequence[Any]) -> Tokens:
        """A padded batch of prepared values."""
        ...

    def save(self, folder: Path) -> None:
        """Write the spec under Hugging Face file names."""
        ...


def read_json(file: Path, newest: int = FORMAT) -> dict[str, Any]:
    """The mapping in a JSON file of this package or of Hugging Face's libraries, its format checked.

    Args:
        file: the file.
        newest: the newest format of such files that is read.
    """
    content: dict[str, Any] = json_files.read_json(file)
    check_format(content.get("format", 1), newest, str(file), RecipeError)
    return content


def shared(position: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"] | Float[Tensor, "1 n 3"]:
    """One row of positions where all samples have the same (an expanded tensor), else all of them.

    What depends on positions alone is then computed once a batch and broadcast.
    """
    return position[:1] if position.shape[0] > 1 and position.stride(0) == 0 else position


def timeline(samples: int, length: int, device: torch.device | None = None) -> Float[Tensor, "b n 3"]:
    """Positions (t, 0, 0) of sequences without space, one memory for all samples."""
    position = torch.zeros(1, length, 3, device=device)
    position[0, :, 0] = torch.arange(length, device=device)
    return position.expand(samples, -1, -1)


def pad(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of several samples as one batch; what is missing at the end of a row is zero and masked."""
    longest = max(part.values.shape[1] for part in parts)
    columns = {
        name: torch.cat([_lengthen(getattr(part, name), longest) for part in parts])
        for name in ("values", "mask", "position")
    }
    extents = [part.extent for part in parts if part.extent is not None]
    extent = tuple(max(sizes) for sizes in zip(*extents, strict=True)) if len(extents) == len(parts) else None
    return Tokens(parts[0].modality, columns["values"], columns["mask"], columns["position"], extent=extent)  # type: ignore[arg-type]


def _lengthen(value: Tensor, length: int) -> Tensor:
    missing = value.new_zeros(value.shape[0], length - value.shape[1], *value.shape[2:])
    return torch.cat([value, missing], dim=1)
