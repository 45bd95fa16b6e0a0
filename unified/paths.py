"""Where the data folders of the project lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

from unified.config import nearest, read_yaml

PACKAGE = Path(__file__).parent


def data_folder(name: str) -> Path:
    """The folder `tokenizers` or `recipes` that belongs to this package."""
    beside = PACKAGE.parent / name
    return beside if (PACKAGE.parent / "pyproject.toml").is_file() and beside.is_dir() else PACKAGE / f"_{name}"


def checkpoints_of(run: Path, place: str = "") -> Path | str:
    """Where a run keeps its checkpoints: at `place` (`train.checkpoints`), by default as the recipe in its folder says.

    A path, relative ones to the run's folder, or a URL.
    """
    if not place:
        recipe = run / "recipe.yaml"
        place = read_yaml(recipe).get("train", {}).get("checkpoints", "") if recipe.is_file() else ""
    place = place or "checkpoints"
    return place if "://" in place else run / place


def find(folder: str, reference: str, suffix: str = "") -> Path:
    """The file or folder that `reference` names: a path that exists, or a name inside the project's `folder`.

    A bare name (no slash, no ending) is the project's even where the current folder holds such a file or folder, so
    that a recipe means the same everywhere; `./name` is the path.
    """
    direct = Path(reference)
    inside = data_folder(folder.split("/", maxsplit=1)[0]).joinpath(*folder.split("/")[1:])
    candidates = [direct, inside / reference, inside / f"{reference}{suffix}"]
    if "/" not in reference and direct.name == reference and not direct.suffix:
        candidates = [*candidates[:0:-1], direct]  # the file with its ending before a folder of the bare name
    for candidate in candidates:
        if candidate.exists():
            return candidate
    known = [p.stem if suffix else p.name for p in inside.glob(f"*{suffix}")] if inside.is_dir() else []
    hint = nearest(Path(reference).stem, known)
    raise FileNotFoundError(f"{reference!r} is neither a path nor a name in {folder}{hint}")
