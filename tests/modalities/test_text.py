"""Text: ids with one end token and no start, special tokens that data cannot smuggle in, and the embedding's sum."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from unified.core.errors import DataError, RecipeError
from unified.hub.uni_perceiver.tokenizer import load_tokenizer
from unified.modalities.text.embedding import TextEmbedding
from unified.modalities.text.tokenizer import END, SPE, TextTokenizer

DEFAULT = TextTokenizer.load("text", 16)


def other_tokenizer(folder: Path) -> Path:
    """A tokenizer in CLIP's manner: words end in </w>, a start token is added, and nothing knows <|spe|>."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<|unk|>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=80,
        special_tokens=["<|startoftext|>", END, "<|unk|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    made.train_from_iterator(["a cat sat on a mat", "the catalogue of cats"], trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"<|startoftext|> $A {END}", special_tokens=[("<|startoftext|>", 0), (END, 1)]
    )
    made.enable_truncation(3)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_a_text_has_an_end_token_and_no_start() -> None:
    ids = DEFAULT.prepare("Digit Zero")
    assert ids[-1] == DEFAULT.end
    assert DEFAULT.end not in ids[:-1]
    assert DEFAULT.text(ids) == "digit zero"
    assert DEFAULT.ids(["", "digit zero"]) == [[DEFAULT.end], ids]


def test_normalisation_makes_equal_texts_equal() -> None:
    composed, decomposed = "CAF\u00c9  au\n lait ", "cafe\u0301 au lait"
    assert DEFAULT.prepare(composed) == DEFAULT.prepare(decomposed)


def test_a_word_has_the_same_ids_everywhere() -> None:
    first, last = DEFAULT.prepare("arrow up")[:-1], DEFAULT.prepare("up arrow")[:-1]
    assert sorted(first) == sorted(last)


@pytest.mark.parametrize("text", ["snow\u2603man", "日本語", "a\x00b", "<|spe|>", "e = mc²"])
def test_any_text_survives(text: str) -> None:
    assert TextTokenizer.load("text", 64).text(DEFAULT.prepare(text)) == text


def test_long_texts_are_cut_with_the_end_token_kept() -> None:
    ids = TextTokenizer.load("text", 4).prepare("one two three four five six seven")
    assert len(ids) == 4
    assert ids[-1] == DEFAULT.end


def test_data_cannot_write_special_tokens_but_a_cloze_can() -> None:
    hostile = f"nothing {SPE} here {END} after"
    ids = TextTokenizer.load("text", 64).prepare(hostile)
    assert DEFAULT.spe not in ids
    assert ids.count(DEFAULT.end) == 1
    cloze = DEFAULT.cloze(f"digit {SPE} is round")
    assert cloze.count(DEFAULT.spe) == 1
    assert cloze[cloze.index(DEFAULT.spe) + 1 :] == DEFAULT.prepare("is round")


@pytest.mark.parametrize("way", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_do_not_let_special_tokens_through(way: Callable[[TextTokenizer], TextTokenizer]) -> None:
    hostile = f"nothing {SPE} here"
    assert way(DEFAULT).prepare(hostile) == DEFAULT.prepare(hostile)


def clip_words(folder: Path) -> TextTokenizer:
    """A tokenizer that cuts as CLIP's does, digit by digit; its vocabulary is letters and a few merges."""
    file = folder / "merges.txt"
    file.write_text("#version: 0.2\nc a\nca t</w>\n' s</w>\n")
    return load_tokenizer(file, 2 * 256 + 3 + 5, 64)


def word_piece() -> TextTokenizer:
    """A tokenizer in BERT's manner: later parts of a word begin with ##."""
    pieces = ["[UNK]", "19", "##21", "play", "##ing", "don", "'", "t", "1", "9", "2", "x", "##1"]
    made = tokenizers.Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return TextTokenizer(made, 64)


def spelled(tokenizer: TextTokenizer, text: str) -> list[list[str]]:
    """The tokens of each word."""
    ids = tokenizer.prepare(text)
    tokens = [tokenizer.tokenizer.id_to_token(i) for i in ids]
    assert ids.words[-1] == -1, "the end token is of no word"
    return [[t for t, w in zip(tokens, ids.words, strict=True) if w == n] for n in range(max(ids.words) + 1)]


def test_words_are_runs_without_white_space_apart_from_punctuation() -> None:
    ids = TextTokenizer.load("text", 64).prepare("Hyphen-minus 12b, 1921  in_comprehensible")
    groups = [[i for i, word in zip(ids, ids.words, strict=True) if word == n] for n in range(max(ids.words) + 1)]
    assert [DEFAULT.text(group) for group in groups] == [
        "hyphen", "-", "minus", "12b", ",", "1921", "in", "_", "comprehensible"
    ]  # fmt: skip


def test_words_do_not_depend_on_what_they_become(tmp_path: Path) -> None:
    clip = clip_words(tmp_path)
    assert spelled(clip, "1921") == [["1</w>", "9</w>", "2</w>", "1</w>"]]
    assert spelled(clip, "1 9 2 1") == [["1</w>"], ["9</w>"], ["2</w>"], ["1</w>"]]
    assert clip.prepare("1921") == clip.prepare("1 9 2 1"), "ids alone cannot tell"
    assert spelled(clip, "cat's") == [["cat</w>"], ["'s</w>"]]
    assert spelled(word_piece(), "1921 playing 1 9 don't") == [
        ["19", "##21"], ["play", "##ing"], ["1"], ["9"], ["don"], ["'"], ["t"]
    ]  # fmt: skip
    assert spelled(DEFAULT, "1921 don't") == [["Ġ1", "9", "2", "1"], ["Ġdon"], ["'t"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", 0), ("   ", 0), ("日本 x", 3), ("a\x00b", 1), ("cafe\u0301 au", 2), ("mc²!?", 3), ("☃☃ é", 2), ("x ", 1)],
)
def test_every_token_of_a_word_is_found(text: str, words: int) -> None:
    ids = DEFAULT.prepare(text)
    assert max(ids.words) + 1 == words
    assert sorted(set(ids.words[:-1])) == list(range(words))


def test_words_survive_a_cut_and_a_copy() -> None:
    whole, cut = (
        TextTokenizer.load("text", 64).prepare("1921 and 1922"),
        TextTokenizer.load("text", 4).prepare("1921 and"),
    )
    assert cut.words == [*whole.words[:3], -1]
    assert pickle.loads(pickle.dumps(whole)).words == whole.words


def test_a_batch_knows_its_words_where_texts_are_known() -> None:
    tokens = DEFAULT.tokens([DEFAULT.prepare("one 1921"), DEFAULT.prepare("two")])
    assert tokens.words is not None
    assert tokens.words.tolist() == [[0, 1, 1, 1, 1, -1], [0, -1, -1, -1, -1, -1]]
    assert tokens.rows(slice(1, 2)).words.tolist() == [[0, -1, -1, -1, -1, -1]]  # type: ignore[union-attr]
    assert DEFAULT.tokens([[5, DEFAULT.end]]).words is None


def test_padding_is_masked_and_at_the_end() -> None:
    tokens = DEFAULT.tokens([[5, 6, DEFAULT.end], [7, DEFAULT.end]])
    assert tokens.values.tolist() == [[5, 6, DEFAULT.end], [7, DEFAULT.end, DEFAULT.end]]
    assert tokens.mask.tolist() == [[True, True, True], [True, True, False]]
    assert tokens.position[1].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_another_tokenizer_gets_the_prefix_token_and_loses_its_start_token(tmp_path: Path) -> None:
    loaded = TextTokenizer.load(str(other_tokenizer(tmp_path / "clip")), 16)
    ids = loaded.prepare("a catalogue, cats")
    assert loaded.spe == loaded.size - 1
    assert ids.count(0) == 0
    assert ids[-1] == loaded.end == 1
    assert max(ids.words) + 1 == 4, f"a / catalogue / , / cats, found {spelled(loaded, 'a catalogue, cats')}"


def test_saved_tokenizer_is_the_same_tokenizer(tmp_path: Path) -> None:
    DEFAULT.save(tmp_path)
    again = TextTokenizer.load(str(tmp_path), 16)
    assert again.prepare("latin small letter e") == DEFAULT.prepare("latin small letter e")
    assert again.tokenizer.to_str() == DEFAULT.tokenizer.to_str()
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["format"] == 1


def test_mistakes_have_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a text"):
        DEFAULT.prepare(7)
    with pytest.raises(RecipeError, match=r"did you mean 'text'\?"):
        TextTokenizer.load("texts", 16)
    with pytest.raises(RecipeError, match=r"no tokenizer\.json"):
        TextTokenizer.load(str(tmp_path), 16)
    with pytest.raises(RecipeError, match="max_length"):
        TextTokenizer.load("text", 1)
    DEFAULT.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "format": 9}))
    with pytest.raises(RecipeError, match="expected a format up to 1, got 9"):
        TextTokenizer.load(str(tmp_path), 16)


def test_embedding_is_the_norm_of_word_position_and_type() -> None:
    embedding, norm = TextEmbedding(20, 8, 6), nn.LayerNorm(8)
    tokens = DEFAULT.tokens([[4, 5, 6], [7, 8]])
    expected = norm(
        embedding.word.weight[tokens.values] + embedding.position.weight[:3] + embedding.token_type.weight[0]
    )
    torch.testing.assert_close(embedding(tokens, norm), expected)
    torch.testing.assert_close(embedding.prefix(3, norm, torch.device("cpu")), norm(embedding.word.weight[3]))


def test_embedding_refuses_more_tokens_than_positions() -> None:
    with pytest.raises(DataError, match="exceeds the 2 positions"):
        TextEmbedding(20, 8, 2)(DEFAULT.tokens([[4, 5, 6]]), nn.LayerNorm(8))


def test_embedding_copies_and_changes_precision() -> None:
    tokens = DEFAULT.tokens([[4, 5, 6]])
    embedding, norm = copy.deepcopy(TextEmbedding(20, 8, 6)).to(torch.bfloat16), nn.LayerNorm(8).to(torch.bfloat16)
    assert embedding(tokens, norm).dtype == torch.bfloat16


LONG = {
    "words": "a red square, number seven. " * 4000,
    "one word": "a" * 60_000,
    "digits": "1234567890" * 6000,
    "letters of several bytes": "größe 漢字 👍🏽 " * 4000,
    "combining marks": "e" + "\u0301" * 60_000,
    "spaces before": " " * 3000 + "a red square " * 4000,
    "no glyphs": "\0" * 60_000,
    "written special tokens": f"a {SPE} and {END} " * 4000,
}


@pytest.mark.parametrize("what", LONG)
def test_of_a_long_text_the_beginning_is_tokenized_and_its_ids_are_the_same(what: str) -> None:
    text = LONG[what]
    whole = DEFAULT.tokenizer.encode(text, add_special_tokens=False).ids
    ids = DEFAULT.prepare(text)
    assert list(ids) == [*whole[:15], DEFAULT.end]
    assert DEFAULT.ids([text, "a"])[0] == ids
    assert DEFAULT.cloze(text.replace(SPE, ""))[:10] == DEFAULT.prepare(text.replace(SPE, ""))[:10]
    assert len(ids.text) < len(text) / 10
    assert len(ids.words) == len(ids)


def test_texts_up_to_the_limit_are_not_cut_at_all() -> None:
    limit = 16 * max(map(len, DEFAULT.tokenizer.get_vocab()))
    for text in ("a red square " * 3, "a" * 200, " " * 200 + "x", "größe " * 20):
        assert len(text) <= limit
        assert DEFAULT.shorten(text) is text


def test_words_of_a_long_text_are_those_of_the_whole() -> None:
    text = "don't stop, it's 1921! " * 3000
    words = DEFAULT.prepare(text).words
    assert words == DEFAULT.prepare(text[:200]).words
    assert max(words) > 3


def test_a_text_of_white_space_alone_ends() -> None:
    assert DEFAULT.prepare(" " * 10**6 + "x") == DEFAULT.prepare("")
    assert DEFAULT.cloze(SPE * 10**5) == [*[DEFAULT.spe] * 15, DEFAULT.end]


@pytest.mark.parametrize("length", [17, 40, 300])
def test_more_ids_are_cut_from_more_letters(length: int) -> None:
    text = "a red square, number seven. " * 4000
    whole = DEFAULT.tokenizer.encode(text, add_special_tokens=False).ids
    cut = DEFAULT.tokenizer.encode(DEFAULT.shorten(text, length), add_special_tokens=False).ids
    assert cut[:length] == whole[:length]
    assert len(cut) < len(whole)
