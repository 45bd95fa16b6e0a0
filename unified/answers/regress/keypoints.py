"""Named points, each by its coordinates."""

from unified.answers.kind import QueryKind


class Keypoints(QueryKind):
    """Named points, each by its coordinates."""

    name = "places"


KEYPOINTS = Keypoints()
