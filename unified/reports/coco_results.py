"""Predictions as COCO results, one file a task, in the form that `loadRes` of pycocotools reads."""

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

from unified.core.atomic_files import replace_file
from unified.core.errors import UserError
from unified.core.json_files import MOST_BYTES, read_json
from unified.core.log import logger
from unified.reports.prediction.drawing import Coco, Known, Prediction
from unified.reports.prediction.drawings import find_drawing


def read_known(path: Path) -> Known:
    """Read a COCO annotation file; `UserError` where it is none."""
    try:
        content = read_json(path, most=MOST_BYTES)
        images = {image["file_name"]: int(image["id"]) for image in content["images"]}
        categories = {each["name"]: int(each["id"]) for each in content.get("categories", ())}
        joints = {each["name"]: each["keypoints"] for each in content.get("categories", ()) if each.get("keypoints")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--coco-annotations: {path}: expected COCO annotations with images and categories, got "
            f"{type(error).__name__}: {error}. Hint: name a file such as instances_val2017.json"
        ) from error
    return Known(images, categories, joints)


class CocoResults:
    """Collects the objects and keypoints of all images, and writes a file a task.

    Without annotations images are numbered by their names where these are numbers (000000397133.jpg), else from 1 on,
    and categories from 1 on; `coco_TASK_images.json` then lists both, as annotations without any object.
    """

    def __init__(self, annotations: Path | None = None) -> None:
        self.known = None if annotations is None else read_known(annotations)
        self._tasks: dict[str, tuple[Prediction, Coco, list[dict[str, Any]]]] = {}
        self._images: dict[int, dict[str, Any]] = {}

    def add(self, file: Path, size: tuple[int, int], answers: Sequence[Prediction], threshold: float) -> None:
        """Add the answers about one image.

        Args:
            file: The image.
            size: Height and width in pixels.
            answers: Of all tasks; those without objects or keypoints are passed over.
            threshold: Lowest score of an object that is kept.
        """
        number = self._number(file)
        self._images[number] = {"id": number, "file_name": file.name, "height": size[0], "width": size[1]}
        for answer in answers:
            if (coco := find_drawing(answer.kind).coco) is not None:
                *_, rows = self._tasks.setdefault(answer.task, (answer, coco, []))
                rows += [{"image_id": number, **row} for row in coco.rows(answer, self.known, threshold)]

    def _number(self, file: Path) -> int:
        if self.known is not None:
            return _number_of(file, self.known.images)
        number = int(file.stem) if file.stem.isdecimal() else 0
        if number in self._images or number == 0:
            number = max(self._images, default=0) + 1
        return number

    def write(self, folder: Path) -> list[Path]:
        """Write coco_TASK.json for each task; returns the files of results."""
        if not self._tasks:
            raise UserError("--coco: expected a task that answers with boxes, masks or points, got none")
        written = []
        for task, (answer, coco, rows) in self._tasks.items():
            path = folder / f"coco_{task}.json"
            replace_file(path, json.dumps(rows) + "\n")
            written.append(path)
            if not rows:
                logger.warning("%s: no object reaches the threshold; loadRes does not read an empty list", path)
            if self.known is None:
                content = {"images": [*self._images.values()], "annotations": [], "categories": coco.categories(answer)}
                replace_file(folder / f"coco_{task}_images.json", json.dumps(content) + "\n")
        return written


def _number_of(file: Path, images: Mapping[str, int]) -> int:
    """The number of the image whose listed path ends as that of the file does, in as many parts as possible."""
    own = file.resolve().parts
    found = [name for name in images if PurePath(name).name == file.name]
    ends = {name: _equal_parts(PurePath(name).parts, own) for name in found}
    longest = max(ends.values(), default=0)
    best = [name for name in found if ends[name] == longest]
    if len(best) != 1:
        got = f"{file}, which may be {' or '.join(sorted(best)[:3])}" if best else str(file)
        hint = "predict each folder by itself" if best else "predict those alone"
        raise UserError(f"--coco-annotations: expected images that the annotations list, got {got}. Hint: {hint}")
    return images[best[0]]


def _equal_parts(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts at the ends of two paths are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
