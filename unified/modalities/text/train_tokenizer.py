"""Making a text tokenizer: byte-level BPE over lower-cased text."""

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from unified.core.errors import RecipeError
from unified.modalities.text.tokenizer import END, SPE, TextTokenizer

SMALLEST = 256 + 2  # every byte, and the special tokens: nothing is ever unknown


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, *, max_length: int = 64) -> TextTokenizer:
    """A tokenizer of at most `vocabulary_size` ids, special tokens included; the same texts give the same one.

    Text is composed (NFC), lower-cased and its white space collapsed; words split into letters, digits and signs; a
    word has the same ids at the beginning of a text and inside it.
    """
    if vocabulary_size < SMALLEST:
        raise RecipeError(f"--vocab-size: {vocabulary_size} is below the {SMALLEST} of all bytes and special tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END, SPE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts)
    tokenizer.train_from_iterator(counted, trainer)
    if not counted.seen:
        raise RecipeError("the corpus holds no text; name text files, or folders of shards with a txt column")
    return TextTokenizer(tokenizer, max_length)


class _Counted:
    """An iterable that knows how much of it was read."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.seen = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.seen += bool(text.strip())
            yield text
