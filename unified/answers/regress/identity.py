"""A vector that is alike for the same one."""

from unified.answers.kind import QueryKind


class Identity(QueryKind):
    """A vector that is alike for the same one."""

    name = "identity"


IDENTITY = Identity()
