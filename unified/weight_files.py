"""The files of weights in a folder: that there is one set of them, and that each is whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unified.core.file_kinds import START, file_kind
from unified.errors import UserError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SIZE = 8  # bytes that hold the length of a safetensors file's header
_LONGEST_HEADER = 10**8  # bytes, of the format
_AGAIN = "copy or download it again"


class WeightsError(UserError):
    """Files of weights are not whole, or of two models."""


def check_weights(folder: Path) -> None:
    """Refuse a folder from which old weights could be read beside newer ones, or files that are no whole weights.

    Raises:
        WeightsError: A whole model lies beside an index, a file that the index names is missing, or one is cut off,
            a pointer of git-lfs, or no safetensors file.
    """
    index = folder / INDEX
    if not index.is_file():
        files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []
    else:
        files = _named(index)
        if (folder / WEIGHTS).is_file() and folder / WEIGHTS not in files:
            raise WeightsError(
                f"{folder}: expected one set of weights, got {WEIGHTS} and the files that {INDEX} names. Hint: delete "
                "the older of the two"
            )
    for file in files:
        check_weight_file(file)


def check_weight_file(file: Path) -> None:
    """Raise `WeightsError` where a file is no safetensors file, or has more or fewer bytes than its header says."""
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
        return
    kind = file_kind(start)
    if kind is not None:
        raise WeightsError(f"{file}: expected weights (safetensors), got {kind.name}. Hint: {kind.hint}")
    found = "a file that is cut off" if start[_SIZE : _SIZE + 1] == b"{" else "another or a damaged file"
    raise WeightsError(f"{file}: expected weights (safetensors), got {found}. Hint: {_AGAIN}")


def _tensor_bytes(header: bytes) -> int | None:
    """The bytes of all tensors that a header lists; None where it is none."""
    try:
        entries = json.loads(header).items()
        return max((int(entry["data_offsets"][1]) for name, entry in entries if name != "__metadata__"), default=0)
    except (ValueError, AttributeError, TypeError, LookupError):
        return None


def _named(index: Path) -> list[Path]:
    """The files that an index names."""
    data = index.read_bytes()
    try:
        names = sorted(set(json.loads(data)["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
