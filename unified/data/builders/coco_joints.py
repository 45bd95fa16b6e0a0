"""The joints that categories of COCO documents name, and the bones between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unified.core.errors import DataError, quoted
from unified.core.text_files import check_text
from unified.data.builders.annotations import as_number
from unified.data.builders.panoptic import Identifier, categories_of, identifier
from unified.data.builders.sources import Problems


@dataclass
class Joints:
    """The joints of all documents by name."""

    names: list[str] = field(default_factory=list)
    skeleton: list[list[str]] = field(default_factory=list)

    def read(self, name: str, document: Mapping[str, Any], problems: Problems) -> dict[Identifier, Sequence[str]]:
        """Add the joints of a document and return those of each category.

        Args:
            name: The document.
            document: As COCO's.
            problems: Receives skeletons that are none.

        Raises:
            DataError: A category names two joints alike.
        """
        found: dict[Identifier, Sequence[str]] = {}
        for category in categories_of(document, name):
            names = category.get("keypoints") or ()
            if not names:
                continue
            where = f"{name}: category {category['name']}"
            texts = isinstance(names, list) and all(isinstance(joint, str) for joint in names)
            if not texts or len(set(names)) < len(names):
                raise DataError(f"{where}: keypoints: expected joints of different names, got {quoted(names)}")
            found[identifier(category["id"])] = [check_text(joint, where) for joint in names]
            self.names += [joint for joint in names if joint not in self.names]
            bones = _bones(names, category.get("skeleton") or ())
            if bones is None:
                problems.add(
                    "wrong skeleton",
                    f"{where}: expected pairs of joints counted from 1 (or all from 0), got "
                    f"{quoted(category['skeleton'])}",
                )
            self.skeleton += [bone for bone in bones or () if bone not in self.skeleton]
        return found


def _bones(names: Sequence[str], skeleton: Sequence[Sequence[Any]]) -> list[list[str]] | None:
    """The names at both ends of each bone; None where numbers fit neither count.

    COCO counts from 1; a bone at joint 0 says that somebody counted from 0.
    """
    if not isinstance(skeleton, list | tuple) or not all(isinstance(bone, list) for bone in skeleton):
        return None
    bones = [[as_number(end) for end in bone] for bone in skeleton]
    ends = [end for bone in bones for end in bone if end is not None and end.is_integer()]
    if any(len(bone) != 2 for bone in bones) or len(ends) != 2 * len(bones):
        return None
    first = 0 if 0 in ends else 1
    places = [int(end) - first for end in ends]
    if places and not (min(places) >= 0 and max(places) < len(names)):
        return None
    return [[names[one], names[other]] for one, other in zip(places[::2], places[1::2], strict=True)]
