"""Steps of training on shards behind a slow connection, against the same shards on the local disk; and a late start.

A web server in a process of its own sends each connection 12 MB/s. A step takes 0.1 s, in which no core works, as where
a GPU does, and uses 64 photographs of 22 kB, 14 MB/s: less than two connections carry. "Prefetched": with the threads
of `data.prefetch_shards`; "on demand": a loader process fetches what it needs. The first step, for which shards must
come first, is told apart.

A late start: a task of 1,000,000 samples in 100 shards, whose indexes are whole and point into small tars. From opening
the shards to the first batch, at sample 900,000 and at 0.
"""

import multiprocessing
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.drawn import glyph, photograph
from benchmarks.measure import Row, best_seconds, table
from tests.shard_server import serve
from unified.config.labels import Labels
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.data.shards.index import IndexBuilder, build_index, index_path, write_index
from unified.data.shards.write import ShardWriter
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.pipeline.loader import StepLoader

RATE = 12e6
STEP_SECONDS, BATCH = 0.1, 64
SHARDS, SAMPLES = 20, 128
LARGE, SHARDS_OF_LARGE = 1_000_000, 100
LABELS = Labels(tuple(str(number) for number in range(10)))


def _serve(folder: Path, channel: Connection) -> None:
    with serve(folder, RATE) as server:
        channel.send(server.url)
        channel.recv()  # until the other side is done


def _recipe(data: str, column: str, steps: int, settings: DataSettings) -> Recipe:
    task = Task(data, {column: "image"}, "cls", Answer.of(candidates="labels/digits"), "accuracy", BATCH)
    return Recipe({"a": task}, max_steps=steps, slots=1, data=settings)


def _tokenizer(side: int) -> ImageTokenizer:
    return ImageTokenizer(ImageSpec(height=side, width=side, mean=(0.5,) * 3, std=(0.5,) * 3), patch=side // 8)


def steps(data: str, settings: DataSettings) -> tuple[float, float]:
    """Seconds until the first batch, and of a later step in the mean."""
    begin = time.perf_counter()
    plan = _recipe(data, "jpg", SHARDS * SAMPLES // BATCH, settings)
    batches = iter(StepLoader(plan, {"image": _tokenizer(224)}, {"a": LABELS}))
    next(batches)
    first = time.perf_counter()
    for _ in range(1, plan.max_steps):
        time.sleep(STEP_SECONDS)
        next(batches)
    return first - begin, (time.perf_counter() - first) / (plan.max_steps - 1)


def remote_rows() -> list[Row]:
    """Steps of remote over those of local shards."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "shards"
        pictures = [photograph(number, 224) for number in range(64)]
        with ShardWriter(folder, kind="benchmark", source="made", samples_per_shard=SAMPLES) as writer:
            for number in range(SHARDS * SAMPLES):
                writer.write(f"{number:06d}", {"jpg": pictures[number % 64], "cls": number % 10})
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("fork").Process(target=_serve, args=(folder, there))
        server.start()
        url = f"{here.recv()}/"
        plain = DataSettings(window=2 * SAMPLES, prefetch=2)
        _, local = steps(str(folder), plain)
        sides = {}
        for name, ahead in (("prefetched", 4), ("on demand", 0)):
            cache = replace(plain, prefetch_shards=ahead, shard_cache=str(Path(temporary) / name), shard_cache_gb=0.05)
            sides[name] = steps(url, cache)
        here.send(None)
        server.join()
    targets = {"prefetched": "<= 1.05", "on demand": "-"}
    return [
        Row(
            f"step on shards by HTTP, {name}: on the local disk",
            seconds / local,
            targets[name],
            f"{1000 * seconds:.0f} / {1000 * local:.0f} ms; first batch after {first:.1f} s",
        )
        for name, (first, seconds) in sides.items()
    ]


def write_large(folder: Path) -> None:
    """Shards of 10,000 samples each, as their indexes say; each tar holds one, to which all of them point."""
    folder.mkdir()
    picture = glyph(0, 32)
    for number in range(SHARDS_OF_LARGE):
        path = folder / f"{number:03d}.tar"
        with tarfile.open(path, "w") as tar:
            for name, content in (("0.png", picture), ("0.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
        index = build_index(path)
        builder = IndexBuilder(str(path))
        members = index.entry(0)[1]
        for sample in range(LARGE // SHARDS_OF_LARGE):
            for column, offset, size in members:
                builder.add(f"{number:03d}-{sample:06d}.{index.columns[column]}", offset, size)
        write_index(builder.finish(index.tar_bytes, index.digest), index_path(path))


def begin(data: str, sample: int) -> None:
    """Open the shards and load the batch that begins with a sample."""
    plan = _recipe(data, "png", sample // BATCH + 1, DataSettings(workers=0))
    loader = StepLoader(plan, {"image": _tokenizer(32)}, {"a": LABELS}, start_step=sample // BATCH)
    assert loader.steps[sample // BATCH].slots


def late_rows() -> list[Row]:
    """The start at a late sample over that at the first one, and its seconds."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "large"
        write_large(folder)
        sides: dict[str, Callable[[], object]] = {
            name: partial(begin, str(folder), sample) for name, sample in (("first", 0), ("late", 9 * LARGE // 10))
        }
        seconds = best_seconds(sides, rounds=20)
    ratio = seconds["late"] / seconds["first"]
    detail = f"{1000 * seconds['late']:.0f} / {1000 * seconds['first']:.0f} ms"
    return [
        Row("data ready at sample 900,000: at sample 0", ratio, "<= 1.20", detail),
        Row("data ready at sample 900,000: 1 s", seconds["late"], "<= 1.00", f"{1000 * seconds['late']:.0f} ms"),
    ]


def rows() -> list[Row]:
    """Both measurements."""
    return remote_rows() + late_rows()


def main() -> None:
    """Measure and print."""
    print(table(rows()))


if __name__ == "__main__":
    main()
