"""A fraction for each pixel."""

from unified.answers.kind import QueryKind


class Edges(QueryKind):
    """A fraction for each pixel."""

    name = "share"


EDGES = Edges()
