"""Opening an index of a million samples with and without a look at all of it, and writing members.

Indexes are compared with their digest when they are opened, once a process: "mapped" is what it costs later. Members:
webdataset's TarWriter, as `ShardWriter` uses it, against `tarfile` alone, over the same samples.
"""

import io
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from webdataset import TarWriter

from benchmarks.measure import Row, best_seconds, table
from unified.data.shards import index as indexes
from unified.data.shards.index import WORD, Index, open_index, write_index

SAMPLES = 1_000_000
KEY = 9  # letters
REPEATS = 3
MEMBERS = {"2 KB": (2_000, 4_000), "150 KB": (150_000, 300)}


def _large(path: Path) -> None:
    """An index of samples of two columns."""
    numbers = np.arange(SAMPLES + 1, dtype=WORD)
    members = np.stack(
        [np.tile([0, 1], SAMPLES), np.arange(2 * SAMPLES) * 1024, np.full(2 * SAMPLES, 500)], axis=1
    ).astype(WORD)
    keys = "".join(f"{number:0{KEY}d}" for number in range(SAMPLES)).encode()
    bounds = np.stack([numbers * KEY, numbers * 2], axis=1)
    write_index(Index(2048 * SAMPLES, b"\0" * 32, ("jpg", "cls"), bounds, members, keys), path)


def _opening(folder: Path) -> Row:
    path = folder / "large.tar.idx"
    _large(path)

    def first() -> None:
        indexes._whole.clear()
        open_index(path)

    seconds = best_seconds({"first": first, "mapped": lambda: open_index(path)}, REPEATS)
    checked, mapped = seconds["first"], seconds["mapped"]
    detail = f"{1e3 * checked:.0f} ms once a process, {1e3 * mapped:.2f} ms mapped, {path.stat().st_size / 1e6:.0f} MB"
    return Row("index of 1,000,000 samples, compared: mapped", checked / mapped, "-", detail)


def _writing(folder: Path, name: str) -> Row:
    size, count = MEMBERS[name]
    value = bytes(size)

    def ours() -> None:
        with (folder / "a.tar").open("wb") as file:
            writer = TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False, keep_meta=True)
            for number in range(count):
                writer.write({"__key__": f"{number:06d}", "jpg": value})
                writer.tarstream.members.clear()
            writer.close()

    def plain() -> None:
        with tarfile.open(folder / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for number in range(count):
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size, member.mode = size, 0o644
                tar.addfile(member, io.BytesIO(value))
                tar.members.clear()  # type: ignore[attr-defined]

    seconds = best_seconds({"ours": ours, "plain": plain}, REPEATS)
    theirs, own = seconds["ours"], seconds["plain"]
    same = (folder / "a.tar").read_bytes() == (folder / "b.tar").read_bytes()
    detail = (
        f"{1e6 * theirs / count:.0f} / {1e6 * own / count:.0f} µs a member, {'the same' if same else 'other'} bytes"
    )
    return Row(f"TarWriter, members of {name}: tarfile", theirs / own, "-", detail)


def rows() -> list[Row]:
    """One row for opening, one for each size of members."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        return [_opening(folder), *(_writing(folder, size) for size in MEMBERS)]


if __name__ == "__main__":
    print(table(rows()))
