"""Sets of class names, with the templates that turn a name into prompts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unified.core.errors import DataError, RecipeError
from unified.core.paths import find
from unified.core.schema import build, read_yaml
from unified.core.text_files import check_texts, read_text, same_text, split_lines
from unified.core.version import check_format

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
    """Names of classes; a class's index is its place, also where several have one name (ImageNet has two missiles)."""

    names: tuple[str, ...]
    templates: tuple[str, ...] = ("{}",)
    """Prompts with `{}` where the name goes."""
    format: int = FORMAT

    def __post_init__(self) -> None:
        check_format(self.format, FORMAT, "format", RecipeError)
        if not self.names:
            raise RecipeError("the label set is empty; `names` must list at least one class name")
        try:
            check_texts(self.names, "names")
        except DataError as error:
            raise RecipeError(str(error)) from error
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

    def number(self, name: str) -> int | None:
        """Return the class of a name, which may be written in the other Unicode form or with underscores for spaces.

        None where there is none; raises `DataError` where several classes have the name, as only a number tells them
        apart.
        """
        found = self._places.get(name) or self._alike.get(name_key(name), [])
        if len(found) > 1:
            raise DataError(
                f"expected the name of one class, got {name!r}, which is that of {len(found)} (numbers "
                f"{', '.join(map(str, found))}). Hint: store class numbers"
            )
        return found[0] if found else None

    @cached_property
    def repeated(self) -> tuple[str, ...]:
        """Names of several classes, which a model that reads names cannot tell apart."""
        return tuple(name for name, places in self._places.items() if len(places) > 1)

    @cached_property
    def told_apart(self) -> tuple[str, ...]:
        """The names, each once: those that come again have their count behind them, "missile (2)"."""
        taken, told = set(self.names), list[str]()
        for place, name in enumerate(self.names):
            shown, count = name, self._places[name].index(place) + 1
            again = count > 1
            while again and shown in taken:
                shown, count = f"{name} ({count})", count + 1
            taken.add(shown)
            told.append(shown)
        return tuple(told)

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        return _numbered(self.names)

    @cached_property
    def _alike(self) -> dict[str, list[int]]:
        return _numbered(map(name_key, self.names))


def name_key(name: str) -> str:
    """Return what names of classes are compared by: composed letters, and spaces for underscores."""
    return " ".join(same_text(name).replace("_", " ").split())


def _numbered(names: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        found.setdefault(name, []).append(number)
    return found


def check_unique(labels: Labels, where: str) -> Labels:
    """Return labels whose names differ; raise `RecipeError` for others: each is asked for by its name."""
    if labels.repeated:
        first = ", ".join(map(repr, labels.repeated[:5]))
        raise RecipeError(f"{where}: names appear more than once: {first}; make each name unique")
    return labels


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
        read_yaml(path, "recipes/labels") if path.suffix in {".yaml", ".yml"} else {"names": read_names(path)}
    )
    return _checked(content, path)


def check_words(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Refuse names and templates in code that cannot be told apart as candidates: a `TypeError` or `ValueError`."""
    for name, words in (("labels", labels), ("templates", templates)):
        if isinstance(words, str):
            raise TypeError(f"{name}: the string {words!r}, whose letters would each count; give a list: [{words!r}]")
        if not len(words):
            raise ValueError(f"{name}: the list is empty; give at least one")
        check_texts(list(words), name)
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
    content: dict[str, Any] = {"names": read_names(names)}
    if (folder / TEMPLATES).is_file():
        lines = split_lines(read_text(folder / TEMPLATES))
        content["templates"] = [line.strip() for line in lines if line.strip()]
    return _checked(content, folder)


def _checked(content: dict[str, Any], path: Path) -> Labels:
    templates = content.get("templates")
    if isinstance(templates, list | tuple):
        content = {**content, "templates": [str(t).replace("{c}", "{}") for t in templates]}
    return build(Labels, content, str(path))


def read_names(path: Path) -> list[str]:
    """Return the names that a file lists, one a line: the place of a line is the number of its class.

    Raises:
        RecipeError: A line between names is blank, so that the numbers of those after it are not plain.
        DataError: The file is not UTF-8.
    """
    names = [line.strip() for line in split_lines(read_text(path))]
    while names and not names[-1]:
        names.pop()
    if not all(names):
        raise RecipeError(
            f"{path}: line {names.index('') + 1}: expected a name, got a blank line. Hint: remove it where it stands "
            "for no class; write a name where it does"
        )
    return names
