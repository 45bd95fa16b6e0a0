"""Small sources of annotated pictures, as files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unified.data.builders.dense import Options, build_dense
from unified.data.commands.shards import DENSE
from unified.data.samples.decode import decode
from unified.data.shards.shards import Shards

HEIGHT, WIDTH = 6, 8


def png(values: Any) -> bytes:
    """An array as PNG at its own depth."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(buffer, "PNG")
    return buffer.getvalue()


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> bytes:
    """A picture of noise."""
    return png(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, files: dict[str, bytes | str | dict[str, Any]]) -> Path:
    """A folder with these files; a dict becomes JSON."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(data) if isinstance(data, dict) else data
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def build(kind: str, source: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """The manifests of a source packed as `kind`."""
    return build_dense(kind, DENSE[kind], source, out, Options(**options))


def samples(out: Path) -> dict[str, dict[str, Any]]:
    """All samples of a folder, decoded, by key."""
    shards = Shards.open(out)
    raw = [shards[number] for number in range(len(shards))]
    return {one["__key__"]: decode(one, [name for name in one if not name.startswith("__")]) for one in raw}
