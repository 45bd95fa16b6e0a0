"""`unified tokenizer …`: train tokenizers."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

import unified.cli.convert  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # noqa: F401 - adds its commands
from unified.cli.app import command, group
from unified.core.errors import RecipeError

group("tokenizer", "Train tokenizers.")


@command("tokenizer train")
def tokenizer_train(
    corpus_and_out: Annotated[tuple[Path, ...], Positional, arg(metavar="CORPUS… OUT")],
    /,
    vocab_size: int = 2048,
) -> None:
    """Train a byte-level BPE tokenizer for text.

    Example: unified tokenizer train data/glyphs/train data/documentation/train tokenizers/mine --vocab-size 4096

    Args:
        corpus_and_out: Text files or folders of shards (their txt column), and last the folder to write.
        vocab_size: Entries, special tokens included.
    """
    from unified.data.commands.tokenizer import train_command

    if len(corpus_and_out) < 2:
        raise RecipeError("tokenizer train: give at least one corpus, and the folder to write")
    train_command(corpus_and_out[:-1], corpus_and_out[-1], vocabulary_size=vocab_size)
