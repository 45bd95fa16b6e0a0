"""A run as a folder for the hub, in Hugging Face's file names, without ever holding the whole model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file

from unified.core.atomic_files import replacing_files
from unified.core.errors import HubError
from unified.core.log import logger
from unified.core.schema import read_yaml
from unified.core.training_record import FILE as RECORD
from unified.core.training_record import write_record
from unified.hub.card import model_card
from unified.hub.card_head import LANGUAGE
from unified.hub.load import (
    RunWeights,
    Weights,
    read_processor,
    read_results,
    repository,
    run_folder,
    run_weights,
    training_record,
)
from unified.hub.uni_perceiver.kept import copy_kept
from unified.hub.uni_perceiver.training_log import LOG, SIDECAR
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.task_queries import NEWER

MAX_SHARD_SIZE = "5GB"
"""Larger models are split over files, as on the hub: a file is fetched, and held, at once."""
_INDEX = "model.safetensors.index.json"


def export(
    run: str | Path,
    out: str | Path,
    *,
    results: str | Path | None = None,
    weights: Weights = "auto",
    max_shard_size: str | int = MAX_SHARD_SIZE,
    license_name: str | None = None,
    language: Sequence[str] = LANGUAGE,
) -> None:
    """Write a run's newest complete checkpoint as a folder for the hub, with a model card.

    No more than one file of weights is held at a time.

    Args:
        run: The folder of the run.
        out: A folder that is new, empty, or an earlier export.
        results: Results of `unified eval`, for the table and the head of the card.
        weights: As in `unified.load`.
        max_shard_size: Largest file of weights, in bytes or such as `5GB`.
        license_name: The hub's short name of the model's licence, for the card; None: not known.
        language: Codes of the languages of its texts (ISO 639), for the card.

    Raises:
        HubError: There is no such run or checkpoint, results cannot be read, or something else is in `out`.
    """
    run, out = run_folder(run), Path(out)
    there = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if there and "config.json" not in there:
        raise HubError(f"{out}: the folder is not empty and not an export (it holds {there[0]}); name another one")
    measured = None if results is None else read_results(Path(results))
    found, record, begun = run_weights(run, weights), training_record(run), _start(run)
    model = _empty_model(run, found)
    shards = _shards({name: found.nbytes(name) for name in model.state_dict() if name in found.origin}, max_shard_size)
    processor = read_processor(run / "model")
    card = model_card(
        out.resolve().name,
        model,
        found.source,
        measured,
        _facts(begun),
        record=record,
        base_model=repository(begun),
        license_name=license_name,
        language=language,
    )
    with replacing_files(out) as part:
        _write_weights(part, found, shards, parameters=model.num_parameters())
        model.config.save_pretrained(part)
        processor.save_pretrained(part)
        copy_kept(run / "model", part)
        write_record(part, record)
        (part / "README.md").write_text(card, encoding="utf-8")
        written = {path.name for path in part.iterdir()}
    for path in _files_of_some(out):
        if path.name not in written:
            path.unlink(missing_ok=True)  # an earlier export had it
    logger.info("%s: %s, ready for unified.load and unified push", out, found.source)


def _start(run: Path) -> str:
    """What a run started from, as its recipe names it; "" where it began anew."""
    recipe = run / "recipe.yaml"
    start = (read_yaml(recipe).get("start") or {}) if recipe.is_file() else {}
    return str(start.get("model", ""))


def _facts(begun: str) -> dict[str, str]:
    """What the card says of the model on the hub that a run started from: its name, with the commit."""
    return {} if repository(begun) is None else {"training started from": begun}


def _empty_model(run: Path, found: RunWeights) -> UnifiedModel:
    """The model without memory for its weights, whose names must be those that were found."""
    config = UnifiedConfig.from_pretrained(run / "model")
    with torch.device("meta"):
        model = UnifiedModel(config)
    known = {name for name in model.state_dict() if name in found.origin or not name.startswith(NEWER)}
    differ = sorted(known ^ found.origin.keys())
    if differ:
        raise HubError(f"{found.path}: the weights are not those of {run / 'model'}: {', '.join(differ)}")
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    return model


def _shards(sizes: Mapping[str, int], max_shard_size: str | int) -> Any:
    """Which weights go to which file, as `save_pretrained` would have it; `sizes` in bytes."""
    try:
        return split_state_dict_into_shards_factory(
            dict(sizes),
            get_storage_size=lambda size: size,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise HubError(f"--max-shard-size {max_shard_size}: {error}; expected such as 5GB or 500MB") from error


def _files_of_some(out: Path) -> list[Path]:
    """Files that some exports have and others have not."""
    return [*out.glob("model*.safetensors"), *(out / name for name in (_INDEX, LOG, SIDECAR, RECORD))]


def _write_weights(out: Path, found: RunWeights, shards: Any, *, parameters: int) -> None:
    for file, names in shards.filename_to_tensors.items():
        save_file({name: found.tensors[name] for name in names}, out / file, metadata={"format": "pt"})
    if shards.is_sharded:
        metadata: Mapping[str, Any] = {"total_parameters": parameters, **shards.metadata}
        index = {"metadata": metadata, "weight_map": shards.tensor_to_filename}
        (out / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
