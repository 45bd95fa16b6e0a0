"""How one kind of evaluation runs, and which trained tasks ask the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from unified.answers.kind import AnswerKind
from unified.core.training_record import TrainedTask, TrainingRecord
from unified.data.shards.shards import Shards
from unified.data.training_shards import datasets_of
from unified.evaluate.context import Context
from unified.evaluate.results import Result
from unified.evaluate.sources import open_source
from unified.evaluate.spec import Classification, Evaluation, Retrieval, Robustness

CLASS_COLUMNS = {"cls", "txt"}
"""Columns in which class folders hold the same answer, as a number and as a name."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One kind of evaluation."""

    settings: type[Evaluation]
    evaluate: Callable[[Any, str, Context], Iterator[Result]]
    kinds: tuple[AnswerKind, ...] = ()
    """Answers of trained tasks that it may ask."""
    asks: Callable[[Any, TrainedTask, TrainingRecord], bool] = lambda *_: True
    """Whether it asks a trained task of these kinds and of the same inputs."""


def asks_same_data(
    evaluation: Classification | Robustness | Retrieval, task: TrainedTask, record: TrainingRecord
) -> bool:
    """Whether an evaluation asks a task about another part of the task's dataset."""
    targets = {evaluation.target, task.target}
    if len(targets) > 1 and not targets <= CLASS_COLUMNS:
        return False
    source, read = open_source(evaluation.several), set(task.shards)
    datasets = set(datasets_of(source.files)) - {""} if isinstance(source, Shards) else set()
    return bool(datasets & {shard.dataset for shard in record.shards if shard.sha256 in read})
