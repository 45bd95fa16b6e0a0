"""What is imported is declared, what is declared is used, and what is installed is pinned."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
USED = {
    "beartype": ("tests/conftest.py", '"beartype.beartype"'),
    "hatchling": ("pyproject.toml", 'build-backend = "hatchling.build"'),
    "mypy": ("Makefile", "$(BIN)/mypy"),
    "pytest-randomly": ("CONTRIBUTING.md", "in any order"),
    "pytest-xdist": ("Makefile", "-n auto"),
    "ruff": ("Makefile", "$(BIN)/ruff check"),
    "trackio": ("unified/train/monitor/trackers.py", '"trackio"'),
    "types-pyyaml": ("pyproject.toml", "[tool.mypy]"),
    "wandb": ("unified/train/monitor/trackers.py", '"wandb"'),
}
"""Packages that no code imports by name: where they are used."""


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: Iterable[str]) -> set[str]:
    """The packages of requirements, without this one, whose extras may stand among them."""
    found = {normal(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in requirements}  # type: ignore[index]
    return found - {normal(PROJECT["project"]["name"])}


REQUIRED = names(PROJECT["project"]["dependencies"])
OPTIONAL = set().union(*(names(lines) for extra, lines in EXTRAS.items() if extra != "dev"))
DEVELOPMENT = names(EXTRAS["dev"])


distributions = cache(packages_distributions)  # takes seconds


def modules(path: Path) -> set[str]:
    """The first part of every module that a file imports, also by `pytest.importorskip`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            found.add(ast.literal_eval(node.args[0]))
    return {name.split(".")[0] for name in found}


def imported(*folders: str) -> dict[str, set[str]]:
    """The files that import each package of others, by its distribution."""
    known = distributions()
    found: dict[str, set[str]] = {}
    files = [
        path
        for folder in folders
        for path in ([ROOT / folder] if folder.endswith(".py") else (ROOT / folder).rglob("*.py"))
    ]
    local = {"unified", "benchmarks", "tests", "outside", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    for path in files:
        for module in modules(path) - local - sys.stdlib_module_names:
            for package in known.get(module, [module]):
                found.setdefault(normal(package), set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(
    ("folders", "declared"),
    [(("unified",), REQUIRED | OPTIONAL), (("train.py", "benchmarks", "tests"), REQUIRED | OPTIONAL | DEVELOPMENT)],
)
def test_what_is_imported_is_declared(folders: tuple[str, ...], declared: set[str]) -> None:
    found = imported(*folders)
    missing = {package: sorted(files)[:3] for package, files in found.items() if package not in declared}
    assert found.keys() & declared
    assert not missing, "declare in pyproject.toml, and pin in constraints.txt"


def test_what_the_package_requires_it_imports() -> None:
    found = imported("unified")
    assert not [package for package in REQUIRED if package not in found]


def test_what_is_declared_is_used() -> None:
    found = imported("unified", "train.py", "benchmarks", "tests")
    assert not [package for package in REQUIRED | OPTIONAL | DEVELOPMENT if package not in {*found, *USED}]
    for package, (where, text) in USED.items():
        assert package in REQUIRED | OPTIONAL | DEVELOPMENT, f"{package}: not declared any more"
        assert package not in found, f"{package}: imported, so that it need not be listed"
        assert text in (ROOT / where).read_text(), f"{package}: not used in {where}"


def test_what_is_installed_and_what_builds_it_is_pinned() -> None:
    pinned = names(line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    assert len(pinned) > 50
    assert not (REQUIRED | DEVELOPMENT | names(EXTRAS["tensorboard"]) | names(EXTRAS["fast"])) - pinned
    assert not names(PROJECT["build-system"]["requires"]) - pinned
    commands = re.findall(r"pip install (.*)", (ROOT / "Makefile").read_text())
    assert commands
    for command in commands:
        assert "-c constraints.txt" in command
        wanted = [word for word in command.split() if word[0] not in "-'" and not word.endswith(".txt")]
        assert not names(wanted) - pinned
    assert "--no-build-isolation" in commands[-1], "pip makes environments for builds that no constraint reaches"
