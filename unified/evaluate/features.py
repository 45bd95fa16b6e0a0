"""Features of items and of texts, from a model or from raw pixels, with a cache that a changed part misses."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from unified.core.atomic_files import replace_file
from unified.core.errors import DataError
from unified.core.types import Sample, Tokens
from unified.data.samples.decode import decode, read_image, read_string
from unified.data.shards.write import progress
from unified.evaluate.items import Items
from unified.modalities import MODALITIES
from unified.modalities.base import Tokenizer
from unified.modalities.image.prepare import prepare_images
from unified.pipeline.collate import frames_read_by, prepare_value

SCHEMA = 2  # of this file's arithmetic: raise it when features of equal inputs change


class Embeds(Protocol):
    """All that an evaluated model must offer."""

    def embed(self, inputs: Mapping[str, Tokens]) -> Tensor:
        """Features (b, w) of samples; takes `family` too where an evaluation names one."""
        ...


class Encoder(Protocol):
    """Prepared inputs of some samples to features."""

    @property
    def name(self) -> str:
        """As results call these features."""
        ...

    @property
    def identity(self) -> str | None:
        """What the features depend on beside the inputs; None: never cached."""
        ...

    def __call__(self, prepared: Mapping[str, Sequence[Any]]) -> Tensor:
        """Features (b, w)."""
        ...


@dataclass(frozen=True)
class ModelEncoder:
    """A model's own features."""

    model: Embeds
    tokenizers: Mapping[str, Tokenizer]
    identity: str | None
    name: str = "model"
    family: str | None = None

    def __call__(self, prepared: Mapping[str, Sequence[Any]]) -> Float[Tensor, "b w"]:
        """The model's features at [SPE]."""
        tokens = {name: self.tokenizers[name].tokens(values) for name, values in prepared.items()}
        family = {} if self.family is None else {"family": self.family}
        return self.model.embed(tokens, **family)


@dataclass(frozen=True)
class PixelEncoder:
    """The pixels of the prepared image, from 0 to 1: what a probe knows without any model."""

    name: str = "pixels"
    identity: str | None = "pixels"

    def __call__(self, prepared: Mapping[str, Sequence[Any]]) -> Float[Tensor, "b w"]:
        """The pixels, flattened."""
        if MODALITIES.spatial not in prepared:
            raise DataError("baselines: `pixels` needs an image among the inputs")
        images = prepared[MODALITIES.spatial]
        if any(image.shape != images[0].shape for image in images):
            raise DataError("baselines: `pixels` needs prepared images of one size")
        return torch.stack(list(images)).flatten(1).float() / 255


def embed_items(
    encoder: Encoder,
    items: Items,
    inputs: Mapping[str, str],
    tokenizers: Mapping[str, Tokenizer],
    batch: int,
    cache: Path | None = None,
) -> NDArray[np.float32]:
    """Features of all items (n, w), fp32; `inputs` maps columns to modalities."""
    path = None
    if cache is not None and encoder.identity is not None:
        path = cache / f"{_cache_key(encoder, items, inputs, tokenizers)}.safetensors"
        found = _read_cache(path, len(items))
        if found is not None:
            return found
    parts = []
    starts = range(0, len(items), batch)
    for start in progress(starts, len(starts), f"features ({encoder.name})"):
        chunk = items.numbers[start : start + batch]
        samples = [decode(items.source[int(number)], inputs) for number in chunk]
        prepared = {modality: _prepare(samples, name, tokenizers[modality]) for name, modality in inputs.items()}
        parts.append(encoder(prepared).float().cpu())
    features = torch.cat(parts).numpy()
    if not np.isfinite(features).all():
        raise DataError(f"features ({encoder.name}) are not finite: the weights or the inputs hold NaN or infinity")
    if path is not None:
        _write_cache(path, features)
    return features


def embed_texts(
    model: Embeds, texts: Sequence[str], tokenizer: Tokenizer, batch: int, **asked: Any
) -> Float[Tensor, "n w"]:
    """Features of texts as candidate answers, fp32 on the CPU; equal texts are encoded once.

    `asked`: `given` and `family` of the question (see `UnifiedModel.represent`).
    """
    unique = list(dict.fromkeys(texts))
    prepared = [tokenizer.prepare(text) for text in unique]
    order = sorted(range(len(unique)), key=lambda row: len(prepared[row]))  # little padding
    features: list[Tensor] = []
    for start in range(0, len(order), batch):
        tokens = tokenizer.tokens([prepared[row] for row in order[start : start + batch]])
        features.append(_candidates(model, tokens, asked).float().cpu())
    row_of = {unique[row]: number for number, row in enumerate(order)}
    return torch.cat(features)[[row_of[text] for text in texts]]


def _candidates(model: Embeds, tokens: Tokens, asked: Mapping[str, Any]) -> Tensor:
    """Texts in the role of candidates where the model tells roles apart, else as any input."""
    represent = getattr(model, "represent", None)
    if represent is None:
        return model.embed({tokens.modality: tokens})
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu"
    found: Tensor = represent({tokens.modality: tokens.to(device)}, "candidate", **asked)
    return found


def _prepare(samples: Sequence[Sample], name: str, tokenizer: Tokenizer) -> list[Any]:
    if tokenizer.modality == MODALITIES.spatial:
        frames = frames_read_by({tokenizer.modality: tokenizer})
        return prepare_images([read_image(sample, name, frames) for sample in samples], tokenizer)
    if tokenizer.modality == MODALITIES.language:
        return [tokenizer.prepare(read_string(sample, name)) for sample in samples]
    return [prepare_value(sample, name, tokenizer) for sample in samples]


def weights_hash(model: Any) -> str | None:
    """SHA-256 of names, shapes and bytes of all weights; None for what is no module."""
    if not isinstance(model, torch.nn.Module):
        return None
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _cache_key(encoder: Encoder, items: Items, inputs: Mapping[str, str], tokenizers: Mapping[str, Tokenizer]) -> str:
    specs = {modality: _specification(tokenizers[modality]) for modality in inputs.values()}
    parts = [SCHEMA, encoder.identity, items.digest, dict(inputs), specs, "fp32", torch.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _specification(tokenizer: Tokenizer) -> dict[str, str]:
    """A hash of each file of a tokenizer's spec, and its plain settings (the patch size is in no file)."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save(Path(name))
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(name).rglob("*.json"))
        }
    plain = {k: str(v) for k, v in vars(tokenizer).items() if isinstance(v, int | float | str)}
    return files | plain


def _write_cache(path: Path, features: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "1", "sha256": hashlib.sha256(features.tobytes()).hexdigest()}
    replace_file(path, save({"features": np.ascontiguousarray(features)}, metadata))


def _read_cache(path: Path, n: int) -> NDArray[np.float32] | None:
    """The features of a cache file that is whole and of n items; else None."""
    try:
        with safe_open(path, framework="np") as file:
            features: NDArray[np.float32] = file.get_tensor("features")
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    whole = len(features) == n and hashlib.sha256(features.tobytes()).hexdigest() == expected
    return features if whole else None
