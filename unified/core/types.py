"""The values that travel between the layers: samples, tokens, batches and segments."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

Sample = Mapping[str, Any]
"""One decoded shard entry, keyed by column: {"__key__": "000012", "png": uint8 (3, h, w), "txt": "a cat"}."""

IGNORE = -1
"""The label of a position that has none; losses and metrics leave it out."""


@dataclass(frozen=True)
class Tokens:
    """One modality of a batch, padded, before it becomes vectors."""

    modality: str
    values: Int[Tensor, "b n"] | UInt8[Tensor, "b n d"] | Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]  # True: a real token
    position: Float[Tensor, "b n 3"]  # t, y, x; text uses t alone
    padded: bool | None = None  # whether any token is padding, where that is known without a look at the mask
    words: Int[Tensor, "b n"] | None = None  # of text on the host: the number of each token's word, -1: of none
    extent: tuple[int, int, int] | None = None  # the most frames, rows and columns of any sample, where that is known

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def may_be_padded(self) -> bool:
        """Whether any token may be padding. Only a CPU is asked: an accelerator would have to be waited for, and a
        compiler has no values."""
        if self.padded is not None:
            return self.padded
        if torch.compiler.is_compiling():
            return True
        return self.mask.device.type != "cpu" or not bool(self.mask.all())

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """Frames, rows and columns of patches, where all samples have the same; None where they differ.

        An accelerator is not asked: there it is None too where `extent` and `padded` do not say.
        """
        extent = self.extent if self.extent is not None else _extent(self.position)
        if extent is None or self.may_be_padded or math.prod(extent) != self.values.shape[1]:
            return None
        return extent

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Tokens":
        """The same tokens on another device, which need not be asked for padding; `words` are for the host alone."""
        if torch.compiler.is_compiling():  # builds it, as compilers do not see through `replace`
            moved = {name: _moved(getattr(self, name), device, non_blocking) for name in _TENSORS}
            return Tokens(self.modality, padded=self.padded, extent=self.extent, **moved)
        known = self.may_be_padded if self.mask.device.type == "cpu" else self.padded
        moved = {name: _moved(getattr(self, name), device, non_blocking) for name in _TENSORS}
        return replace(self, padded=known, words=None, **moved)

    def rows(self, index: slice | Tensor) -> "Tokens":
        """The tokens of some of the samples, which may be those without padding."""
        found = {name: getattr(self, name)[index] for name in _TENSORS}
        words = None if self.words is None else self.words[index]
        return replace(self, padded=False if self.padded is False else None, words=words, **found)


_TENSORS = ("values", "mask", "position")


def _extent(position: Float[Tensor, "b n 3"]) -> tuple[int, int, int] | None:
    """The most frames, rows and columns of any sample; None where an accelerator would have to be asked."""
    if torch.compiler.is_compiling() or position.device.type != "cpu" or not position.numel():
        return None
    frames, rows, columns = (int(last) + 1 for last in position.flatten(0, 1).amax(dim=0))
    return frames, rows, columns


def weight_of(module: nn.Module) -> Tensor:
    """Return a weight of a module, or of the one that an adapter wraps, to ask for its dtype and device alone.

    Values are for calls: what wraps a module (adapters, offloading, shards of weights) changes them there.
    """
    return next(parameter for parameter in module.parameters() if parameter.is_floating_point())


@dataclass(frozen=True)
class Batch:
    """Samples of ONE task: this rank's slice of one slot of an optimizer step."""

    task: str
    inputs: dict[str, Tokens]  # by modality
    target: Any  # what the answer needs; see `unified/answers/`
    keys: Sequence[str]
    asked: Int[Tensor, "t"] | None = None  # places of the words that are predicted, in (b, n) as one row; None: unknown

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device; a target of several tensors is a dict of them."""
        inputs = {name: tokens.to(device, non_blocking=non_blocking) for name, tokens in self.inputs.items()}
        target, asked = (_moved(value, device, non_blocking) for value in (self.target, self.asked))
        return replace(self, inputs=inputs, target=target, asked=asked)


def _moved(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Tokens):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Tensor) and value.dim() and value.shape[0] > 1 and value.stride(0) == 0:
        # One row that all samples share stays one row: what depends on it alone is computed once.
        return value[:1].to(device, non_blocking=non_blocking).expand(value.shape)
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, dict):
        return {name: _moved(item, device, non_blocking) for name, item in value.items()}
    return value


@dataclass(frozen=True)
class Segment:
    """A run of tokens of one kind; the same for all samples of a slot, with the padding inside."""

    start: int
    stop: int
    row: int  # of the attribute table that comes with the segments

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Conditions:
    """What conditional layers may look at: the rows that segments point into, and which tokens there are."""

    keys: tuple[str, ...]  # the name of each row under the model's router
    values: Float[Tensor, "r a"] | Int[Tensor, "r"]  # of each row: attribute bits, or its place in a table
    index: tuple[int, ...]  # the place of each row in a table of a folded model
    tokens: Int[Tensor, "r"]  # of each row, without padding
    real: Bool[Tensor, "b n"]  # False: padding
    common: Bool[Tensor, "b n"]  # tokens that every token of the sequence sees
