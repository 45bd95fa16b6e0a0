"""Models by name: load them from the hub, a folder or a run, and write them as folders.

An exported folder is flat, in Hugging Face's file names: config.json, model.safetensors, processor_config.json,
tokenizer.json, tokenizer_config.json and README.md, the model card.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForZeroShotImageClassification

from unified import checkpoint
from unified.checkpoint.place import STEP, checkpoints_of
from unified.core.atomic_files import naming
from unified.core.errors import DataError, HubError, nearest
from unified.core.hub_files import (
    FILES,
    HubName,
    fetch_files,
    first_line,
    hub_name,
    resolve_revision,
)
from unified.core.hub_files import AbsentError as AbsentError  # which those who load models take from here
from unified.core.result_files import FORMAT as RESULTS
from unified.core.result_files import check_rows, upgraded
from unified.core.training_record import TrainingRecord, read_record, write_record
from unified.hub.card import model_card
from unified.modalities import MODALITIES
from unified.modalities.base import read_json
from unified.modalities.text.tokenizer import END, SPE, TextTokenizer
from unified.model import processor
from unified.model.config import FORMAT, UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import ImageOnlyProcessor, UnifiedProcessor
from unified.model.weight_files import WeightsError

ALIGNED = 64  # bytes
Weights = Literal["auto", "weights", "ema"]


@dataclass(frozen=True)
class Loaded:
    """A model with its processor, where its weights come from, and what they were trained on, if that is recorded."""

    model: UnifiedModel
    processor: UnifiedProcessor
    source: str
    """In words; of a model of the hub its name with the commit, which loads the same again."""
    record: TrainingRecord | None = None
    hub_name: HubName | None = None
    """Of a model of the hub, with the commit as its revision."""


@dataclass(frozen=True)
class _Place:
    """The folder that a reference names, and the name on the hub that it was fetched by."""

    folder: Path
    name: HubName | None = None


@dataclass(frozen=True)
class RunWeights:
    """The weights of a run by name, each read when it is asked for."""

    path: str
    origin: Mapping[str, checkpoint.Stored]
    source: str

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The weights."""
        return checkpoint.Lazy(self.origin, lambda name: self.origin[name][name])

    def nbytes(self, name: str) -> int:
        """Bytes of a weight, which is not read for it."""
        return self.origin[name].nbytes(name)


def register() -> None:
    """Make the Auto classes and pipelines of transformers know this package's models."""
    processor.register()
    AutoModel.register(UnifiedConfig, UnifiedModel, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(UnifiedConfig, UnifiedModel, exist_ok=True)


def load(
    reference: str | Path,
    *,
    weights: Weights = "auto",
    revision: str | None = None,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> tuple[UnifiedModel, UnifiedProcessor]:
    """Load a model ready for use, with its processor attached.

    Args:
        reference: A name on the hub (`org/name`, `org/name@revision`), an exported folder, the folder of a run, of
            which the newest complete checkpoint is read, or one of its checkpoints
            (`runs/x/checkpoints/step_00000500`).
        weights: A run's moving average (`ema`), its plain `weights`, or `auto`, the moving average where it keeps one.
        revision: Branch, tag or commit of a name on the hub that names none; None: its main branch.
        device: Where the model goes, such as "cuda"; None: the CPU.
        dtype: Floating type of the weights, such as "bfloat16" or `torch.bfloat16`; None: as they are stored.

    Raises:
        HubError: There is no such model or revision, its files do not fit, or device or dtype cannot be.
    """
    loaded = open_model(reference, weights=weights, revision=revision, dtype=dtype)
    if device is not None:
        try:
            loaded.model.to(device)
        except (RuntimeError, AssertionError) as error:
            raise HubError(f"device: expected one of this machine, got {device!r}: {first_line(error)}") from error
    return loaded.model, loaded.processor


def open_model(
    reference: str | Path,
    *,
    weights: Weights = "auto",
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> Loaded:
    """As `load`, and says where the weights come from."""
    register()
    kind: dict[str, Any] = {} if dtype is None else {"dtype": _dtype(dtype)}
    place = _place(reference, revision)
    folder = place.folder
    if _is_run(folder):
        loaded = _load_run(folder, weights, None, **kind)
    elif (run := _run_of(folder)) is not None:
        loaded = _load_run(run, weights, folder, **kind)
    elif weights == "ema":
        raise HubError(f"{folder}: an exported model has one set of weights; weights='ema' is for runs")
    else:
        loaded = _load_exported(place, str(reference), **kind)
    _check_words(loaded, folder)
    loaded.processor.limit_frames(loaded.model.config.spatial["frames"])
    loaded.model.processor, loaded.model.training_record = loaded.processor, loaded.record
    loaded.model.eval()
    return loaded


def _check_words(loaded: Loaded, folder: Path) -> None:
    """Refuse a tokenizer of another vocabulary than the model's: its ids would mean other words, or none."""
    if isinstance(loaded.processor, ImageOnlyProcessor):
        return
    config, text = loaded.model.config, loaded.processor.tokenizers[MODALITIES.language]
    assert isinstance(text, TextTokenizer)
    most = max(text.tokenizer.get_vocab().values(), default=0)
    if most >= config.vocabulary_size or (text.spe, text.end) != (config.spe_token_id, config.end_token_id):
        raise HubError(
            f"{folder / 'tokenizer.json'}: expected the tokenizer of a model with {config.vocabulary_size:,} ids, "
            f"{SPE} {config.spe_token_id} and {END} {config.end_token_id}, got one with ids up to {most:,}, {text.spe} "
            f"and {text.end}. Hint: copy all files of the model again"
        )


def _dtype(given: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1:
        return found
    raise HubError(f"dtype: expected float32, bfloat16, float16 or float64, got {given!r}")


def _place(reference: str | Path, revision: str | None = None) -> _Place:
    """The folder that a reference names, fetched from the hub where it is a name there."""
    folder = Path(reference)
    name = None if folder.exists() else hub_name(str(reference), revision)
    if revision is not None and name is None:
        raise HubError(
            f"revision: expected a name on the hub (org/name), got {str(reference)!r}. Hint: leave the revision out; "
            "a checkpoint of a run is named by its folder"
        )
    if folder.is_dir():
        if _is_run(folder) or (folder / "config.json").is_file() or _run_of(folder) is not None:
            return _Place(folder)
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise HubError(
            f"{folder}: no config.json (an exported model) and no model/config.json (a run); the folder holds {found}"
        )
    if folder.exists():
        raise HubError(f"{folder}: a file; give the folder of an exported model or of a run, or a hub name (org/name)")
    above = folder.parent
    if above != Path() and above.is_dir():
        raise AbsentError(f"{folder}: no such folder{nearest(folder.name, _folders(above))}")
    if name is None:
        near = nearest(str(reference), _folders(Path("runs"), "runs/") + _folders(Path()))
        raise AbsentError(f"{str(reference)!r} is neither a folder nor a hub name (org/name, org/name@revision){near}")
    fetched = fetch_files(name, FILES, "config.json")
    return _Place(fetched.folder, fetched.name)


def pinned(reference: str) -> str:
    """Return a name on the hub with the commit that it stands for now; any other reference as it is."""
    name = None if Path(reference).exists() or Path(reference).parent.is_dir() else hub_name(reference)
    return reference if name is None else str(resolve_revision(name))


def repository(reference: str) -> str | None:
    """Return the repository on the hub that a reference means, without its revision; None where it is a folder."""
    name = None if Path(reference).exists() else hub_name(reference)
    return None if name is None else name.repository


def _folders(above: Path, prefix: str = "") -> list[str]:
    if not above.is_dir():
        return []
    return [f"{prefix}{path.name}" for path in sorted(above.iterdir()) if path.is_dir() and path.name[0] != "."]


def _is_run(folder: Path) -> bool:
    return (folder / "model" / "config.json").is_file()


def _run_of(step: Path) -> Path | None:
    """The run whose checkpoint a folder is."""
    step = step.resolve()
    run = step.parent.parent
    return run if STEP.fullmatch(step.name) and _is_run(run) else None


def _load_run(run: Path, weights: Weights, path: checkpoint.Location | None = None, **kind: torch.dtype) -> Loaded:
    found = run_weights(run, weights, path)
    config = UnifiedConfig.from_pretrained(run / "model")
    model = _model(found.path, None, config=config, state_dict=dict(found.tensors), **kind)
    return Loaded(model, read_processor(run / "model"), found.source, read_record(run / "model"))


def training_record(reference: str | Path) -> TrainingRecord | None:
    """Return what a model was trained on: a hub name, an exported folder, a run or its checkpoint; None if unknown."""
    return read_record(model_folder(reference))


def model_folder(reference: str | Path) -> Path:
    """The folder that holds a model's configuration and what lies beside it; of a run, its `model` folder."""
    folder = _place(reference).folder
    run = folder if _is_run(folder) else _run_of(folder)
    return folder if run is None else run / "model"


def run_folder(reference: str | Path) -> Path:
    """The folder of a run; an error where it is something else."""
    folder = _place(reference).folder
    if not _is_run(folder):
        raise HubError(f"{folder}: an exported model or a checkpoint; expected the folder of a run")
    return folder


def run_weights(run: Path, weights: Weights, path: checkpoint.Location | None = None) -> RunWeights:
    """The weights of a run's checkpoint at `path`; by default of its newest complete one."""
    path = path or checkpoint.newest(checkpoints_of(run))
    if path is None:
        raise AbsentError(
            f"{run}: the run has no complete checkpoint yet; one is written every train.save_every steps, when "
            "training ends, and when it is stopped by Ctrl-C"
        )
    found = checkpoint.opened(path, hashes=False)
    plain, average = found.tensors["weights"], found.tensors.get("ema")
    if weights == "ema" and average is None:
        raise HubError(f"{path}: the run keeps no moving average (optim.ema); load it with weights='weights'")
    origin, kind = dict.fromkeys(plain, plain), "weights"
    if average is not None and weights != "weights":
        origin, kind = origin | dict.fromkeys(average, average), "moving average of the weights"
    return RunWeights(str(path), origin, f"{kind} of the run {run.resolve().name} at step {found.step}")


def _load_exported(place: _Place, name: str, **kind: torch.dtype) -> Loaded:
    folder = place.folder
    config = read_json(folder / "config.json", FORMAT)
    if config.get("model_type") != UnifiedConfig.model_type:
        raise HubError(
            f"{name}: config.json describes a model of type {config.get('model_type')!r}; this package reads "
            f"{UnifiedConfig.model_type!r}. Load others with transformers"
        )
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise HubError(f"{name}: no weights (model.safetensors); there are {found}")
    source = name if place.name is None else str(place.name)
    model = _model(name, folder, **kind)
    return Loaded(model, read_processor(folder), source, read_record(folder), place.name)


def _model(name: str, folder: Path | None, **options: Any) -> UnifiedModel:
    """The model of a folder or of a state dict, every weight of which must be there and fit.

    Those that older models have not may be absent where they change nothing as they begin.
    """
    try:
        model = UnifiedModel.from_pretrained(folder, **options)
    except WeightsError as error:
        raise HubError(f"{name}: {error}" if folder is None else str(error)) from error
    _align(model)
    return model  # type: ignore[no-any-return]


def _align(model: UnifiedModel) -> None:
    """Give weights memory of their own where they lie in a mapped file: at odd places sums come out differently."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNED:
            tensor.data = tensor.data.clone()


def read_processor(folder: Path) -> UnifiedProcessor:
    """The processor of a folder."""
    try:
        return UnifiedProcessor.from_pretrained(folder)  # type: ignore[no-any-return]
    except DataError as error:
        raise HubError(str(error)) from error


def refuse_existing(out: Path) -> None:
    """An error where something would be written over."""
    if out.exists():
        raise HubError(f"{out}: is there already; name another place, or move it away")


@contextmanager
def passing(out: Path) -> Iterator[Path]:
    """A folder of a passing name, which takes the name `out` at the end, and is removed if anything goes wrong."""
    folder = out.with_name(f".{out.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    with naming(out):
        folder.mkdir(parents=True)
    try:
        with naming(out):
            yield folder
            folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write(
    loaded: Loaded,
    folder: Path,
    name: str,
    results: Mapping[str, Any] | None = None,
    *,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Write a model into `folder` as files for the hub; `name`, `results` and `facts` are for its card."""
    loaded.processor.save_pretrained(folder)
    loaded.model.save_pretrained(folder)
    write_record(folder, loaded.record)
    base = None if loaded.hub_name is None else loaded.hub_name.repository
    card = model_card(name, loaded.model, loaded.source, results, facts, record=loaded.record, base_model=base)
    (folder / "README.md").write_text(card, encoding="utf-8")


def read_results(file: Path) -> dict[str, Any]:
    """The results of `unified eval` in a file."""
    if not file.is_file():
        raise HubError(f"{file}: no such file; `unified eval MODEL SPEC --out {file}` writes it")
    content = read_json(file, RESULTS)
    try:
        check_rows(content, str(file))
    except DataError as error:
        raise HubError(f"{error}. Hint: `unified eval MODEL SPEC --out {file}` writes such results") from error
    return upgraded({"command": "unified eval", **content})
