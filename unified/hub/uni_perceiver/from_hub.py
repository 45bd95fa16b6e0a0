"""A model of this package as an official checkpoint, in the layout of the published code."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from unified.answers.match.similarity import TEMPERATURES as OF_FAMILIES
from unified.core.errors import UserError
from unified.hub.load import model_folder, open_model, refuse_existing
from unified.hub.uni_perceiver.kept import read_kept
from unified.hub.uni_perceiver.names import (
    ALIAS,
    DEAD,
    IMAGE_TYPE,
    NORM,
    SPATIAL,
    TEMPERATURES,
    Entry,
    Shape,
    aside,
    entries,
    gate,
)
from unified.hub.uni_perceiver.positions import table
from unified.hub.uni_perceiver.to_hub import MEAN, STD
from unified.hub.uni_perceiver.training_log import SIDECAR, Log, read_log
from unified.modalities.text.tokenizer import END, SPE
from unified.model.config import UnifiedConfig
from unified.model.init_weights import LOG_SCALE
from unified.model.routing_attributes import BITS
from unified.nn.moe.routing import FOLDED


def revert(reference: str, file: Path) -> list[str]:
    """Write the model as an official checkpoint, which must not exist; returns lines that say what was made up.

    `reference`: a converted folder gives back the tensors that it was made from, bit for bit. Another model (hub name,
    folder or run) must have what an official one has; what it lacks is filled in where it can be derived.
    """
    refuse_existing(file)
    if not file.parent.is_dir():
        raise UserError(f"{file}: the folder {file.parent} does not exist")
    loaded = open_model(reference)
    model, folder = loaded.model, model_folder(str(loaded.hub_name or reference))
    log = read_log(folder)
    shape = shape_of(model.config, reference) if log is None else _of_log(model.config, log, reference)
    kept = {} if log is None else read_kept(folder, log)
    beside = {name: tensor for name, tensor in kept.items() if name.startswith(OF_FAMILIES)}
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    made_up = _temperatures({**beside, **tensors})
    official = _to_official({**beside, **tensors, **made_up}, shape, reference)
    kept = {name: tensor for name, tensor in kept.items() if name in aside(shape)}
    alias = {f"{ALIAS}.{part}": official[f"{NORM}.{part}"] for part in ("weight", "bias")}
    missing = [name for name in aside(shape) if name not in {**kept, **alias}]
    derived = {name: _derived(name, official, model.config, shape) for name in missing}
    found = {**official, **alias, **derived, **kept}
    if log is not None and not log.trained:
        found = {name: found[name].to(getattr(torch, log.types.get(name, "float32"))) for name in log.order}
    part = file.with_name(f".{file.name}.part")
    try:
        torch.save({"model": {name: tensor.contiguous().clone() for name, tensor in found.items()}}, part)
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    lines = _words(file, found, sorted([*derived, *made_up]), log)
    return [*_pixels(model.config), *lines]


def _pixels(config: UnifiedConfig) -> list[str]:
    """What has to be set in the published code, as no file says it."""
    mean, std = (tuple(config.spatial[name]) for name in ("mean", "std"))
    if (mean, std) == (MEAN, STD):
        return []
    return [
        f"pixels of this model have the mean {mean} and the standard deviation {std}, not the published {MEAN}, {STD}"
    ]


def _words(file: Path, found: Mapping[str, Tensor], derived: list[str], log: Log | None) -> list[str]:
    numbers = sum(tensor.numel() for name, tensor in found.items() if not name.startswith(ALIAS))
    lines = [f"{file}: {len(found)} tensors, {numbers:,} numbers, the layout of the published code"]
    if log is not None and log.folded_type_embedding:
        lines.append("the image's type embedding stays added to the bias of its projection, as the log says")
    if derived:
        lines.append(f"filled in, as the model does not hold them: {', '.join(derived)}")
    return lines


def shape_of(config: UnifiedConfig, reference: str) -> Shape:
    """The official shape of a model of this package; an error lists all that no official model has."""
    experts = config.experts
    problems = _unlike(config)
    if problems:
        raise UserError(f"{reference}: no official checkpoint can hold this model: {'; '.join(problems)}")
    shape = Shape(
        width=config.width,
        depth=config.depth,
        hidden=config.hidden,
        patch=config.spatial["patch"],
        vocabulary=config.vocabulary_size,
        positions=config.language["positions"],
        frames=config.spatial["frames"],
        places=(config.spatial["height"] // config.spatial["patch"])
        * (config.spatial["width"] // config.spatial["patch"]),
    )
    if config.prompts:
        shape = replace(
            shape,
            prompts=config.prompts["tokens"],
            candidate_prompts=config.prompts["candidates"],
            token_bias=config.prompts["spe_bias"],
            classes=config.prompts["classes"],
        )
    if not experts:
        return shape
    return replace(
        shape,
        attention="qkv_proj",
        experts=experts["count"],
        expert_layers=tuple(experts["layers"]),
        linears=tuple(experts["linears"]),
    )


def _unlike(config: UnifiedConfig) -> list[str]:
    """What no official model has."""
    image, experts = config.spatial, config.experts
    problems = []
    if image["positions"] != "sincos":
        problems.append(f"its image positions are {image['positions']}, not the fixed ones (image.positions: sincos)")
    if image["height"] != image["width"]:
        problems.append(f"its images are {image['height']} x {image['width']}, not square")
    if config.layer_scale is None:
        problems.append("it has no layer scales (model.layer_scale)")
    words = config.vocabulary_size
    special = {SPE: (config.spe_token_id, words - 1), END: (config.end_token_id, words - 4)}
    problems += [
        f"its {token} is id {own} of {words:,}, where the published code has {expected} (start from a converted "
        "folder, and name it as model.modalities.text.tokenizer)"
        for token, (own, expected) in special.items()
        if own != expected
    ]
    unknown = [family for family in config.families if family not in TEMPERATURES]
    if unknown:
        problems.append(f"the families {', '.join(unknown)} are none of the published: {', '.join(TEMPERATURES)}")
    if experts and experts["router"] == FOLDED:
        rows = ", ".join(experts["rows"])
        problems.append(f"it is folded for {rows}, which the published code cannot know: write the model it came from")
    elif experts and experts["router"] != "attribute":
        problems.append(f"its router is {experts['router']!r}, not 'attribute'")
    elif experts:
        if experts["bits"]:
            problems.append(
                f"its router has more than the {len(BITS)} published attributes: {', '.join(experts['bits'])}"
            )
        if experts["top"] != 2:
            problems.append(f"it chooses {experts['top']} experts, not 2")
        if not experts["shared_decisions"]:
            problems.append("each of its linears decides alone (experts.shared_decisions: false)")
        if not {DEAD.get(linear, linear) for linear in experts["linears"]} <= set(experts["linears"]):
            problems.append(f"experts in {', '.join(experts['linears'])} alone; out needs qkv, and down needs up")
    return problems


def _of_log(config: UnifiedConfig, log: Log, reference: str) -> Shape:
    """The shape in the log, which must still be that of the model beside it; of one that was trained on, its own."""
    shape = shape_of(config, reference)
    if log.trained:
        return shape if shape.experts else replace(shape, attention=log.shape.attention)
    for name in ("width", "depth", "hidden", "vocabulary", "experts", "expert_layers", "prompts", "classes"):
        if getattr(shape, name) != getattr(log.shape, name):
            raise UserError(
                f"{reference}: the log of the conversion says {name} {getattr(log.shape, name)}, the model has "
                f"{getattr(shape, name)}; move {SIDECAR} and official.json away if they belong to another model"
            )
    return log.shape


def _to_official(tensors: Mapping[str, Tensor], shape: Shape, reference: str) -> dict[str, Tensor]:
    """The official tensors that the model holds."""
    found: dict[str, Tensor] = {}
    for entry in entries(shape):
        value = tensors.get(entry.ours)
        if value is None or tuple(value.shape) != entry.ours_shape:
            has = "does not have it" if value is None else f"has {tuple(value.shape)}"
            raise UserError(f"{reference}: expected {entry.ours} {entry.ours_shape}, the model {has}")
        found |= _split(entry, value)
    return found


def _temperatures(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The initial temperature for the published families that the model does not have."""
    wanted = (f"log_scales.{family}" for family in TEMPERATURES)
    return {name: torch.full((1,), LOG_SCALE) for name in wanted if name not in tensors}


def _split(entry: Entry, value: Tensor) -> dict[str, Tensor]:
    parts = value.reshape(len(entry.official), *entry.shape)
    return dict(zip(entry.official, parts, strict=True))


def _derived(name: str, official: Mapping[str, Tensor], config: UnifiedConfig, shape: Shape) -> Tensor:
    """A tensor that the model does not use, as it would be in an official file."""
    if name == SPATIAL:
        return table(round(shape.places**0.5), shape.width, config.spatial["position_scale"])
    if name == IMAGE_TYPE:
        return torch.zeros(1, shape.width)
    for layer in shape.expert_layers:
        for dead, alive in DEAD.items():
            names = dict(zip(gate(shape, layer, dead), gate(shape, layer, alive), strict=True))
            if name in names:
                return official[names[name]]
    raise UserError(f"{name}: this model does not hold it, and nothing gives it")
