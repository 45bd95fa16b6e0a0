import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unified.data.samples.run_lengths import lengths_problem


def test_lengths_of_any_mask_fit_its_pixels() -> None:
    draw = np.random.default_rng(0)
    for height, width, share in ((1, 1, 1.0), (4, 4, 0.0), (7, 90, 0.5), (300, 211, 0.02), (2000, 1500, 0.0001)):
        for pixels in (draw.random((height, width)) < share, np.ones((height, width), bool)):
            encoded = coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))
            counts = encoded["counts"].decode()
            assert lengths_problem(counts, height * width) is None
            assert lengths_problem(counts, height * width + 1) is not None
            assert lengths_problem(counts[:-1], height * width) is not None or counts[-1] == "0"


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ("", "no lengths"),
        ("0", "lengths for 0 of 16"),
        ("~~~~", "none of run lengths"),
        ("\x00", "none of run lengths"),
        ("ä", "none of run lengths"),
        ("PP", "cut off"),
        ("o" * 30 + "0", "without end"),
        ("O`0", "below 0"),
        ("0`00O", "lengths for 31 of 16"),
        ("`0`0", "lengths for 32 of 16"),
    ],
)
def test_lengths_that_would_leave_pixels_to_chance_are_told(counts: str, problem: str) -> None:
    assert problem in str(lengths_problem(counts, 16))
