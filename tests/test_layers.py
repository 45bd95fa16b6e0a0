"""Imports go one way: fourteen packages in strict order, and no circle of files; see docs/architecture.md."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "unified"
ORDER = [
    "core",
    "checkpoint",
    "nn",
    "modalities",
    "config",
    "data",
    "answers",
    "model",
    "pipeline",
    "hub",
    "evaluate",
    "train",
    "reports",
    "cli",
]
"""Lowest first; a package imports only packages before it."""
ORDER_WITH_TESTS = [*ORDER, "testing"]
"""What other packages test with may use everything, and nothing uses it."""
BESIDE = {"model", "pipeline"}
"""Packages that stand beside each other, and do not import each other."""
ROOT = {"__init__.py", "__main__.py", "py.typed", "_recipes", "_tokenizers", "testing", "integrations", "__pycache__"}
ONLY_IN = {
    "webdataset": {"data"},
    "accelerate": {"train"},
    "deepspeed": {"train"},
    "tyro": {"cli"},
    "huggingface_hub": {"core", "hub"},
}
LATE_THIRD_PARTY = {"torch", "webdataset", "torchmetrics", "transformers", "deepspeed"}
"""Libraries that take long to import, or that only some runs need: functions may import them."""
LATE_OWN = {
    "cli": "a command imports its work when it runs: help comes at once",
    "hub/registration.py": "called by transformers, when it meets a model of ours",
    "core/log.py": "the rank needs torch, which messages of other commands do without",
}
"""Where functions may import the package itself, and why."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)
NAMES = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES]
MODULES = dict(zip((name.removesuffix(".__init__") for name in NAMES), FILES, strict=True))


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in whole)


def package(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def test_the_root_holds_packages_alone() -> None:
    assert {path.name for path in PACKAGE.iterdir()} <= {*ORDER, *ROOT}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = package(path)
    below = {*ORDER_WITH_TESTS[: ORDER_WITH_TESTS.index(own) + 1]} - (BESIDE - {own} if own in BESIDE else set())
    for name in imported(path):
        top, *rest = name.split(".")
        if top == "unified":
            assert rest, f"{path}: imports the whole package"
            assert rest[0] in below, f"{path}: imports {name}, which is not below {own}"
        if top in ONLY_IN:
            assert own in ONLY_IN[top], f"{path}: imports {top}, which belongs to {sorted(ONLY_IN[top])}"


def test_no_circle_of_files() -> None:
    files = {name: {other for other in imported(path) if other in MODULES} - {name} for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(files).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_tensor_code_knows_no_tasks_and_no_collectives() -> None:
    for path in FILES:
        if package(path) == "nn":
            for name in imported(path):
                assert not name.startswith(("torch.distributed", "unified.config")), f"{path}: {name}"


def late(path: Path) -> Iterator[str]:
    """The modules that the functions of a file import."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield str(node.module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_import_what_takes_long_alone(path: Path) -> None:
    place = path.relative_to(PACKAGE).as_posix()
    allowed = any(place == known or place.startswith(f"{known}/") for known in LATE_OWN)
    for name in late(path):
        top = name.partition(".")[0]
        assert (top == "unified" and allowed) or top in LATE_THIRD_PARTY or place.startswith("cli/"), f"{place}: {name}"
