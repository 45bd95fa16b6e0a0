"""Time series (t, c) as patches along time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unified.core.errors import DataError
from unified.core.types import Tokens
from unified.modalities.base import pad, read_json, timeline
from unified.modalities.modality import Modality

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class SeriesSettings:
    tokenizer: str = str(Path(__file__).parent / "spec")
    patch: int = 4
    channels: int = 2
    most: int = 32


class SeriesTokenizer:
    modality = "toyseries"

    def __init__(self, settings: SeriesSettings) -> None:
        self.patch, self.channels, self.most = settings.patch, settings.channels, settings.most
        self.spec = read_json(Path(settings.tokenizer) / FILE)

    def prepare(self, raw: Any) -> Tensor:
        if getattr(raw, "ndim", 0) != 2 or raw.shape[1] != self.channels or not 0 < len(raw) <= self.most:
            raise DataError(f"expected a series (t, {self.channels}), got {getattr(raw, 'shape', type(raw).__name__)}")
        return (torch.as_tensor(raw).float() - self.spec["mean"]) / self.spec["std"]

    def tokens(self, prepared: Sequence[Tensor]) -> Tokens:
        return pad([self._row(series) for series in prepared])

    def _row(self, series: Tensor) -> Tokens:
        whole = torch.nn.functional.pad(series, (0, 0, 0, -len(series) % self.patch))
        values = whole.reshape(1, -1, self.patch * self.channels)
        count = values.shape[1]
        return Tokens(self.modality, values, torch.ones(1, count, dtype=torch.bool), timeline(1, count))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.spec))


class SeriesEmbedding(nn.Module):
    def __init__(self, width: int, patch: int, channels: int, most: int) -> None:
        super().__init__()
        self.projection, self.place = nn.Linear(patch * channels, width), nn.Embedding(-(-most // patch), width)

    def forward(self, tokens: Tokens, norm: nn.Module) -> Tensor:
        return norm(self.projection(tokens.values) + self.place(tokens.position[..., 0].long()))


def example(section: Any, generator: torch.Generator, longest: bool) -> dict[str, Tensor]:
    count = section["most"] // section["patch"] if longest else 3
    values = torch.randn(2, count, section["patch"] * section["channels"], generator=generator)
    mask = torch.ones(2, count, dtype=torch.bool)
    return {"toyseries_values": values, "toyseries_mask": mask, "toyseries_position": timeline(2, count)}


SERIES = Modality(
    name="toyseries",
    settings=SeriesSettings,
    tokenizer=SeriesTokenizer,
    embedding=lambda width, section: SeriesEmbedding(width, **section),
    example=example,
)
