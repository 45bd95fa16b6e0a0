r"""Rows of CSV, TSV and JSON lines by one rule of quotes; a line that is no row is told, and takes no other with it.

CSV is that of RFC 4180: a cell that begins with a quotation mark ends with one, and doubles those inside. Spaces around
cells are no part of them. TSV is read alike, but a cell there whose marks do not fit is taken as it is written. A cell
of several lines is one only where none of them would be a row: else its first mark is one that nobody closed.
"""

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from unified.core.errors import DataError, nearest
from unified.core.text_files import decode_text, shown_text, split_lines
from unified.modalities.image.formats import IMAGE_ENDINGS

SUFFIXES = (".csv", ".tsv", ".jsonl")
MOST_BYTES = 1 << 25
"""Of a line."""
MOST_LINES = 200
"""Lines of one cell; a mark that is not closed by then never is."""
NOT_QUOTED, LENGTH, NOT_JSON, NOT_UTF_8 = "unclosed quote", "row of another length", "row that is no JSON", "no UTF-8"
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"(?!")')
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


@dataclass(frozen=True)
class Row:
    """One row, counted from 1, and its cells by column."""

    number: int
    cells: Mapping[str, Any]
    line: int = 0
    values: tuple[str, ...] = ()
    """The cells of CSV and TSV in order: columns may be of one name."""


@dataclass
class Table:
    """The rows of a table, and the lines that are none."""

    source: Path
    columns: tuple[str, ...] = ()
    """As the header names them, or all keys of JSON lines; without spaces around."""
    rows: list[Row] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    """The kind of trouble, and where and what it is."""

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise `DataError` unless the table has each of these columns, and once."""
        for name in names:
            if name not in self.columns and (self.columns or self.rows):
                raise DataError(f"{self.source}: no column {name!r}{nearest(name, self.columns)}")
            if (count := self.columns.count(name)) > 1:
                raise DataError(
                    f"{self.source}: expected one column {name!r}, got {count}. Hint: rename them, so that it is plain "
                    "which is meant"
                )


@dataclass(frozen=True)
class _Line:
    number: int
    text: str
    error: str | None = None  # what is wrong with its bytes


class _QuoteError(Exception):
    """A cell begins with a quotation mark that is not closed, or closed before the end of the cell."""

    def __init__(self, before: list[str], *, closed: bool) -> None:
        super().__init__()
        self.before, self.closed = before, closed


def read_table(source: Path) -> Table:
    """Read a table as its suffix says; raise `DataError` where it has another suffix, or a header that is none."""
    suffix = source.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{source}: expected a table with the suffix {', '.join(SUFFIXES)}")
    if source.exists() and not source.is_file():
        raise DataError(f"{source}: expected a table, got a folder, a device or a pipe")
    try:
        with source.open("rb") as file:
            return parse_table(source, file)
    except OSError as error:
        raise DataError(f"{source}: not a readable table ({error})") from error


def parse_table(source: Path, file: IO[bytes]) -> Table:
    """Return the table in an opened file, as `read_table` does.

    Args:
        source: What errors name; its suffix says what kind of table it is.
        file: Its bytes.
    """
    table, suffix = Table(source), source.suffix.lower()
    lines = _lines(source, file)
    if suffix == ".jsonl":
        _read_json(table, lines)
    else:
        _Cells(table, lines, "\t" if suffix == ".tsv" else ",").read()
    return table


def _lines(source: Path, file: IO[bytes]) -> Iterator[_Line]:
    number = 0
    while data := file.readline(MOST_BYTES):
        if len(data) == MOST_BYTES:
            raise DataError(f"{source}: line {number + 1}: expected at most {MOST_BYTES:,} bytes, got more")
        try:
            texts, error = split_lines(decode_text(data, f"{source}: line {number + 1}")), None
        except DataError as caught:
            texts, error = [""], str(caught)
        for text in texts:
            number += 1
            yield _Line(number, text, error)


def _read_json(table: Table, lines: Iterator[_Line]) -> None:
    columns: dict[str, None] = {}
    number = 0
    for line in lines:
        if not line.text.strip() and line.error is None:
            continue
        number += 1
        where = f"row {number} (line {line.number})"
        if line.error is not None:
            table.bad.append((NOT_UTF_8, f"row {number}: {line.error}"))
            continue
        try:
            cells = json.loads(line.text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            table.bad.append((NOT_JSON, f"{where}: expected an object of JSON, got {shown_text(line.text)} ({error})"))
            continue
        if not isinstance(cells, dict):
            table.bad.append((NOT_JSON, f"{where}: expected an object of JSON, found {type(cells).__name__}"))
            continue
        columns |= dict.fromkeys(cells)
        table.rows.append(Row(number, cells))
    table.columns = tuple(columns)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose keys lose the spaces around them; a `ValueError` where one comes twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name.strip() in found:
            raise ValueError(f"the key {name.strip()!r} comes twice")
        found[name.strip()] = value
    return found


class _Cells:
    """Reads the lines of a table whose cells stand between delimiters."""

    def __init__(self, table: Table, lines: Iterator[_Line], delimiter: str) -> None:
        self.table, self.delimiter = table, delimiter
        self.literal = delimiter == "\t"  # whether cells whose quotes do not fit are taken as they are written
        self._lines, self._again = lines, deque[_Line]()
        self._before: list[str] = []  # the row before

    def read(self) -> None:
        """Fill the table."""
        number = 0
        while (line := self._next()) is not None:
            if not line.text.strip() and line.error is None:
                continue
            first = not self.table.columns
            number += not first
            found = self._record(line)
            if isinstance(found, list) and first:
                self.table.columns = tuple(cell.strip() for cell in found)
            elif isinstance(found, list) and len(found) == len(self.table.columns):
                cells = dict(zip(self.table.columns, found, strict=True))
                self.table.rows.append(Row(number, cells, line.number, tuple(found)))
                self._before = found
            elif first:
                raise DataError(f"{self.table.source}: the names of columns, line {line.number}: {found}")
            elif isinstance(found, list):
                quotes = ". Hint: put cells with commas between quotation marks" if self.delimiter == "," else ""
                wanted = len(self.table.columns)
                what = f"expected {wanted} cells, got {len(found)}{quotes}"
                self.table.bad.append((LENGTH, f"row {number} (line {line.number}): {what}"))
            else:
                kind = NOT_QUOTED if line.error is None else NOT_UTF_8
                self.table.bad.append((kind, f"row {number} (line {line.number}): {found}"))

    def _next(self) -> _Line | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _record(self, line: _Line) -> list[str] | str:
        """The cells that begin on a line, or what is wrong with it; lines that are not theirs come again."""
        if line.error is not None:
            return line.error
        try:
            return self._split(line.text)
        except _QuoteError as error:
            joined = None if error.closed else self._joined(line, error.before)
            if joined is not None:
                return joined
            if self.literal:
                return line.text.split(self.delimiter)
            after = "text after the one that closes it" if error.closed else "none that closes it"
            return (
                f"expected a quotation mark at the end of cell {len(error.before) + 1}, which begins with one, got "
                f"{after}: {shown_text(line.text)}. Hint: double the marks inside of the cell"
            )

    def _joined(self, line: _Line, before: Sequence[str]) -> list[str] | None:
        """The cells of several lines, where a quote that one opens is closed on another and none is a row itself."""
        taken: list[_Line] = []
        text = line.text
        like = self._before or [*before]
        while (more := self._next()) is not None:
            taken.append(more)
            text += f"\n{more.text}"
            if more.error is not None or len(taken) >= MOST_LINES or self._is_row(more.text, like):
                break
            try:
                return self._split(text)
            except _QuoteError as error:
                if error.closed:
                    break
        self._again.extendleft(reversed(taken))
        return None

    def _is_row(self, text: str, like: Sequence[str]) -> bool:
        """Whether a line has as many cells as a row, with images and numbers where the row before has them."""
        try:
            cells = self._split(text)
            if len(cells) != len(self.table.columns):
                return False
        except _QuoteError as error:
            cells = error.before
        told = [(_kind(old), _kind(new)) for old, new in zip(like, cells, strict=False) if _kind(old)]
        return bool(told) and all(old == new for old, new in told)

    def _split(self, text: str) -> list[str]:
        if '"' not in text:
            return text.split(self.delimiter) if self.literal else [cell.strip(" ") for cell in text.split(",")]
        cells: list[str] = []
        start = 0
        while True:
            skipped = len(text) - len(text[start:].lstrip(" "))
            if text[skipped : skipped + 1] == '"':
                quoted = _QUOTED.match(text, skipped)
                if quoted is None:
                    raise _QuoteError(cells, closed=False)
                end = quoted.end() + len(text[quoted.end() :]) - len(text[quoted.end() :].lstrip(" "))
                if text[end : end + 1] not in ("", self.delimiter):
                    raise _QuoteError(cells, closed=True)
                cells.append(quoted[1].replace('""', '"'))
            else:
                end = text.find(self.delimiter, start)
                end = len(text) if end < 0 else end
                cells.append(text[start:end] if self.literal else text[start:end].strip(" "))
            if end >= len(text):
                return cells
            start = end + 1


def _kind(cell: str) -> str:
    """What a cell is by its look; empty for other texts."""
    if PurePosixPath(cell.strip()).suffix.lower().removeprefix(".") in IMAGE_ENDINGS:
        return "image"
    return "number" if _NUMBER.fullmatch(cell.strip()) else ""
