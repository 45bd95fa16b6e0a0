"""Floors: answers that nothing learned is needed for, in the form of a model's answers.

A number beside a floor says what was learned: more than the most frequent class at each place, the mean depth, the
mean point, which need no look at the picture; and more than to remember the training picture that is most like it.
"""

from collections.abc import Callable, Sequence

from unified.answers.spec import QuerySpec
from unified.evaluate.dense.attributes import _prior
from unified.evaluate.dense.baseline_maps import Floor, Floors, _means
from unified.evaluate.dense.density import _mean_count
from unified.evaluate.dense.identity import _copy
from unified.evaluate.dense.image import _input_itself
from unified.evaluate.dense.keypoints import _mean_points
from unified.evaluate.dense.nearest_neighbour import NEAREST, SIDE, Copies, nearest_picture
from unified.evaluate.dense.objects import _mean_boxes
from unified.evaluate.dense.semantic import _majority
from unified.evaluate.dense.targets import Truth

FLOORS: dict[str, Callable[..., Floors]] = {
    "classes": _majority,
    "bins": _means("values"),
    "directions": _means("vectors"),
    "share": _means("share"),
    "pixels": _means("image"),
    "density": _mean_count,
    "points": _mean_points,
    "places": _mean_points,
    "boxes": _mean_boxes,
    "masks": _mean_boxes,
    "presence": _prior,
}
"""How floors are fitted to truths of training data, a spec and names; by what is read."""


UNFITTED: dict[str, tuple[str, Callable[[QuerySpec], Floor]]] = {
    "pixels": ("input itself", _input_itself),
    "identity": (f"{SIDE} × {SIDE} pixels", _copy),
}
"""Floors that need no training data. That of identities is the nearest picture already."""


def find_floors(spec: QuerySpec, names: Sequence[str], training: Sequence[Truth] | None) -> Floors:
    """The floors of what is read.

    `training`: what is right of training pictures, each read when it is asked for: all once in their order, and those
    that are nearest to a picture again. Without it there are only the floors that need none.
    """
    found: Floors = {}
    if spec.read in UNFITTED:
        name, make = UNFITTED[spec.read]
        found[name] = make(spec)
    if training is not None and spec.read in FLOORS:
        copies = Copies()
        fitted = FLOORS[spec.read](copies.of_all(training), spec, names)
        found |= fitted
        found[NEAREST] = nearest_picture(spec.read, training, copies, next(iter(fitted.values())))
    return found
