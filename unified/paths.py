"""Where the data folders of the project lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

from unified.config import nearest

PACKAGE = Path(__file__).parent


def data_folder(name: str) -> Path:
    """The folder `tokenizers` or `recipes` that belongs to this package."""
    beside = PACKAGE.parent / name
    return beside if (PACKAGE.parent / "pyproject.toml").is_file() and beside.is_dir() else PACKAGE / f"_{name}"


def find(folder: str, reference: str, suffix: str = "") -> Path:
    """The file or folder that `reference` names: a path that exists, or a name inside the project's `folder`."""
    direct = Path(reference)
    if direct.exists():
        return direct
    inside = data_folder(folder.split("/", maxsplit=1)[0]).joinpath(*folder.split("/")[1:])
    for candidate in (inside / reference, inside / f"{reference}{suffix}"):
        if candidate.exists():
            return candidate
    known = [p.stem if suffix else p.name for p in inside.glob(f"*{suffix}")] if inside.is_dir() else []
    hint = nearest(Path(reference).stem, known)
    raise FileNotFoundError(f"{reference!r} is neither a path nor a name in {folder}{hint}")
