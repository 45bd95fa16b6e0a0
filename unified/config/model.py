"""The part of a recipe that decides the network: frozen dataclasses, as in `unified/config/recipe.py`."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from unified.core.bounds import Depth, Fraction, NotNegative, Width
from unified.core.errors import RecipeError
from unified.modalities import MODALITIES
from unified.nn.moe.settings import ExpertSettings
from unified.nn.queries.settings import QuerySettings


@dataclass(frozen=True)
class ModelSettings:
    """The shape of the network (reference arithmetic: Uni-Perceiver, CVPR 2022)."""

    width: Width = 768
    depth: Depth = 12
    heads: Depth = 12
    hidden: Width = 3072
    """Width of the feed-forward layer."""
    layer_scale: NotNegative | None = 1e-3
    """Initial value of the learned scale of each residual branch; null: no scale."""
    drop_path: Fraction = 0.0
    experts: ExpertSettings | None = None
    """Conditional experts; null: a dense network."""
    queries: QuerySettings | None = None
    """What answers of `map` and `regress` need; null: none has them."""
    modalities: Annotated[dict[str, Any], MODALITIES] = field(default_factory=MODALITIES.defaults)
    """Settings of each modality by name. Those of this package are always there; one of another package is named as
    its entry point says, or by `package.module:NAME`."""
    RENAMED = MappingProxyType({name: f"modalities.{name}" for name in MODALITIES.built_in})
    """Earlier keys."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", {**MODALITIES.defaults(), **self.modalities})

    @property
    def spatial(self) -> Any:
        """The settings of the modality that maps, boxes and keypoints refer to."""
        return self.modalities[MODALITIES.spatial]

    @property
    def language(self) -> Any:
        """The settings of the modality that candidates and captions are written in."""
        return self.modalities[MODALITIES.language]


def check_experts(experts: ExpertSettings, model: ModelSettings) -> None:
    """Refuse what conditional experts cannot be."""
    where = "model.experts"
    if experts.top > experts.count:
        raise RecipeError(f"{where}.top: {experts.top} of {experts.count} experts; expected 1 to {experts.count}")
    if experts.top == 1 and experts.count > 1 and experts.router != "hash":
        raise RecipeError(
            f"{where}.top: with one expert chosen its weight is always 1, so that no gradient tells the router what to "
            "choose; expected 2 or more, or the router `hash`, which learns nothing"
        )
    for key, found in (("linears", experts.linears), ("layers", experts.layers), ("bits", experts.bits)):
        if len(set(found)) < len(found) and not isinstance(found, str):
            raise RecipeError(f"{where}.{key}: one is named twice in {list(found)}")
    if not experts.linears or not experts.layers:
        raise RecipeError(f"{where}: no linears or no layers are left; leave `experts` out for a dense model")
    if not isinstance(experts.layers, str):
        beyond = [layer for layer in experts.layers if not 0 <= layer < model.depth]
        if beyond:
            raise RecipeError(f"{where}.layers: {beyond} are none of the layers 0 to {model.depth - 1}")
    by_token = experts.router in ("token", "context")
    if experts.hidden is not None and not (by_token and {"up", "down"} <= set(experts.linears)):
        raise RecipeError(
            f"{where}.hidden: the width of one expert is free only where tokens are sent to experts of both `up` and "
            f"`down`; found the router {experts.router!r} and {', '.join(experts.linears)}"
        )
    if experts.hidden is not None and not experts.shared_decisions:
        raise RecipeError(f"{where}.hidden: needs shared_decisions, as `down` follows the choice made for `up`")
    if experts.bits and experts.router not in ("attribute", "hash"):
        raise RecipeError(f"{where}.bits: only the routers attribute and hash look at bits; found {experts.router!r}")
    for key in ("capacity", "bias_rate", "z_loss"):
        if getattr(experts, key) and not by_token:
            raise RecipeError(f"{where}.{key}: for the routers token and context alone; found {experts.router!r}")


def check_queries(queries: QuerySettings, model: ModelSettings) -> None:
    """Refuse what task queries cannot be."""
    where = "model.queries"
    patch = model.spatial.patch
    if queries.detail and patch % 2**queries.doublings:
        raise RecipeError(
            f"{where}.detail: places of maps hold no whole number of pixels, as patches of {patch} are doubled "
            f"{queries.doublings} times; change model.modalities.{MODALITIES.spatial}.patch or {where}.doublings"
        )
    if queries.object_content == "memory" and (queries.place == "encoder" or queries.sharing == "head"):
        raise RecipeError(
            f"{where}.object_content: memory is what a decoder looks at; use `learned` without one ({where}.place, "
            f"{where}.sharing)"
        )


def check_expert_parallel(size: int, experts: ExpertSettings | None) -> None:
    """Refuse to split experts that are not sent tokens, or not evenly."""
    where = f"engine.expert_parallel: {size}"
    if size > 1 and (experts is None or experts.router not in ("token", "context")):
        found = "a dense model" if experts is None else f"the router {experts.router!r}"
        raise RecipeError(
            f"{where} is for experts that tokens are sent to, by the routers token and context; found {found}. Other "
            "experts are parameters like any, which engine.zero 3 splits"
        )
    if experts is not None and experts.count % size:
        raise RecipeError(f"{where} does not divide model.experts.count {experts.count}")
