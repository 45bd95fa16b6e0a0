"""What makes a folder of shards a data set for other tools: a card for Hugging Face `datasets`, and the index of wids.

The card is a README.md whose YAML head names the shards of each split and the type of each column, so that nothing is
guessed from the first samples: later ones may have other columns, or another JSON. `datasets` reads JSON columns as
such from version 4.7 on.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unified.core.atomic_files import replace_file
from unified.core.errors import DataError
from unified.data.shards.index import Header, index_path, open_index, read_header
from unified.data.shards.patterns import MANIFEST, parts, read_manifest, shard_paths, tars_in
from unified.modalities.image.formats import IMAGES

CARD = "README.md"
SHARD_INDEX = "shardindex.json"
"""The name that `wids-index create` gives."""
WIDS = {"__kind__": "wids-shard-index-v1", "wids_version": 1}
VALUES = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys(("txt", "text", "transcript"), "string"),
    **dict.fromkeys(("cls", "cls2", "index", "inx", "id"), "int64"),
    **dict.fromkeys(("json", "jsn"), "json"),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3"), "audio"),
    **dict.fromkeys(("mp4", "avi", "mov", "mkv", "mpeg"), "video"),
}
"""Types of `datasets` by the ending of a column."""
GUESSED = ("ten", "tb", "mp", "msg", "npz", "cbor", "pth", "gz", "bz2", "xz", "zst", "lz4", "zip", "7z")
"""Endings that `datasets` decodes to objects of any type: it must look at samples to know which."""


def describe_for_others(folder: Path, name: str) -> None:
    """Write card and wids index into a folder of shards or of parts, and into each part.

    A README.md that is there already stays. Shards must have their index files beside them.

    Args:
        folder: Folder of shards, or folder of parts.
        name: What the card calls the data.
    """
    folders = [Path(part) for part in parts(folder)]
    if not folders[0].is_dir() or not any(tars_in(folders[0])):
        return
    for part in folders:
        tars = shard_paths(part)
        shards = [
            {"url": tar.name, "nsamples": read_header(index_path(tar)).samples, "filesize": tar.stat().st_size}
            for tar in tars
        ]
        content = {**WIDS, "name": name if part == folder else f"{name}-{part.name}", "shardlist": shards}
        replace_file(part / SHARD_INDEX, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        if part != folder:
            _write_card(part, f"{name}: {part.name}", {split_name(part.name): part})
    ordered = sorted(folders, key=lambda part: part.name != "train")
    named = {split_name(part.name): part for part in ordered} if folders != [folder] else {"train": folder}
    _write_card(folder, name, named)


def split_name(name: str) -> str:
    """Return a folder's name as a split of `datasets`, which has letters, digits and underscores alone."""
    return re.sub(r"\W+", "_", name).strip("_") or "train"


def _write_card(folder: Path, name: str, splits: dict[str, Path]) -> None:
    if (folder / CARD).exists():
        return
    tars = {split: shard_paths(part) for split, part in splits.items()}
    headers = {split: [read_header(index_path(tar)) for tar in found] for split, found in tars.items()}
    files = [
        {"split": split, "path": "*.tar" if part == folder else f"{part.name}/*.tar"} for split, part in splits.items()
    ]
    front: dict[str, Any] = {
        "pretty_name": name,
        "tags": ["webdataset"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    types = column_types([tar for found in tars.values() for tar in found], _classes(splits.values()))
    if types is not None:
        front["dataset_info"] = {"features": types}
    rows = [f"| {split} | {sum(h.samples for h in found):,} | {len(found)} |" for split, found in headers.items()]
    columns = ", ".join(f"`{column}`" for column in _columns(found for of in headers.values() for found in of))
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    body = [
        *(f"---\n{head}---\n", f"# {name}\n", f"Webdataset shards with the columns {columns}.\n"),
        *("| split | samples | shards |", "|---|---|---|", *rows, ""),
        *(
            "```python",
            "from datasets import load_dataset\n",
            'data = load_dataset("FOLDER")  # this folder, or org/name',
        ),
        "```",
    ]
    replace_file(folder / CARD, "\n".join(body) + "\n")


def _columns(headers: Iterable[Header]) -> list[str]:
    return sorted({column for header in headers for column in header.columns})


def _classes(folders: Iterable[Path]) -> list[str] | None:
    """The class names of `cls`, where the manifests of all folders agree on them."""
    manifests = [read_manifest(folder) if (folder / MANIFEST).is_file() else {} for folder in folders]
    found = [manifest.get("classes") for manifest in manifests]
    return found[0] if found[0] and all(names == found[0] for names in found) else None


def column_types(tars: Sequence[Path], classes: Sequence[str] | None = None) -> list[dict[str, Any]] | None:
    """Return the features of a card: the type of each column that any of the shards has.

    Args:
        tars: Shards with their index files beside them.
        classes: Names for the numbers in `cls`.

    Returns:
        A list as `dataset_info.features` of a card holds it; None where only the samples say what a column is.
    """
    features: list[dict[str, Any]] = []
    for column in _columns(read_header(index_path(tar)) for tar in tars):
        ending = column.rpartition(".")[2]
        if column == "cls" and classes is not None:
            names = {str(number): name for number, name in enumerate(classes)}
            found: dict[str, Any] | None = {"dtype": {"class_label": {"names": names}}}
        elif ending == "npy":
            found = _array_type(tars, column)
        else:
            found = None if ending in GUESSED else {"dtype": VALUES.get(ending, "binary")}
        if found is None:
            return None
        features.append({"name": column, **found})
    return [*features, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def _array_type(tars: Sequence[Path], column: str) -> dict[str, Any] | None:
    """The type of a column of arrays; None where they have several, or one that is no number."""
    found = {kind for tar in tars for kind in _arrays(tar, column)}
    if len(found) != 1:
        return None
    ((dimensions, kind),) = found
    if np.dtype(kind).kind not in "biuf":
        return None
    made: dict[str, Any] = {"dtype": kind}
    for level in range(dimensions):
        made = {"list": kind if level == 0 else made}
    return made


def _arrays(tar: Path, column: str) -> set[tuple[int, str]]:
    """The numbers of dimensions and element types that the arrays of a column have."""
    index = open_index(index_path(tar))
    if column not in index.columns:
        return set()
    number, found = index.columns.index(column), set()
    with tar.open("rb") as file:
        for offset in index.members[index.members[:, 0] == number, 1].tolist():
            file.seek(offset)
            try:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, kind = read(file)
            except ValueError as error:
                raise DataError(f"{tar}: column {column!r}: expected an array of numpy, got {error}") from error
            found.add((len(shape), kind.name))
    return found
