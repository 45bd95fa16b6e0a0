"""Shards of held-out samples that questions need and no builder makes."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unified.config.labels import load_labels
from unified.config.task import Task
from unified.data.augment.augment import augment, build_transforms
from unified.data.samples.decode import decode
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter, complete_folder

FONTS = ("data/glyphs/test_fonts", "data/glyphs/validation")
"""Fonts that no training data hold; glyphs that equal a glyph of training are left out in them."""
MODULES = ("data/documentation/test", "data/documentation/validation")
"""Modules whose documentation no training data hold."""
DRAWS = 8


def write_held_out(folder: Path, names: Task) -> Path:
    """Write `folder`/names and `folder`/words; left alone where they are there.

    names: glyphs of unseen fonts whose names are candidates of the task `names`, each changed as that task changes its
    pictures (without that they would be smaller and sharper than all it trains on), by `DRAWS` draws fixed for ever.
    words: texts of all modules that are not trained on, with keys that tell test and validation apart.
    """
    if not folder.exists():
        with complete_folder(folder) as place:
            _write_names(place / "names", names)
            with ShardWriter(place / "words", kind="documentation", source=", ".join(MODULES)) as writer:
                for number, raw in enumerate(_samples(MODULES)):
                    writer.write(f"{number:06d}", _columns(raw))
    return folder


def _write_names(folder: Path, task: Task) -> None:
    listed = task.answer.label_set()
    assert listed is not None
    known = set(load_labels(listed).names)
    kept = [raw for raw in _samples(FONTS) if decode(raw, ("txt",))["txt"] in known]
    images = [decode(raw, ("png",))["png"] for raw in kept for _ in range(DRAWS)]
    changed = augment(
        images,
        build_transforms(task.augment, "names.augment", ["image"]).get("image", ()),
        np.arange(len(images)),
        0,
        "held out",
    )
    with ShardWriter(folder, kind="glyphs", source=", ".join(FONTS)) as writer:
        for number, image in enumerate(changed):
            raw = kept[number // DRAWS]
            stream = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "png")
            writer.write(f"{raw['__key__']}-{number % DRAWS}", _columns(raw) | {"png": stream.getvalue()})


def _samples(folders: Sequence[str]) -> Iterator[dict[str, Any]]:
    source = Shards.open(list(folders))
    return (source[number] for number in range(len(source)))


def _columns(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if not name.startswith("__")}
