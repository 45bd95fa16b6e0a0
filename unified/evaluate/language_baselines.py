"""What words are worth without a network, and captions without their image: baselines of masked and caption rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unified.core.errors import DataError, RecipeError
from unified.core.locations import named
from unified.core.seed import generator
from unified.core.types import IGNORE, Batch, Tokens
from unified.data.samples.decode import decode, read_string
from unified.data.shards.write import progress
from unified.evaluate.items import Items, number_through
from unified.evaluate.ngrams import NGrams
from unified.evaluate.sources import open_source
from unified.modalities import MODALITIES
from unified.modalities.text.tokenizer import TextTokenizer

ORDER = 4
ADDED = 0.1
"""What each token is counted beyond its occurrences, where longer n-grams lean on single ones."""
BLOCK = 2**23
"""Probabilities that are held at once."""


@dataclass(frozen=True)
class WordScores:
    """Of each item: the sum of losses in nats, the number of tokens asked for, and how many of them were found."""

    loss: NDArray[np.float64]
    terms: NDArray[np.float64]
    correct: NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """The tokens that an evaluation asks for, and what stands around each."""

    target: Int[np.ndarray, "t"]
    item: Int[np.ndarray, "t"]
    before: Int[np.ndarray, "t n"]  # from the nearest on
    after: Int[np.ndarray, "t n"]
    items: int


@dataclass(frozen=True)
class Baseline:
    """A model of token ids, as the table names it, and what it was fitted on."""

    name: str
    how: str
    before: NGrams
    after: NGrams | None = None
    """Read from the right to the left; the mean of both is the probability then."""

    def score(self, asked: Asked) -> WordScores:
        """Return losses and hits of each item."""
        loss, correct = np.empty(len(asked.target)), np.empty(len(asked.target))
        step = max(BLOCK // self.before.size, 1)
        for start in range(0, len(loss), step):
            part = slice(start, start + step)
            chance = self.before.distribution(asked.before[part])
            if self.after is not None:
                chance = (chance + self.after.distribution(asked.after[part])) / 2
            target = asked.target[part]
            loss[part] = -np.log(chance[np.arange(len(target)), target])
            correct[part] = chance.argmax(1) == target
        loss, terms, correct = (
            np.bincount(asked.item, found, asked.items).astype(np.float64)
            for found in (loss, np.ones_like(loss), correct)
        )
        return WordScores(loss, terms, correct)


def fit_baselines(
    data: str | tuple[str, ...], target: str, tokenizer: TextTokenizer, tested: Items, *, masked: bool
) -> list[Baseline]:
    """Fit n-gram models to the texts of training data.

    Args:
        data: shards or folders of the training data.
        target: the column of its texts.
        tokenizer: the tokenizer of the model under evaluation.
        tested: the items that are evaluated.
        masked: whether hidden tokens are asked for, which have neighbours on both sides, or the next ones of a text,
            its end included.

    Raises:
        RecipeError: the training data are the data of the evaluation.
        DataError: their texts have no tokens.
    """
    source = open_source(data)
    if source.digest == tested.source.digest:
        raise RecipeError(f"train: expected data apart from those evaluated, got the same samples: {data}")
    texts: list[str] = []
    for number in progress(range(len(source)), len(source), "reading training texts"):
        texts.append(read_string(decode(source[number], [target]), target))
    unique = list(dict.fromkeys(texts))
    known = dict(zip(unique, tokenizer.ids(unique), strict=True))
    rows = [known[text][:-1] if masked else known[text] for text in texts]
    count = sum(map(len, rows))
    if not count:
        raise DataError(f"train: {named(data)}: expected texts in column {target!r}, got none with a token")
    on = f"fitted on {count:,} tokens of {data if isinstance(data, str) else ', '.join(data)}"
    before = NGrams(rows, ORDER, tokenizer.size, ADDED)
    found = [
        Baseline("unigram", f"{on}, counts + 1", NGrams(rows, 1, tokenizer.size, 1.0)),
        Baseline(f"{ORDER}-gram", f"{on}, interpolated", before),
    ]
    if masked:
        after = NGrams([row[::-1] for row in rows], ORDER, tokenizer.size, ADDED)
        found.append(
            Baseline(f"{ORDER}-gram, both sides", f"{on}, interpolated, mean of both directions", before, after)
        )
    return found


def gather_asked(batches: Iterator[Batch], tokenizer: TextTokenizer) -> Asked:
    """Collect what batches of a masked or a caption task ask for: the hidden tokens, or all of a text."""
    parts: list[tuple[NDArray[np.int64], ...]] = []
    items = 0
    for batch in batches:
        captions = isinstance(batch.target, Tokens)
        text = batch.target if captions else batch.inputs[MODALITIES.language]
        ids, real = text.values.numpy(), text.mask.numpy()
        asked = real if captions else batch.target.numpy() != IGNORE
        # The end of a text that is masked is no token of it: n-grams of such texts are fitted without.
        shown = np.where(real if captions else real & (ids != tokenizer.end), ids, tokenizer.size)
        row, place = np.nonzero(asked)
        padded = np.pad(shown, ((0, 0), (ORDER - 1, ORDER - 1)), constant_values=tokenizer.size)
        distance = np.arange(1, ORDER)
        before, after = (padded[row[:, None], place[:, None] + ORDER - 1 + sign * distance] for sign in (-1, 1))
        target = ids if captions else batch.target.numpy()
        parts.append((target[row, place], row + items, before, after))
        items += len(batch)
    target, item, before, after = (np.concatenate(found) for found in zip(*parts, strict=True))
    return Asked(target, item, before, after, items)


def other_images(groups: Sequence[str], images: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Choose another item's image for each item: never of an equal group and never an equal one; the same always.

    Args:
        groups: of the right answers; items of one group are right for each other's image.
        images: numbers of the images, equal for equal ones.

    Returns:
        The item whose image each one gets, each used once; None where more than half of the items belong together.
    """
    group = number_through(list(groups))
    size = int(group.max() + images.max() + 2)
    links = coo_array((np.ones(len(group)), (group, group.max() + 1 + images)), shape=(size, size))
    together = connected_components(links, directed=False)[1][group]
    rng = generator("other images", len(group))
    order = rng.permutation(len(group))
    # Blocks of what belongs together, in random order: a shift by the longest block leaves none in its own.
    order = order[np.argsort(rng.permutation(size)[together[order]], kind="stable")]
    longest = int(np.bincount(together).max())
    if 2 * longest > len(order):
        return None
    other = np.empty_like(order)
    other[order] = np.roll(order, -longest)
    return other
