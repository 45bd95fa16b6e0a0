"""What the class numbers of a YOLO source mean: the names in its YAML files or lists, as they are written there."""

from collections.abc import Hashable, Iterable
from typing import Any

from unified.core.errors import DataError, quoted
from unified.core.text_files import decode_text, split_lines
from unified.core.yaml_files import MOST_BYTES, parse_yaml
from unified.data.builders.annotations import class_label
from unified.data.builders.sources import Files

NAMES = ("names", "classes")
POSE = "kpt_shape"


def merge_names(files: Files, names: Iterable[str]) -> dict[int, str]:
    """Return the class names by number that all YAML files of a folder together say.

    Args:
        files: The source.
        names: The YAML files in it.

    Raises:
        DataError: Two of them give a number to different classes.
    """
    found: dict[int, str] = {}
    for name in names:
        for number, label in read_names(files, name).items():
            if found.setdefault(number, label) != label:
                raise DataError(
                    f"{files.source}: {name}: expected {found[number]!r} as class {number}, as another YAML file says, "
                    f"got {label!r}. Hint: leave the file that is meant"
                )
    return found


def read_names(files: Files, name: str) -> dict[int, str]:
    """Return class names by number, of a list or a mapping; nothing where a YAML file has neither.

    Args:
        files: The source.
        name: The YAML file in it.

    Raises:
        DataError: It is no YAML, or its class numbers or names are none.
    """
    content = _content(files, name)
    found = next((content[key] for key in NAMES if content.get(key)), None)
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        return {}
    where = f"{files.source}: {name}"
    numbers = {_class_number(where, number): label for number, label in found.items()}
    if len(numbers) < len(found):
        raise DataError(f"{where}: expected different class numbers, got {quoted(list(found))}")
    wrong = next((label for label in numbers.values() if not isinstance(label, str) or not label.strip()), None)
    if wrong is not None:
        raise DataError(f"{where}: expected names of classes, got {quoted(wrong)}. Hint: names: [dog, cat]")
    return {number: class_label(label) for number, label in numbers.items()}


def read_list(files: Files, name: str) -> dict[int, str]:
    """Return the class names of a text file, a name a line, by number.

    Args:
        files: The source.
        name: The text file in it.

    Raises:
        DataError: A line between others is blank: it would be a class without a name.
    """
    where = f"{files.source}: {name}"
    lines = [line.strip() for line in split_lines(decode_text(files.read(name), where))]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DataError(f"{where}:{lines.index('') + 1}: expected the name of a class, got a blank line")
    return dict(enumerate(lines))


def _class_number(where: str, number: Hashable) -> int:
    try:
        return int(str(number))
    except ValueError:
        raise DataError(
            f"{where}: expected class numbers, got {quoted(number)}. Hint: names: {{0: dog, 1: cat}}"
        ) from None


def check_no_pose(files: Files, names: Iterable[str]) -> None:
    """Raise `DataError` where a YAML file says that the labels are poses, whose joints it does not name.

    Args:
        files: The source.
        names: The YAML files in it.
    """
    for name in names:
        shape = _content(files, name).get(POSE)
        if shape:
            raise DataError(
                f"{files.source}: {name}: expected labels of boxes or polygons, got pose labels ({POSE}: "
                f"{quoted(shape)}), "
                "whose joints have no names. Hint: export them as COCO keypoints (--kind coco); where the lines are "
                f"boxes alone, leave {POSE} out"
            )


def _content(files: Files, name: str) -> dict[Any, Any]:
    where = f"{files.source}: {name}"
    data = files.read(name)
    if len(data) > MOST_BYTES:
        raise DataError(f"{where}: expected at most {MOST_BYTES:,} bytes, got {len(data):,}")
    content = parse_yaml(data, where, texts=True)
    return content if isinstance(content, dict) else {}
