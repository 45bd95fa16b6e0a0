"""Shards from tables of attributes: columns of 1, 0 and -1, or of categories, and who or what is in the picture."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.core.errors import DataError, nearest
from unified.data.builders.annotations import read_picture
from unified.data.builders.dense import Found, Options
from unified.data.builders.joints import find_table
from unified.data.builders.references import Reference, find_files
from unified.data.builders.rows import read_table
from unified.data.builders.sources import BadSampleError, Files, Item, Problems, sample_key

SUFFIXES = (".csv", ".tsv")
TARGETS = ("path", "attribute", "identity")
EXAMPLE = "--columns file=path,gender=attribute,person=identity"
BINARY = {"1": 1, "0": 0, "-1": -1, "": -1}
_SEPARATOR = re.compile(r"[+|]")


def find_attributes(files: Files, problems: Problems, options: Options) -> Found:
    """The pictures of a table, in its folder or in the one zip there.

    A column of 1, 0, -1 and nothing is one attribute; -1 and nothing mean unknown, but -1 means 0 in a table that has
    no 0 at all, as in CelebA. Any other column is one attribute a value ("gender: male"), 1 for the row's value, 0 for
    the others, and unknown for all where the cell is empty; a cell "a+b" or "a|b" has both, if both occur alone.
    """
    name = find_table(files, problems, SUFFIXES)
    table = read_table(files.source / name)
    table.check_columns(table.columns)
    for kind, where in table.bad:
        problems.add(kind, f"{name}: {where}")
    rows = [row.cells for row in table.rows]
    if not rows:
        raise DataError(f"{problems.source}: no rows")
    path, columns, identity = _columns(problems.source, table.columns, options.columns)
    cells = {column: [str(row.get(column) or "").strip() for row in rows] for column in columns}
    binary = {column for column in columns if set(cells[column]) <= set(BINARY)}
    if options.columns is None and set(columns) - binary:
        other = ", ".join(sorted(set(columns) - binary)[:3])
        raise DataError(f"{problems.source}: not of 1, 0 and -1: {other}. Say which are categories: {EXAMPLE}")
    minus = _minus(cells[column] for column in binary)
    values = {column: _values(cells[column]) for column in columns if column not in binary}
    attributes = [
        one
        for column in columns
        for one in ([column] if column in binary else [_named(column, v) for v in values[column]])
    ]
    pictures = _pictures(files)
    items, identities, said = list[Item](), dict[str, str](), dict[str, Mapping[str, int]]()
    references = [
        Reference(
            f"{name}: row {row.number}", str(row.cells.get(path) or "").strip(), name if pictures is files else ""
        )
        for row in table.rows
    ]
    images = find_files(pictures.images(), references)
    for number, (row, image) in enumerate(zip(rows, images, strict=True)):
        where = references[number].where
        try:
            if isinstance(image, BadSampleError):
                raise image
            facts = _facts({column: cells[column][number] for column in columns}, values, minus)
            key = sample_key(image)
            said.setdefault(key, facts["attributes"])
            if identity:
                facts["identity"] = _identity(where, row.get(identity))
                identities.setdefault(key, facts["identity"])
        except BadSampleError as error:
            problems.add(error.kind, str(error))
        else:
            items.append(_item(pictures, image, key, f"{where} ({image})", facts))
    return Found(items, {"attributes": attributes}, identities, said, pictures)


def _columns(source: Path, header: Sequence[str], text: str | None) -> tuple[str, list[str], str | None]:
    """The column of the picture, those of attributes, and that of the identity."""
    if text is None:
        identity = "identity" if "identity" in header[1:] else None
        return header[0], [name for name in header[1:] if name != identity], identity
    targets: dict[str, str] = {}
    for part in text.split(","):
        name, _, target = part.strip().partition("=")
        if target not in TARGETS:
            raise DataError(f"columns: {part!r} does not fit{nearest(target, TARGETS)}. An example: {EXAMPLE}")
        if name not in header:
            raise DataError(f"{source}: no column {name!r}{nearest(name, header)}")
        targets[name] = target
    paths, identities = ([name for name in targets if targets[name] == wanted] for wanted in ("path", "identity"))
    if len(paths) != 1 or len(identities) > 1:
        raise DataError(f"columns: expected one path and at most one identity. An example: {EXAMPLE}")
    return paths[0], [name for name in targets if targets[name] == "attribute"], next(iter(identities), None)


def _minus(columns: Any) -> int:
    """What -1 means in this table: unknown, or 0 where it never says 0."""
    used = {cell for column in columns for cell in column}
    return 0 if "-1" in used and "0" not in used else -1


def _values(cells: Sequence[str]) -> list[str]:
    """The different values of a column of categories."""
    alone = set(cells)
    return sorted({part for cell in alone if cell for part in _parts(cell, alone)})


def _parts(cell: str, alone: set[str] | Sequence[str]) -> list[str]:
    parts = _SEPARATOR.split(cell)
    return parts if all(part and part in alone for part in parts) else [cell]


def _named(column: str, value: str) -> str:
    return f"{column}: {value}"


def _facts(found: Mapping[str, str], values: Mapping[str, Sequence[str]], minus: int) -> dict[str, Any]:
    made: dict[str, int] = {}
    for column, cell in found.items():
        if column not in values:
            made[column] = minus if cell == "-1" else BINARY[cell]
        elif not cell:
            made |= {_named(column, value): -1 for value in values[column]}
        else:
            parts = _parts(cell, values[column])
            made |= {_named(column, value): int(value in parts) for value in values[column]}
    return {"attributes": made}


def _identity(where: str, value: Any) -> str:
    text = str(value or "").strip()
    if not text:
        raise BadSampleError("missing identity", where)
    return text


def _pictures(files: Files) -> Files:
    """The source itself, or the one zip in it where there are no pictures beside the table."""
    zips = [name for name in files.names if name.lower().endswith(".zip")]
    if files.images() or len(zips) != 1:
        return files
    return Files(files.source / zips[0])


def _item(pictures: Files, image: str, key: str, where: str, facts: Mapping[str, Any]) -> Item:
    def load() -> dict[str, Any]:
        return read_picture(pictures, image).columns(**facts)

    return Item(key, where, load)
