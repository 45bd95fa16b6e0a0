"""Shards from a table: CSV, TSV or JSON lines, with a mapping from its columns to those of the samples."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified.core.errors import DataError, nearest
from unified.core.folders import FileFinder
from unified.core.text_files import check_text
from unified.data.builders.dense import Options
from unified.data.builders.held_out import ORDERS, check_order, split_items, write_parts
from unified.data.builders.rows import Row, read_table
from unified.data.builders.sources import BadSampleError, Item, Problems, picture, read_file

TARGETS = ("path", "txt", "cls", "json")
EXAMPLE = "--columns image=path,caption=txt"
_WHOLE = re.compile(r"\+?([0-9]+)(\.0*)?")


def build_table(source: Path, out: Path, options: Options) -> dict[str, dict[str, Any]]:
    """Pack the rows of a table; returns one manifest under "", or those of "train" and "test".

    `options.columns` says what becomes of a table's column: "path" names a picture, relative to the table, whose bytes
    are kept under their suffix; "txt" and "cls" are stored as such; all "json" columns go into one JSON object.
    Rows that do not fit are problems that name them: other numbers of cells, quotes that nobody closed, values that are
    no text where a text is wanted. `options.held_out` parts the rows of each class; a column that `held_out_by` names
    keeps rows of equal values together.
    """
    columns = parse_columns(options.columns)
    problems = Problems(source, options.skip_bad)
    table = read_table(source)
    by = options.held_out_by
    if table.rows:
        check_order(by, table.columns)
    table.check_columns([*columns, *({by} - {*ORDERS})])
    for kind, where in table.bad:
        problems.add(kind, where)
    finder = FileFinder(source.parent)
    items = [_item(source, finder, row, columns) for row in table.rows]
    rows = {item.key: row.cells for item, row in zip(items, table.rows, strict=True)}
    classes = groups = None
    if options.held_out is not None:
        of_class = next((name for name, target in columns.items() if target == "cls"), None)
        classes = None if of_class is None else {key: _value(row, of_class) for key, row in rows.items()}
        groups = None if by in ORDERS else {key: _value(row, by) or key for key, row in rows.items()}
    parts = split_items(source, items, options, classes, groups)
    return write_parts("table", source, out, parts, problems, options, "rows", {"mapping": dict(columns)})


def _value(row: Mapping[str, Any], column: str) -> str:
    """A cell as its class or group is told: equal but for the white space around it, and for the zeros of 3.0."""
    text = str("" if row.get(column) is None else row[column]).strip()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text


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


def _item(source: Path, finder: FileFinder, row: Row, columns: Mapping[str, str]) -> Item:
    place = f"row {row.number}"

    def load() -> dict[str, Any]:
        sample: dict[str, Any] = {}
        for name, target in columns.items():
            value, where = row.cells.get(name), f"{place}: column {name!r}"
            if target == "json":
                sample.setdefault("json", {})[name] = value
            elif value is None or not str(value).strip():
                kind = {"txt": "missing caption", "path": "missing image", "cls": "missing class"}[target]
                raise BadSampleError(kind, f"{where} is empty")
            elif target == "cls":
                sample[target] = _class_number(where, value)
            else:
                text = _text(where, value, target)
                sample |= [_picture(source, finder, place, text)] if target == "path" else [(target, text)]
        return sample

    return Item(f"{row.number:08d}", place, load)


def _text(where: str, value: Any, target: str) -> str:
    """A text without the white space around it; raises `BadSampleError` for other values and for lone surrogates."""
    what = {"txt": "caption", "path": "path"}[target]
    if not isinstance(value, str):
        raise BadSampleError(f"{what} is no text", f"{where}: expected a text, got {json.dumps(value)[:80]}")
    try:
        return check_text(value.strip(), where)
    except DataError as error:
        raise BadSampleError("text that is no Unicode", str(error)) from error


def _picture(source: Path, finder: FileFinder, place: str, name: str) -> tuple[str, bytes]:
    try:
        file = finder.find(name)
        data = read_file(file)
    except BadSampleError as error:
        raise BadSampleError(error.kind, f"{place}: {error}") from error
    except DataError as error:
        raise BadSampleError("missing image", f"{place}: {error}") from error
    except OSError as error:
        raise BadSampleError("missing image", f"{place}: {name}: {error.strerror}") from error
    return picture(data, file.name, f"{source}: {place}")


def _class_number(where: str, value: Any) -> int:
    """A whole number from 0, which may be written with zeros behind a point, as spreadsheets do."""
    if isinstance(value, int | str | float) and not isinstance(value, bool):
        found = _WHOLE.fullmatch(str(value).strip())
        if found:
            return int(found[1])
    raise BadSampleError(
        "class is no whole number", f"{where}: expected a whole number from 0, got {json.dumps(value)[:80]}"
    )
