"""Settings that kinds with a query for each name have in common."""

from dataclasses import dataclass

from unified.answers.kind import QuerySettings


@dataclass(frozen=True, kw_only=True)
class NamedSettings(QuerySettings):
    """Of kinds with a query for each name."""

    names: str
    """`labels/NAME` or a file of names, a query for each."""
    from_names: bool = False
    """Queries are made from their names by the text encoder, so that new names can be asked for later."""
