"""Training a text tokenizer is a pure function of its corpus."""

import pytest

from unified.core.errors import RecipeError
from unified.modalities.text.train_tokenizer import train_tokenizer

CORPUS = ["Latin Small Letter A", "latin small letter b", "greek small letter alpha", "digit zero"] * 3


def test_same_corpus_same_tokenizer() -> None:
    first, second = (train_tokenizer(iter(CORPUS), 300) for _ in range(2))
    assert first.tokenizer.to_str() == second.tokenizer.to_str()
    assert 258 < first.size <= 300
    assert {first.end, first.spe} == {0, 1}


def test_frequent_words_become_one_token_and_rare_text_still_has_ids() -> None:
    tokenizer = train_tokenizer(CORPUS, 300)
    assert len(tokenizer.prepare("small LETTER")) == 3
    assert tokenizer.text(tokenizer.prepare("ångström ☃")) == "ångström ☃"


def test_mistakes_have_clear_errors() -> None:
    with pytest.raises(RecipeError, match="below the 258"):
        train_tokenizer(CORPUS, 100)
    with pytest.raises(RecipeError, match="holds no text"):
        train_tokenizer(["", "  "], 300)
