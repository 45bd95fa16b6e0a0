"""What a diagnosis of a run is, and the limits that decide."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

Level = Literal["problem", "note"]


class Limit(NamedTuple):
    """A number that decides, and why it is that number."""

    value: float
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """Something that a person who looks at the run should know."""

    kind: str
    level: Level
    text: str
    steps: tuple[int, ...] = ()
    """Where it shows, if at single steps."""
    subject: str | None = None
    """The task, key or place that it is about."""


THIRD = Limit(3, "values that each third of a curve must have for its beginning and end to be compared")
TAIL = Limit(0.25, "share of the records, the last ones, that say how speed and experts are now")
MEDIAN_DIFFERENCE = 0.9539
"""Of two values of Gaussian noise, in standard deviations: 0.6745 times the root of 2."""
