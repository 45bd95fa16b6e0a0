"""Starting a model from the weights of another; experts begin as copies of a dense model's linears.

At first all experts are alike and their weights sum to 1, so the model says what the dense one says (Sparse
Upcycling, ICLR 2023).
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from operator import getitem

import torch
from jaxtyping import Float
from torch import Tensor

from unified.config.recipe import StartSettings
from unified.core.errors import RecipeError
from unified.core.log import logger
from unified.core.seed import torch_generator
from unified.hub.load import Loaded, open_model
from unified.modalities import MODALITIES
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.clients import OF_TASKS
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import skeleton
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import BITS
from unified.nn.block import Block
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import FOLDED, AttributeRouter

NETWORK = (
    *("width", "depth", "heads", "hidden", "vocabulary_size", "spe_token_id", "end_token_id"),
    *(f"modalities.{MODALITIES.spatial}.{key}" for key in ("patch", "positions", "frames")),
    f"modalities.{MODALITIES.language}.positions",
)
"""Keys of config.json that both models have in common."""
EMBEDDINGS = "embeddings."
"""What the names of weights of modalities begin with."""


def begin(model: UnifiedModel, text: TextTokenizer, settings: StartSettings, seed: int) -> frozenset[str]:
    """Load the model that a recipe starts from, and put its weights in place of the model's own.

    `text`: the tokenizer of the model's words. Returns the names of the weights that are the other's. Raises
    `RecipeError` where the two do not fit.
    """
    loaded = _opened(model.config, text, settings)
    with _named(settings):
        kept = start_from(model, loaded.model.state_dict(), noise=settings.noise, seed=seed)
    logger.info("starting with %s", loaded.source)
    return kept


def foresee(config: UnifiedConfig, text: TextTokenizer, settings: StartSettings) -> list[str]:
    """What a model of this configuration would begin with, in lines for people; its own weights are not needed.

    Raises `AbsentError` (core/hub_files.py) where there is no model to start from yet, and `RecipeError` where the two
    do not fit.
    """
    loaded = _opened(config, text, settings)
    with _named(settings):
        plan = _fitting(skeleton(config), loaded.model.state_dict())
    noise = f", with noise of {settings.noise:g} standard deviations" if settings.noise else ""
    lines = [f"starts with {loaded.source}", f"  {len(plan.copied)} tensors as they are"]
    if plan.spread:
        lines.append(f"  {len(plan.spread)} linears as copies for each expert{noise}")
    return lines + [f"  {words}: {', '.join(names)}" for words, names in plan.notes.items() if names]


def _opened(config: UnifiedConfig, text: TextTokenizer, settings: StartSettings) -> Loaded:
    """The model to start from, which is of the same network and reads the same words."""
    loaded = open_model(settings.model)
    check_start(config, loaded.model.config, settings.model)
    known = loaded.processor.tokenizers.get(MODALITIES.language)
    if isinstance(known, TextTokenizer) and known.tokenizer.get_vocab() != text.tokenizer.get_vocab():
        raise RecipeError(
            f"start.model: {settings.model} has other words than the recipe's tokenizer under the same ids; "
            "use its tokenizer: model.modalities.text.tokenizer may be a folder"
        )
    return loaded


@contextmanager
def _named(settings: StartSettings) -> Iterator[None]:
    """Errors inside say which model they are about."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"start.model: {settings.model}: {error}") from error


def start_from(
    model: UnifiedModel, source: Mapping[str, Tensor], *, noise: float = 0.0, seed: int = 0
) -> frozenset[str]:
    """Put weights by name in place of the model's own; returns the names of those that were copied as they are.

    Equal names and shapes are copied. A conditional linear takes as many copies of a dense one as it has experts, with
    Gaussian `noise` in standard deviations of the matrix; routers beside such copies keep their first values.
    Attributes that were appended to a router's get columns of zeros. What belongs to tasks may come and go with them:
    temperatures of families, rows of queries, and the decoder of queries as a whole.
    Raises `RecipeError` for anything else that differs; nothing is changed then.
    """
    plan = _fitting(model, source)
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in plan.copied.items():
            own[name].copy_(tensor)
        for name, linear in plan.spread.items():
            linear.weight.copy_(source[f"{name}.weight"].expand_as(linear.weight))
            linear.bias.copy_(source[f"{name}.bias"].expand_as(linear.bias))
            if noise:
                generator = torch_generator(seed, "noise of copied experts", name)
                for matrix in linear.matrices():
                    drawn = torch.randn(matrix.shape, generator=generator).to(matrix)
                    matrix.add_(drawn, alpha=noise * float(matrix.std()))
    for words, names in plan.notes.items():
        if names:
            logger.info("%s: %s", words, ", ".join(names))
    return frozenset(plan.copied)


def _fitting(model: UnifiedModel, source: Mapping[str, Tensor]) -> "_Plan":
    plan = _Plan(model, source)
    if plan.wrong:
        raise RecipeError("the weights do not fit this model:\n" + "\n".join(f"  {line}" for line in plan.wrong))
    return plan


def _beside(other: Iterable[str]) -> tuple[str, ...]:
    """What the names of weights begin with that a model may have and another not: of tasks, and of modalities."""
    held = {name.split(".")[1] for name in other if name.startswith(EMBEDDINGS)}
    return (*OF_TASKS, *(f"{EMBEDDINGS}{name}." for name in MODALITIES.known() if name not in held))


class _Plan:
    """What goes where, and what does not fit."""

    def __init__(self, model: UnifiedModel, source: Mapping[str, Tensor]) -> None:
        self.copied: dict[str, Tensor] = {}
        self.spread: dict[str, ConditionalLinear] = {}
        """Conditional linears that take copies of a dense one, by name."""
        self.wrong: list[str] = []
        own = model.state_dict()
        new = [name for name in own if name not in source and name.startswith(_beside(source))]
        gone = [name for name in source if name not in own and name.startswith(_beside(own))]
        self.notes = {"start at their own first value": new, "of the other model, left out": gone}
        self._find_spread(model, source)
        fresh = self._fresh_routers(model, source)
        spread = {f"{name}.{part}" for name in self.spread for part in ("weight", "bias")}
        for name in [name for name in own if name not in {*new, *fresh, *spread}]:
            self._place(model, name, own[name], source)
        self.wrong += [
            f"{name} {_words(tensor)}: this model has none"
            for name, tensor in source.items()
            if name not in {*own, *gone}
        ]

    def _find_spread(self, model: UnifiedModel, source: Mapping[str, Tensor]) -> None:
        for name, module in model.named_modules():
            if isinstance(module, ConditionalLinear):
                parts = {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
                if all(part in source and source[part].shape == tensor.shape[1:] for part, tensor in parts.items()):
                    self.spread[name] = module

    def _fresh_routers(self, model: UnifiedModel, source: Mapping[str, Tensor]) -> set[str]:
        """The tensors of routers that the source lacks and all of whose experts are copies of dense linears."""
        fresh: set[str] = set()
        names = {module: name for name, module in model.named_modules()}
        for number, layer in model.encoder.conditional_layers().items():
            block = model.encoder.blocks[number]
            assert isinstance(block, Block)
            for decision, router in layer.items():
                follow = [
                    names[linear]
                    for name, linear in block.linears().items()
                    if isinstance(linear, ConditionalLinear) and layer.experts.decision(name) == decision
                ]
                tensors = {f"{names[router]}.{name}" for name in router.state_dict()}
                if set(follow) <= set(self.spread) and not tensors & set(source):
                    fresh |= tensors
        return fresh

    def _place(self, model: UnifiedModel, name: str, tensor: Tensor, source: Mapping[str, Tensor]) -> None:
        """Copy a tensor whole, or attribute bits with columns of zeros behind them; else note what is wrong."""
        found = source.get(name)
        if found is None:
            self.wrong.append(f"{name} {_words(tensor)}: the other model has none")
        elif found.shape == tensor.shape:
            self.copied[name] = found
        elif _is_transform(model, name) and _appended(found, tensor):
            self.copied[name] = torch.cat([found, found.new_zeros(len(found), tensor.shape[1] - found.shape[1])], dim=1)
        else:
            self.wrong.append(f"{name} {_words(tensor)}: {_words(found)} in the other model{_hint(model, name, found)}")


def _is_transform(model: UnifiedModel, name: str) -> bool:
    above, _, rest = name.rpartition(".transform.")
    return rest == "weight" and isinstance(model.get_submodule(above), AttributeRouter)


def _appended(old: Float[Tensor, "w _"], new: Float[Tensor, "w _"]) -> bool:
    return old.dim() == 2 and len(old) == len(new) and len(BITS) <= old.shape[1] < new.shape[1]


def _words(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape))


def _hint(model: UnifiedModel, name: str, found: Tensor) -> str:
    """Why a conditional linear does not fit, where that can be told."""
    config: UnifiedConfig = model.config
    experts = config.experts or {}
    own = model.state_dict()[name]
    if experts.get("hidden") not in (None, config.hidden) and ".mlp." in name and found.dim() == own.dim() - 1:
        return (
            f"; an expert of the width experts.hidden {experts['hidden']} cannot be a copy of an MLP of the width "
            f"{config.hidden}: leave experts.hidden out"
        )
    if found.dim() == own.dim() + 1:
        return "; a model with experts becomes dense by `unified fold`"
    return ""


def check_start(config: UnifiedConfig, source: UnifiedConfig, where: str) -> None:
    """Refuse a source of another meaning whose shapes may fit all the same: a `RecipeError` that lists what differs.

    `where`: what the source is called.
    """
    wrong = []
    for name in NETWORK:
        first, *below = name.split(".")
        own, found = (reduce(getitem, below, getattr(each, first)) for each in (config, source))
        if own != found:
            wrong.append(f"{name}: {own!r} here, {found!r} in the other")
    wrong += _experts_differ(config, source)
    if wrong:
        listed = "\n".join(f"  {line}" for line in wrong)
        raise RecipeError(
            f"start.model: {where} is another network than this recipe's:\n{listed}\nChange `model`, or "
            "start from another one"
        )


def _experts_differ(config: UnifiedConfig, source: UnifiedConfig) -> list[str]:
    own, found = config.experts, source.experts
    if found is None or not found["layers"]:  # folded for one row, the weights are those of a dense model
        return []
    if found["router"] == FOLDED:
        return ["experts: the other is folded; start from the model that it came from"]
    if own is None:
        return ["experts: none here, some in the other; `unified fold` makes a dense model of it"]
    if own["router"] != found["router"]:
        return [f"experts.router: {own['router']!r} here, {found['router']!r} in the other"]
    wrong = [
        f"experts.{name}: {own[name]!r} here, {found[name]!r} in the other"
        for name in ("count", "shared_decisions")
        if own[name] != found[name]
    ]
    if own["bits"][: len(found["bits"])] != found["bits"]:
        wrong.append(f"experts.bits: {own['bits']} here do not begin with {found['bits']} of the other")
    if own["router"] == "task" and config.families != source.families:
        wrong.append(f"families, which its router knows: {config.families} here, {source.families} in the other")
    return wrong
