"""What the tables of the package know is spelled out nowhere else."""

import ast
import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unified.modalities import MODALITIES
from unified.modalities.modality import Modality

PACKAGE = Path(__file__).parent.parent / "unified"
OWN_ROOMS = ("modalities", "hub/uni_perceiver", "data/builders")
"""Where modalities are made, the layout of published checkpoints is, and columns of data sets are named."""
MOST = 10
OTHER_MEANINGS = {
    "answers/map/image.py": (3, "an image that is an answer"),
    "data/cuts.py": (2, "the file that a crop is cut from"),
    "evaluate/dense/image.py": (4, "an image that is an answer"),
    "reports/prediction/drawings.py": (1, "an image that is an answer"),
    "reports/prediction/facts.py": (1, "an image that is an answer"),
    "reports/prediction/figure.py": (1, "a panel's title"),
    "reports/run/page.py": (1, "the words of a diagnosis"),
    "reports/run/report.py": (1, "the words of a diagnosis"),
}
"""Words that happen to be spelled like a modality: how many a file has, and what they mean."""


def literals(tree: ast.Module) -> Iterator[int]:
    """The lines of texts that are a modality's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in MODALITIES.built_in:
            yield node.lineno


def constants(tree: ast.Module) -> Iterator[int]:
    """The lines that import a constant which is a modality, or the name of one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("unified.modalities"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                value = getattr(module, alias.name, None)
                if isinstance(value, Modality) or (isinstance(value, str) and value in MODALITIES.built_in):
                    yield node.lineno


def named(files: dict[str, str]) -> list[str]:
    """The places that name a modality, beyond those where the word means something else."""
    found: list[str] = []
    for name, text in files.items():
        tree = ast.parse(text)
        lines = [*literals(tree), *constants(tree)]
        other = OTHER_MEANINGS.get(name, (0, ""))[0]
        found += [f"{name}:{line}" for line in lines[other:]]
    return found


def sources() -> dict[str, str]:
    names = {path: path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: path.read_text() for path, name in names.items() if not name.startswith(OWN_ROOMS)}


def test_modalities_are_named_by_their_own_rooms() -> None:
    found = named(sources())
    assert len(found) <= MOST, "\n".join(found)


def test_words_of_other_meaning_are_still_there() -> None:
    files = sources()
    for name, (count, meaning) in OTHER_MEANINGS.items():
        assert len(list(literals(ast.parse(files[name])))) == count, f"{name}: {meaning}"


def test_a_name_is_found_however_it_is_written() -> None:
    text = (
        'a = b["text"]\nif c == "image":\n    d("text", e="image")\nf = {"text": 1}\n'
        "from unified.modalities.text.modality import NAME, TEXT\n"
    )
    assert Counter(place.rpartition(":")[2] for place in named({"a.py": text})) == {
        "1": 1,
        "2": 1,
        "3": 2,
        "4": 1,
        "5": 2,
    }
