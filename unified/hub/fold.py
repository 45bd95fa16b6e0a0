"""Folding: a model whose experts are chosen by what tokens are becomes an exact dense one for some kinds of token.

Without noise the weights of the experts are constant for each row, so one merged linear a row computes the same
(Uni-Perceiver-MoE, NeurIPS 2022, "deployment").
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unified.answers.match.similarity import similarity
from unified.core import seed
from unified.core.errors import UserError, nearest
from unified.core.log import logger
from unified.core.text_tables import aligned
from unified.core.types import Segment, Tokens
from unified.hub.load import Loaded, load, open_model, passing, refuse_existing, write
from unified.modalities import MODALITIES
from unified.modalities.base import FORMAT
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import active, skeleton, stored
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import BITS, Conditioner, key
from unified.nn.block import Block
from unified.nn.moe.experts import ConditionalLinear
from unified.nn.moe.routing import BY_TOKEN, FOLDED

LIMIT = 1e-5
"""Largest difference of unit-length features, and of logits in units of their scale, that counts as exact in fp32."""
SIDECAR = "fold.json"


@dataclass(frozen=True)
class Folded:
    """What was folded, and how far it is from the model that it came from."""

    source: str
    router: str
    rows: tuple[str, ...]
    tasks: tuple[str, ...]  # those whose tokens are all among the rows
    stored: int  # parameters of the model with experts
    deployed: int  # of the folded one
    active: int  # that one token passes
    difference: dict[str, float]  # of features, by row
    logits: dict[str, float]  # of logits, by task

    def lines(self) -> list[str]:
        """A short table for people."""
        rows = {
            "router": self.router,
            "serves": served(self.rows),
            "tasks": ", ".join(self.tasks) or "none whole",
            "stored": f"{self.stored:,} parameters with all experts",
            "deployed": f"{self.deployed:,} parameters for {len(self.rows)} row{'s' * (len(self.rows) > 1)}",
            "active": f"{self.active:,} parameters that one token passes",
            **{f"row {row}": f"features differ by at most {found:.2g}" for row, found in self.difference.items()},
            **{f"task {task}": f"logits differ by at most {found:.2g}" for task, found in self.logits.items()},
        }
        return aligned([], [*rows.items()], {0, 1}).split("\n")


def fold(reference: str | Path, out: Path, *, tasks: Sequence[str] = (), rows: Sequence[str] = ()) -> Folded:
    """Write the model `reference` as the folder `out`, dense for the rows of some tasks or for some rows by key.

    By default for the rows of all tasks that its configuration names. What was written is loaded and compared with
    the original on drawn inputs. Whatever goes wrong, `out` is not there afterwards; it must not be there before.
    """
    refuse_existing(out)
    original = open_model(reference)
    keys = row_keys(original.model.config, tasks, rows)
    exact = merged_state(original.model, keys)
    config = folded_config(original.model.config, keys)
    types = {name: tensor.dtype for name, tensor in original.model.state_dict().items()}
    model = _model(config, {name: tensor.to(types[name]) for name, tensor in exact.items()})
    loaded = Loaded(model, original.processor, f"{original.source}, folded for the {row_names(keys)}", original.record)
    before = original.model.config
    numbers = (stored(before).total, stored(config).total, active(config).total)
    with passing(out) as folder:
        write(loaded, folder, out.resolve().name, facts=_facts(numbers, keys))
        difference, logits = check(original.model, _reread(folder, model, exact), keys, str(out))
        router, named = before.experts["router"], tuple(config.tasks)
        found = Folded(original.source, router, keys, named, *numbers, difference, logits)
        content = {"format": FORMAT, **asdict(found)}
        (folder / SIDECAR).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return found


def export_with_experts(reference: str | Path, out: Path) -> str:
    """Write the model `reference` as the folder `out` with all its experts; returns where its weights come from."""
    refuse_existing(out)
    loaded = open_model(reference)
    with passing(out) as folder:
        write(loaded, folder, out.resolve().name)
    return loaded.source


def row_names(keys: Sequence[str]) -> str:
    """The rows in words: "row 10011000", or "rows caption, classify"."""
    return f"row{'s' * (len(keys) > 1)} {', '.join(keys)}"


def served(keys: Sequence[str]) -> str:
    """What a model folded for these rows answers, in words."""
    return f"{row_names(keys)}; other kinds of tokens are refused"


def row_keys(config: UnifiedConfig, tasks: Sequence[str] = (), rows: Sequence[str] = ()) -> tuple[str, ...]:
    """The keys of the rows of some tasks, or those in `rows`; by default of all tasks. Raises `UserError`."""
    _check_foldable(config)
    if tasks and rows:
        raise UserError("give the tasks or the rows that the folded model is for, not both")
    table = rows_of_tasks(config)
    if rows:
        for row in rows:
            _check_row(config, row, table)
        return tuple(dict.fromkeys(rows))
    for task in tasks:
        if task not in table:
            raise UserError(f"--tasks: {task!r} is no task of this model{nearest(task, list(table))}")
    if not table:
        raise UserError("this model's configuration names no tasks; name rows with --rows")
    return tuple(dict.fromkeys(row for task in tasks or table for row in table[task]))


def rows_of_tasks(config: UnifiedConfig) -> dict[str, tuple[str, ...]]:
    """The keys of the rows that each task of a model has."""
    return {
        task: tuple(dict.fromkeys(key(kind, config.experts or {}, config.families) for kind in config.kinds(task)))
        for task in config.tasks
    }


def _check_foldable(config: UnifiedConfig) -> None:
    experts = config.experts
    if experts is None:
        raise UserError("this model has no experts, so there is nothing to fold: it is dense as it is")
    if experts["router"] == FOLDED:
        raise UserError(
            f"this model is folded already, for the {row_names(experts['rows'])}; fold the model that it came from"
        )
    if experts["router"] in BY_TOKEN:
        raise UserError(
            f"this model has the router {experts['router']!r}, by which each token chooses experts by its own state: "
            "no merged weights are right for all tokens, so it cannot be folded. --keep-experts writes it as it is, "
            "with all experts"
        )


def _check_row(config: UnifiedConfig, row: str, table: Mapping[str, Sequence[str]]) -> None:
    """Refuse a key that the model's router has no row for; warn of one that no task of the model uses."""
    experts = config.experts or {}
    used = "; ".join(f"{task}: {' '.join(found)}" for task, found in table.items()) or "none are named"
    names = {"modality": list(MODALITIES), "task": list(config.families)}.get(experts["router"])
    bits = len(BITS) + len(experts["bits"])
    if names is not None and row not in names:
        raise UserError(f"--rows: {row!r} is no {experts['router']} of this model{nearest(row, names)}")
    if names is None and (len(row) != bits or set(row) - {"0", "1"}):
        raise UserError(f"--rows: {row!r} is no word of {bits} bits, 0 or 1. The rows of this model's tasks: {used}")
    if not any(row in found for found in table.values()):
        logger.warning("row %s: no task of this model uses it (rows of its tasks: %s)", row, used)


def folded_config(config: UnifiedConfig, keys: Sequence[str]) -> UnifiedConfig:
    """The configuration of a model folded for these rows; with one row its layers are those of a dense model.

    It names the rows, as all others are refused, and the tasks whose rows are all there.
    """
    found = copy.deepcopy(config)
    experts = dict(config.experts or {})
    folded = {**experts, "router": FOLDED, "rows": list(keys), "folded": experts["router"]}
    found.experts = folded if len(keys) > 1 else {**folded, "layers": []}
    found.tasks = {task: config.tasks[task] for task, rows in rows_of_tasks(config).items() if set(rows) <= set(keys)}
    return found


@torch.no_grad()
def merged_state(model: UnifiedModel, keys: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of the folded model by name, in fp32: conditional linears merged for each row, no routers.

    Raises `UserError` where a gate is not finite.
    """
    config: UnifiedConfig = model.config
    conditions = Conditioner.of(config).conditions(keys, model.device)
    state = {name: tensor.float() for name, tensor in model.state_dict().items() if ".routers." not in name}
    names = {module: name for name, module in model.named_modules()}
    for number, layer in model.encoder.conditional_layers().items():
        gates = dict(zip(layer.keys(), layer.gates(conditions)[0], strict=True))
        block = model.encoder.blocks[number]
        assert isinstance(block, Block)
        for name, linear in block.linears().items():
            if isinstance(linear, ConditionalLinear):
                for part, tensor in _merged(linear, gates[layer.experts.decision(name)]).items():
                    state[f"{names[linear]}.{part}"] = tensor if len(keys) > 1 else tensor[0]
    return state


def _merged(linear: ConditionalLinear, gates: Float[Tensor, "r e"]) -> dict[str, Tensor]:
    """Σ gₑ Wₑ and Σ gₑ bₑ of each row."""
    weight, bias = linear.weight.float(), linear.bias.float()
    return {"weight": (gates @ weight.flatten(1)).view(-1, *weight.shape[1:]), "bias": gates @ bias}


def _model(config: UnifiedConfig, state: Mapping[str, Tensor]) -> UnifiedModel:
    """A model to be written: it has these tensors, and no buffers."""
    model = skeleton(config)
    model.load_state_dict(state, assign=True)
    return model


def _reread(folder: Path, written: UnifiedModel, exact: Mapping[str, Tensor]) -> UnifiedModel:
    """The model that a folder holds, with its weights as they were before they were rounded to the stored dtype."""
    model = load(folder)[0]
    found = model.state_dict()
    wrong = [name for name, tensor in written.state_dict().items() if not torch.equal(tensor, found[name])]
    if wrong:
        raise UserError(f"{folder}: what was written reads differently: {', '.join(wrong)}. Nothing was left behind")
    model.float().load_state_dict(exact)
    return model


@torch.no_grad()
def check(
    original: UnifiedModel, folded: UnifiedModel, keys: Sequence[str], where: str
) -> tuple[dict[str, float], dict[str, float]]:
    """The largest differences of features for each row, and of logits for each task, on drawn inputs in fp32.

    Raises `UserError` where they are more than rounding.
    """
    original.float()
    rows = {row: _largest(_row_features(original, row), _row_features(folded, row)) for row in keys}
    logits, limits = {}, {}
    for task in folded.config.tasks:
        logits[task] = _largest(_task_logits(original, task), _task_logits(folded, task))
        limits[task] = LIMIT * float(original.scale(original.config.kinds(task)[0].family or None))
    wrong = [f"row {row}: {found:.2g}" for row, found in rows.items() if not found <= LIMIT]
    wrong += [f"task {task}: {found:.2g}" for task, found in logits.items() if not found <= limits[task]]
    if wrong:
        raise UserError(
            f"{where}: the folded model differs from the original by more than rounding ({'; '.join(wrong)}; at most "
            f"{LIMIT:g} for features, times the scale of the logits for logits). Nothing was written"
        )
    return rows, logits


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _drawn(model: UnifiedModel, modality: str, *purpose: str) -> Tokens:
    """Two drawn samples of a modality."""
    config: UnifiedConfig = model.config
    generator = seed.torch_generator("fold", modality, *purpose)
    row, section = MODALITIES[modality], config.section(modality)
    tokens = row.read_features(row.example(section, generator, False), section)
    assert tokens is not None
    return tokens


def _row_features(model: UnifiedModel, row: str) -> Float[Tensor, "n w"]:
    """Unit-length states of an image and of a text, all of whose tokens are of one row, whatever they are."""
    config: UnifiedConfig = model.config
    conditions = None
    if config.experts is not None:
        conditions = Conditioner.of(config).conditions([row], model.device)
    found = []
    for modality in config.modalities:
        vectors = model.vectors(_drawn(model, modality))
        whole = torch.cat([model.prefix(len(vectors), vectors.device), vectors], dim=1)
        output = model.encoder(whole, None, (Segment(0, whole.shape[1], 0),), conditions=conditions)
        found.append(model.project(output.states).flatten(0, 1))
    return torch.cat(found)


def _task_logits(model: UnifiedModel, task: str) -> Float[Tensor, "n c"]:
    """All states of a drawn question of a task against drawn candidates; words where it encodes no candidates."""
    kinds = model.config.kinds(task)
    asked = [(kind, _drawn(model, kind.modality, kind.role)) for kind in kinds if kind.role != "candidate"]
    offered = [(kind, _drawn(model, kind.modality, kind.role)) for kind in kinds if kind.role == "candidate"]
    states = model.project(model.encode(asked).states).flatten(0, 1)
    candidates = (
        model.project(torch.cat([model.encode([part]).states[:, 0] for part in offered]))
        if offered
        else model.vocabulary()[:256]
    )
    return similarity(states, candidates, model.scale(kinds[0].family or None))


def _facts(numbers: tuple[int, int, int], keys: Sequence[str]) -> dict[str, str]:
    whole, deployed, one = numbers
    return {
        "folded for": served([f"`{row}`" for row in keys]),
        "parameters with all experts": f"{whole:,}",
        "parameters deployed": f"{deployed:,}",
        "parameters that one token passes": f"{one:,}",
    }
