"""N-gram baselines: the arithmetic of the counts, written out, and what they ask of a text."""

import math
from collections import Counter

import numpy as np
import pytest

from unified.evaluate.ngrams import NGrams

TEXTS = [[0, 1, 2], [0, 1, 3], [1, 2], [], [2, 2, 2, 0]]
SIZE = 5


def test_single_tokens_are_counted_from_what_is_added_on() -> None:
    found = NGrams(TEXTS, 1, SIZE, 1.0).distribution(np.zeros((2, 0), dtype=np.int64))
    count = np.array([3, 3, 5, 1, 0]) + 1
    assert found == pytest.approx(np.tile(count / count.sum(), (2, 1)))


def by_hand(texts: list[list[int]], before: tuple[int, ...], token: int, order: int) -> float:
    """The probability of a token after others (the nearest last), counted in a loop."""
    grams: Counter[tuple[int, ...]] = Counter()
    contexts: Counter[tuple[int, ...]] = Counter()
    for ids in texts:
        padded = [SIZE] * (order - 1) + ids
        for place in range(order - 1, len(padded)):
            for n in range(order):
                grams[tuple(padded[place - n : place + 1])] += 1
                contexts[tuple(padded[place - n : place])] += 1
    p = (grams[(token,)] + 0.1) / (sum(map(len, texts)) + 0.1 * SIZE)
    for n in range(1, order):
        context = before[len(before) - n :]
        if count := contexts[context]:
            weight = count / (count + 3)
            p = (1 - weight) * p + weight * grams[(*context, token)] / count
    return p


@pytest.mark.parametrize("order", [2, 3, 4])
def test_longer_contexts_are_interpolated(order: int) -> None:
    model = NGrams(TEXTS, order, SIZE, 0.1)
    rng = np.random.default_rng(0)
    contexts = rng.integers(0, SIZE + 1, (60, order - 1))
    contexts[0] = SIZE  # the beginning of a text
    found = model.distribution(contexts)
    assert found.sum(1) == pytest.approx(np.ones(60))
    for row, context in enumerate(contexts.tolist()):
        expected = [by_hand(TEXTS, tuple(context[::-1]), token, order) for token in range(SIZE)]
        assert found[row] == pytest.approx(expected)


def test_a_token_that_training_lacks_ends_the_context() -> None:
    model = NGrams(TEXTS, 4, SIZE, 0.1)
    hidden = model.distribution(np.array([[1, 4, 0], [4, 1, 0]]))  # 4 is in no text
    assert hidden[0] == pytest.approx(NGrams(TEXTS, 2, SIZE, 0.1).distribution(np.array([[1]]))[0])
    assert hidden[1] == pytest.approx(NGrams(TEXTS, 1, SIZE, 0.1).distribution(np.zeros((1, 0), dtype=np.int64))[0])


def test_a_repeated_text_is_nearly_certain() -> None:
    found = NGrams([[0, 1, 2, 3]] * 1000, 4, SIZE, 0.1).distribution(np.array([[2, 1, 0]]))
    assert math.log(found[0, 3]) == pytest.approx(0, abs=1e-3)
