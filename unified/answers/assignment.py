"""Which query answers for which object: Hungarian matching (DETR, ECCV 2020), of many batches at once.

The matching runs on the host. All tasks and layers of a step share one copy of their costs there, and one back.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from unified.core.errors import UserError
from unified.core.transfers import HostCopy, sent
from unified.core.types import IGNORE

LARGE = 1e9
"""The cost of what is not finite: such a query matches last, and its loss is not finite either, for others to see."""


def assignable(cost: Float[Tensor, "b q m"], real: Bool[Tensor, "b m"]) -> Float[Tensor, "b q m"]:
    """Return costs that say themselves which objects there are: finite ones, and infinite where there is no object.

    Args:
        cost: of each query for each object.
        real: which objects there are; the others fill up rows.
    """
    finite = cost.nan_to_num(nan=LARGE, posinf=LARGE, neginf=-LARGE)
    return finite.masked_fill(~real[:, None], torch.inf)


def assign(costs: Sequence[Float[Tensor, "_ _ _"]]) -> list[Int[Tensor, "_ _"]]:
    """Return the query of each object at the least total cost, with one copy to the host for all of them.

    Args:
        costs: (b, q, m) each, as `assignable` makes them.

    Returns:
        For each of them (b, m) int64: the number of a query, IGNORE where there is no object.

    Raises:
        UserError: an image has more objects than the task has queries.
    """
    if not costs:
        return []
    shapes = [tuple(cost.shape) for cost in costs]
    on_host = np.split(
        HostCopy(torch.cat([cost.flatten() for cost in costs])).read().numpy(),
        np.cumsum([cost.numel() for cost in costs])[:-1],
    )
    found = [_matched(flat.reshape(shape)) for flat, shape in zip(on_host, shapes, strict=True)]
    whole = sent(torch.from_numpy(np.concatenate([rows.ravel() for rows in found])), costs[0].device)
    parts = whole.split([rows.size for rows in found])
    return [part.view(rows.shape) for part, rows in zip(parts, found, strict=True)]


def _matched(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    samples, queries, objects = cost.shape
    found = np.full((samples, objects), IGNORE, dtype=np.int64)
    for sample, of_sample in enumerate(cost):
        real = np.flatnonzero(of_sample[0] < np.inf)
        if len(real) > queries:
            raise UserError(
                f"an image has {len(real)} objects and the task has {queries} queries: each object needs a query of "
                f"its own; give the task at least {len(real)} queries, or leave objects out when the data are built"
            )
        rows, columns = linear_sum_assignment(of_sample[:, real])
        found[sample, real[columns]] = rows
    return found
