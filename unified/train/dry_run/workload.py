"""What a slot sends through the network: for the speed of a run, and its share of what the machine can do."""

from collections import Counter

import torch

from unified.answers.table import kind_of
from unified.answers.workload import Setting, Work
from unified.config.task import Task
from unified.core.types import Batch, Tokens


def work(
    task: Task, batch: Batch, labels: Tokens | None, vocabulary: int, *, bucketed: bool = True, ranks: int = 1
) -> Work:
    """Return the work of a batch, as `score` does it.

    Args:
        task: The task.
        batch: Its batch.
        labels: Tokens of the task's label set, or of the names that its queries are made of.
        vocabulary: Entries of the vocabulary.
        bucketed: Whether texts are encoded in buckets of like length, as on a CPU.
        ranks: How many share a label set.
    """
    inputs = Counter[str]()
    for tokens in batch.inputs.values():
        inputs[tokens.modality] += tokens.values.shape[0] * tokens.values.shape[1]
    setting = Setting(labels, vocabulary, bucketed, ranks)
    return kind_of(task).workload(task, batch, inputs, setting)


def bucketed_on(device: torch.device) -> bool:
    """Whether texts are encoded in buckets there."""
    return device.type == "cpu"
