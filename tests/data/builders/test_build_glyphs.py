"""The glyph shards: what is drawn, which characters look alike, and splits that do not leak."""

import io
import json
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFont

from unified.data.builders import characters, glyphs
from unified.data.builders.glyphs import (
    Character,
    Glyph,
    ceiling,
    draw_all,
    held_out_characters,
    pixel_groups,
    split,
)
from unified.data.shards.shards import Shards

FONTS = ("DejaVuSansDisplay", "STIXGeneralBol", "STIXGeneralBolIta", "STIXGeneralItalic")


def font(name: str) -> Path:
    return next(path for path in glyphs.font_files() if path.stem == name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A build of four fonts and the characters below U+0250."""
    out = tmp_path_factory.mktemp("build") / "glyphs"
    chosen, name = [font(stem) for stem in FONTS], characters.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "font_files", lambda: chosen)
        patch.setattr(characters, "name", lambda code: name(code) if code < 0x250 else None)
        return out, glyphs.build_glyphs(out, 300)


def test_fonts_are_those_with_real_glyphs() -> None:
    names = [path.stem for path in glyphs.font_files()]
    assert len(names) == 18
    assert all(name.startswith(("DejaVu", "STIXGeneral")) for name in names)
    assert {*glyphs.TEST_FONTS, *glyphs.VALIDATION_FONTS} < set(names)
    assert not set(glyphs.TEST_FONTS) & set(glyphs.VALIDATION_FONTS)


def test_samples_say_what_they_show(built: tuple[Path, dict[str, Any]]) -> None:
    shards = Shards.open(built[0] / "train")
    assert shards.columns == ("json", "png", "txt")
    for number in range(0, len(shards), 37):
        raw = shards[number]
        facts = json.loads(raw["json"])
        assert set(facts) == {"code_point", "character", "script", "font", "box", "group"}
        assert raw["txt"].decode() == unicodedata.name(facts["character"]).lower()
        assert ord(facts["character"]) == facts["code_point"]
        image = Image.open(io.BytesIO(raw["png"]))
        assert (image.size, image.mode, image.format) == ((32, 32), "L", "PNG")
        ink = np.asarray(image) < 255
        left, top, right, bottom = facts["box"]
        assert ink[top:bottom, left:right].sum() == ink.sum() > 0
        assert ink[:, left].any()
        assert ink[bottom - 1].any()


def test_splits_are_by_character_and_by_font(built: tuple[Path, dict[str, Any]]) -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    pictures: dict[str, set[bytes]] = {}
    for name in ("train", "test_fonts", "test_characters"):
        shards = Shards.open(built[0] / name)
        found[name] = [json.loads(shards[number]["json"]) for number in range(len(shards))]
        pictures[name] = {shards[number]["png"] for number in range(len(shards))}
    seen = {facts["code_point"] for facts in found["train"]}
    assert {facts["font"] for facts in found["test_fonts"]} == {"STIXGeneralBol"}
    assert "STIXGeneralBol" not in {facts["font"] for facts in found["train"] + found["test_characters"]}
    assert {facts["code_point"] for facts in found["test_fonts"]} <= seen
    assert not {facts["code_point"] for facts in found["test_characters"]} & seen
    assert not {f["group"] for f in found["test_characters"]} & {f["group"] for f in found["train"]}
    assert not pictures["train"] & (pictures["test_fonts"] | pictures["test_characters"])
    assert set(characters.ASCII) <= seen
    assert all(" with " in unicodedata.name(f["character"]).lower() for f in found["test_characters"])


def test_ascii_has_shards_of_its_own(built: tuple[Path, dict[str, Any]]) -> None:
    paths = {shard["path"].rpartition("-")[0] for shard in built[1]["train"]["shards"]}
    assert paths == {"ascii", "glyphs"}
    shards = Shards.open(str(built[0] / "train" / "ascii-*.tar"))
    codes = {json.loads(shards[number]["json"])["code_point"] for number in range(len(shards))}
    assert codes == set(characters.ASCII)


def test_label_files(built: tuple[Path, dict[str, Any]]) -> None:
    files = {
        name: yaml.safe_load((built[0] / f"{name}.yaml").read_text()) for name in ("names", "test_names", "scripts")
    }
    assert all((content["format"], content["templates"]) == (1, ["{}"]) for content in files.values())
    assert "digit seven" in files["names"]["names"]
    assert len(files["names"]["names"]) == built[1]["train"]["characters"] == len(set(files["names"]["names"]))
    assert not set(files["names"]["names"]) & set(files["test_names"]["names"])


def test_equal_builds_make_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = [font("DejaVuSansDisplay")]
    monkeypatch.setattr(glyphs, "font_files", lambda: only)
    first, second = (glyphs.build_glyphs(tmp_path / name, 100)["train"] for name in ("a", "b"))
    assert first["shards"] == second["shards"]
    assert first["samples"] > 20


def test_drawing_keeps_relative_sizes_and_cuts_nothing() -> None:
    drawn = {chr(glyph.code_point): glyph for glyph in draw_all([font("DejaVuSansDisplay"), font("STIXGeneralItalic")])}
    width = {character: glyph.box[2] - glyph.box[0] for character, glyph in drawn.items()}
    height = {character: glyph.box[3] - glyph.box[1] for character, glyph in drawn.items()}
    assert height["H"] > height["x"] + 3
    assert width["m"] > width["i"] + 5
    assert drawn["."].box[3] == drawn["H"].box[3]  # they share the baseline
    assert drawn["'"].box[3] < drawn[","].box[1]
    assert " " not in drawn
    for glyph in drawn.values():
        left, top, right, bottom = glyph.box
        assert max(right - left, bottom - top) <= 32


def test_too_large_characters_are_drawn_smaller_and_whole() -> None:
    code = ord("\N{LONG RIGHTWARDS DOUBLE ARROW}")
    left, _, right, _ = ImageFont.truetype(font("STIXGeneral"), glyphs.EM).getbbox(chr(code))
    assert right - left > glyphs.SIZE
    arrow = glyphs._Pen(font("STIXGeneral"), 0x10FFFD).draw(code)
    assert arrow is not None
    ink = np.frombuffer(arrow.pixels, np.uint8).reshape(32, 32) < 255
    assert 28 <= arrow.box[2] - arrow.box[0] <= 32
    assert ink[:, 28:].any(axis=0).sum() >= 2  # its head is there ...
    assert ink[:, -1].sum() <= 4  # ... and ends in a point


def test_missing_characters_are_not_drawn() -> None:
    assert glyphs._Pen(font("DejaVuSansDisplay"), 0x10FFFD).draw(0x4E00) is None


def picture(code: int, name: str, ink: int) -> Glyph:
    return Glyph(code, name, bytes([ink]) * 1024, (0, 0, 32, 32))


def test_classes_join_over_fonts_and_not_across_them() -> None:
    drawn = [picture(1, "a", 10), picture(2, "a", 10), picture(2, "b", 20), picture(3, "b", 20), picture(4, "a", 20)]
    assert pixel_groups(drawn) == {1: 1, 2: 1, 3: 1, 4: 4}


def test_held_out_characters_are_whole_classes_with_known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "HELD_OUT_SHARE", 0.5)
    table = {code: Character(f"base {code}", "latin", code) for code in range(200, 240)}
    table[300] = Character("mark with dot", "latin", 300)  # the only place of the word "dot" that may stay
    for code in range(1000, 1100):
        table[code] = Character(f"base {code % 40 + 200} with mark", "latin", 1000 + code % 50)
    held_out = held_out_characters(table)
    assert 20 < len(held_out) < 80
    assert not held_out & {*range(200, 240), 300}
    members = defaultdict(set)
    for code, character in table.items():
        members[character.group].add(code)
    assert all(members[table[code].group] <= held_out for code in held_out)


def test_classes_with_plain_names_stay_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "HELD_OUT_SHARE", 1.0)
    table = {
        1: Character("letter a", "latin", 1),
        2: Character("ring", "latin", 2),
        3: Character("letter a with ring", "latin", 3),
        4: Character("angstrom sign", "other", 3),
        5: Character("letter b with ring", "latin", 5),  # "letter b" is in no font
    }
    assert held_out_characters(table) == set()


def test_copies_of_training_pictures_are_left_out_of_tests() -> None:
    test, validation = glyphs.TEST_FONTS[0], glyphs.VALIDATION_FONTS[0]
    drawn = [
        picture(1, "seen", 10),
        picture(2, "seen", 20),
        picture(1, test, 10),
        picture(2, test, 21),
        picture(3, test, 30),
        picture(2, validation, 22),
        picture(4, "seen", 40),
    ]
    splits, copies = split(drawn, held_out={4})
    assert [glyph.pixels[0] for glyph in splits["train"]] == [10, 20]
    assert [glyph.pixels[0] for glyph in splits["test_fonts"]] == [21]  # 10 is a copy, character 3 is never seen
    assert [glyph.pixels[0] for glyph in splits["validation"]] == [22]
    assert [glyph.pixels[0] for glyph in splits["test_characters"]] == [40]
    assert copies["test_fonts"] == 1


def test_ceiling() -> None:
    assert ceiling(["p", "p", "q", "r"], ["A", "Alpha", "B", "C"]) == pytest.approx(0.75)
    assert ceiling(["p", "p", "p"], ["A", "A", "Alpha"]) == pytest.approx(2 / 3)
    assert ceiling([], []) == 1.0


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("é", "latin"),
        ("Ω", "greek"),
        ("\N{EXTENDED ARABIC-INDIC DIGIT TWO}", "arabic"),
        ("𝐀", "mathematical letter"),
        ("→", "arrow"),
        ("⠓", "braille"),
        ("╬", "box drawing"),
        ("█", "block"),
        ("7", "number"),
        ("€", "currency"),
        ("∑", "operator"),
        ("!", "punctuation"),
        ("☃", "symbol"),
        ("③", "enclosed"),
        ("\N{COMBINING ACUTE ACCENT}", "combining mark"),
        ("\N{OLD ITALIC LETTER A}", "other"),
    ],
)
def test_scripts(character: str, expected: str) -> None:
    assert characters.script(ord(character)) == expected


def test_names() -> None:
    assert characters.name(ord("é")) == "latin small letter e with acute"
    hidden = ["\n", " ", "\u00a0", "\ue000", "\u0378", "\ufe0f", "\u034f", "\u200d", "\u115f"]
    assert [characters.name(ord(character)) for character in hidden] == [None] * len(hidden)
