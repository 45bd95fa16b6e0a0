"""Shards from a table: CSV, TSV or JSON lines, with a mapping from its columns to those of the samples."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unified.config import nearest
from unified.data.build.dense import Options
from unified.data.build.held_out import ORDERS, check_order, split_items, write_parts
from unified.data.build.sources import BadSampleError, Item, Problems, picture
from unified.types import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl")
TARGETS = ("path", "txt", "cls", "json")
EXAMPLE = "--columns image=path,caption=txt"


def build_table(source: Path, out: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Pack the rows of a table; returns one manifest under "", or those of "train" and "test".

    `options.columns` says what becomes of a table's column: "path" names a picture, relative to the table, whose bytes
    are kept under their suffix; "txt" and "cls" are stored as such; all "json" columns go into one JSON object.
    `options.held_out` parts the rows of each class; a column that `held_out_by` names keeps rows of equal values
    together.
    """
    columns = parse_columns(options.columns)
    problems = Problems(source, options.skip_bad)
    items, rows = [], {}
    for number, row in enumerate(read_rows(source), start=1):
        if number == 1:
            _check_columns(source, columns, row)
            check_order(options.held_out_by, [str(name) for name in row if name is not None])
        items.append(_item(source, number, row, columns))
        rows[items[-1].key] = row
    classes = groups = None
    if options.held_out is not None:
        of_class = next((name for name, target in columns.items() if target == "cls"), None)
        classes = None if of_class is None else {key: _value(row, of_class) for key, row in rows.items()}
        by = options.held_out_by
        groups = None if by in ORDERS else {key: _value(row, by) or key for key, row in rows.items()}
    parts = split_items(source, items, options, classes, groups)
    return write_parts("table", source, out, parts, problems, options, "rows", {"mapping": dict(columns)})


def _value(row: Mapping[str, Any], column: str) -> str:
    """A cell as its class or group is told: equal but for the white space around it."""
    return str("" if row.get(column) is None else row[column]).strip()


def parse_columns(text: str | None) -> dict[str, str]:
    """The mapping in "image=path,caption=txt"."""
    if not text:
        raise DataError(f"a table needs its columns named, for example {EXAMPLE}")
    mapping = {}
    for part in text.split(","):
        name, equals, target = part.strip().partition("=")
        if not equals or not name or target not in TARGETS:
            raise DataError(f"columns: {part!r} does not fit{nearest(target, TARGETS)}. An example: {EXAMPLE}")
        mapping[name] = target
    for target in ("path", "txt", "cls"):
        if list(mapping.values()).count(target) > 1:
            raise DataError(f"columns: two columns become {target!r}; a sample has one. Use json for further facts")
    return mapping


def read_rows(source: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table by column name. Raises `DataError` where it cannot be read as its suffix says."""
    if source.suffix.lower() not in SUFFIXES:
        raise DataError(f"{source}: expected a table with the suffix {', '.join(SUFFIXES)}")
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            if source.suffix.lower() == ".jsonl":
                yield from _json_rows(source, file)
            else:
                yield from csv.DictReader(file, delimiter="\t" if source.suffix.lower() == ".tsv" else ",")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source}: not a readable table ({error})") from error


def _json_rows(source: Path, lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{source}:{number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{source}:{number}: expected an object, found {type(row).__name__}")
            yield row


def _check_columns(source: Path, columns: Mapping[str, str], row: Mapping[str, Any]) -> None:
    for name in columns:
        if name not in row:
            raise DataError(f"{source}: no column {name!r}{nearest(name, [str(known) for known in row])}")


def _item(source: Path, number: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Item:
    place = f"row {number}"

    def load() -> dict[str, Any]:
        sample: dict[str, Any] = {}
        for name, target in columns.items():
            value = row.get(name)
            if target == "json":
                sample.setdefault("json", {})[name] = value
            elif value is None or not str(value).strip():
                kind = {"txt": "missing caption", "path": "missing image", "cls": "missing class"}[target]
                raise BadSampleError(kind, f"{place}: column {name!r} is empty")
            elif target == "path":
                sample |= [_picture(source, place, str(value).strip())]
            else:
                sample[target] = str(value).strip() if target == "txt" else _class_number(place, name, value)
        return sample

    return Item(f"{number:08d}", place, load)


def _picture(source: Path, place: str, name: str) -> tuple[str, bytes]:
    try:
        data = (source.parent / name).read_bytes()
    except OSError as error:
        raise BadSampleError("missing image", f"{place}: {name}: {error.strerror}") from error
    return picture(data, name, f"{source}: {place}")


def _class_number(place: str, name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BadSampleError("class is no whole number", f"{place}: column {name!r}: {value!r}") from None
