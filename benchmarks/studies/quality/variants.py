"""What is compared: changes to recipes/quickstart.yaml, by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SPECIALISTS = "specialists"


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    about: str
    seeds: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Merged over the recipe, key by key."""
    extra: bool = False
    """Runs only where it is named."""


def experts(**settings: Any) -> dict[str, Any]:
    """The change to a recipe that gives its model conditional experts."""
    return {"model": {"experts": settings}}


SENT = {"linears": ["up", "down"], "hidden": 256}
"""Where tokens are sent to two experts each, experts of half the width do the work of a dense layer."""

VARIANTS = {
    SPECIALISTS: Variant("one model a task, together as many samples as one generalist", seeds=3),
    "dense": Variant("one dense model for all tasks", seeds=3),
    "attribute": Variant("experts by attributes of the token", 3, experts(router="attribute")),
    "token": Variant("feed-forward experts by the token itself, half as wide", 3, experts(router="token", **SENT)),
    "task": Variant("experts by task", 1, experts(router="task")),
    "modality": Variant("experts by modality", 1, experts(router="modality")),
    "context": Variant("token, with a view of its sequence", 1, experts(router="context", **SENT)),
    "hash": Variant("experts by a fixed draw for each set of attributes", 1, experts(router="hash")),
    "attribute_ffn": Variant(
        "attribute, in the feed-forward layers alone",
        1,
        experts(router="attribute", linears=["up", "down"]),
        extra=True,
    ),
    "attribute_no_noise": Variant("attribute, without gate noise", 1, experts(router="attribute", noise=0), extra=True),
    "attribute_all_layers": Variant(
        "attribute, in every layer", 1, experts(router="attribute", layers="all"), extra=True
    ),
    "attribute_4_experts": Variant("attribute, 4 experts", 1, experts(router="attribute", count=4), extra=True),
    "token_wide": Variant(
        "token, with experts of full width: twice the work of a dense layer",
        1,
        experts(router="token", linears=["up", "down"]),
        extra=True,
    ),
    "token_all_linears": Variant(
        "token, in all four linears: twice the work of a dense layer", 1, experts(router="token"), extra=True
    ),
}
