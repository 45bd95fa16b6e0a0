"""The shards of handwritten digits and of documentation."""

import io
import json
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from unified.core.paths import data_folder
from unified.data.builders import documentation
from unified.data.builders.computer_modern import build_computer_modern
from unified.data.builders.digits import build_digits
from unified.data.builders.documentation import (
    build_documentation,
    clean,
    docstrings,
    library_passages,
    passages,
    split_of,
)
from unified.data.builders.glyphs import font_files
from unified.data.shards.shards import Shards


def test_digits_are_all_there_in_two_halves(tmp_path: Path) -> None:
    manifests = build_digits(tmp_path / "digits", 500)
    data, found = load_digits(), Counter()
    for split in ("train", "test"):
        shards = Shards.open(tmp_path / "digits" / split)
        for number in range(len(shards)):
            raw = shards[number]
            index, digit = json.loads(raw["json"])["index"], int(raw["cls"])
            found[index] += 1
            assert digit == data.target[index]
            assert raw["txt"].decode() == manifests[split]["classes"][digit]
            pixels = np.asarray(Image.open(io.BytesIO(raw["png"])))
            assert pixels.shape == (8, 8)
            assert np.abs((255 - pixels.astype(float)) * 16 / 255 - data.images[index]).max() < 0.04  # black ink
        counts = Counter(int(shards[number]["cls"]) for number in range(len(shards)))
        assert all(abs(counts[digit] - (data.target == digit).sum() / 2) <= 1 for digit in range(10))
    assert (len(found), set(found.values())) == (1797, {1})


def test_digit_labels_are_those_of_the_recipe(tmp_path: Path) -> None:
    text = (data_folder("recipes") / "labels" / "digits.yaml").read_text()
    for name in build_digits(tmp_path / "digits", 5000)["test"]["classes"]:
        assert name in text


def test_computer_modern_has_each_character_in_each_font_and_size(tmp_path: Path) -> None:
    (manifest,) = build_computer_modern(tmp_path / "cm", 5000).values()
    shards = Shards.open(tmp_path / "cm" / "test")
    found, largest = set(), {}
    for number in range(len(shards)):
        raw = shards[number]
        facts = json.loads(raw["json"])
        found.add((facts["font"], facts["em_px"], facts["character"]))
        assert raw["txt"].decode() == manifest["classes"][int(raw["cls"])]
        assert raw["txt"].decode() == unicodedata.name(facts["character"]).lower()
        image = Image.open(io.BytesIO(raw["png"]))
        assert (image.size, image.mode) == ((32, 32), "L")
        ink = np.asarray(image) < 255
        if facts["character"] == "H":
            largest.setdefault(facts["font"], {})[facts["em_px"]] = int(ink.any(1).sum())
            assert ink[23].any()
            assert not ink[24:].any(), "the baseline is that of the glyphs"
    assert len(found) == len(shards) == 4 * 9 * 62
    assert set(range(14, 31, 2)) == {em for _, em, _ in found}
    for heights in largest.values():
        ordered = [heights[em] for em in sorted(heights)]
        assert ordered == sorted(ordered)
        assert ordered[-1] >= 2 * ordered[0] - 1
    assert not {font for font, _, _ in found} & {path.stem for path in font_files()}, "no glyph is drawn in these fonts"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small standard library."""
    folder = tmp_path / "lib"
    for name, text in {
        "alpha.py": "'''Open a file and return its whole content. The file is closed again.'''\n",
        "pack/__init__.py": "def f():\n    '''Open a file and return its whole content. The file is closed again.'''\n",
        "pack/beta.py": "class A:\n    '''Keep the items in sorted order.\n\n    >>> A()\n    '''\n",
        "broken.py": "'''Never read because this does not parse.'''\ndef (:\n",
        "test/gamma.py": "'''Tests are left out of the corpus.'''\n",
        "pydoc_data/topics.py": "topics = {'with': 'The with statement wraps a block with methods of a manager.\\n'}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_library_is_read_once_and_without_tests(library: Path) -> None:
    assert library_passages(library) == {
        "Open a file and return its whole content. The file is closed again.": "alpha",
        "Keep the items in sorted order.": "pack.beta",
        "The with statement wraps a block with methods of a manager.": "topic with:",
    }


def test_documentation_shards(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    many = "\n".join(f"def f{n}():\n    '''This is the text number {n} of the module.'''\n" for n in range(30))
    for number in range(40):
        (library / f"m{number}.py").write_text(many.replace("number", f"number {number} and"))
    manifests = build_documentation(tmp_path / "out", 1000)
    modules = {}
    for split, manifest in manifests.items():
        shards = Shards.open(tmp_path / "out" / split)
        modules[split] = {json.loads(shards[number]["json"])["module"] for number in range(len(shards))}
        assert manifest["samples"] == len(shards)
        assert manifest["words"] > 5 * len(shards)
    assert not modules["train"] & (modules["validation"] | modules["test"])
    assert all(split_of(module) == "test" for module in modules["test"])


def test_packages_stay_together() -> None:
    assert len({split_of(f"package.module{number}") for number in range(50)}) == 1
    shares = Counter(split_of(f"module{number}") for number in range(2000))
    assert 0.85 < shares["train"] / 2000 < 0.95
    assert min(shares.values()) > 50


def test_docstrings_of_every_kind() -> None:
    source = b"'''A.'''\nclass B:\n    '''B.'''\n    async def c(self):\n        '''C.'''\ndef d(): pass\n"
    assert docstrings(source) == ["A.", "B.", "C."]
    assert docstrings(b"\x00") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Return ``x`` as *text*,\n  see :class:`~a.B` and __init__.", "Return x as text, see a.B and __init__."),
        ("The “name” isn’t `here`", 'The "name" isn\'t here'),
    ],
)
def test_marks_are_removed(text: str, expected: str) -> None:
    assert clean(text) == expected


def test_prose_only_and_in_short_runs() -> None:
    text = """Heading
=======

The first sentence of this text is here. The second sentence follows it. The third one too. And a fourth.

    >>> code()
    3

- A point of a list that is a sentence of its own.

no capital letter at the start of this one.

usage: prog [-h] {a,b}
"""
    assert list(passages(text)) == [
        "The first sentence of this text is here. The second sentence follows it. The third one too.",
        "A point of a list that is a sentence of its own.",
    ]
