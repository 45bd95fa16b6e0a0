"""Settings of texts in recipes and config.json."""

from dataclasses import dataclass

from unified.core.bounds import Length


@dataclass(frozen=True)
class TextSettings:
    """How text is read and embedded."""

    tokenizer: str = "text"
    """A folder in tokenizers/, a path, or a tokenizer of the Hugging Face hub (`org/name`, `org/name@revision`)."""
    max_length: Length = 64
    """Tokens of a text, the end token included; longer texts are cut."""
    positions: Length = 512
    """Rows of the learned table of positions."""
