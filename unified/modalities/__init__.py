"""The modalities, each with a tokenizer (CPU, driven by a spec) and an embedding (the weights)."""

from dataclasses import dataclass

from torch import nn

from unified.modalities.base import Tokenizer
from unified.modalities.image import ImageEmbedding, ImageTokenizer
from unified.modalities.text import TextEmbedding, TextTokenizer
from unified.recipe import ImageSettings, TextSettings


@dataclass(frozen=True)
class Modality:
    """The two halves of a modality."""

    tokenizer: type[Tokenizer]
    embedding: type[nn.Module]


MODALITIES: dict[str, Modality] = {
    "image": Modality(ImageTokenizer, ImageEmbedding),
    "text": Modality(TextTokenizer, TextEmbedding),
}


def load_tokenizers(image: ImageSettings, text: TextSettings) -> dict[str, Tokenizer]:
    """The tokenizer of every modality, by name."""
    return {
        "image": ImageTokenizer.load(image.tokenizer, image.patch),
        "text": TextTokenizer.load(text.tokenizer, text.max_length),
    }
