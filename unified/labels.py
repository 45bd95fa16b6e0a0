"""Sets of class names, with the templates that turn a name into prompts."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.config import RecipeError, build, read_yaml
from unified.paths import find

FORMAT = 1
_PAIRS = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R"}
_SIDES = (
    re.compile("[Ll]eft|LEFT|[Rr]ight|RIGHT"),
    re.compile(r"(?<![^\W\d_])[LlRr](?![^\W\d_])"),  # no letter on either side
    re.compile(r"(?<![^\W\d_])[LlRr](?=[A-Z])|(?<=[a-z0-9])[LR](?![^\W\d_])"),
    re.compile(r"^[lr](?=[a-z]{2})"),
)
SIDES = _PAIRS | {right: left for left, right in _PAIRS.items()}
CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"


@dataclass(frozen=True)
class Labels:
    """Names of classes; a class's index is its place."""

    names: tuple[str, ...]
    templates: tuple[str, ...] = ("{}",)
    """Prompts with `{}` where the name goes."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format > FORMAT:
            raise RecipeError(f"format {self.format} is newer than this version reads ({FORMAT}); update unified")
        if not self.names:
            raise RecipeError("the label set is empty; `names` must list at least one class name")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise RecipeError(f"names appear more than once: {', '.join(map(repr, twice[:5]))}; make each name unique")
        if any(not name.strip() for name in self.names):
            raise RecipeError(f"name {[bool(n.strip()) for n in self.names].index(False)} is blank")
        if not self.templates:
            raise RecipeError("templates: the list is empty; leave it out to use bare names")
        wrong = [template for template in self.templates if template.count("{}") != 1]
        if wrong:
            raise RecipeError(f"templates: {wrong[0]!r} must hold one {{}} (or {{c}}) where the name goes")

    def __len__(self) -> int:
        return len(self.names)

    def prompts(self, name: str) -> list[str]:
        """The name inside each template."""
        return [template.replace("{}", name) for template in self.templates]

    def index(self) -> dict[str, int]:
        """The class number of each name."""
        return {name: number for number, name in enumerate(self.names)}


def load_labels(reference: str | Path) -> Labels:
    """The label set that a reference names.

    `labels/NAME` or NAME (a file of recipes/labels), a `.yaml` path with the keys of `Labels`, a `.txt` file with a
    name a line, or a folder in the layout of CLIP_benchmark (classnames.txt, zeroshot_classification_templates.txt).
    """
    text = str(reference)
    if not text.strip():
        raise RecipeError("labels: no reference given; name a file of recipes/labels or a path")
    try:
        path = find("recipes/labels", text, ".yaml")
    except FileNotFoundError as error:
        try:
            path = find("recipes/labels", text.removeprefix("labels/"), ".yaml")
        except FileNotFoundError:
            raise RecipeError(f"labels: {error}") from error
    if path.is_dir():
        return _from_folder(path)
    content: dict[str, Any] = (
        read_yaml(path, "recipes/labels") if path.suffix in {".yaml", ".yml"} else {"names": _lines(path)}
    )
    return _checked(content, path)


def check_words(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Refuse names and templates in code that cannot be told apart as candidates: a `TypeError` or `ValueError`."""
    for name, words in (("labels", labels), ("templates", templates)):
        if isinstance(words, str):
            raise TypeError(f"{name}: the string {words!r}, whose letters would each count; give a list: [{words!r}]")
        if not len(words):
            raise ValueError(f"{name}: the list is empty; give at least one")
    for template in templates:
        if "{}" not in template and "{c}" not in template:
            raise ValueError(f"templates: {template!r} has no {{}} for the name to stand in; 'a photo of a {{}}' has")


def partners(names: Sequence[str]) -> list[int]:
    """For each named point the one on the other side: "left eye" and "right eye", L_Eye and R_Eye; otherwise itself.

    A side is a word (left), a letter that stands by itself (l_knee, Eye.R, L1), or one before a capital (LKnee, KneeR).
    Names in small letters alone (lknee) count where the other side has the rest of the name as well.
    """
    place = {name.casefold(): number for number, name in enumerate(names)}
    sides = [_other_side(name, place) for name in names]
    return [other if sides[other] == number else number for number, other in enumerate(sides)]


def _other_side(name: str, place: Mapping[str, int]) -> int:
    """The place of the first name that a rule for sides makes of this one, or its own."""
    for rule in _SIDES:
        other = rule.sub(lambda side: SIDES[side[0]], name).casefold()
        if other != name.casefold() and other in place:
            return place[other]
    return place[name.casefold()]


def _from_folder(folder: Path) -> Labels:
    names = folder / CLASS_NAMES
    if not names.is_file():
        raise RecipeError(f"{folder}: no {CLASS_NAMES}; expected the layout of CLIP_benchmark or a .yaml or .txt file")
    content: dict[str, Any] = {"names": _lines(names)}
    if (folder / TEMPLATES).is_file():
        content["templates"] = _lines(folder / TEMPLATES)
    return _checked(content, folder)


def _checked(content: dict[str, Any], path: Path) -> Labels:
    templates = content.get("templates")
    if isinstance(templates, list | tuple):
        content = {**content, "templates": [str(t).replace("{c}", "{}") for t in templates]}
    return build(Labels, content, str(path))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
