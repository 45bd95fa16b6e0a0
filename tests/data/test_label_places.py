"""Labels in images: where there is room, none over another."""

from itertools import combinations

import numpy as np

from unified.data.label_places import Rect, place_labels


def test_labels_of_boxes_at_one_place_do_not_cover_each_other() -> None:
    draw = np.random.default_rng(0)
    corners = draw.uniform(0, 200, (20, 2))
    boxes = [Rect(x, y, x + 60, y + 50) for x, y in corners]
    placed = [rect for rect in place_labels((300, 300), boxes, [(50, 16)] * 20) if rect is not None]
    assert len(placed) >= 15
    assert not any(a.meets(b) for a, b in combinations(placed, 2))
    assert all(rect.left >= 0 and rect.top >= 0 and rect.right <= 300 and rect.bottom <= 300 for rect in placed)


def test_the_first_label_stands_above_its_box_and_inside_where_that_is_outside_the_image() -> None:
    above, inside = place_labels((100, 100), [Rect(10, 40, 60, 90), Rect(20, 2, 90, 30)], [(30, 16), (30, 16)])
    assert above == Rect(10, 24, 40, 40)
    assert inside == Rect(20, 2, 50, 18)


def test_a_label_without_room_has_no_place() -> None:
    assert place_labels((20, 20), [Rect(0, 0, 20, 20)], [(30, 16)]) == [None]
    first, second = place_labels((30, 16), [Rect(0, 0, 5, 5), Rect(0, 0, 5, 5)], [(30, 16), (30, 16)])
    assert (first, second) == (Rect(0, 0, 30, 16), None)
