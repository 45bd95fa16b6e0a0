"""README and the headers of recipes name files that exist, and say where the data come from."""

import re
from pathlib import Path

import pytest

from unified.core.schema import read_yaml

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
FOLDERS = ("recipes", "docs", "unified", "tests", "benchmarks", "tokenizers")
PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./{{}},*…-]+")
DESCRIBED = "data/<name>/train"  # shards that a header describes by their columns: everybody has their own


def header(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def expanded(name: str) -> list[str]:
    """The patterns that braces stand for."""
    found = re.search(r"\{([^{}]*)\}", name)
    if found is None:
        return [name]
    return [
        each for part in found[1].split(",") for each in expanded(name[: found.start()] + part + name[found.end() :])
    ]


def missing(text: str) -> list[str]:
    names = {name.rstrip(".,") for name in PATH.findall(text) if "…" not in name}
    return sorted(name for name in names for each in expanded(name) if not list(ROOT.glob(each.rstrip("/"))))


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted(RECIPES.rglob("*.yaml"))], ids=lambda path: path.name)
def test_named_files_exist(path: Path) -> None:
    text = path.read_text() if path.suffix == ".md" else header(path)
    assert missing(text) == []


def test_a_file_that_does_not_exist_would_be_found() -> None:
    assert missing("see docs/none.md, recipes/{quickstart,nothing}.yaml and docs/evaluation.md.") == [
        "docs/none.md",
        "recipes/{quickstart,nothing}.yaml",
    ]


def bases(path: Path) -> list[Path]:
    """The file and all that it extends."""
    found = re.search(r"^extends:(.*(?:\n +- .*)*)", path.read_text(), re.MULTILINE)
    named = re.findall(r"[\w./]+\.yaml", found[1]) if found else []
    return [path, *(base for name in named for base in bases(path.parent / name))]


@pytest.mark.parametrize(
    "path",
    sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("tasks/*.yaml"), *RECIPES.glob("eval/*.yaml")]),
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_headers_say_where_data_come_from(path: Path) -> None:
    content = read_yaml(path, "recipes/eval")
    parts = [*content.get("tasks", {}).values(), *content.get("evaluations", {}).values()]
    entries = [entry for part in parts for entry in ([part["data"]] if isinstance(part["data"], str) else part["data"])]
    said = "\n".join(header(base) for base in bases(path))
    made = (ROOT / "Makefile").read_text() + said
    made += "".join(header(task) for task in RECIPES.glob("tasks/*.yaml")) if path.parent.name == "eval" else ""
    for entry in entries:
        folder = re.sub(r"/(train|test)(_\w+)?(/.*)?$", "", entry)
        assert DESCRIBED in said or re.search(rf"shards build .*{re.escape(folder)}( |\n|$)", made), (
            f"{entry}: no command makes it"
        )


@pytest.mark.parametrize("path", sorted(RECIPES.glob("tasks/*.yaml")), ids=lambda path: path.name)
def test_tasks_on_public_data_name_their_source(path: Path) -> None:
    assert re.search(r"^# from: \S.{10,}", header(path), re.MULTILINE)
    assert ".." not in header(path), "a folder beside the checkout is nobody else's"
