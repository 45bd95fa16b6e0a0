"""The files of weights in a folder: that there is one set of them, and that each is whole."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from unified.core import json_files
from unified.core.errors import MOST_QUOTED, DataError, UserError, quoted
from unified.core.file_kinds import START, file_kind

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SIZE = 8  # bytes that hold the length of a safetensors file's header
_LONGEST_HEADER = 10**8  # bytes, of the format
_AGAIN = "copy or download it again"
MOST_NAMED = 8
"""Tensors that an error names."""
ADAPTER = "adapter_config.json"
_NAME = re.compile(r"[\w-][\w.-]{0,200}\.safetensors")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class WeightsError(UserError):
    """Files of weights are not whole, or of two models."""


Shapes = dict[str, tuple[int, ...]]
"""Shapes of tensors by name."""


def check_weights(folder: Path) -> Shapes:
    """Return the shapes of the tensors of a folder that holds one set of weights, each file of it whole.

    Raises:
        WeightsError: A whole model lies beside an index, a file that the index names is missing, or one is cut off,
            a pointer of git-lfs, no safetensors file, or one of integers; or the folder is that of an adapter.
    """
    index = folder / INDEX
    if _there(folder / ADAPTER):  # transformers would load the model that it names, from wherever that is
        raise WeightsError(
            f"{folder / ADAPTER}: expected a model, got an adapter of another one. Hint: load that model, then "
            "peft.PeftModel.from_pretrained(model, FOLDER)"
        )
    if not _there(index):
        files = [folder / WEIGHTS] if _there(folder / WEIGHTS) else []
    else:
        files = _named(index)
        if _there(folder / WEIGHTS) and folder / WEIGHTS not in files:
            raise WeightsError(
                f"{folder}: expected one set of weights, got {WEIGHTS} and the files that {INDEX} names. Hint: delete "
                "the older of the two"
            )
    return {name: shape for file in files for name, shape in check_weight_file(file, floating=True).items()}


def check_weight_file(file: Path, floating: bool = False) -> Shapes:
    """Return the shapes of the tensors of a file; raise `WeightsError` where it is no whole safetensors file.

    Args:
        file: The file, of which the header is read alone.
        floating: Whether all its tensors must be of floating point, as those of models are.
    """
    if _there(file) and not file.is_file():
        raise WeightsError(f"{file}: expected a file of weights, got a folder, a pipe or a link that leads nowhere")
    if not file.is_file():
        raise WeightsError(f"{file}: expected a file of weights, got none, though {INDEX} names it. Hint: download it")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(START)
        length = int.from_bytes(start[:_SIZE], "little")
        stream.seek(_SIZE)
        tensors = _tensor_bytes(stream.read(length)) if length <= _LONGEST_HEADER else None
    if tensors is not None:
        expected = _SIZE + length + tensors
        if size != expected:
            raise WeightsError(f"{file}: expected {expected:,} bytes of weights, got {size:,}. Hint: {_AGAIN}")
        return _shapes(file, floating)
    kind = file_kind(start)
    if kind is not None:
        raise WeightsError(f"{file}: expected weights (safetensors), got {kind.name}. Hint: {kind.hint}")
    found = "a file that is cut off" if start[_SIZE : _SIZE + 1] == b"{" else "another or a damaged file"
    raise WeightsError(f"{file}: expected weights (safetensors), got {found}. Hint: {_AGAIN}")


def _there(path: Path) -> bool:
    """Whether there is anything of that name, also a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def _shapes(file: Path, floating: bool) -> Shapes:
    """Have the library look through the header: types, shapes and places of all tensors."""
    try:
        with safe_open(file, framework="pt") as tensors:
            parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
            types = {name: part.get_dtype() for name, part in parts.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
    except (SafetensorError, ValueError, OverflowError) as error:
        raise WeightsError(f"{file}: expected whole weights, got a damaged header ({error}). Hint: {_AGAIN}") from error
    other = next((name for name, kind in types.items() if kind not in _FLOATS), None)
    if floating and other is not None:
        raise WeightsError(
            f"{file}: {quoted(other)}: expected {', '.join(sorted(_FLOATS))}, got {types[other]}. Hint: {_AGAIN}"
        )
    return shapes


def compare_shapes(stored: Mapping[str, tuple[int, ...]], model: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return how the tensors of files and of a model differ, as transformers reports it after loading.

    Args:
        stored: Shapes in the files, by name.
        model: Shapes in the model, by name.
    """
    shared = stored.keys() & model.keys()
    return {
        "missing_keys": model.keys() - shared,
        "unexpected_keys": stored.keys() - shared,
        "mismatched_keys": {(name, stored[name], model[name]) for name in shared if stored[name] != model[name]},
    }


def check_loaded(report: Mapping[str, Collection[Any]], where: str) -> None:
    """Refuse weights that are not those of the model that they were loaded into.

    Args:
        report: What transformers tells of it: `missing_keys`, `unexpected_keys`, `mismatched_keys`.
        where: What was loaded, as the error names it.

    Raises:
        WeightsError: There are any; the message names them.
    """
    problems = {kind: report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")}
    words = [f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys]
    if words:
        raise WeightsError(f"{where}: the weights are not those of the configuration beside them ({'; '.join(words)})")


def _listed(keys: Collection[Any]) -> str:
    """Names of tensors; of those that differ in shape, with that of the file and that of the model."""
    names = [
        key if isinstance(key, str) else f"{key[0]} ({'×'.join(map(str, key[1]))} for {'×'.join(map(str, key[2]))})"
        for key in sorted(keys, key=str)
    ]
    names = [name if len(name) <= MOST_QUOTED else f"{name[: MOST_QUOTED - 1]}…" for name in names]
    more = [f"and {len(names) - MOST_NAMED:,} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def _tensor_bytes(header: bytes) -> int | None:
    """The bytes of all tensors that a header lists; None where it is none."""
    try:
        entries = json.loads(header).items()
        return max((int(entry["data_offsets"][1]) for name, entry in entries if name != "__metadata__"), default=0)
    except (ValueError, AttributeError, TypeError, LookupError, OverflowError, RecursionError):
        return None


def _named(index: Path) -> list[Path]:
    """The files that an index names."""
    try:
        data = json_files.read_bytes(index, json_files.MOST_BYTES)
    except (DataError, OSError) as error:
        raise WeightsError(str(error)) from error
    try:
        content = json.loads(data)
        names = sorted(set(content["weight_map"].values()))
        if set(map(type, content.get("metadata", {}).values())) - {int, float, str}:
            raise TypeError("metadata of other kinds")
        outside = [name for name in names if not _NAME.fullmatch(name)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        kind = file_kind(data[:START])
        found, hint = (kind.name, kind.hint) if kind is not None else ("another or a damaged file", _AGAIN)
        raise WeightsError(f"{index}: expected the index of files of weights, got {found}. Hint: {hint}") from error
    if outside:
        raise WeightsError(f"{index}: expected names of safetensors files in this folder, got {outside[0]!r}")
    return [index.parent / name for name in names]


@contextmanager
def one_set_of_weights(folder: Path) -> Iterator[None]:
    """Remove an earlier model in the other form, whole or split, when another is saved beside it."""
    before = _stamps(folder)
    yield
    after = _stamps(folder)
    old = [name for name in after if after[name] == before.get(name)]
    if len(after) > 1 and len(old) == 1:
        (folder / old[0]).unlink()


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {name: folder / name for name in (WEIGHTS, INDEX) if (folder / name).is_file()}
    return {name: ((of := path.stat()).st_mtime_ns, of.st_size, of.st_ino) for name, path in found.items()}
