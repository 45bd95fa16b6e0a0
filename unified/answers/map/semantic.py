"""A class for each pixel."""

from unified.answers.kind import QueryKind


class Semantic(QueryKind):
    """A class for each pixel."""

    name = "classes"


SEMANTIC = Semantic()
