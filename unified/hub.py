"""Models by name: load them from the hub, a folder or a run, and write them as folders.

An exported folder is flat, in Hugging Face's file names: config.json, model.safetensors, processor_config.json,
tokenizer.json, tokenizer_config.json and README.md, the model card.
"""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from torch import Tensor
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from unified import checkpoint, processor
from unified.card import model_card
from unified.checkpoint.place import STEP, checkpoints_of
from unified.config import nearest
from unified.configuration import UnifiedConfig
from unified.core import json_files
from unified.errors import DataError, UserError
from unified.modalities.base import read_json
from unified.model import UnifiedModel
from unified.processor import UnifiedProcessor
from unified.result_files import FORMAT as RESULTS
from unified.result_files import upgraded
from unified.training_record import TrainingRecord, read_record, write_record
from unified.weight_files import WeightsError, check_weights

FILES = ("*.json", "*.safetensors", "README.md")  # nothing else is fetched, least of all pickles or code
PROCESSOR_FILES = (
    *("processor_config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""Looked through before the libraries read them, whose errors do not say which file is cut off."""
ALIGNED = 64  # bytes
Weights = Literal["auto", "weights", "ema"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class HubError(UserError):
    """A model cannot be found, read or published; the message says what was found and what would fit."""


class AbsentError(HubError):
    """There is no model of this name, or not yet."""


@dataclass(frozen=True)
class Loaded:
    """A model with its processor, where its weights come from, and what they were trained on, if that is recorded."""

    model: UnifiedModel
    processor: UnifiedProcessor
    source: str
    record: TrainingRecord | None = None


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
        reference: A name on the hub (`org/name`), an exported folder, the folder of a run, of which the newest complete
            checkpoint is read, or one of its checkpoints (`runs/x/checkpoints/step_00000500`).
        weights: A run's moving average (`ema`), its plain `weights`, or `auto`, the moving average where it keeps one.
        revision: Branch, tag or commit of a name on the hub; None: its main branch.
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
    folder = _folder(reference, revision)
    if _is_run(folder):
        loaded = _load_run(folder, weights, None, **kind)
    elif (run := _run_of(folder)) is not None:
        loaded = _load_run(run, weights, folder, **kind)
    elif weights == "ema":
        raise HubError(f"{folder}: an exported model has one set of weights; weights='ema' is for runs")
    else:
        loaded = _load_exported(folder, str(reference), **kind)
    loaded.processor.limit_frames(loaded.model.config.image["frames"])
    loaded.model.processor, loaded.model.training_record = loaded.processor, loaded.record
    loaded.model.eval()
    return loaded


def _dtype(given: str | torch.dtype) -> torch.dtype:
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1:
        return found
    raise HubError(f"dtype: expected float32, bfloat16, float16 or float64, got {given!r}")


def _folder(reference: str | Path, revision: str | None = None) -> Path:
    """The folder that a reference names, fetched from the hub where it is a name there."""
    folder = Path(reference)
    if revision is not None and (folder.exists() or not is_hub_name(str(reference))):
        raise HubError(
            f"revision: expected a name on the hub (org/name), got {str(reference)!r}. Hint: leave the revision out; "
            "a checkpoint of a run is named by its folder"
        )
    if folder.is_dir():
        if _is_run(folder) or (folder / "config.json").is_file() or _run_of(folder) is not None:
            return folder
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise HubError(
            f"{folder}: no config.json (an exported model) and no model/config.json (a run); the folder holds {found}"
        )
    if folder.exists():
        raise HubError(f"{folder}: a file; give the folder of an exported model or of a run, or a hub name (org/name)")
    above = folder.parent
    if above != Path() and above.is_dir():
        raise AbsentError(f"{folder}: no such folder{nearest(folder.name, _folders(above))}")
    if not is_hub_name(str(reference)):
        near = nearest(str(reference), _folders(Path("runs"), "runs/") + _folders(Path()))
        raise AbsentError(f"{str(reference)!r} is neither a folder nor a hub name (org/name){near}")
    return _fetch(str(reference), revision)


def is_hub_name(reference: str) -> bool:
    """Whether a reference has the form of a name on the hub, org/name."""
    return _HUB_NAME.fullmatch(reference) is not None


def _folders(above: Path, prefix: str = "") -> list[str]:
    if not above.is_dir():
        return []
    return [f"{prefix}{path.name}" for path in sorted(above.iterdir()) if path.is_dir() and path.name[0] != "."]


def _fetch(name: str, revision: str | None) -> Path:
    """The local copy of a hub repository."""
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except RevisionNotFoundError as error:
        known = nearest(str(revision), _revisions(name))
        raise AbsentError(f"{name}: no revision {revision!r}{known}, and the names of commits") from error
    except Exception as error:  # portals answer in HTML and transfers break off, which clients tell in errors of theirs
        at = "" if revision is None else f", revision {revision!r}"
        said = getattr(error, "server_message", None)  # such as that a repository is gated
        reason = f"{first_line(error)}{f' ({said.splitlines()[0]})' if said else ''}"
        raise AbsentError(
            f"{name!r}{at}: no folder of that name here, and the hub gave none: {reason}. Check the name, "
            "and whether the machine is online and HF_HUB_OFFLINE unset; a private model needs `hf auth login`"
        ) from error
    if not (folder / "config.json").is_file():
        raise AbsentError(f"{name!r}: expected a model with a config.json on the hub, got a repository without")
    return folder


def _revisions(name: str) -> list[str]:
    """Branches and tags of a repository, as far as the hub tells them."""
    try:
        found = HfApi().list_repo_refs(name)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return []
    return [ref.name for ref in (*found.branches, *found.tags)]


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
    folder = _folder(reference)
    run = folder if _is_run(folder) else _run_of(folder)
    return folder if run is None else run / "model"


def run_folder(reference: str | Path) -> Path:
    """The folder of a run; an error where it is something else."""
    folder = _folder(reference)
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


def _load_exported(folder: Path, name: str, **kind: torch.dtype) -> Loaded:
    config = read_json(folder / "config.json")
    if config.get("model_type") != UnifiedConfig.model_type:
        raise HubError(
            f"{name}: config.json describes a model of type {config.get('model_type')!r}; this package reads "
            f"{UnifiedConfig.model_type!r}. Load others with transformers"
        )
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise HubError(f"{name}: no weights (model.safetensors); there are {found}")
    try:
        check_weights(folder)
    except WeightsError as error:
        raise HubError(str(error)) from error
    return Loaded(_model(name, folder, **kind), read_processor(folder), name, read_record(folder))


def _model(name: str, folder: Path | None, **options: Any) -> UnifiedModel:
    """The model of a folder or of a state dict, every weight of which must be there and fit.

    Those that older models have not may be absent where they change nothing as they begin.
    """
    model, report = UnifiedModel.from_pretrained(folder, output_loading_info=True, use_safetensors=True, **options)
    problems = {kind: report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")}
    if any(problems.values()):
        words = "; ".join(f"{kind}: {', '.join(map(str, sorted(keys)))}" for kind, keys in problems.items() if keys)
        raise HubError(f"{name}: the weights are not those of the configuration beside them ({words})")
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
        for file in (folder / name for name in PROCESSOR_FILES):
            if file.is_file():
                json_files.read_json(file, most=json_files.MOST_BYTES)
    except DataError as error:
        raise HubError(str(error)) from error
    try:
        found = AutoProcessor.from_pretrained(folder)
    except OSError as error:
        raise HubError(f"{folder}: the processor or tokenizer files are missing or damaged: {error}") from error
    if not isinstance(found, UnifiedProcessor):
        raise HubError(f"{folder}: expected the files of a UnifiedProcessor, found those of {type(found).__name__}")
    return found


def refuse_existing(out: Path) -> None:
    """An error where something would be written over."""
    if out.exists():
        raise HubError(f"{out}: is there already; name another place, or move it away")


@contextmanager
def passing(out: Path) -> Iterator[Path]:
    """A folder of a passing name, which takes the name `out` at the end, and is removed if anything goes wrong."""
    folder = out.with_name(f".{out.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
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
    base = loaded.source if is_hub_name(loaded.source) and not Path(loaded.source).exists() else None
    card = model_card(name, loaded.model, loaded.source, results, facts, record=loaded.record, base_model=base)
    (folder / "README.md").write_text(card, encoding="utf-8")


def read_results(file: Path) -> dict[str, Any]:
    """The results of `unified eval` in a file."""
    if not file.is_file():
        raise HubError(f"{file}: no such file; `unified eval MODEL SPEC --out {file}` writes it")
    content = read_json(file, RESULTS)
    rows = content.get("results")
    if not isinstance(rows, list) or not all({"dataset", "label", "metrics", "ci"} <= row.keys() for row in rows):
        raise HubError(
            f"{file}: not the results of `unified eval` (a list `results` of dataset, label, metrics and ci)"
        )
    return upgraded(content)


def first_line(error: Exception) -> str:
    """What an error says, without the rest of a long message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
