"""Named points, each by a heat map."""

from unified.answers.kind import QueryKind


class Heatmaps(QueryKind):
    """Named points, each by a heat map."""

    name = "points"


HEATMAPS = Heatmaps()
