"""Weights as whole numbers of turns, and turns spread evenly: what schedules of tasks and of data sets are made of."""

from functools import lru_cache

from unified.core.seed import generator

LONGEST_BLOCK = 1024
"""Turns. Weights that no shorter block meets exactly are met to one part in so many."""


@lru_cache(maxsize=256)
def quotas(weights: tuple[float, ...], slots: int) -> tuple[int, ...]:
    """The turns of each weight in the shortest block, a multiple of `slots`, that meets the weights."""
    longest = max(LONGEST_BLOCK // slots, len(weights)) * slots
    lengths = range(slots, longest + 1, slots)
    length = next((length for length in lengths if _exact(weights, length)), lengths[-1])
    return divided(weights, length)


def divided(weights: tuple[float, ...], length: int) -> tuple[int, ...]:
    """`length` turns by largest remainder of the weights; any weight above 0 has at least one."""
    shares = [weight / sum(weights) * length for weight in weights]
    turns = [max(int(share + 1e-9), int(share > 0)) for share in shares]
    while sum(turns) != length:
        sign = 1 if sum(turns) < length else -1
        movable = [i for i, quota in enumerate(turns) if shares[i] > 0 and quota + sign > 0]
        turns[max(movable, key=lambda i: sign * (shares[i] - turns[i]))] += sign
    return tuple(turns)


def _exact(weights: tuple[float, ...], length: int) -> bool:
    shares = [weight / sum(weights) * length for weight in weights]
    return all(abs(share - round(share)) < 1e-6 * share for share in shares if share > 0)


@lru_cache(maxsize=64)
def spread(quotas: tuple[int, ...], slots: int, key: tuple[int | str, ...]) -> tuple[tuple[int, ...], ...]:
    """The turns of each weight in each step of a block; `key` draws the phases.

    Every step has the whole part of a quota per step. The rest goes, at most once a step, to those whose next turn by
    stride is due (Waldspurger & Weihl 1995; phases are random) and to those that need every step left.
    """
    steps = sum(quotas) // slots
    base = [quota // steps for quota in quotas]
    rest = [quota % steps for quota in quotas]
    phases = generator(*key).random(len(quotas))
    due = [phase / left if left else 0.0 for phase, left in zip(phases, rest, strict=True)]
    strides = [1 / left if left else 0.0 for left in rest]
    rows = []
    for step in range(steps):
        waiting = [i for i, left in enumerate(rest) if left]
        waiting.sort(key=lambda i: (rest[i] < steps - step, due[i]))
        row = list(base)
        for i in waiting[: slots - sum(base)]:
            row[i] += 1
            rest[i] -= 1
            due[i] += strides[i]
        rows.append(tuple(row))
    return tuple(rows)
