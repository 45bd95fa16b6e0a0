"""What README and docs name exists: files, folders, and modules of the package."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "unified"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"(?<![\w./<{-])((?:[\w-]+/)+[\w.-]+\.(?:py|md|yaml|sh))(?![\w/])")
MODULE = re.compile(r"(?<![\w.])(unified(?:\.[a-z_]+)+)")
OF_OTHERS = ("data/", "runs/", "out/", "my/", "path/", "FOLDER/")
"""What people have: their data, runs and exports."""


def files(text: str) -> Iterator[str]:
    """The paths of files that a page names, from the root of the project or of the package."""
    yield from (found for found in FILE.findall(text) if not found.startswith(OF_OTHERS))


def modules(text: str) -> Iterator[str]:
    """The modules that a page names, or what is in them."""
    yield from MODULE.findall(text)


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the package, or what is said to be in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file():
            return length >= len(parts) - 2
        if path.is_dir():
            inside = (path / "__init__.py").read_text()
            return length == len(parts) or (length == len(parts) - 1 and parts[-1] in inside)
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    absent = [name for name in files(text) if not any((at / name).is_file() for at in (ROOT, PACKAGE, page.parent))]
    absent += [name for name in modules(text) if not is_module(name)]
    assert absent == []


def test_names_are_found_and_told() -> None:
    text = "see `train/loop.py`, `data/x/a.yaml`, `unified.hub.load`, `unified.absent` and docs/none.md"
    assert list(files(text)) == ["train/loop.py", "docs/none.md"]
    assert [is_module(name) for name in modules(text)] == [True, False]
