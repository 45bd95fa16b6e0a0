"""Shards of handwritten digits: scikit-learn's bundled 1,797 pictures of 8×8, for evaluation only."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from unified.core.seed import key
from unified.data.shards.write import ShardWriter, complete_folder

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SEED = "digits 1"
LEVELS = 16  # the data set's grey levels above white


def build_digits(out: Path, samples_per_shard: int) -> dict[str, dict[str, Any]]:
    """Write the splits train and test, about half of each digit in each; returns their manifests.

    Ink is black on white as in the glyphs; the pictures keep their 8×8 pixels.
    """
    data = load_digits()
    order = sorted(range(len(data.target)), key=lambda index: key(SEED, index))
    halves: dict[str, list[int]] = {"train": [], "test": []}
    for digit in range(len(NAMES)):
        members = [index for index in order if data.target[index] == digit]
        halves["train"] += members[: len(members) // 2]
        halves["test"] += members[len(members) // 2 :]
    manifests = {}
    with complete_folder(out) as folder:
        for name, members in halves.items():
            writer = ShardWriter(folder / name, kind="digits", source="sklearn", samples_per_shard=samples_per_shard)
            with writer:
                writer.manifest["classes"] = [f"digit {word}" for word in NAMES]
                for index in sorted(members, key=lambda index: key(SEED, index)):
                    digit = int(data.target[index])
                    columns = {"png": _png(data.images[index]), "cls": digit, "txt": f"digit {NAMES[digit]}"}
                    writer.write(f"{index:04d}", {**columns, "json": {"digit": digit, "index": index}}, "digits")
            manifests[name] = writer.manifest
    return manifests


def _png(ink: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 - ink * (255 / LEVELS)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
