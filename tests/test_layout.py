"""The shape of the repository: data-only folders, sizes of files and functions."""

import ast
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("*.py"), *ROOT.glob("unified/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])
FORBIDDEN = {"utils", "util", "misc", "helpers", "common"}


def test_tokenizers_folder_holds_data_only() -> None:
    assert (ROOT / "tokenizers").is_dir()
    assert not list((ROOT / "tokenizers").rglob("*.py")), "code belongs in unified/modalities/"


def test_recipes_folder_holds_yaml_only() -> None:
    wrong = [p for p in (ROOT / "recipes").rglob("*") if p.is_file() and p.suffix not in {".yaml", ".sh"}]
    assert not wrong


def test_hugging_face_tokenizers_is_imported_from_the_repository_root() -> None:
    code = "import sys; sys.path.insert(0, ''); import tokenizers; print(tokenizers.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).name == "__init__.py"
    assert not Path(found.strip()).is_relative_to(ROOT / "tokenizers")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert path.stem not in FORBIDDEN, f"{path}: name it after what it does"
    assert not path.stem.endswith(("_v2", "_dev")), f"{path}: replace the old one"
    assert text.count("\n") <= 400, f"{path}: more than 400 lines; split it by meaning"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            assert node.end_lineno - node.lineno < 80, f"{path}:{node.lineno}: {node.name} is longer than 80 lines"


def test_no_global_randomness() -> None:
    for path in SOURCES:
        if "unified" in path.parts and path.name != "seed.py":
            for word in ("torch.manual_seed", "np.random.seed", "random.seed(", "import random"):
                assert word not in path.read_text(), f"{path}: {word}; draw from unified/core/seed.py"


@pytest.mark.slow
def test_wheel_contains_specs_and_recipes(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    names = ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert any(name.startswith("unified/_tokenizers/text/") for name in names)
    assert any(name.startswith("unified/_recipes/") for name in names)
