"""Folders of shards: tars, what lies beside them, and the members of samples."""

import json
import random
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.doors import Door, files
from tests.fuzz.mutations import bytes_changed, changed, damage_bytes, damage_json, deep
from unified.data.commands.inspect import check_sample, describe
from unified.data.shards.index import build_index, index_path, write_index
from unified.data.shards.shards import Shards
from unified.data.shards.verify import verify
from unified.data.shards.write import ShardWriter

SAMPLES = 12
_BLOCK = 512


class Shard(Door):
    """Two shards of pictures, texts, arrays and records; damage beside the tars must change no sample."""

    name = "shards"
    inputs = 1500

    def prepare(self, whole: Path) -> None:
        write(whole / "data", [sample(number) for number in range(SAMPLES)])
        self.right = digests(whole / "data")
        assert len(self.right) == SAMPLES
        assert verify(whole / "data").problems == []

    def damage(self, copy: Path, draw: random.Random) -> str:
        path = draw.choice(files(copy))
        if path.suffix == ".json":
            return f"{path.name}: {damage_json(path, draw)}"
        if path.suffix != ".tar" or draw.random() < 0.4:
            return f"{path.name}: {damage_bytes(path, draw)}"
        return f"{path.name}: {_damage_header(path, draw)}"

    def enter(self, copy: Path, draw: random.Random) -> bool:
        data, tars_changed = copy / "data", False
        for path in files(data, ".tar"):
            tars_changed |= path.read_bytes() != self._whole(path)
            if draw.random() < 0.3:
                index_path(path).unlink(missing_ok=True)
        if draw.random() < 0.3:
            return bool(verify(data).problems) or digests(data) == self.right
        found = digests(data)
        return tars_changed or found == self.right

    def _whole(self, path: Path) -> bytes:
        return (path.parents[2] / "whole" / "data" / path.name).read_bytes()


class Members(Door):
    """One sample whose member is damaged in a sound tar: a bad sample, which takes no other with it."""

    name = "samples"
    inputs = 700

    def prepare(self, whole: Path) -> None:
        whole.mkdir()
        write(whole.parent / "warm", [sample(number) for number in range(SAMPLES)])
        self.right = digests(whole.parent / "warm")

    def damage(self, copy: Path, draw: random.Random) -> str:
        self.bad = draw.randrange(SAMPLES)
        samples = [sample(number) for number in range(SAMPLES)]
        column = draw.choice(sorted(samples[self.bad]))
        samples[self.bad][column] = _damaged(samples[self.bad][column], draw)
        write(copy / "data", samples)
        return f"{column} of {self.bad:02d}"

    def enter(self, copy: Path, draw: random.Random) -> bool:
        found = digests(copy / "data")
        verify(copy / "data")
        shards = Shards.open(copy / "data")
        for number in range(len(shards)):
            describe(*check_sample(shards[number]))
        others = self.right.keys() - {f"{self.bad:02d}"}
        return all(found[key] == self.right[key] for key in others)


def sample(number: int) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    png, npy = BytesIO(), BytesIO()
    Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(png, "png")
    np.save(npy, draw.random((3, 4), dtype=np.float32))
    box = [number % 5, 1, number % 5 + 3, 9]
    facts = {"width": 16, "height": 12, "objects": [{"label": "dog", "box": box}], "captions": [f"number {number}"]}
    return {"png": png.getvalue(), "txt": f"a text {number}", "cls": number % 3, "json": facts, "npy": npy.getvalue()}


def write(folder: Path, samples: list[dict[str, Any]]) -> None:
    with ShardWriter(folder, kind="x", source="x", samples_per_shard=SAMPLES // 2) as writer:
        for number, columns in enumerate(samples):
            writer.write(f"{number:02d}", columns)
    for path in files(folder, ".tar"):
        write_index(build_index(path), index_path(path))


def digests(folder: Path) -> dict[str, str]:
    """What each sample reads as, decoded where it can be."""
    shards = Shards.open(folder)
    found = {}
    for number in range(len(shards)):
        raw, wrong = check_sample(shards[number])
        seen = {name: str(value) for name, value in raw.items() if name not in wrong and name[:2] != "__"}
        found[raw["__key__"]] = sha256(repr(sorted(seen.items())).encode()).hexdigest()
    return found


def _damaged(member: Any, draw: random.Random) -> Any:
    if isinstance(member, dict):
        return json.dumps(changed(member, draw)).encode() if draw.random() < 0.7 else deep(draw)
    data = member if isinstance(member, bytes) else str(member).encode()
    return bytes_changed(data, draw)


def _damage_header(path: Path, draw: random.Random) -> str:
    """Damage a field of a member's header, with the checksum made right again."""
    data = bytearray(path.read_bytes())
    starts = [at for at in range(0, len(data) - _BLOCK, _BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    at = draw.choice(starts)
    start, size = draw.choice([(0, 100), (124, 12), (124, 12), (156, 1), (345, 155), (100, 8), (157, 100)])
    field = {
        12: [b"77777777777\0", b"-0000000001\0", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"0" * 12, b"zzzzzzzzzzzz"],
        1: [bytes([kind]) for kind in b"0123456xgLKSV\0"],
    }.get(size, [b"caf\xe9.txt", b"../../x.txt", b"/etc/passwd", b"\x1b[31m.txt", b"a" * size, b"", b"00/00.txt"])
    data[at + start : at + start + size] = draw.choice(field).ljust(size, b"\0")[:size]
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = f"{sum(data[at : at + _BLOCK]):06o}\0 ".encode()
    path.write_bytes(bytes(data))
    return f"header field at {start}"
