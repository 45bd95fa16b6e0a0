"""A unit vector for each pixel."""

from unified.answers.kind import QueryKind


class Normals(QueryKind):
    """A unit vector for each pixel."""

    name = "directions"


NORMALS = Normals()
