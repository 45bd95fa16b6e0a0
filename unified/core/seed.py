"""The one home of randomness: every draw is a pure function of keys such as (seed, "task", index)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: int | str) -> int:
    """A 64-bit number for a sequence of whole numbers and words; the same on every machine and in every process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator keyed by `parts`."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def torch_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator keyed by `parts`."""
    return torch.Generator(device).manual_seed(key(*parts) & 0x7FFF_FFFF_FFFF_FFFF)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijective scrambling of 64-bit numbers: the finaliser of splitmix64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = (values + _GOLDEN).astype(np.uint64)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def uniform(indices: NDArray[np.int64], count: int, *parts: int | str) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) for each index, (len(indices), count): a draw depends on its own index only."""
    base = mix(np.asarray(indices, dtype=np.uint64) ^ np.uint64(key(*parts)))
    with np.errstate(over="ignore"):
        columns = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        words = mix(base[:, None] + columns[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Key torch's own CPU generator for code that can draw from nothing else (initial weights), then put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(*parts) & 0x7FFF_FFFF_FFFF_FFFF)
        yield
