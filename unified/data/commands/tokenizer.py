"""`unified tokenizer train`: texts of files and of shards to a text tokenizer."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from unified.core.consent import allow_commands
from unified.core.errors import DataError
from unified.core.log import logger
from unified.data.shards.shards import Shards
from unified.modalities.text.train_tokenizer import train_tokenizer

TEXT_COLUMN = "txt"


def corpus(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of text files and the texts of shards (their `txt` column), in order."""
    for path in paths:
        if path.suffix == ".tar" or path.is_dir():
            yield from _shard_texts(path)
        elif path.is_file():
            yield from _lines(path)
        else:
            raise DataError(f"{path}: no such file or folder; a corpus is text files and folders of shards")


def _shard_texts(path: Path) -> Iterator[str]:
    with allow_commands([str(path)]):  # named on the command line
        shards = Shards.open(path)
    if TEXT_COLUMN not in shards.columns:
        raise DataError(f"{path}: no column {TEXT_COLUMN!r}; the shards hold {', '.join(shards.columns)}")
    for number in range(len(shards)):
        raw = shards[number]
        if TEXT_COLUMN in raw:
            yield _decoded(bytes(raw[TEXT_COLUMN]), f"{raw['__shard__']}: {raw['__key__']}: {TEXT_COLUMN}")


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield _decoded(line, f"{path}:{number}")


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error}); convert it first") from error


def train_command(paths: Sequence[Path], out: Path, *, vocabulary_size: int) -> None:
    """Train on a corpus, write the tokenizer into the folder `out`, and say how long its texts become."""
    tokenizer = train_tokenizer(corpus(paths), vocabulary_size, max_length=64)
    tokenizer.save(out)
    texts = words = tokens = 0
    for text in corpus(paths):
        texts += 1
        words += len(text.split())
        tokens += len(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)
    logger.info("%s: %d ids, trained on %d texts", out, tokenizer.size, texts)
    logger.info("%.2f tokens a text, %.2f a word", tokens / max(texts, 1), tokens / max(words, 1))
