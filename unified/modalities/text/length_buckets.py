"""Texts of like length are encoded together, so that short ones do not carry the padding of the longest."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from unified.core.types import Tokens

WORTH = 0.1
"""Share of the tokens that two buckets must save: smaller products run at a lower rate."""
TEXTS_AT_ONCE = 512
"""Of a list of candidates, so that the memory of a pass does not grow with the list."""
FEWEST = 32
"""Rows below which a batch stays whole."""
_whole = ContextVar("whole batches", default=False)


@contextmanager
def whole_batches(on: bool = True) -> Iterator[None]:
    """Within it no batch is cut into buckets: where modules fetch their weights from other processes, all of these
    must run the same modules, whatever texts each has."""
    token = _whole.set(on)
    try:
        yield
    finally:
        _whole.reset(token)


def by_length(text: Tokens, extra: int = 0) -> list[Int[Tensor, "r"]] | None:
    """Row numbers of two to four buckets of short to long texts; None where one batch does as well.

    Also None where a text does not begin with its first token (padding on the left): there the end cannot be cut.
    `extra`: tokens that each row has besides, whatever its text. Only on a CPU, in code that is not
    compiled: an accelerator would have to wait for the lengths, and is quick with padding.
    """
    if torch.compiler.is_compiling() or text.mask.device.type != "cpu" or len(text) < FEWEST or _whole.get():
        return None
    if bool((text.mask[:, 1:] & ~text.mask[:, :-1]).any()):
        return None
    lengths, order = text.mask.sum(dim=1).sort(stable=True)
    buckets = [rows for half in _split(lengths, extra) for rows in _split_again(lengths, half, extra)]
    return [order[start:stop] for start, stop in buckets] if len(buckets) > 1 else None


def _split(lengths: Tensor, extra: int, start: int = 0) -> list[tuple[int, int]]:
    """One or two ranges of the sorted lengths, by what saves the most."""
    count = len(lengths)
    stops = torch.arange(1, count)
    cost = stops * (lengths[:-1] + extra) + (count - stops) * (lengths[-1] + extra)
    whole = count * (int(lengths[-1]) + extra)
    if count < FEWEST or float(cost.min()) > (1 - WORTH) * whole:
        return [(start, start + count)]
    cut = int(cost.argmin()) + 1
    return [(start, start + cut), (start + cut, start + count)]


def _split_again(lengths: Tensor, part: tuple[int, int], extra: int) -> list[tuple[int, int]]:
    return _split(lengths[part[0] : part[1]], extra, part[0])


def trimmed(text: Tokens, rows: Int[Tensor, "r"]) -> Tokens:
    """Those rows of a text, without the padding that all of them have."""
    length = int(text.mask[rows].sum(dim=1).max())
    part = text.rows(rows)
    position = text.position[:1].expand(len(rows), -1, -1) if text.position.stride(0) == 0 else part.position
    return replace(part, values=part.values[:, :length], mask=part.mask[:, :length], position=position[:, :length])
