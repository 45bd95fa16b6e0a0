"""Names of weights: those that earlier formats had, and today's."""

RENAMED = {"text.": "embeddings.text.", "image.": "embeddings.image."}
"""Beginnings of the names of weights in folders and checkpoints of the first format, and what they are today."""


def current_name(name: str) -> str:
    """Return today's name of a weight; today's own come back as they are."""
    for earlier, now in RENAMED.items():
        if name.startswith(earlier):
            return now + name.removeprefix(earlier)
    return name
