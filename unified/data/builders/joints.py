"""Shards from tables of joints, one body a picture: DeepLabCut's CSV, a plain CSV, or a MATLAB table.

- DeepLabCut: header rows scorer, bodyparts, coords; then a row a picture: its path, in one column or in several, and
  x, y of each joint.
- plain: columns image, NAME_x, NAME_y and, if wanted, NAME_v (0 unlabelled, 1 occluded, 2 visible) for each joint.
- MATLAB (up to version 7): `images`, a cell array of n paths; `joints`, a cell array of j names; `points`, n × j × 2 or
  n × j × 3 with x, y and the same v. Coordinates as in the CSV: pixels from the left and top edge.

An empty cell, NaN, or −1 as both coordinates, is a joint without a label.
"""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat

from unified.core.errors import DataError
from unified.core.log import logger
from unified.data.builders import archives
from unified.data.builders.annotations import Picture, checked_point, flip_pairs, is_unlabelled, read_picture
from unified.data.builders.dense import Found, Options
from unified.data.builders.references import Reference, find_files
from unified.data.builders.rows import parse_table
from unified.data.builders.sources import BadSampleError, Files, Item, Problems, sample_key

SUFFIXES = (".csv", ".mat")
MAT_HEADER, MAT_TAG, MAT_COMPRESSED = 128, 8, 15  # bytes, and the type of a compressed variable
IMAGE = "image"
VISIBLE = "2"  # where a table does not say


class Row(NamedTuple):
    """A row of a table of joints; `cells`: x, y and v of each joint as texts."""

    where: str
    image: str
    cells: list[tuple[str, str, str]]


def find_joints(files: Files, problems: Problems, _: Options) -> Found:
    """The pictures that the table lists; those that it does not list are problems."""
    table = find_table(files, problems, SUFFIXES)
    joints, rows = read_mat(files, table) if table.lower().endswith(".mat") else read_csv(files, table, problems)
    if len(set(joints)) < len(joints) or not joints:
        raise DataError(
            f"{files.source}: {table}: expected joints of different names, found {', '.join(joints) or 'none'}"
        )
    images, items, used = files.images(), list[Item](), set[str]()
    found = find_files(images, [Reference(row.where, row.image, table) for row in rows])
    for row, image in zip(rows, found, strict=True):
        if isinstance(image, BadSampleError):
            problems.add(image.kind, str(image))
        else:
            used.add(image)
            items.append(_item(files, image, row, joints))
    for name in sorted(set(images) - used):
        problems.add("image without a row", name)
    flip = flip_pairs(joints)
    if not flip and len(joints) > 1:
        logger.info("%s: no joint has a partner on the other side; a mirrored image keeps their names", table)
    return Found(items, {"points": joints, "flip": flip})


def find_table(files: Files, problems: Problems, suffixes: Sequence[str]) -> str:
    """The table of a source: the file that was named, or the only one with such a suffix."""
    named = problems.source.name
    names = [name for name in files.names if name.lower().endswith(tuple(suffixes))]
    found = [named] if named in names else names
    if len(found) != 1:
        raise DataError(
            f"{problems.source}: expected one table ({', '.join(suffixes)}), found {', '.join(found) or 'none'}; "
            "name the table itself"
        )
    return found[0]


def read_csv(files: Files, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    """Joints and rows of a CSV in either layout; lines that are no rows are problems."""
    table = parse_table(files.source / name, io.BytesIO(files.read(name)))
    if not table.columns:
        raise DataError(f"{files.source}: {name}: empty")
    for kind, where in table.bad:
        problems.add(kind, f"{name}: {where}")
    lines = [[*table.columns], *([cell.strip() for cell in row.values] for row in table.rows)]
    numbers = [1, *(row.line for row in table.rows)]
    if lines[0][0] == "scorer":
        names, start = _deeplabcut(files, name, lines), 3
        path = slice(0, min(names, default=1))
    else:
        names, start = _plain(files, name, lines[0]), 1
        path = slice(lines[0].index(IMAGE), lines[0].index(IMAGE) + 1)
    joints = list(dict.fromkeys(joint for joint, _ in names.values()))
    column = {wanted: place for place, wanted in names.items()}
    missing = [f"{joint}_{axis}" for joint in joints for axis in "xy" if (joint, axis) not in column]
    if missing:
        raise DataError(f"{files.source}: {name}: no column for {', '.join(missing)}")
    rows = []
    for number, line in zip(numbers[start:], lines[start:], strict=True):
        if any(line):
            cells = [_cells(line, column, joint) for joint in joints]
            rows.append(Row(f"{name}:{number}", "/".join(part for part in line[path] if part), cells))
    return joints, rows


def _cells(line: Sequence[str], column: dict[tuple[str, str], int], joint: str) -> tuple[str, str, str]:
    visible = column.get((joint, "v"))
    return line[column[joint, "x"]], line[column[joint, "y"]], VISIBLE if visible is None else line[visible]


def _deeplabcut(files: Files, name: str, lines: Sequence[Sequence[str]]) -> dict[int, tuple[str, str]]:
    """Joint and axis of each column; before them the path stands in one column, or in several with bare headers."""
    heads = [line[0] if line else "" for line in lines[:3]]
    if heads != ["scorer", "bodyparts", "coords"]:
        raise DataError(
            f"{files.source}: {name}: expected the rows scorer, bodyparts, coords of one individual, found "
            f"{', '.join(heads)}"
        )
    titles = list(zip(*lines[:3], strict=False))
    first = next((place for place, title in enumerate(titles) if place and any(title)), len(titles))
    return {place: title[1:] for place, title in enumerate(titles) if place >= first}


def _plain(files: Files, name: str, header: Sequence[str]) -> dict[int, tuple[str, str]]:
    if IMAGE not in header:
        raise DataError(f"{files.source}: {name}: no column {IMAGE!r}; found {', '.join(header)}")
    names = {}
    for place, title in enumerate(header):
        joint, _, axis = title.rpartition("_")
        if title != IMAGE:
            if not joint or axis not in ("x", "y", "v"):
                raise DataError(f"{files.source}: {name}: column {title!r}: expected {IMAGE}, NAME_x, NAME_y or NAME_v")
            names[place] = joint, axis
    return names


def read_mat(files: Files, name: str) -> tuple[list[str], list[Row]]:
    """Joints and rows of a MATLAB table."""
    data = files.read(name)
    _check_unpacked(data, f"{files.source}: {name}")
    try:
        table = loadmat(io.BytesIO(data), simplify_cells=True)
    except Exception as error:  # scipy raises many kinds on broken files
        raise DataError(f"{files.source}: {name}: {error}; save it with -v7") from error
    missing = [key for key in ("images", "joints", "points") if key not in table]
    if missing:
        raise DataError(f"{files.source}: {name}: no variable {', '.join(missing)}")
    images, joints = _texts(table["images"]), _texts(table["joints"])
    points = np.asarray(table["points"], dtype=np.float64).reshape(len(images), -1, np.shape(table["points"])[-1])
    if points.shape[1] != len(joints) or points.shape[2] not in (2, 3):
        raise DataError(
            f"{files.source}: {name}: points of {points.shape}, expected {len(images)} images × {len(joints)} joints "
            "× 2 or 3"
        )
    rows = [
        Row(f"{name}: row {number}", image, [_texts_of(point) for point in body])
        for number, (image, body) in enumerate(zip(images, points, strict=True), start=1)
    ]
    return joints, rows


def _check_unpacked(data: bytes, where: str) -> None:
    """Refuse variables that would take gigabytes; MATLAB compresses each by itself (MAT-File Format, level 5)."""
    start, total = MAT_HEADER, 0
    while start + MAT_TAG <= len(data):
        kind, size = struct.unpack_from("<II", data, start)
        start += MAT_TAG
        if kind == MAT_COMPRESSED:
            unpacker = zlib.decompressobj()
            rest = data[start : start + size]
            while rest and total <= archives.MOST_BYTES:
                try:
                    total += len(unpacker.decompress(rest, 1 << 20))
                except zlib.error:
                    break  # reading it tells so
                rest = unpacker.unconsumed_tail
        if total > archives.MOST_BYTES:
            raise DataError(f"{where}: expected at most {archives.MOST_BYTES:,} bytes of variables, got more")
        start += size


def _texts(value: Any) -> list[str]:
    """The texts of a cell array, or of a matrix of characters."""
    return [str(item).strip() for item in np.atleast_1d(value).ravel()]


def _texts_of(point: Sequence[float]) -> tuple[str, str, str]:
    return str(point[0]), str(point[1]), str(point[2]) if len(point) == 3 else VISIBLE


def _item(files: Files, image: str, row: Row, joints: Sequence[str]) -> Item:
    def load() -> dict[str, Any]:
        picture = read_picture(files, image)
        found = {
            joint: _point(f"{row.where}: {joint}", cells, picture)
            for joint, cells in zip(joints, row.cells, strict=True)
        }
        return picture.columns(points={joint: point for joint, point in found.items() if point})

    return Item(sample_key(PurePosixPath(image).as_posix()), f"{row.where} ({image})", load)


def _point(where: str, cells: tuple[str, str, str], picture: Picture) -> list[float] | None:
    """[x, y, v], or None without a label."""
    try:
        x, y, visible = (float(cell) if cell.strip() else math.nan for cell in cells)
    except ValueError:
        raise BadSampleError("wrong joint", f"{where}: expected numbers, found {', '.join(cells)}") from None
    if is_unlabelled(x, y, visible):
        return None
    return checked_point(where, x, y, visible, picture)
