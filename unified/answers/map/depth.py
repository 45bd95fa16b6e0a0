"""A number for each pixel, by bins."""

from unified.answers.kind import QueryKind


class Depth(QueryKind):
    """A number for each pixel, by bins."""

    name = "bins"


DEPTH = Depth()
