"""What every kind of answer offers."""


class AnswerKind:
    """One kind of answer, whole: one module each."""

    name: str
    """In recipes, configurations and results."""


class QueryKind(AnswerKind):
    """A kind of answer that task queries give."""
