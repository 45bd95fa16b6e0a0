"""N-gram language models of token ids: baselines that need no network."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

CONCENTRATION = 3.0
"""How often a context must have been seen until its own counts weigh as much as those of the shorter one."""


class NGrams:
    """Interpolated n-grams: P(w | c) = λ count(c w) / count(c) + (1 − λ) P(w | shorter c).

    λ = count(c) / (count(c) + 3), the interpolation of the hierarchical Dirichlet language model (MacKay and Peto,
    1995); single tokens are counted from `added` on. Order 1 with `added` 1 is Laplace's unigram model.
    """

    def __init__(self, texts: Sequence[Sequence[int]], order: int, size: int, added: float) -> None:
        """Count the n-grams of texts.

        Args:
            texts: the token ids of each text, below `size`.
            order: the longest n-gram; its context has one token less.
            size: number of ids, which is also what stands for the places before a text.
            added: what each id is counted beyond its occurrences; above 0.
        """
        self.order, self.size = order, size
        before = [size] * (order - 1)
        stream = np.array([i for ids in texts for i in (*before, *ids)], dtype=np.int64)
        place = np.flatnonzero(stream < size)
        context = np.zeros(len(place), dtype=np.int64)  # the number of each place's context, of growing length
        self._contexts: list[NDArray[np.int64]] = [np.zeros(1, dtype=np.int64)]
        self._grams: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for length in range(order):
            if length:
                known, context = np.unique(context * (size + 1) + stream[place - length], return_inverse=True)
                self._contexts.append(known)
            self._grams.append(np.unique(context * size + stream[place], return_counts=True))
        count = np.full(size, float(added))
        count[self._grams[0][0]] += self._grams[0][1]
        self._single = count / count.sum()

    def distribution(self, contexts: Int[np.ndarray, "t n"]) -> Float[np.ndarray, "t v"]:
        """Return the probability of each id after each context.

        Args:
            contexts: (t, order − 1) ids from the nearest to the farthest; `size` before a text. Ids that no training
                text has, such as the mask, end the context.

        Returns:
            (t, size) float64; rows sum to 1.
        """
        found = np.tile(self._single, (len(contexts), 1))
        number = np.zeros(len(contexts), dtype=np.int64)
        for length in range(1, self.order):
            number = _find(self._contexts[length], number, number * (self.size + 1) + contexts[:, length - 1])
            keys, counts = self._grams[length]
            first, last = (np.searchsorted(keys, (number + end) * self.size) for end in (0, 1))
            seen = np.where(number >= 0, last - first, 0)
            row = np.repeat(np.arange(len(contexts)), seen)
            gram = np.arange(len(row)) - np.repeat(seen.cumsum() - seen, seen) + np.repeat(first, seen)
            total = np.bincount(row, counts[gram], len(contexts))
            weight = total / (total + CONCENTRATION)
            found *= (1 - weight)[:, None]
            # count / total × λ: the total cancels.
            found[row, keys[gram] % self.size] += counts[gram] / (total + CONCENTRATION)[row]
        return found


def _find(known: NDArray[np.int64], shorter: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each key among the known ones, which are sorted; -1 where it or its shorter context is unknown."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where((shorter >= 0) & (known[place] == keys), place, -1)
