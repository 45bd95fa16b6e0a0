"""What conditional layers look at: rows of attribute bits, task families or modalities, made from a layout."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from unified.core.errors import RecipeError, UserError, nearest
from unified.core.transfers import constant, kept
from unified.core.types import Conditions, Segment
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes, Layout
from unified.nn.moe.experts import Experts
from unified.nn.moe.routing import BY_TOKEN, FOLDED
from unified.nn.moe.settings import ExpertSettings

BITS: tuple[Callable[[Attributes, Collection[str]], bool], ...] = (
    # Label words of questions about text carry this bit too in the published table.
    lambda a, visual: any(m in visual for m in a.given) or (a.role == "candidate" and MODALITIES.language in a.given),
    lambda a, _: MODALITIES.language in a.given,
    lambda a, visual: a.role == "candidate" and a.modality in visual,
    lambda a, visual: not (a.role == "candidate" and a.modality in visual),
    lambda a, visual: a.modality in visual,
    lambda a, _: a.modality == MODALITIES.language,
    lambda a, _: a.role == "candidate",
    lambda a, _: a.causal,
)
"""The published attributes: the question has visual inputs, has text inputs, is answered by visual things, by text;
this token is visual, is text, belongs to a candidate, attends causally (Uni-Perceiver-MoE, `moe_embeddings.py`)."""


def bits(attributes: Attributes, appended: Sequence[str] = ()) -> str:
    """The attribute bits of a kind of token as a word of 0 and 1: the published ones, then those that are appended."""
    visual = _visual({attributes.modality, *attributes.given})
    return _word(attributes, visual, [_appended(name) for name in appended])


def _word(attributes: Attributes, visual: Collection[str], appended: Sequence[Callable[[Attributes], bool]]) -> str:
    values = [fits(attributes, visual) for fits in BITS] + [fits(attributes) for fits in appended]
    return "".join("1" if value else "0" for value in values)


def _visual(names: Collection[str]) -> frozenset[str]:
    return frozenset(name for name in names if name in MODALITIES and MODALITIES[name].visual)


def _appended(name: str) -> Callable[[Attributes], bool]:
    kind, _, value = name.partition(":")
    if kind == "modality" and value in MODALITIES:
        return lambda a: a.modality == value
    if kind == "family" and value:
        return lambda a: a.family == value
    if name == "query":
        return lambda a: a.role == "query"
    modalities = ", ".join(f"modality:{known}" for known in MODALITIES)
    raise RecipeError(f"model.experts.bits: {name!r} is no attribute; there are: query, {modalities}, family:NAME")


def key(attributes: Attributes, experts: Mapping[str, Any], families: Sequence[str]) -> str:
    """The name of a kind of token under a model's router; equal names are treated alike.

    `experts`: the `experts` of a `UnifiedConfig`. Of a folded model, that of the router which was folded.
    """
    return _key(attributes, experts, families, lambda of_family: bits(of_family, experts["bits"]))


def _key(
    attributes: Attributes,
    experts: Mapping[str, Any],
    families: Sequence[str],
    word: Callable[[Attributes], str],
) -> str:
    router = experts.get("folded") or experts["router"]
    family = attributes.family or families[0]
    if router in ("attribute", "hash"):
        return word(_of_family(attributes, family))
    if router == "modality":
        return attributes.modality
    if router == "task":
        if family not in families:
            raise UserError(f"family {family!r} has no routing in this model{nearest(family, list(families))}")
        return family
    return router  # looks at tokens: all rows are one


def _of_family(a: Attributes, family: str) -> Attributes:
    return Attributes(a.modality, a.role, a.causal, a.given, family)


def by_family(experts: Mapping[str, Any] | None) -> bool:
    """Whether the choice looks at the task family; `experts` as in `key`, None: there are none."""
    if experts is None:
        return False
    return (experts.get("folded") or experts["router"]) == "task" or any(
        b.startswith("family:") for b in experts["bits"]
    )


def layers(where: str | Sequence[int], depth: int) -> list[int]:
    """The numbers of the layers that have experts: `even` is 0, 2, 4 …"""
    if isinstance(where, str):
        start, step = {"even": (0, 2), "odd": (1, 2), "all": (0, 1)}[where]
        return list(range(start, depth, step))
    return sorted(set(where))


def plain(settings: ExpertSettings, depth: int) -> dict[str, Any]:
    """The settings as a config.json holds them."""
    linears = [name for name in ("qkv", "out", "up", "down") if name in settings.linears]
    given = {**asdict(settings), "layers": layers(settings.layers, depth), "linears": linears}
    return {**given, "bits": list(settings.bits)}


def shape(
    experts: Mapping[str, Any], families: Sequence[str], modalities: Sequence[str] = MODALITIES.built_in
) -> Experts:
    """The plain numbers that the encoder is built from; `modalities`: those of the model."""
    router = experts["router"]
    inputs = {"attribute": len(BITS) + len(experts["bits"]), "task": len(families), "modality": len(modalities)}
    count = len(experts["rows"]) if router == FOLDED else experts["count"]
    return Experts(
        count,
        1 if router == FOLDED else experts["top"],
        router,
        tuple(experts["linears"]),
        shared=experts["shared_decisions"],
        inputs=inputs.get(router, 1),
        noise=experts["noise"],
        hidden=experts["hidden"],
        biased=experts["bias_rate"] > 0,
        capacity=experts["capacity"],
    )


class Conditioner:
    """Makes the conditions of sequences for one model's routers."""

    def __init__(
        self, experts: Mapping[str, Any], families: Sequence[str], modalities: Sequence[str] = MODALITIES.built_in
    ) -> None:
        self._experts, self._families, self._modalities = dict(experts), tuple(families), tuple(modalities)
        # Found here, once, as compilers see through no table that other packages extend.
        self._visual = _visual(self._modalities)
        self._appended = [_appended(name) for name in self._experts.get("bits", ())]
        self._grouped = kept(256)(self._group)
        self._values = kept(256)(self.values)

    @classmethod
    def of(cls, config: Any) -> "Conditioner":
        """Return that of a model's configuration, a `UnifiedConfig`."""
        return cls(config.experts or {}, config.families, list(config.modalities))

    def __reduce__(self) -> tuple[type["Conditioner"], tuple[Any, ...]]:
        """Copies and pickles leave the caches behind, which cannot be written."""
        return Conditioner, (self._experts, self._families, self._modalities)

    def __call__(
        self, whole: Layout, real: Bool[Tensor, "b n"], structure: Bool[Tensor, "n n"] | None
    ) -> tuple[tuple[Segment, ...], Conditions]:
        """Segments by row, neighbours of one row joined, and the conditions; `structure`: who sees whom."""
        segments, keys = self._grouped(whole)
        common = real if structure is None else real & structure.all(dim=0)
        tokens = real.new_zeros(len(keys), dtype=torch.long)
        for segment in segments:
            tokens[segment.row] += real[:, segment.start : segment.stop].sum()
        return segments, Conditions(keys, self._values(keys, real.device), self._places(keys), tokens, real, common)

    def _group(self, whole: Layout) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
        names = [_key(attributes, self._experts, self._families, self._word) for attributes in whole.rows]
        keys = tuple(dict.fromkeys(names))
        joined: list[Segment] = []
        for segment in whole.segments:
            row = keys.index(names[segment.row])
            if joined and joined[-1].row == row:
                joined[-1] = Segment(joined[-1].start, segment.stop, row)
            else:
                joined.append(Segment(segment.start, segment.stop, row))
        return tuple(joined), keys

    def _word(self, attributes: Attributes) -> str:
        return _word(attributes, self._visual, self._appended)

    def _places(self, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(map(self._place, names)) if self._experts["router"] == FOLDED else ()

    def _place(self, name: str) -> int:
        rows: list[str] = self._experts["rows"]
        if name not in rows:
            raise UserError(
                f"row {name!r} is not in this folded model, which has {', '.join(rows)}; fold the original model with "
                f"--rows {' '.join([*rows, name])}"
            )
        return rows.index(name)

    def values(self, keys: tuple[str, ...], device: torch.device) -> Tensor:
        """What the router is given for each row: attribute bits (r, a), or the place of its name (r,)."""
        router = self._experts["router"]
        if router == "attribute":
            return constant([[float(bit) for bit in name] for name in keys], device)
        names = {"task": self._families, "modality": self._modalities}.get(router)
        return constant([0 if names is None else names.index(name) for name in keys], device, torch.long)

    def conditions(self, keys: Sequence[str], device: torch.device) -> Conditions:
        """The conditions of rows by name, without tokens: to ask routers what they would choose."""
        if self._experts["router"] in BY_TOKEN:
            raise UserError(f"the {self._experts['router']} router chooses by tokens: it has no table of rows")
        none = torch.ones(1, 0, dtype=torch.bool, device=device)
        nothing = torch.zeros(len(keys), dtype=torch.long, device=device)
        return Conditions(tuple(keys), self.values(tuple(keys), device), self._places(keys), nothing, none, none)
