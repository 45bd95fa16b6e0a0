"""Text: byte-level or other BPE of Hugging Face's `tokenizers`, and the embedding of its ids.

Source of the arithmetic: Uni-Perceiver (CVPR 2022). A text has no start token and is closed by `<|endoftext|>`;
`<|spe|>` is the prefix whose state represents an input, the mask, and the token that asks for the next word.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import tokenizers
import torch
from jaxtyping import Int
from tokenizers import models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from unified.core import json_files
from unified.core.errors import DataError, HubError, RecipeError, quoted
from unified.core.hub_files import fetch_files, hub_name
from unified.core.paths import find
from unified.core.types import Tokens
from unified.modalities.base import FORMAT, read_json, timeline

FILE = "tokenizer.json"
MOST_BYTES = 1 << 27
"""The largest tokenizers of the hub have 35 MB."""
MOST_IDS = 1 << 22
SPE = "<|spe|>"
END = "<|endoftext|>"
MOST_LETTERS = 128
"""Letters of a token at most, as far as it matters for where long texts are cut."""
FAR = 4
"""Times the wanted ids, before which the cut of a single long word changes nothing."""
FARTHEST = 64
"""Times the letters that hold all wanted ids; of a text of white space, say, nothing behind them is read."""


class TextIds(list[int]):
    """The ids of one text, the end token included, that know the words which they spell."""

    def __init__(self, ids: Sequence[int], text: str, starts: Sequence[int]) -> None:
        """Keep what words are found by.

        Args:
            ids: the ids, of which the last ones may stand for nothing in the text.
            text: the text, as it was written.
            starts: of the ids that stand for a part of the text, the offset of its first character.
        """
        super().__init__(ids)
        self.text, self.starts = text, starts

    @cached_property
    def words(self) -> list[int]:
        """The number of each id's word, counted from 0 over the words that ids begin in; -1: of no word.

        Words are those of BERT's basic tokenizer: runs without white space, where each punctuation mark and each
        Chinese character is a word of its own. An id belongs to the word of the first character from its start on
        that is no white space, so one that crosses into a second word belongs to the first.
        """
        ends = [end for _, end in _basic_tokenizer().encode(self.text, add_special_tokens=False).offsets]
        numbers: dict[int, int] = {}
        found = [bisect_right(ends, start) for start in self.starts]
        words = [numbers.setdefault(word, len(numbers)) if word < len(ends) else -1 for word in found]
        return [*words, *[-1] * (len(self) - len(words))]


class TextTokenizer:
    """Strings to ids and back.

    Special tokens that are written out in a text are ordinary characters, so data cannot smuggle them in; `cloze`
    is the way to ask for `<|spe|>` on purpose.
    """

    modality = "text"

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_length: int) -> None:
        if max_length < 2:
            raise RecipeError(
                f"text.max_length: {max_length} leaves no room for a word and the end token; use 2 or more"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        tokenizer.add_special_tokens([token for token in (END, SPE) if tokenizer.token_to_id(token) is None])
        self.spe, self.end = _special_id(tokenizer, SPE), _special_id(tokenizer, END)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        longest = max(map(len, tokenizer.get_vocab(with_added_tokens=False)), default=1)
        self._token_letters = min(max(longest, 1), MOST_LETTERS)
        tokenizer.post_processor = TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, self.end)]
        )

    def __reduce__(self) -> tuple[type, tuple[tokenizers.Tokenizer, int]]:
        """Copies and copies in other processes are made anew: the wrapped tokenizer forgets to split special tokens."""
        return type(self), (self.tokenizer, self.max_length)

    @classmethod
    def load(cls, reference: str, max_length: int) -> "TextTokenizer":
        """The tokenizer of a folder in tokenizers/, of a path, or of the Hugging Face hub (`org/name`)."""
        try:
            found = find("tokenizers", reference)
        except FileNotFoundError as error:
            return cls(_from_hub(reference, error), max_length)
        file = found / FILE if found.is_dir() else found
        if not file.is_file():
            raise RecipeError(f"{found}: no tokenizer.json; `unified tokenizer train CORPUS OUT` makes one")
        settings = file.with_name("tokenizer_config.json")
        if settings.is_file():
            read_json(settings)
        return cls(read_tokenizer(file), max_length)

    @property
    def size(self) -> int:
        """Number of ids, special tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, closed by the end token and cut to `max_length`."""
        short = [self.shorten(text) for text in texts]
        return [self._closed(found.ids) for found in self.tokenizer.encode_batch(short, add_special_tokens=False)]

    def prepare(self, raw: Any) -> TextIds:
        """The ids of one text, closed by the end token and cut to `max_length`."""
        text = self.shorten(raw)
        found = self.tokenizer.encode(text, add_special_tokens=False)
        kept = found.offsets[: self.max_length - 1]
        return TextIds(self._closed(found.ids), text, [start for start, _ in kept])

    def shorten(self, text: Any, length: int = 0) -> str:
        """Return the beginning of a text that has all of its first ids: a text of megabytes is not tokenized whole.

        Args:
            text: Any text; short ones come back as they are.
            length: Ids that are wanted, where these are more than `max_length`.

        Raises:
            DataError: It is no text.
        """
        if not isinstance(text, str):
            raise DataError(f"expected a text (str), found {type(text).__name__}; name a text column as the input")
        wanted = max(length, self.max_length)
        size = wanted * self._token_letters
        most = FARTHEST * size
        while size < min(len(text), most):
            words = self.tokenizer.encode(text[:size], add_special_tokens=False).word_ids
            # What is cut off may change the last word alone; in one without end the ids far before the cut stay.
            if len(words) >= wanted and (words[wanted - 1] != words[-1] or len(words) >= FAR * wanted):
                return text[:size]
            size *= 4  # white space that a normalizer joins, and the like
        return text[:most]

    def cloze(self, text: str) -> list[int]:
        """The ids of a text in which `<|spe|>` marks the places to be filled in."""
        first, *rest = text.split(SPE, self.max_length)
        ids = self._all(first)
        for part in rest:
            if len(ids) < self.max_length:
                ids += [self.spe, *self._all(part)]
        return self._closed(ids)

    def _all(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(self.shorten(text), add_special_tokens=False).ids
        return ids

    def _closed(self, ids: list[int]) -> list[int]:
        return [*ids[: self.max_length - 1], self.end]

    def text(self, ids: Sequence[int]) -> str:
        """The string that ids stand for, up to the first end token."""
        kept = list(ids)
        if self.end in kept:
            kept = kept[: kept.index(self.end)]
        return self.tokenizer.decode(kept, skip_special_tokens=True).strip()

    def tokens(self, prepared: Sequence[Sequence[int]]) -> Tokens:
        """A batch of id lists, padded at the end with the end token (and masked).

        Where all come from `prepare`, the tokens know the words that they belong to.
        """
        if not prepared:
            raise DataError("a batch of texts needs at least one text")
        lengths = torch.tensor([len(ids) for ids in prepared])
        longest = int(lengths.max())
        rows = [[*ids, *[self.end] * (longest - len(ids))] for ids in prepared]
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        words = [[*ids.words, *[-1] * (longest - len(ids))] for ids in prepared if isinstance(ids, TextIds)]
        known = torch.tensor(words) if len(words) == len(rows) else None
        return Tokens("text", torch.tensor(rows), mask, timeline(len(rows), longest), words=known)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer reads too."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        settings = {
            "format": FORMAT,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": END,
            "mask_token": SPE,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.max_length,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    assert index is not None
    return index


def read_tokenizer(file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer in a tokenizer.json.

    Raises:
        DataError: The file is no JSON, or has ids for which the library would take all memory.
        RecipeError: It is JSON of something else.
    """
    _check_ids(json_files.read_json(file, most=MOST_BYTES), file)
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except BaseException as error:  # the class that `tokenizers` raises, or a panic of it, which is no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise RecipeError(f"{file}: expected a file of the library tokenizers, got other JSON: {error}") from error


def _check_ids(content: dict[str, Any], file: Path) -> None:
    """Refuse ids beyond any vocabulary: the library makes tables of so many rows."""
    model, added = content.get("model"), content.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    wrong = next((number for number in ids if isinstance(number, int) and not 0 <= number <= MOST_IDS), None)
    if wrong is not None:
        raise DataError(f"{file}: expected ids from 0 to {MOST_IDS:,}, got {quoted(wrong)}")


def _from_hub(reference: str, absent: FileNotFoundError) -> tokenizers.Tokenizer:
    """The tokenizer of a hub repository; `absent` is the error where `reference` cannot be one."""
    try:
        name = hub_name(reference)
        if name is None:
            raise RecipeError(f"text.tokenizer: {absent}; a hub name is written org/name or org/name@revision")
        return read_tokenizer(fetch_files(name, (), FILE).folder / FILE)
    except HubError as error:
        raise RecipeError(f"text.tokenizer: {absent}; as a name of the hub: {error}") from error


@cache
def _basic_tokenizer() -> tokenizers.Tokenizer:
    """Return BERT's basic tokenizer (Devlin et al., 2019): every word becomes one token, of which offsets are read."""
    basic = tokenizers.Tokenizer(models.WordLevel({"": 0}, unk_token=""))
    basic.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    basic.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return basic


def text_tokens(ids: Int[Tensor, "b n"], mask: Tensor | None = None) -> Tokens:
    """Text ids as tokens; positions count from 0."""
    visible = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    padded = False if mask is None else None
    return Tokens("text", ids, visible, timeline(ids.shape[0], ids.shape[1], ids.device), padded)
