"""The numbers that settings and configurations may hold, as types: what a file says is checked by its own fields."""

from typing import Annotated

from annotated_types import Interval

Finite = Annotated[float, Interval()]
NotNegative = Annotated[float, Interval(ge=0)]
Positive = Annotated[float, Interval(gt=0)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
AtLeastOne = Annotated[int, Interval(ge=1)]
Whole = Annotated[int, Interval(ge=0)]
Steps = Annotated[int, Interval(ge=1, le=10**12)]
Batch = Annotated[int, Interval(ge=1, le=1 << 20)]
Parts = Annotated[int, Interval(ge=1, le=1 << 16)]
"""Of a step: slots, passes, processes that share something."""
Several = Annotated[int, Interval(ge=0, le=4096)]
"""Workers, attempts, what is fetched ahead; 0: none."""
Width = Annotated[int, Interval(ge=1, le=1 << 17)]
Depth = Annotated[int, Interval(ge=1, le=1024)]
"""Layers, heads, patches of a side: each is something that is built or a step of a loop."""
Count = Annotated[int, Interval(ge=1, le=4096)]
"""Experts, frames."""
Side = Annotated[int, Interval(ge=1, le=1 << 15)]
"""Pixels."""
Length = Annotated[int, Interval(ge=1, le=1 << 20)]
"""Tokens of a text."""
Vocabulary = Annotated[int, Interval(ge=1, le=1 << 22)]
MOST_LABELS = 100_000
"""Classes of a flat classifier; ImageNet-21k has 21,841."""
Classes = Annotated[int, Interval(ge=1, le=MOST_LABELS)]
