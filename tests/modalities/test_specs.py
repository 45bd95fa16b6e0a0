"""The committed specs in tokenizers/: every value is read, every folder has a card, and the text one fits its data."""

import json

import pytest

from unified.core.paths import data_folder
from unified.modalities.image.tokenizer import FOREIGN, KEYS, ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer

FOLDERS = sorted(path for path in data_folder("tokenizers").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_folder_has_a_card_and_a_format(folder) -> None:
    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {folder.name}\n")
    for file in folder.glob("*_config.json"):
        assert json.loads(file.read_text(encoding="utf-8"))["format"] == 1, file


@pytest.mark.parametrize("name", ["image", "image_glyph"])
def test_every_value_of_an_image_spec_is_read(name: str) -> None:
    content = json.loads((data_folder("tokenizers") / name / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert content.keys() - {"format", "image_processor_type"} == {*KEYS, "size"}
    assert content.keys() <= {*KEYS, *FOREIGN}
    spec = ImageTokenizer.load(name, 4).spec
    for key, attribute in KEYS.items():
        value = getattr(spec, attribute)
        assert (list(value) if isinstance(value, tuple) else value) == content[key], key


def test_saved_text_spec_is_the_committed_one(tmp_path) -> None:
    TextTokenizer.load("text", 64).save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        committed = (data_folder("tokenizers") / "text" / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == committed, name


@pytest.mark.parametrize("name", ["digit zero", "latin small letter e with acute", "greek capital letter omega"])
def test_names_are_short(name: str) -> None:
    assert len(TextTokenizer.load("text", 64).prepare(name)) <= len(name.split()) + 2
