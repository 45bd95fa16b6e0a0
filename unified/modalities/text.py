"""Text: byte-level or other BPE of Hugging Face's `tokenizers`, and the embedding of its ids.

Source of the arithmetic: Uni-Perceiver (CVPR 2022). A text has no start token and is closed by `<|endoftext|>`;
`<|spe|>` is the prefix whose state represents an input, the mask, and the token that asks for the next word.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
import torch
from jaxtyping import Float, Int
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from unified.config import RecipeError
from unified.modalities.base import FORMAT, read_json, shared, timeline
from unified.paths import find
from unified.types import DataError, Tokens

SPE = "<|spe|>"
END = "<|endoftext|>"
SPACE = "space"  # the last character of a token that is nothing else: the word goes on


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
        file = found / "tokenizer.json" if found.is_dir() else found
        if not file.is_file():
            raise RecipeError(f"{found}: no tokenizer.json; `unified tokenizer train CORPUS OUT` makes one")
        settings = file.with_name("tokenizer_config.json")
        if settings.is_file():
            read_json(settings)
        return cls(tokenizers.Tokenizer.from_file(str(file)), max_length)

    @property
    def size(self) -> int:
        """Number of ids, special tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, closed by the end token and cut to `max_length`."""
        return [self.prepare(text) for text in texts]

    def prepare(self, raw: Any) -> list[int]:
        """The ids of one text, closed by the end token and cut to `max_length`."""
        return self._closed(self._pieces(raw))

    def cloze(self, text: str) -> list[int]:
        """The ids of a text in which `<|spe|>` marks the places to be filled in."""
        first, *rest = text.split(SPE)
        ids = self._pieces(first)
        for part in rest:
            ids += [self.spe, *self._pieces(part)]
        return self._closed(ids)

    def _pieces(self, text: Any) -> list[int]:
        if not isinstance(text, str):
            raise DataError(f"expected a text (str), found {type(text).__name__}; name a text column as the input")
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _closed(self, ids: list[int]) -> list[int]:
        return [*ids[: self.max_length - 1], self.end]

    def text(self, ids: Sequence[int]) -> str:
        """The string that ids stand for, up to the first end token."""
        kept = list(ids)
        if self.end in kept:
            kept = kept[: kept.index(self.end)]
        return self.tokenizer.decode(kept, skip_special_tokens=True).strip()

    def tokens(self, prepared: Sequence[Sequence[int]]) -> Tokens:
        """A batch of id lists, padded at the end with the end token (and masked)."""
        if not prepared:
            raise DataError("a batch of texts needs at least one text")
        lengths = torch.tensor([len(ids) for ids in prepared])
        longest = int(lengths.max())
        rows = [[*ids, *[self.end] * (longest - len(ids))] for ids in prepared]
        mask = torch.arange(longest)[None, :] < lengths[:, None]
        return Tokens("text", torch.tensor(rows), mask, timeline(len(rows), longest))

    def word_starts(self, ids: Sequence[int]) -> list[bool]:
        """Whether each id begins a word: a run of letters, of digits or of other signs. Special ids stand alone."""
        begins, first, last = self._shapes
        result, before = [], "nothing"
        for i in ids:
            result.append(begins[i] or before not in (first[i], SPACE))
            before = last[i]
        return result

    @cached_property
    def _shapes(self) -> tuple[list[bool], list[str], list[str]]:
        """For each id: does it begin a word in any case, and the kinds of its first and of its last character."""
        model = json.loads(self.tokenizer.to_str())["model"]
        closes, continues = model.get("end_of_word_suffix") or "", model.get("continuing_subword_prefix") or ""
        special = {i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        begins, first, last = [], [], []
        for i in range(self.size):
            token = self.tokenizer.id_to_token(i) or ""
            spaced = token[:1] in ("Ġ", "▁")
            body = token[1:] if spaced else token
            ends = bool(closes) and body.endswith(closes)
            body = body.removesuffix(closes) if ends else body
            inner = bool(continues) and body.startswith(continues)
            body = body.removeprefix(continues) if inner else body
            alone = i in special or not token
            begins.append(alone or spaced or (bool(continues) and not inner))
            first.append("" if alone or not body else _kind(body[0]))
            last.append("" if alone or ends else _kind(body[-1]) if body else SPACE)
        return begins, first, last

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


def _from_hub(reference: str, absent: FileNotFoundError) -> tokenizers.Tokenizer:
    """The tokenizer of a hub repository; `absent` is the error where `reference` cannot be one."""
    if reference.count("/") != 1 or reference.startswith((".", "/")):
        raise RecipeError(f"text.tokenizer: {absent}; a hub name is written org/name") from absent
    try:
        return tokenizers.Tokenizer.from_pretrained(reference)
    except Exception as error:  # the class that `tokenizers` raises, whatever went wrong
        raise RecipeError(f"text.tokenizer: {absent}; as a name of the hub: {error}") from error


def _kind(character: str) -> str:
    if character.isdigit() and character.isascii():
        return "digit"
    return "letter" if character.isalpha() or not character.isascii() else "sign"


class TextEmbedding(nn.Module):
    """Ids to vectors: norm(word[id] + position[t] + type[0])."""

    def __init__(self, vocabulary: int, width: int, positions: int, biased: int | None = None) -> None:
        """`biased`: the id to whose word vector a learned bias is added, as prompt tuning has it for [SPE]."""
        super().__init__()
        self.biased = -1 if biased is None else biased
        self.bias = None if biased is None else nn.Parameter(torch.zeros(width))
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(positions, width)
        self.token_type = nn.Embedding(2, width)  # the second row belongs to the published layout and is never read

    def forward(self, tokens: Tokens, norm: nn.LayerNorm) -> Float[Tensor, "b n w"]:
        """`norm` is the one that all modalities share; the model holds it, once."""
        time = shared(tokens.position)[..., 0].long()
        if tokens.values.shape[1] > self.position.num_embeddings:
            raise DataError(
                f"a text of {tokens.values.shape[1]} tokens exceeds the {self.position.num_embeddings} positions of "
                "this model; cut it (the tokenizer does so at text.max_length)"
            )
        kind = self.token_type(torch.zeros(1, dtype=torch.long, device=time.device))
        return norm(self.words(tokens.values) + self.position(time) + kind)

    def words(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n w"]:
        """Word vectors, with the learned bias of one of them."""
        words = self.word(ids)
        return words if self.bias is None else words + torch.eq(ids, self.biased)[..., None] * self.bias

    def prefix(self, index: int, norm: nn.LayerNorm, device: torch.device | None = None) -> Float[Tensor, "w"]:
        """The vector of one word without position and type: [SPE] at the head of a sequence.

        `device` is that of the sequence, for weights that are kept elsewhere; that of the weights where it is None.
        """
        return norm(self.words(torch.full((1,), index, device=device or self.word.weight.device)))[0]
