"""The vocabulary of the published models: CLIP's byte-pair encoding and five special tokens.

Source: OpenAI's CLIP, whose merges (`bpe_simple_vocab_16e6.txt.gz`) the published code carries.
"""

import gzip
import zlib
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from unified.core.errors import UserError
from unified.modalities.text.tokenizer import END, SPE, TextTokenizer

SPECIAL = ("<|startoftext|>", END, "<|mask|>", "<|gen|>", SPE)
"""In the order of their ids, which are the last ones."""
WORD_END = "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What becomes tokens apart from each other, in lower case."""
BYTES = 256


def load_tokenizer(reference: Path, vocabulary: int, max_length: int) -> TextTokenizer:
    """The tokenizer of a checkpoint with `vocabulary` words.

    `reference`: the merges that come with the published code, or a tokenizer.json (or its folder) with the whole
    vocabulary or with that of CLIP, which lacks the last three special tokens.
    """
    file = reference / "tokenizer.json" if reference.is_dir() else reference
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; give a folder with a tokenizer.json of CLIP's vocabulary, or the file "
            "bpe_simple_vocab_16e6.txt.gz that the published code has in uniperceiver/tokenization"
        )
    found = _from_json(file) if file.suffix == ".json" else _from_merges(file, vocabulary)
    for token in SPECIAL:
        if found.token_to_id(token) is None:
            found.add_special_tokens([AddedToken(token, special=True)])
    size, end, spe = found.get_vocab_size(with_added_tokens=True), found.token_to_id(END), found.token_to_id(SPE)
    if (size, end, spe) != (vocabulary, vocabulary - 4, vocabulary - 1):
        raise UserError(
            f"{file}: {size:,} entries, {END} is {end} and {SPE} is {spe}; the checkpoint has {vocabulary:,}, "
            f"{vocabulary - 4} and {vocabulary - 1}: this is another vocabulary"
        )
    return TextTokenizer(found, max_length)


def _from_json(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the class that `tokenizers` raises, whatever went wrong
        raise UserError(f"{file}: not a tokenizer.json: {error}") from error


def _from_merges(file: Path, vocabulary: int) -> tokenizers.Tokenizer:
    """CLIP's tokenizer from its merges, the first line of which is a title."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        pairs = [tuple(line.split()) for line in content.decode("utf-8").split("\n")[1:]]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a file of merges: {error}") from error
    wanted = vocabulary - 2 * BYTES - len(SPECIAL)
    merges = [(pair[0], pair[1]) for pair in pairs[:wanted] if len(pair) == 2]
    if len(merges) != wanted:
        raise UserError(f"{file}: {len(merges):,} merges of two tokens; the checkpoint needs {wanted:,}")
    letters = _letters()
    words = [*letters, *(letter + WORD_END for letter in letters), *(first + second for first, second in merges)]
    words += SPECIAL
    tokenizer = tokenizers.Tokenizer(
        models.BPE({word: number for number, word in enumerate(words)}, merges, end_of_word_suffix=WORD_END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace(WORD_END, "Ġ"), decoders.ByteLevel()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def _letters() -> list[str]:
    """A printable letter for each byte, in the order of CLIP's vocabulary: first the bytes that are printable."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return [*map(chr, printable), *(chr(BYTES + number) for number in range(len(others)))]
