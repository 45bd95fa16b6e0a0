"""What the model does not use of an official checkpoint goes along where it is trained on, and where it is exported."""

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from unified.answers.match.similarity import TEMPERATURES
from unified.core.errors import UserError
from unified.hub.load import model_folder, open_model
from unified.hub.uni_perceiver.names import SPATIAL
from unified.hub.uni_perceiver.training_log import LOG, SIDECAR, Log, read_log
from unified.model.weight_files import check_weight_file


def keep_of_start(reference: str, families: Collection[str], folder: Path) -> None:
    """Write into `folder` what the start of a run keeps beside its model; nothing where it was not converted.

    Args:
        reference: the model that a run starts from.
        families: the task families of the run, whose temperatures its own weights hold; those of others are kept.
        folder: where the run keeps the configuration of its model.
    """
    loaded = open_model(reference)
    source = model_folder(str(loaded.hub_name or reference))
    log = read_log(source)
    if log is None:
        return
    own = {f"{TEMPERATURES}{family}" for family in families}
    state = loaded.model.state_dict()
    kept = {name: tensor for name, tensor in read_kept(source, log).items() if name != SPATIAL and name not in own}
    kept |= {name: tensor for name, tensor in state.items() if name.startswith(TEMPERATURES) and name not in own}
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, folder / SIDECAR)
    replace(log, trained=True, kept_aside=list(kept)).write(folder)


def copy_kept(source: Path, folder: Path) -> None:
    """Copy what `source` keeps beside a model, if it keeps anything; else remove what `folder` may have kept."""
    for name in (LOG, SIDECAR):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def read_kept(folder: Path, log: Log) -> dict[str, Tensor]:
    """Return the tensors that a log names as kept beside the model, by name.

    Args:
        folder: the folder of the log.
        log: as `read_log` found it there.

    Raises:
        UserError: one of them is not there.
        WeightsError: their file is cut off, or a pointer of git-lfs.
    """
    if not log.kept_aside:
        return {}
    file = folder / SIDECAR
    if file.is_file():
        check_weight_file(file)
    found = load_file(file) if file.is_file() else {}
    missing = [name for name in log.kept_aside if name not in found]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(missing)}, which the log beside it names; convert again")
    return {name: found[name] for name in log.kept_aside}
