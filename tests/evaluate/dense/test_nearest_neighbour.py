"""The nearest training picture as a baseline, on made-up squares."""

import weakref
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import words_and_images
from squares import LISTS, picture, png
from torch import Tensor

from unified.answers.table import make_spec
from unified.core import seed
from unified.core.types import IGNORE
from unified.data.augment.geometric import Scene
from unified.data.samples.decode import decode
from unified.evaluate.dense.evaluation import Truths
from unified.evaluate.dense.nearest_neighbour import NEAREST, Copies, small_copy
from unified.evaluate.dense.table import DENSE
from unified.evaluate.dense.targets import Truth

READ = {
    "classes": ("classes", "miou", 1),
    "bins": ((), "rmse", -1),
    "directions": ((), "angle_mean", -1),
    "share": ((), "edge_ap", 1),
    "pixels": ((), "psnr", 1),
    "density": ((), "count_mae", -1),
    "boxes": ("colours", "box_ap50", 1),
    "masks": ("colours", "mask_ap", 1),
    "presence": ("colours", "map", 1),
    "points": ("colours", "distance_px", -1),
    "places": ("colours", "distance_px", -1),
}
"""Names, a metric, and whether more of it is better."""
TRAINING, HELD_OUT = range(12), (3, 8, 5, 11)


def sample(number: int, noise: int = 0) -> dict[str, Any]:
    """A decoded sample; with noise, a near copy of it."""
    columns = picture(number)
    if noise:
        shown = np.asarray(Image.open(BytesIO(columns["png"]))).astype(int)
        drawn = seed.generator("noise", number).integers(-noise, noise + 1, shown.shape)
        columns["png"] = png((shown + drawn).clip(0, 255).astype(np.uint8))
    raw = {name: value for name, value in columns.items() if name not in ("txt", "json")}
    found = decode({**raw, "__key__": str(number), "__shard__": "made up"}, list(raw))
    return {**found, "json": columns["json"]}


class Told(Sequence[Truth]):
    """Truths that are read when they are asked for, and how many were alive at once."""

    def __init__(self, read: Truths) -> None:
        self._read, self.numbers, self.most = read, list[int](), 0
        self._alive: list[weakref.ref[Truth]] = []

    def __len__(self) -> int:
        return len(TRAINING)

    def __getitem__(self, number: Any) -> Any:
        truth = self._read(sample(number), number)
        self.numbers.append(number)
        self._alive = [one for one in [*self._alive, weakref.ref(truth)] if one() is not None]
        self.most = max(self.most, len(self._alive))
        return truth

    def __iter__(self) -> Iterator[Truth]:
        return (self[number] for number in TRAINING)


@pytest.mark.parametrize("read", READ)
def test_near_copies_of_training_pictures_are_answered_better_than_without_looking(read: str) -> None:
    listed, metric, direction = READ[read]
    names = LISTS[listed] if isinstance(listed, str) else ()
    spec = make_spec(read, 1, names=names, size=(32, 32), **({"operator": "sobel"} if read == "pixels" else {}))
    truths = Truths("squares", DENSE[read], spec, names, "png", None, words_and_images()["image"])
    training = Told(truths)
    baselines = DENSE[read].baselines(spec, names, training)
    assert training.numbers == [*TRAINING]
    found = {}
    for name, baseline in baselines.items():
        scored = DENSE[read].scores(names)
        for number in HELD_OUT:
            truth = truths(sample(number, noise=4), number)
            scored.add(baseline(truth.picture), truth)
        values = {measure.name: measure.value for measure in scored.measures("test", None)}
        found[name] = direction * values[metric]
    nearest = found.pop(NEAREST)
    assert nearest > max(found.values())
    assert training.numbers[len(TRAINING) :] == [*HELD_OUT]  # the nearest ones, and no others, are read again
    assert training.most <= 2


def told(height: int, width: int, colour: int, **known: Any) -> Truth:
    shown = torch.full((3, height, width), colour, dtype=torch.uint8)
    target = known.pop("target", None)
    return Truth(shown, Scene(shown, **known), target)


def nearest(read: str, training: list[Truth], names: tuple[str, ...] = ()) -> Any:
    return DENSE[read].baselines(make_spec(read, 1, names=names), names, training)[NEAREST]


def shown(height: int, width: int, colour: int) -> Tensor:
    return torch.full((3, height, width), colour, dtype=torch.uint8)


def test_answers_have_the_size_of_the_picture_that_is_asked_about() -> None:
    left = torch.tensor([[0, 1], [0, 1]])
    classes = nearest("classes", [told(2, 2, 0, labels=left), told(2, 2, 90, labels=1 - left)], ("a", "b"))
    assert torch.equal(classes(shown(4, 6, 80))["labels"], torch.tensor([1, 1, 1, 0, 0, 0]).expand(4, 6))
    boxes = [told(4, 4, 9, boxes=torch.tensor([[0.0, 1, 2, 4]]), classes=torch.tensor([1]))]
    assert nearest("density", boxes)(shown(8, 6, 7)) == {"count": 1}
    points = nearest("points", [told(4, 8, 0, points=torch.tensor([[2.0, 3, 2], [0, 0, 0]]))], ("a", "b"))
    found = points(shown(8, 8, 0))
    assert found["points"].tolist() == [[2, 6], [4, 4]]
    assert found["scores"].tolist() == [1, 0]


def test_what_the_nearest_picture_does_not_know_is_answered_as_without_looking() -> None:
    known = [told(1, 2, 200, labels=torch.tensor([[1, 1]])), told(1, 2, 0, labels=torch.tensor([[0, IGNORE]]))]
    assert nearest("classes", known, ("a", "b"))(shown(1, 2, 0))["labels"].tolist() == [[0, 1]]
    values = [
        told(1, 2, colour, values=torch.full((1, 1, 2), float(colour)), valid=torch.tensor([[[True, colour > 0]]]))
        for colour in (0, 50)
    ]
    assert nearest("bins", values)(shown(1, 2, 0))["values"].tolist() == [[0, 50]]
    attributes = [told(1, 1, colour, target=torch.tensor([1.0, own])) for colour, own in ((0, -1), (90, 0), (99, 1))]
    assert nearest("presence", attributes, ("a", "b"))(shown(1, 1, 0))["presence"].tolist() == [1, 0.5]


def test_the_nearest_copy_is_that_of_the_least_squares_of_differences() -> None:
    draw = seed.generator("copies")
    pictures = [torch.from_numpy(draw.integers(0, 256, (3, 9 + n, 20)).astype(np.uint8)) for n in range(7)]
    copies = Copies()
    assert len([*copies.of_all([Truth(one, Scene(one)) for one in pictures])]) == 7
    find = copies.finder()
    asked = torch.from_numpy(draw.integers(0, 256, (3, 16, 16)).astype(np.uint8))
    small = np.stack([small_copy(one).numpy() for one in pictures]).astype(float)
    assert find(asked) == np.linalg.norm(small - small_copy(asked).numpy(), axis=1).argmin()
    assert [find(one) for one in pictures] == [*range(7)]
