"""The modalities, each with a tokenizer (CPU, driven by a spec) and an embedding (the weights)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from unified.modalities.base import Tokenizer
from unified.modalities.image.embedding import ImageEmbedding
from unified.modalities.image.settings import ImageSettings
from unified.modalities.image.tokenizer import ImageTokenizer
from unified.modalities.text.embedding import TextEmbedding
from unified.modalities.text.settings import TextSettings
from unified.modalities.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Modality:
    """The two halves of a modality."""

    tokenizer: Callable[[Any], Tokenizer]
    """Makes the CPU half from the modality's settings in a recipe."""
    embedding: type[nn.Module]


MODALITIES: dict[str, Modality] = {
    "image": Modality(
        lambda settings: ImageTokenizer.load(settings.tokenizer, settings.patch, settings.frames), ImageEmbedding
    ),
    "text": Modality(lambda settings: TextTokenizer.load(settings.tokenizer, settings.max_length), TextEmbedding),
}


def load_tokenizers(image: ImageSettings, text: TextSettings) -> dict[str, Tokenizer]:
    """The tokenizer of every modality, by name."""
    settings = {"image": image, "text": text}
    return {name: modality.tokenizer(settings[name]) for name, modality in MODALITIES.items()}
