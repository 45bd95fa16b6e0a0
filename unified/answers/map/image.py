"""An image."""

from unified.answers.kind import QueryKind


class ImageAnswer(QueryKind):
    """An image."""

    name = "pixels"


IMAGE = ImageAnswer()
