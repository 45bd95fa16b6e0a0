"""Samples a second of our loader against `webdataset`'s own pipeline on the same shards, and against decoding alone.

One process, one thread, no augmentation; pictures of 224×224 pixels as JPEG, and glyphs of 32×32 as PNG. Ours:
schedule, order, index, memory map, decode, labels, patches. webdataset: read, decode (by its own decoder, and by ours),
batch. "Raw bytes": reading alone, every column of every sample, ours in a shuffled order.
"Decode alone" runs our decoder on bytes that lie in memory and holds a batch of pictures: what a loader that costs
nothing else would reach. "Read + decode" is our reading up to decoded samples: index, memory map, decoders. "Kept" is
our loader in later epochs of a data set that fits into `data.cache_mb`.

The whole loader misses 0.9 of decode alone: by little with photographs, by much with glyphs. "Decode + plain copy" is
decoding and one copy of the pixels, as they are, into a batch: what a batch of patches costs at least, as decoders do
not write in that order. Cutting is this copy in short runs, which take about twice as long. A glyph of 32×32 pixels is
decoded in 39 µs, so that 0.9 leaves 4 µs for all else: reading it and its class number alone takes 6.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import webdataset

from benchmarks.drawn import glyph, photograph
from benchmarks.measure import Row, best_seconds, table
from unified.config.labels import Labels
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.data.samples.decode import decode
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter
from unified.modalities.image.files import decode_image
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.pipeline.loader import StepLoader
from unified.pipeline.permutation import positions

BATCH = 64
SETS: dict[str, tuple[int, int, str]] = {"JPEG 224": (512, 224, "jpg"), "glyph PNG 32": (4096, 32, "png")}
"""Samples, side in pixels, column."""
NAMES = {"ours": "loader", "kept": "loader, kept"}
PAIRS = {
    ("ours", "webdataset"): ">= 0.90",
    ("ours", "webdataset, our decoder"): ">= 0.90",
    ("ours", "decode alone"): ">= 0.90",
    ("raw bytes", "webdataset, raw bytes"): ">= 10.00",
    ("read + decode", "decode alone"): "-",
    ("decode + plain copy", "decode alone"): "-",
    ("kept", "decode alone"): "-",
}
"""What is put over what, and the ratio to reach."""


def write_shards(folder: Path, count: int, side: int, column: str) -> None:
    """Shards of pictures with class numbers."""
    make = photograph if column == "jpg" else glyph
    with ShardWriter(folder, kind="benchmark", source="made", samples_per_shard=count // 4) as writer:
        for number in range(count):
            writer.write(f"{number:06d}", {column: make(number, side), "cls": number % 10})


def ours(folder: Path, count: int, side: int, column: str, cache_mb: int = 0) -> Callable[[], object]:
    """Our loader: one task with one slot a step, for one epoch."""
    task = Task(str(folder), {column: "image"}, "cls", Answer.of(candidates="labels/digits"), "accuracy", BATCH)
    recipe = Recipe({"a": task}, max_steps=count // BATCH, slots=1, data=DataSettings(workers=0, cache_mb=cache_mb))
    spec = ImageSpec(height=side, width=side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    labels = Labels(tuple(str(number) for number in range(10)))
    loader = StepLoader(recipe, {"image": ImageTokenizer(spec, patch=side // 8)}, {"a": labels})
    return lambda: [len(slots) for _, slots, _ in loader]


def theirs(folder: Path, column: str, own_decoder: bool) -> Callable[[], object]:
    """webdataset's pipeline: read, decode, tuples, batches; shards in order, without a shuffle buffer."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def run() -> list[int]:
        data = webdataset.WebDataset(urls, shardshuffle=False)
        data = data.decode("torchrgb8") if own_decoder else data.map_dict(**{column: decode_image, "cls": int})
        return [len(labels) for _, labels in data.to_tuple(column, "cls").batched(BATCH)]

    return run


def decode_alone(folder: Path, column: str) -> Callable[[], object]:
    """Our decoder on bytes in memory."""
    shards = Shards.open(folder)
    pictures = [shards[number][column] for number in range(len(shards))]
    starts = range(0, len(pictures), BATCH)
    return lambda: [len([decode_image(data) for data in pictures[start : start + BATCH]]) for start in starts]


def read_and_decode(folder: Path, column: str) -> Callable[[], object]:
    """Our reading and decoding of whole samples, without batches."""
    shards = Shards.open(folder)
    starts = range(0, len(shards), BATCH)
    return lambda: [
        len([decode(shards[number], (column, "cls")) for number in range(start, start + BATCH)]) for start in starts
    ]


def raw_bytes(folder: Path, column: str) -> Callable[[], object]:
    """Our reading of whole samples in a shuffled order: the bytes of every column."""
    shards = Shards.open(folder)
    order = positions(0, "a", np.arange(len(shards)), shards.sizes).tolist()
    return lambda: sum(len(shards[number][column]) for number in order)


def their_raw_bytes(folder: Path, column: str) -> Callable[[], object]:
    """The same of webdataset, in the order of the tars."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return lambda: sum(len(sample[column]) for sample in webdataset.WebDataset(urls, shardshuffle=False))


def decode_and_copy(folder: Path, side: int, column: str) -> Callable[[], object]:
    """Our decoder on bytes in memory, each picture then copied into a batch."""
    shards = Shards.open(folder)
    pictures = [shards[number][column] for number in range(len(shards))]

    def run() -> None:
        for start in range(0, len(pictures), BATCH):
            batch = np.empty((BATCH, side, side, 3), dtype=np.uint8)
            for row, data in zip(batch, pictures[start : start + BATCH], strict=True):
                row[...] = decode_image(data).permute(1, 2, 0).numpy()

    return run


def rows() -> list[Row]:
    """Our samples a second over those of each other side."""
    result = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, (count, side, column) in SETS.items():
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "shards"
            write_shards(folder, count, side, column)
            sides = {
                "ours": ours(folder, count, side, column),
                "kept": ours(folder, count, side, column, cache_mb=256),
                "webdataset": theirs(folder, column, own_decoder=True),
                "webdataset, our decoder": theirs(folder, column, own_decoder=False),
                "decode alone": decode_alone(folder, column),
                "read + decode": read_and_decode(folder, column),
                "raw bytes": raw_bytes(folder, column),
                "webdataset, raw bytes": their_raw_bytes(folder, column),
                "decode + plain copy": decode_and_copy(folder, side, column),
            }
            seconds = best_seconds(sides)
        rates = {side: count / value for side, value in seconds.items()}
        for (mine, other), target in PAIRS.items():
            detail = f"{rates[mine]:,.0f} / {rates[other]:,.0f} samples/s"
            result.append(Row(f"{NAMES.get(mine, mine)}, {name}: {other}", rates[mine] / rates[other], target, detail))
    torch.set_num_threads(threads)
    return result


def main() -> None:
    """Measure and print."""
    print(table(rows()))


if __name__ == "__main__":
    main()
