"""Folders of models: configuration, processor, tokenizers, weights."""

import json
import random
import struct
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoProcessor

import unified
from tests.fuzz.doors import Door, files
from tests.fuzz.mutations import bytes_changed, changed, damage_bytes, damage_json
from tests.small_models import small_model, written

WEIGHTS = "model.safetensors"
_LENGTH = struct.Struct("<Q")


class Models(Door):
    """A small exported model; every tensor that a damaged folder gives must be of its file, or of the whole one."""

    name = "models"
    inputs = 1400

    def prepare(self, whole: Path) -> None:
        written(small_model(), whole / "model")
        self.tensors = load_file(whole / "model" / WEIGHTS)
        for how in range(3):
            assert self._read(whole / "model", how)

    def damage(self, copy: Path, draw: random.Random) -> str:
        path = draw.choice(files(copy))
        if draw.random() < 0.3:
            path = copy / "model" / draw.choice(["config.json", WEIGHTS])
        if path.name == WEIGHTS and draw.random() < 0.7:
            what = _damage_header(path, draw)
        elif path.suffix == ".json":
            what = damage_json(path, draw)
        else:
            what = damage_bytes(path, draw)
        return f"{path.name}: {what}"

    def enter(self, copy: Path, draw: random.Random) -> bool:
        # transformers reads these before it knows whose they are; what is no mapping there is its own error.
        ours = all(_is_mapping(copy / "model" / name) for name in ("config.json", "processor_config.json"))
        return self._read(copy / "model", draw.choice([0, 0, 1, 2] if ours else [0]))

    def _read(self, folder: Path, how: int) -> bool:
        if how == 2:
            processor = AutoProcessor.from_pretrained(folder)
            return "input_ids" in processor(text=["a red square"])
        model = unified.load(folder)[0] if how == 0 else AutoModel.from_pretrained(folder)
        if how == 0:
            model.processor(text=["a red square"])
        return self._same(model.state_dict(), _stored(folder / WEIGHTS))

    def _same(self, loaded: dict[str, Tensor], stored: dict[str, Tensor]) -> bool:
        """Whether all tensors are those of the file, bit for bit."""
        return loaded.keys() >= self.tensors.keys() and all(
            name in stored and torch.equal(loaded[name].view(torch.uint8), stored[name].view(torch.uint8))
            for name in self.tensors
        )


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError):
        return False


def _stored(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        return {}


def _damage_header(path: Path, draw: random.Random) -> str:
    data = path.read_bytes()
    (length,) = _LENGTH.unpack_from(data)
    header, body = data[_LENGTH.size : _LENGTH.size + length], data[_LENGTH.size + length :]
    kind = draw.randrange(4)
    if kind == 0:
        path.write_bytes(
            _LENGTH.pack(draw.choice([0, 1, length - 1, length + 1, len(data), 2**63 - 1])) + header + body
        )
        return "length of the header"
    header = bytes_changed(header, draw) if kind == 1 else json.dumps(changed(json.loads(header), draw)).encode()
    path.write_bytes(_LENGTH.pack(len(header)) + header + body)
    return "header"
