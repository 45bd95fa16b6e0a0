"""An official checkpoint as a folder that `unified.load` reads."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unified.core.errors import UserError
from unified.hub.card import model_card
from unified.hub.load import passing, refuse_existing
from unified.hub.uni_perceiver.names import ALIAS, SPATIAL, Shape, aside, entries
from unified.hub.uni_perceiver.positions import find_scale
from unified.hub.uni_perceiver.read import read
from unified.hub.uni_perceiver.tasks import TASKS
from unified.hub.uni_perceiver.tokenizer import load_tokenizer
from unified.hub.uni_perceiver.training_log import LOG, SIDECAR, Log
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer, write_spec
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import skeleton
from unified.model.pretrained import UnifiedModel
from unified.model.processor import ImageOnlyProcessor, UnifiedImageProcessor, UnifiedProcessor
from unified.model.routing_attributes import plain
from unified.nn.moe.settings import ExpertSettings

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16}
"""Heads of the published widths."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP = 0.875
"""Images are cut out of the middle: 224 pixels of 256."""
MAX_LENGTH = 50
"""Tokens of a text in pretraining."""


@dataclass(frozen=True)
class Converted:
    """What was found and written."""

    out: Path
    log: Log
    parameters: int
    has_tokenizer: bool

    def lines(self) -> list[str]:
        """A short table for people."""
        shape, log = self.log.shape, self.log
        size = f"{shape.depth} layers, width {shape.width}, {log.heads} heads (from {log.heads_from})"
        experts = "none"
        if shape.experts:
            layers = ", ".join(map(str, shape.expert_layers))
            experts = f"{shape.experts} in {', '.join(shape.linears)} of layers {layers}"
        fit = f"largest difference {log.position_distance:.1g}"
        rows = {
            "layout": {"current": "published", "deepspeed": "before publication (DeepSpeed)"}[log.layout],
            "transformer": size,
            "experts": experts,
            "position scale": f"{log.position_scale:.6g} ({fit})",
            "type embedding": "added to the bias" if log.folded_type_embedding else "not added",
            "parameters": f"{self.parameters:,}",
            "kept aside": f"{len(log.kept_aside)} tensors that the model does not use, in {SIDECAR}",
            "prompts": _prompts(shape),
            "texts": "tokenizer given" if self.has_tokenizer else "no tokenizer: --tokenizer adds it",
            "log": str(self.out / LOG),
        }
        return [f"{name:<15} {words}" for name, words in rows.items() if words]


def convert(
    file: Path,
    out: Path,
    *,
    heads: int | None = None,
    fold: bool | None = None,
    position_scale: float | None = None,
    tokenizer: Path | None = None,
) -> Converted:
    """Write the checkpoint in `file` as the folder `out`, which must not exist; on any error nothing is written.

    `heads` is needed where the width is not a published one. `fold`: add the image's type embedding to the bias of
    its projection; None does what the authors' tool did for such a file.
    """
    refuse_existing(out)
    found = read(file, fold=fold)
    shape = found.shape
    number, origin = _heads(shape, heads)
    scale, distance = find_scale(file, found.tensors[SPATIAL], shape.patch, position_scale)
    config = _config(shape, number, scale)
    tensors = to_ours(found.tensors, shape)
    card = model_card(out.resolve().name, _check_model(config, tensors), f"the official checkpoint {file.name}", None)
    text = None if tokenizer is None else load_tokenizer(tokenizer, shape.vocabulary, MAX_LENGTH)
    kept = [name for name in aside(shape) if name in found.tensors and not name.startswith(ALIAS)]
    log = Log(
        source=file.name,
        layout=found.layout,
        shape=shape,
        heads=number,
        heads_from=origin,
        position_scale=scale,
        position_distance=distance,
        folded_type_embedding=found.folded,
        order=list(found.tensors),
        types={n: _name(t.dtype) for n, t in found.tensors.items() if t.dtype != torch.float32},
        kept_aside=kept,
        dropped=found.dropped,
        ignored=found.ignored,
    )
    beside = {name: found.tensors[name].clone(memory_format=torch.contiguous_format) for name in kept}
    _write(out, config, tensors, beside, log, _processor(config, text), card)
    return Converted(out, log, sum(tensor.numel() for tensor in tensors.values()), text is not None)


def to_ours(tensors: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The tensors of this package's model, in fp32."""
    return {
        entry.ours: torch.stack([tensors[name].float() for name in entry.official]).reshape(entry.ours_shape)
        for entry in entries(shape)
    }


def _heads(shape: Shape, given: int | None) -> tuple[int, str]:
    """The number of heads, and where it comes from."""
    number = HEADS.get(shape.width) if given is None else given
    if number is None:
        raise UserError(
            f"the number of heads leaves no trace in a checkpoint, and the width {shape.width} is none of the "
            f"published ({', '.join(f'{width}: {heads} heads' for width, heads in HEADS.items())}); give --heads NUMBER"
        )
    if number < 1 or shape.width % number:
        raise UserError(f"--heads {number}: does not divide the width {shape.width}; {shape.width // 64 or 1} may")
    return number, "--heads" if given is not None else "the width"


def _config(shape: Shape, heads: int, scale: float) -> UnifiedConfig:
    side = round(shape.places**0.5)
    settings = ExpertSettings(count=shape.experts, layers=shape.expert_layers, linears=shape.linears)  # type: ignore[arg-type]
    image = {
        "patch": shape.patch,
        "positions": "sincos",
        "position_scale": scale,
        "grid": side,
        "frames": shape.frames,
        "height": side * shape.patch,
        "width": side * shape.patch,
        "mean": list(MEAN),
        "std": list(STD),
    }
    return UnifiedConfig(
        width=shape.width,
        depth=shape.depth,
        heads=heads,
        hidden=shape.hidden,
        layer_scale=1e-3,
        drop_path=0.0,
        experts=plain(settings, shape.depth) if shape.experts else None,
        prompts=_prompt_settings(shape),
        tasks=TASKS,
        modalities={
            "image": image,
            "text": {"positions": shape.positions, "max_length": min(MAX_LENGTH, shape.positions)},
        },
        vocabulary_size=shape.vocabulary,
        spe_token_id=shape.vocabulary - 1,
        end_token_id=shape.vocabulary - 4,
        families=[entry.ours.removeprefix("log_scales.") for entry in entries(shape) if "log_scales" in entry.ours],
    )


def _prompt_settings(shape: Shape) -> dict[str, Any] | None:
    """What prompt tuning added to the network; None where it was not tuned so."""
    if not (shape.prompts or shape.token_bias or shape.classes):
        return None
    return {
        "tokens": shape.prompts,
        "candidates": shape.candidate_prompts,
        "spe_bias": shape.token_bias,
        "classes": shape.classes,
    }


def _check_model(config: UnifiedConfig, tensors: Mapping[str, Tensor]) -> UnifiedModel:
    """The model of this configuration, without weights; if it takes other tensors the converter itself is wrong."""
    model = skeleton(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise AssertionError(f"the converter and the model differ in {wrong}")
    return model


def _processor(config: UnifiedConfig, text: TextTokenizer | None) -> UnifiedProcessor:
    image = config.spatial
    spec = ImageSpec(image["height"], image["width"], MEAN, STD, mode="crop", crop_fraction=CROP)
    if text is None:
        return ImageOnlyProcessor(UnifiedImageProcessor(image["patch"], **write_spec(spec)))
    return UnifiedProcessor.from_tokenizers({"image": ImageTokenizer(spec, image["patch"]), "text": text})


def _write(
    out: Path,
    config: UnifiedConfig,
    tensors: dict[str, Tensor],
    beside: dict[str, Tensor],
    log: Log,
    processor: UnifiedProcessor,
    card: str,
) -> None:
    """Everything, or nothing where anything goes wrong."""
    with passing(out) as folder:
        processor.save_pretrained(folder)
        config.save_pretrained(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        save_file(beside, folder / SIDECAR, metadata={"format": "pt"})
        log.write(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _prompts(shape: Shape) -> str:
    """What prompt tuning left in the file."""
    found: Iterable[tuple[object, str]] = (
        (shape.prompts, f"{shape.prompts} for each layer"),
        (shape.candidate_prompts, "others for candidates"),
        (shape.token_bias, "a bias of [SPE]"),
        (shape.classes, f"a classifier of {shape.classes} classes"),
    )
    return ", ".join(words for there, words in found if there)
