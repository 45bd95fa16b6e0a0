"""Rows of tables: one rule of quotes, rows that are none, and values that are no text."""

import json
from pathlib import Path
from typing import Any

import pytest

from unified.core.errors import DataError
from unified.data.builders.dense import Options
from unified.data.builders.rows import Table, read_table
from unified.data.commands import shards as commands
from unified.data.shards.shards import Shards


def table(folder: Path, name: str, text: str | bytes) -> Table:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(folder / name)


def cells(found: Table) -> list[list[Any]]:
    return [list(row.cells.values()) for row in found.rows]


def build(path: Path, columns: str, **options: Any) -> list[dict[str, Any]]:
    """The samples of a table, in the order of its rows."""
    out = path.with_suffix(".out")
    commands.build(str(path), out, kind="table", options=Options(columns=columns, **options))
    shards = Shards.open(out)
    return sorted((shards[number] for number in range(len(shards))), key=lambda raw: raw["__key__"])


def test_quotes_of_csv(tmp_path: Path) -> None:
    text = (
        'image, caption ,n\r\n0.png, "a ""red"" car, parked" ,1\r\n1.png,"two\r\nlines, of text",2\n 2.png , 5" wide,3'
    )
    found = table(tmp_path, "t.csv", text)
    assert found.columns == ("image", "caption", "n")
    assert cells(found) == [
        ["0.png", 'a "red" car, parked', "1"],
        ["1.png", "two\nlines, of text", "2"],
        ["2.png", '5" wide', "3"],
    ]
    assert found.bad == []


def test_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    found = table(tmp_path, "t.csv", "\ufeffa,b\rx\x0cy,1\n\n\u2028,2\r\n")
    assert cells(found) == [["x\x0cy", "1"], ["\u2028", "2"]]


@pytest.mark.parametrize("opening", ['"hello said the man', '"hello" said the man', '"', '"say ""hi'])
@pytest.mark.parametrize("again", ["two dogs", '"two dogs', '"two" dogs', 'two "dogs"'])
def test_a_quote_that_nobody_closes_takes_no_other_row(tmp_path: Path, opening: str, again: str) -> None:
    """Whether or not another line seems to close it."""
    texts = ["a red car", opening, again, "snow"]
    lines = [f"{number}.png,{text},{number}" for number, text in enumerate(texts)]
    found = table(tmp_path, "t.csv", "\n".join(["image,caption,n", *lines, ""]))
    wrong = [text for text in (opening, again) if text.startswith('"')]
    assert [row.cells["caption"] for row in found.rows] == [text for text in texts if text not in wrong]
    assert [kind for kind, _ in found.bad] == ["unclosed quote"] * len(wrong)
    assert found.bad[0][1].startswith("row 2 (line 3): expected a quotation mark at the end of cell 2")
    tsv = table(tmp_path, "t.tsv", "\n".join(["image\tcaption\tn", *(line.replace(",", "\t") for line in lines)]))
    assert [row.cells["caption"] for row in tsv.rows] == texts
    assert tsv.bad == []


def test_quoted_cells_of_tsv_are_read_as_of_csv(tmp_path: Path) -> None:
    found = table(tmp_path, "t.tsv", 'image\tcaption\n0.png\t"two\n""lines"""\n1.png\t "x" \n2.png\t"a\tb"\n')
    assert [row.cells["caption"] for row in found.rows] == ['two\n"lines"', "x", "a\tb"]


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    found = table(tmp_path, "t.csv", 'caption\nrain\n"hello\nsnow\n')
    assert cells(found) == [["rain"], ["snow"]]
    assert found.bad[0][1].startswith("row 2 (line 3)")


def test_rows_of_another_length(tmp_path: Path) -> None:
    found = table(tmp_path, "t.csv", 'image,caption\n0.png,a red car, parked\n1.png,"a dog, sitting"\n2.png\n')
    assert cells(found) == [["1.png", "a dog, sitting"]]
    assert [where.partition(".")[0] for _, where in found.bad] == [
        "row 1 (line 2): expected 2 cells, got 3",
        "row 3 (line 4): expected 2 cells, got 1",
    ]


def test_rows_that_are_not_utf_8(tmp_path: Path) -> None:
    found = table(tmp_path, "t.csv", "a\ncafé\n".encode("latin-1") + b"tea\n")
    assert cells(found) == [["tea"]]
    assert "line 2: expected text in UTF-8, got b'\\xe9' at byte 3" in found.bad[0][1]
    with pytest.raises(DataError, match=r"t\.csv: line 1: expected text in UTF-8, got UTF-16"):
        table(tmp_path, "t.csv", "a\nb\n".encode("utf-16"))


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    lines = ['{"a": 1}', "", "[1]", '{"a": ', '{"a": 1, "a ": 2}', "[" * 100_000, '{" b": 2}', '{"a": "\\ud83d"}']
    found = table(tmp_path, "t.jsonl", "\n".join(lines))
    assert [row.cells for row in found.rows] == [{"a": 1}, {"b": 2}, {"a": "\ud83d"}]
    assert [row.number for row in found.rows] == [1, 6, 7]
    assert found.columns == ("a", "b")
    assert [where.partition(":")[0] for _, where in found.bad] == [f"row {n} (line {n + 1})" for n in (2, 3, 4, 5)]
    assert "comes twice" in found.bad[2][1]


def test_a_column_that_comes_twice_is_refused_where_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("caption,n,n\nrain,1,2\n")
    assert [raw["txt"] for raw in build(tmp_path / "t.csv", "caption=txt")] == [b"rain"]
    with pytest.raises(DataError, match="expected one column 'n', got 2"):
        build(tmp_path / "t.csv", "caption=txt,n=json")


@pytest.mark.parametrize(
    "value", [["a red car"], {"en": "a dog"}, True, False, float("nan"), 2.7, 7, None, " ", "x\ud83d", "\udce9"]
)
def test_captions_that_are_no_text(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"c": {json.dumps(value)}}}\n{{"c": "rain"}}\n')
    with pytest.raises(DataError, match="row 1: column 'c'"):
        build(path, "c=txt")
    assert [raw["txt"] for raw in build(path, "c=txt", skip_bad=True)] == [b"rain"]


@pytest.mark.parametrize("value", [2.7, True, "2.7", "two", "1_000", "٣", -1, "-1", [3], float("nan"), "3.1", ""])
def test_classes_that_are_no_whole_number(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"c": "x", "y": {json.dumps(value)}}}\n{{"c": "x", "y": 3}}\n')
    with pytest.raises(DataError, match="row 1: column 'y'"):
        build(path, "c=txt,y=cls")
    assert [raw["cls"] for raw in build(path, "c=txt,y=cls", skip_bad=True)] == [b"3"]


def test_whole_numbers_of_spreadsheets(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("c,y\nx,3.0\nx, 04 \nx,+5\n")
    assert [raw["cls"] for raw in build(tmp_path / "t.csv", "c=txt,y=cls")] == [b"3", b"4", b"5"]


def test_json_of_lone_surrogates_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"c": "a", "m": {"k": ["\\ud83d"]}}\n{"c": "b", "m": "\\ud83d\\ude00"}\n')
    (kept,) = build(path, "c=txt,m=json", skip_bad=True)
    assert kept["json"] == '{"m": "😀"}'.encode()
    skipped = json.loads((tmp_path / "t.out" / "manifest.json").read_text())["skipped"]
    assert skipped == [
        r"text that is no Unicode: row 1: json.m.k: expected Unicode text, got the lone surrogate '\ud83d' in "
        r"'\ud83d'. Hint: write both halves of the character, or leave it out"
    ]


def test_a_header_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv: the names of columns, line 1: expected a quotation mark"):
        table(tmp_path, "t.csv", '"image,caption\n0.png,x\n')
