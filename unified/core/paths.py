"""Where the data folders of the project lie: beside the package in a checkout, inside it in an installed wheel."""

import os
from pathlib import Path

from unified.core.errors import nearest

PACKAGE = Path(__file__).parent.parent


def data_folder(name: str) -> Path:
    """The folder `tokenizers` or `recipes` that belongs to this package."""
    beside = PACKAGE.parent / name
    return beside if (PACKAGE.parent / "pyproject.toml").is_file() and beside.is_dir() else PACKAGE / f"_{name}"


def cache_folder(name: str) -> Path:
    """Return where this machine keeps what can be made again: `$XDG_CACHE_HOME/unified/NAME`, or in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unified" / name


def find(folder: str, reference: str, suffix: str = "", *, at: Path | None = None) -> Path:
    """The file or folder that `reference` names: a path that exists, or a name inside the project's `folder`.

    A bare name (no slash, no ending) is the project's even where the current folder holds such a file or folder, so
    that a recipe means the same everywhere; `./name` is the path.

    Args:
        folder: A data folder of the project, or one inside it (`recipes/eval`).
        reference: The path or name.
        suffix: Ending that a name may be given without.
        at: Folder that relative paths begin at, where names may be given without their ending, too; None: the current
            one, where they are written out.

    Raises:
        FileNotFoundError: There is no such path or name; the message names the nearest.
    """
    direct = (at or Path()) / reference
    inside = data_folder(folder.split("/", maxsplit=1)[0]).joinpath(*folder.split("/")[1:])
    candidates = [direct, inside / reference, inside / f"{reference}{suffix}"]
    if "/" not in reference and Path(reference).name == reference and not direct.suffix:
        candidates = [*candidates[:0:-1], direct]  # the file with its ending before a folder of the bare name
    if at is not None:
        candidates.append(at / f"{reference}{suffix}")
    for candidate in candidates:
        if candidate.exists():
            return candidate
    known = _names(inside, reference, suffix) + ([] if at is None else _names(at, reference, suffix))
    hint = nearest(reference.removesuffix(suffix), list(dict.fromkeys(known)))
    raise FileNotFoundError(f"{reference!r} is neither a path nor a name in {folder}{hint}")


def _names(folder: Path, reference: str, suffix: str) -> list[str]:
    """What a reference to something in a folder could have been, in the same one of its folders."""
    above = Path(reference).parent
    if above.is_absolute() or not (folder / above).is_dir():
        above = Path()
    found = (folder / above).glob(f"*{suffix}") if folder.is_dir() else ()
    return [str(above / path.name.removesuffix(suffix)) for path in found if path.name[0] != "."]
