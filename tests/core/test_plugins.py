import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from unified.core.errors import UserError
from unified.core.plugins import Table


@dataclass(frozen=True)
class Row:
    name: str
    value: int = 0


BUILT_IN = Row("image", 1)
ROW = "from types import SimpleNamespace as Row\nROW = Row(name='{name}')\n"


def distribution(folder: Path, name: str, points: dict[str, str], **modules: str) -> None:
    """Write a distribution as it lies in site-packages, with modules beside it."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"{point} = {value}" for point, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[unified.rows]", *lines]) + "\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name in ("rows_of_a", "rows_of_b", "rows_that_raise", "rows_elsewhere"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield folder
    for name in ("rows_of_a", "rows_of_b", "rows_that_raise", "rows_elsewhere"):
        sys.modules.pop(name, None)


def table(kind: type | None = None) -> Table[Row]:
    return Table("unified.rows", "row", [BUILT_IN, Row("text")], kind)


def test_rows_of_the_package_alone_are_a_plain_mapping() -> None:
    rows = table()
    assert dict(rows) == {"image": BUILT_IN, "text": Row("text")}
    assert len(rows) == 2
    assert rows.get("sound") is None
    assert "sound" not in rows
    with pytest.raises(KeyError):
        rows["sound"]


def test_a_name_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(UserError, match=r"recipe.yaml: expected a row, got 'imag'; did you mean 'image'\?.*text"):
        table().find("imag", "recipe.yaml")


def test_a_package_is_imported_when_its_row_is_used(packages: Path) -> None:
    rows = table()
    distribution(packages, "series", {"series": "rows_of_a:ROW"}, rows_of_a=ROW.format(name="series"))

    sys.path.insert(0, str(packages / "more"))  # what is added later is seen
    assert rows["image"] is BUILT_IN
    assert "series" in rows
    assert rows.known() == ["image", "text", "series"]
    assert "rows_of_a" not in sys.modules
    assert rows["series"].name == "series"
    assert rows["series"] is rows["series"]
    assert list(rows) == ["image", "text", "series"]


def test_a_module_that_raises_is_named_and_the_rest_works(packages: Path, caplog: pytest.LogCaptureFixture) -> None:
    distribution(packages, "broken", {"bad": "rows_that_raise:ROW"}, rows_that_raise="raise OSError('no driver')\n")
    distribution(packages, "series", {"series": "rows_of_a:ROW"}, rows_of_a=ROW.format(name="series"))
    rows = table()
    with caplog.at_level(logging.WARNING, logger="unified"):
        assert list(rows) == ["image", "text", "series"]
    assert [record.getMessage() for record in caplog.records] == [
        "left out: unified.rows: bad = rows_that_raise:ROW of broken 1.2: expected a row that can be imported, "
        "got OSError: no driver. Hint: repair or uninstall that package"
    ]
    assert rows["series"].name == "series"
    with pytest.raises(UserError, match=r"bad = rows_that_raise:ROW of broken 1\.2: .*got OSError: no driver"):
        rows["bad"]


@pytest.mark.parametrize("name", ["series", "image"])
def test_two_packages_with_one_name_are_both_named(name: str, packages: Path, caplog: pytest.LogCaptureFixture) -> None:
    distribution(packages, "first", {name: "rows_of_a:ROW"}, rows_of_a=ROW.format(name=name))
    distribution(packages, "second", {name: "rows_of_b:ROW"}, rows_of_b=ROW.format(name=name))
    rows = table()
    with pytest.raises(UserError, match=rf"one package with the row '{name}', got .*(first|second) 1\.2 and .* 1\.2"):
        rows[name]
    assert rows["text"] == Row("text")
    with caplog.at_level(logging.WARNING, logger="unified"):
        assert name not in list(rows)
    assert "first 1.2" in caplog.text
    assert "second 1.2" in caplog.text
    assert ("unified and" in caplog.text) == (name == "image")


@pytest.mark.parametrize(
    ("text", "kind", "got"),
    [
        ("ROW = 3\n", None, "expected a row, got a value of int"),
        ("", None, "got AttributeError: module 'rows_of_a' has no attribute 'ROW'"),
        (ROW.format(name="other"), None, "expected a row of that name, got 'other'"),
        (ROW.format(name="series"), Row, "expected a row, got a value of SimpleNamespace"),
    ],
)
def test_what_is_no_row_is_refused(text: str, kind: type | None, got: str, packages: Path) -> None:
    distribution(packages, "series", {"series": "rows_of_a:ROW"}, rows_of_a=text)
    with pytest.raises(UserError, match=got):
        table(kind)["series"]


def test_a_row_by_its_place(packages: Path) -> None:
    (packages / "rows_elsewhere.py").write_text(ROW.format(name="series"))
    rows = table()
    assert rows.resolve("rows_elsewhere:ROW") is rows["series"] is rows.resolve("rows_elsewhere:ROW")
    assert rows.source("series") == "rows_elsewhere:ROW"
    assert rows.source("image") is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("rows_elsewhere", r"rows_elsewhere: expected package.module:NAME"),
        ("rows_elsewhere:NONE", r"rows_elsewhere:NONE: expected a row that can be imported, got AttributeError"),
        ("rows_elsewhere:ROW", r"rows_elsewhere:ROW: expected a new name of a row, got 'image'"),
    ],
)
def test_a_place_without_a_new_row(path: str, problem: str, packages: Path) -> None:
    (packages / "rows_elsewhere.py").write_text(ROW.format(name="image"))
    with pytest.raises(UserError, match=problem):
        table().resolve(path)
