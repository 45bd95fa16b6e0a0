"""A new run's answers begin at the baselines of its data, measured from the first samples of each task."""

from time import perf_counter

from torch import Tensor

from unified.answers.baselines import SLOTS
from unified.answers.spec import QuerySpec
from unified.answers.table import baseline_shapes, measure
from unified.core.distributed import broadcast_object, rank
from unified.core.log import logger
from unified.model.task_queries import TaskQueries
from unified.pipeline.loader import StepLoader
from unified.train.build import Parts

SAMPLES = 256
"""Of each task, that baselines are measured from; all where there are fewer."""


def begin_at_baselines(parts: Parts, loader: StepLoader) -> None:
    """Put the baselines of the data into a model that no engine has wrapped yet, alike on every rank.

    Rank 0 reads the samples. Tasks whose queries are those of the model that the recipe starts from keep theirs.
    """
    queries = parts.model.queries
    if queries is None:
        return
    new = {task: spec for task, spec in queries.specs.items() if baseline_shapes(spec) and not _kept(task, parts)}
    start = perf_counter()
    found = broadcast_object({task: _measured(task, spec, queries, loader) for task, spec in new.items()}
                             if rank() == 0 else None)  # fmt: skip
    for task, slots in found.items():
        queries.baselines.put(task, slots)
    if found:
        logger.info("%d tasks begin at the baselines of their first %d samples (%.1f s)", len(found), SAMPLES,
                    perf_counter() - start)  # fmt: skip


def _kept(task: str, parts: Parts) -> bool:
    return any(f"queries.baselines.{slot}.{task}" in parts.kept for slot in SLOTS)


def _measured(task: str, spec: QuerySpec, queries: TaskQueries, loader: StepLoader) -> dict[str, Tensor]:
    batches = loader.first_samples(task, SAMPLES)
    height, width = spec.size
    places = height * width // queries.cell**2
    return measure(spec, (batch.target for batch in batches), places)
