"""How the parts of one input become one sequence: which tokens stand where, what they are, who sees whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from unified.core.transfers import kept, sent
from unified.core.types import Segment
from unified.modalities import MODALITIES

PREFIX = slice(0, 1)
"""The place of [SPE], where representations are read."""


@dataclass(frozen=True)
class Attributes:
    """What a segment *is*. Conditional layers may look at this, never at a task's name."""

    modality: str
    role: Literal["input", "candidate", "query"] = "input"
    causal: bool = False
    given: tuple[str, ...] = ()
    """The modalities of the question's inputs, sorted; for a candidate, of the question that it may answer."""
    family: str = ""
    """The task family, for routers that look at it; empty: the model's first."""

    @property
    def key(self) -> tuple[Any, ...]:
        """All of it as plain values, which compilers can compare where they see through no dataclass."""
        return self.modality, self.role, self.causal, self.given, self.family


def asked(parts: Sequence[tuple[Attributes, Any]]) -> list[tuple[Attributes, Any]]:
    """The parts of one sequence with `given` filled in where it is empty: from the parts, as they are its inputs.

    A candidate that is asked about nothing in particular is asked about images.
    """
    inputs = tuple(sorted({attributes.modality for attributes, _ in parts}))
    filled = []
    for a, part in parts:
        given = a.given or ((MODALITIES.spatial,) if a.role == "candidate" else inputs)
        filled.append((Attributes(a.modality, a.role, a.causal, given, a.family), part))
    return filled


@dataclass(frozen=True)
class Layout:
    """The segments of a sequence and the table of attributes that their rows point into."""

    segments: tuple[Segment, ...]
    rows: tuple[Attributes, ...]
    continues: bool = False
    """Whether these tokens follow others that were encoded before; causal queries then come after the causal inputs."""

    def __len__(self) -> int:
        return self.segments[-1].stop

    def find(self, modality: str, role: str = "input") -> Segment:
        """The segment of a modality in a role."""
        for segment in self.segments:
            attributes = self.rows[segment.row]
            if (attributes.modality, attributes.role) == (modality, role):
                return segment
        raise KeyError(f"no segment of {modality} as {role} among {self.rows}")


def layout(parts: Sequence[tuple[Attributes, int]], continues: bool = False) -> Layout:
    """The layout of parts in order, each with its number of tokens."""
    keys = [attributes.key for attributes, _ in parts]
    places = {key: row for row, key in enumerate(dict.fromkeys(keys))}
    rows = {key: attributes for key, (attributes, _) in zip(keys, parts, strict=True)}
    segments, start = [], 0
    for key, (_, length) in zip(keys, parts, strict=True):
        segments.append(Segment(start, start + length, places[key]))
        start += length
    return Layout(tuple(segments), tuple(rows.values()), continues)


def attention_mask(
    whole: Layout, keys: Bool[Tensor, "b n"], past_keys: Bool[Tensor, "b m"] | None, *, padded: bool
) -> Bool[Tensor, "b k"] | Bool[Tensor, "_ n k"] | None:
    """Return who may attend to whom: the layout's structure and the padding; None where everything is visible.

    Args:
        whole: the layout of the n tokens.
        keys: which of them are no padding.
        past_keys: the same for m tokens that were encoded before.
        padded: whether any of `keys` may be False. Told by who knows: asking an accelerator costs a wait, and a mask
            that hides nothing keeps torch from its fastest kernels.
    """
    structure = visibility(whole, keys.device)
    if past_keys is not None:
        rows = keys.shape[1]
        inside = keys[:, None].expand(-1, rows, -1) if structure is None else structure & keys[:, None]
        return torch.cat([past_keys[:, None].expand(-1, rows, -1), inside], dim=2)
    if structure is None:
        return keys if padded else None
    if not padded:
        return structure[None]
    # A padded query sees itself only, so that its softmax has something to sum over.
    return structure & (keys[:, None] | torch.eye(len(whole), dtype=torch.bool, device=keys.device))


@kept(256)
def visibility(whole: Layout, device: torch.device) -> Bool[Tensor, "n n"] | None:
    """Which key (column) each query (row) may see by structure alone; None where everything sees everything.

    Tokens that are not causal see each other. Causal inputs see those and the causal inputs up to themselves.
    Causal queries see those, the causal inputs strictly before their own place, and themselves: the two-block mask
    with which Uni-Perceiver learns to predict a whole caption in one pass. In a sequence that continues another, the
    places of queries come after those of the inputs.
    """
    if not any(attributes.causal for attributes in whole.rows):
        return None
    kinds = [whole.rows[segment.row] for segment in whole.segments for _ in range(len(segment))]
    starts = [0 if whole.continues else segment.start for segment in whole.segments for _ in range(len(segment))]
    places = [index - start for index, start in enumerate(starts)]
    causal = torch.tensor([kind.causal for kind in kinds])
    query = torch.tensor([kind.causal and kind.role == "query" for kind in kinds])
    place = torch.tensor(places)
    prior = place[None, :] <= place[:, None] - query[:, None].long()
    sees_causal = causal[:, None] & causal[None, :] & ~query[None, :] & prior
    itself = torch.eye(len(kinds), dtype=torch.bool)
    return sent(~causal[None, :] | sees_causal | itself, device)
