"""A map whose sum is a count."""

from unified.answers.kind import QueryKind


class Density(QueryKind):
    """A map whose sum is a count."""

    name = "density"


DENSITY = Density()
