"""Shards of glyphs: the characters that matplotlib's bundled fonts cover, each captioned with its Unicode name."""

import io
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import yaml
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont

from unified.core.seed import key
from unified.data.builders import characters
from unified.data.shards.patterns import FORMAT
from unified.data.shards.write import ShardWriter, complete_folder, progress

SIZE = 32
EM = 24  # pixels; accents and descenders of nearly all characters fit into 32
BASELINE = 24
FAMILIES = ("DejaVu*.ttf", "STIXGeneral*.ttf")  # the other fonts there have placeholders or private encodings
TEST_FONTS = ("DejaVuSans-BoldOblique", "DejaVuSerif-Italic", "STIXGeneralBol")
VALIDATION_FONTS = ("DejaVuSansMono-Bold",)
HELD_OUT_SHARE = 0.08
SEED = "glyphs 1"
SPLITS = ("train", "validation", "test_fonts", "test_characters")


@dataclass(frozen=True)
class Glyph:
    """One character drawn in one font."""

    code_point: int
    font: str
    pixels: bytes  # (32, 32) grey, 0 = ink
    box: tuple[int, int, int, int]  # of the ink: left, top, right, bottom

    @property
    def key(self) -> str:
        """The sample's key."""
        return f"{self.code_point:06x}-{self.font}"


@dataclass(frozen=True)
class Character:
    """What all glyphs of a character share."""

    name: str
    script: str
    group: int  # lowest code point among the characters that some font draws alike


def build_glyphs(out: Path, samples_per_shard: int) -> dict[str, dict[str, Any]]:
    """Draw, split and write all glyphs into `out`; returns the manifest of each split."""
    glyphs = list(draw_all(font_files()))
    groups = pixel_groups(glyphs)
    table = {
        code: Character(characters.name(code) or "", characters.script(code), group) for code, group in groups.items()
    }
    held_out = held_out_characters(table)
    splits, copies = split(glyphs, held_out)
    manifests = {}
    with complete_folder(out) as folder:
        for name, members in splits.items():
            writer = ShardWriter(
                folder / name, kind="glyphs", source="matplotlib fonts", samples_per_shard=samples_per_shard
            )
            with writer:
                _write(writer, members, table, name == "train")
                writer.manifest |= _facts(members, table, copies[name])
            manifests[name] = writer.manifest
        _write_labels(folder, splits, table)
    return manifests


def font_files() -> list[Path]:
    """The bundled fonts that are drawn, sorted by name."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for family in FAMILIES for path in folder.glob(family))


def draw_all(fonts: Sequence[Path]) -> Iterator[Glyph]:
    """Every visible, named character of every font, without the placeholders that stand for missing ones."""
    work = []
    for path in fonts:
        with TTFont(path, lazy=True) as font:
            covered = font.getBestCmap()
        named = [code for code, glyph in covered.items() if glyph != ".notdef" and characters.name(code)]
        missing = next(code for code in range(0x10FFFD, 0, -1) if code not in covered)
        work += [(path, code, missing) for code in sorted(named)]
    pens: dict[Path, _Pen] = {}
    for path, code, missing in progress(work, len(work), "drawing glyphs"):
        pen = pens.setdefault(path, _Pen(path, missing))
        glyph = pen.draw(code)
        if glyph is not None:
            yield glyph


class _Pen:
    """Draws the characters of one font: black on white, on a common baseline, the ink centred across."""

    def __init__(self, path: Path, missing: int) -> None:
        self.path = path
        self._fonts: dict[int, ImageFont.FreeTypeFont] = {}
        self._placeholder = self._pixels(chr(missing))[0]

    def _font(self, em: int) -> ImageFont.FreeTypeFont:
        if em not in self._fonts:
            self._fonts[em] = ImageFont.truetype(str(self.path), em, layout_engine=ImageFont.Layout.BASIC)
        return self._fonts[em]

    def _pixels(self, character: str) -> tuple[bytes, tuple[int, int, int, int] | None]:
        """The picture and the box of its ink; only what is larger than the picture is drawn in a smaller size."""
        em = EM
        while True:
            left, top, right, bottom = self._font(em).getbbox(character, anchor="ls")
            extent = max(right - left, bottom - top)
            if extent <= SIZE or em == 1:
                break
            em = min(em - 1, int(em * SIZE / extent))
        x = (SIZE - (right - left)) // 2 - left
        y = min(max(BASELINE, -top), SIZE - bottom)  # moved off the baseline only to keep it whole
        ink = Image.new("L", (SIZE, SIZE), 0)
        ImageDraw.Draw(ink).text((x, y), character, fill=255, font=self._font(em), anchor="ls")
        return ink.point(lambda value: 255 - value).tobytes(), ink.getbbox()

    def draw(self, code: int) -> Glyph | None:
        """The glyph of a character; None if it is blank or the font's sign for a missing character."""
        pixels, box = self._pixels(chr(code))
        if box is None or pixels == self._placeholder:
            return None
        return Glyph(code, self.path.stem, pixels, box)


def pixel_groups(glyphs: Iterable[Glyph]) -> dict[int, int]:
    """For each character the lowest code point of its class: characters that some font draws alike belong together."""
    parent: dict[int, int] = {}

    def root(code: int) -> int:
        while parent.setdefault(code, code) != code:
            parent[code] = code = parent[parent[code]]
        return code

    first: dict[tuple[str, bytes], int] = {}
    for glyph in glyphs:
        one, other = root(glyph.code_point), root(first.setdefault((glyph.font, glyph.pixels), glyph.code_point))
        parent[max(one, other)] = min(one, other)
    return {code: root(code) for code in sorted(parent)}


def held_out_characters(table: dict[int, Character]) -> set[int]:
    """Characters for the test of composition: classes drawn by a keyed hash among those whose names all say "… with …".

    Every word of their names occurs in the name of some character that stays.
    """
    classes = defaultdict(list)
    for code, character in table.items():
        classes[character.group].append(code)
    chosen = {
        group
        for group, codes in classes.items()
        if all(" with " in table[code].name and code not in characters.ASCII for code in codes)
        and key(SEED, "held out", group) < HELD_OUT_SHARE * 2**64
    }
    words = Counter(word for c in table.values() if c.group not in chosen for word in set(c.name.split()))
    known = {c.name for c in table.values() if c.group not in chosen}
    return {
        code
        for group in chosen
        for code in classes[group]
        if all(
            all(word in words for word in table[member].name.split())
            and table[member].name.partition(" with ")[0] in known
            for member in classes[group]
        )
    }


def split(glyphs: Sequence[Glyph], held_out: set[int]) -> tuple[dict[str, list[Glyph]], dict[str, int]]:
    """The glyphs of each split, and how many were left out of it because training has the very same picture.

    A glyph of a held-out font counts only if its character is seen in training.
    """
    unseen_fonts = {*TEST_FONTS, *VALIDATION_FONTS}
    train = [glyph for glyph in glyphs if glyph.font not in unseen_fonts and glyph.code_point not in held_out]
    pictures, seen = {glyph.pixels for glyph in train}, {glyph.code_point for glyph in train}
    candidates = {
        "validation": [g for g in glyphs if g.font in VALIDATION_FONTS and g.code_point in seen],
        "test_fonts": [g for g in glyphs if g.font in TEST_FONTS and g.code_point in seen],
        "test_characters": [g for g in glyphs if g.font not in unseen_fonts and g.code_point in held_out],
    }
    splits, copies = {"train": train}, {"train": 0}
    for name, members in candidates.items():
        splits[name] = [glyph for glyph in members if glyph.pixels not in pictures]
        copies[name] = len(members) - len(splits[name])
    return splits, copies


def ceiling(pictures: Sequence[Hashable], answers: Sequence[Hashable]) -> float:
    """The best possible accuracy from the picture alone, where equal pictures have different right answers."""
    votes: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for picture, answer in zip(pictures, answers, strict=True):
        votes[picture][answer] += 1
    return sum(max(found.values()) for found in votes.values()) / len(pictures) if pictures else 1.0


def _facts(members: Sequence[Glyph], table: dict[int, Character], copies: int) -> dict[str, Any]:
    """What the manifest of a split says beyond its shards."""
    pictures = [glyph.pixels for glyph in members]
    codes = sorted({glyph.code_point for glyph in members})
    groups = defaultdict(list)
    for code in codes:
        groups[str(table[code].group)].append(table[code].name)
    return {
        "fonts": sorted({glyph.font for glyph in members}),
        "characters": len(codes),
        "left_out_as_copies": copies,
        "name_ceiling": round(ceiling(pictures, [glyph.code_point for glyph in members]), 6),
        "script_ceiling": round(ceiling(pictures, [table[glyph.code_point].script for glyph in members]), 6),
        "groups": {group: names for group, names in groups.items() if len(names) > 1},
    }


def _write(writer: ShardWriter, members: Sequence[Glyph], table: dict[int, Character], ascii_apart: bool) -> None:
    ordered = sorted(members, key=lambda glyph: key(SEED, glyph.key))
    for glyph in progress(ordered, len(ordered), f"writing {writer.folder.name}"):
        character = table[glyph.code_point]
        facts = {
            "code_point": glyph.code_point,
            "character": chr(glyph.code_point),
            "script": character.script,
            "font": glyph.font,
            "box": glyph.box,
            "group": character.group,
        }
        columns = {"png": png(glyph.pixels), "txt": character.name, "json": facts}
        writer.write(glyph.key, columns, "ascii" if ascii_apart and glyph.code_point in characters.ASCII else "glyphs")


def png(pixels: bytes) -> bytes:
    """A grey picture of 32×32 as PNG."""
    buffer = io.BytesIO()
    Image.frombytes("L", (SIZE, SIZE), pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _write_labels(folder: Path, splits: dict[str, list[Glyph]], table: dict[int, Character]) -> None:
    """The label files that belong to the glyphs: names, names of the held-out characters, scripts."""
    files = {"scripts": sorted({table[glyph.code_point].script for glyph in splits["train"]})}
    for stem, split_name in (("names", "train"), ("test_names", "test_characters")):
        codes = sorted({glyph.code_point for glyph in splits[split_name]})
        files[stem] = [table[code].name for code in codes]
    for stem, names in files.items():
        content = {"format": FORMAT, "templates": ["{}"], "names": names}
        text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False)
        (folder / f"{stem}.yaml").write_text(text, encoding="utf-8")
