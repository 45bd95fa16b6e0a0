"""Shards from images and the boundaries that several people drew, as in BSDS500's MATLAB files."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from scipy.io import loadmat

from unified.data.builders.annotations import check_size, png, read_picture
from unified.data.builders.dense import Found, Options
from unified.data.builders.pairing import Pair, Words, pair_files
from unified.data.builders.sources import BadSampleError, Files, Item, Problems

TRUTH, BOUNDARIES = "groundTruth", "Boundaries"
WORDS = Words("boundaries", "missing boundaries", "boundaries without image")


def find_boundaries(files: Files, problems: Problems, _: Options) -> Found:
    """Images and .mat files of the same place, wherever both lie."""
    truths = [name for name in files.names if name.lower().endswith(".mat")]
    pairs = pair_files(files.images(), truths, problems, WORDS)
    return Found([_item(files, pair) for pair in pairs], {})


def _item(files: Files, pair: Pair) -> Item:
    truth = pair.annotation

    def load() -> dict[str, Any]:
        picture = read_picture(files, pair.image)
        drawn = _drawn(files.read(truth), truth)
        check_size(truth, "boundaries", drawn[0].shape, picture)
        return {**picture.columns(annotators=len(drawn)), "edges.png": png(share(drawn))}

    return Item(pair.key, pair.image, load)


def _drawn(data: bytes, where: str) -> list[NDArray[Any]]:
    """The boundaries of each annotator."""
    try:
        truth = loadmat(io.BytesIO(data), simplify_cells=True)[TRUTH]
        entries = [truth] if isinstance(truth, dict) else list(truth)
        drawn = [np.asarray(entry[BOUNDARIES]) for entry in entries]
    except Exception as error:  # scipy raises many kinds on broken files
        raise BadSampleError("unreadable boundaries", f"{where}: {type(error).__name__}: {error}") from error
    if not drawn or drawn[0].ndim != 2 or any(one.shape != drawn[0].shape for one in drawn):
        shapes = [one.shape for one in drawn]
        raise BadSampleError("unreadable boundaries", f"{where}: expected maps of one size, found {shapes}")
    return drawn


def share(drawn: list[NDArray[Any]]) -> UInt8[NDArray[Any], "h w"]:
    """The share of annotators who drew a boundary at each pixel, · 255."""
    return np.rint(np.mean([one != 0 for one in drawn], axis=0) * 255).astype(np.uint8)
