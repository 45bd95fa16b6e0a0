"""What a model keeps of a task that queries answer: enough to ask it again without the recipe."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class QuerySpec:
    """The queries of one task, and how they are read; each kind of answer adds what it keeps."""

    read: str
    """The name of the kind of answer."""
    queries: int
    names: tuple[str, ...] = ()
    """Of the queries, or of the classes of objects."""
    from_names: bool = False
    size: tuple[int, int] = (0, 0)
    """Height and width of the images that it learned from."""
    family: str = ""


def plain_specs(specs: Mapping[str, QuerySpec]) -> dict[str, dict[str, Any]]:
    """Specs as a config.json holds them."""
    return {
        name: {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(spec).items()}
        for name, spec in specs.items()
    }
