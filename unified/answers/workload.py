"""What a slot sends through the network: the sizes of its products."""

from collections.abc import Mapping
from dataclasses import dataclass

from unified.core.distributed import rows_of_rank
from unified.core.types import Tokens
from unified.modalities import MODALITIES
from unified.modalities.text.length_buckets import by_length

Sequences = tuple[tuple[int, int, int], ...]
"""(How many, tokens of each, states that are read of each)."""


@dataclass(frozen=True)
class Work:
    """The sizes of the products of one slot on one rank."""

    sequences: Sequences
    inputs: Mapping[str, int]  # tokens by modality, which its embedding passes through products or looks up
    read: int  # states that become representations
    pairs: int  # of representations that are compared
    asked: tuple[str, int, int] | None = None  # the task whose queries are asked, of so many samples of so many patches

    @property
    def tokens(self) -> int:
        """Tokens through the encoder, with the padding that buckets of like length leave."""
        return sum(count * length for count, length, _ in self.sequences)


@dataclass(frozen=True)
class Setting:
    """What the work of a batch depends on beside the batch."""

    labels: Tokens | None  # of the task's label set, or of the names that its queries are made of
    vocabulary: int  # entries of the vocabulary
    bucketed: bool = True  # whether texts are encoded in buckets of like length, as on a CPU
    ranks: int = 1


def label_sequences(setting: Setting) -> Sequences:
    """Return sequences of the labels that a rank encodes: those of any other are like it, but for one label."""
    labels = setting.labels
    if labels is None:
        return ()
    own = rows_of_rank(len(labels), 0, setting.ranks)
    return represented({MODALITIES.language: labels.rows(slice(own.start, own.stop))}, bucketed=setting.bucketed)


def represented(inputs: Mapping[str, Tokens], *, bucketed: bool) -> Sequences:
    """Return sequences of samples that are read at their prefix."""
    if set(inputs) == {MODALITIES.language}:
        return tuple(
            (count, 1 + length, 1) for count, length in text_sequences(inputs[MODALITIES.language], bucketed=bucketed)
        )
    first = next(iter(inputs.values()))
    return ((len(first), 1 + sum(tokens.values.shape[1] for tokens in inputs.values()), 1),)


def text_sequences(text: Tokens, extra: int = 0, *, bucketed: bool) -> list[tuple[int, int]]:
    """Return (how many, tokens of each) of texts in buckets of like length.

    Args:
        text: The texts.
        extra: Tokens beside each text in its sequence.
        bucketed: Whether there are buckets.
    """
    buckets = by_length(text, extra) if bucketed else None
    if buckets is None:
        return [(len(text), text.values.shape[1])]
    lengths = text.mask.sum(dim=1)
    return [(len(rows), int(lengths[rows].max())) for rows in buckets]
