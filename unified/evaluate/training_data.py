"""What results say of training: whether the model was trained on the evaluated data, and on the task.

The field calls an answer zero-shot where neither was trained; a row is named so only where nothing here says otherwise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unified.answers import ANSWERS
from unified.config.labels import load_labels
from unified.core.errors import RecipeError
from unified.core.locations import named
from unified.core.log import logger
from unified.core.training_record import ZERO_SHOT_LABEL, TrainingRecord, names_hash, training_note
from unified.evaluate.overlap import find_overlap
from unified.evaluate.protocols.table import PROTOCOLS
from unified.evaluate.results import PROBE, SEEN, TRAINED, Result
from unified.evaluate.spec import Dense, Evaluation, Spec, load_spec


@dataclass(frozen=True)
class Training:
    """What is known of a model's training with respect to one evaluation."""

    data: Literal["seen", "unseen", "not checked", "unknown"]
    """seen: at least one sample was trained on. unseen: none was. not checked: no shard was, and samples could not be
    compared, as training shards are not at hand. unknown: there is no record of all that the model was trained on."""
    tasks: tuple[str, ...] | None
    """The trained tasks that the evaluation asks; None: unknown."""
    details: dict[str, Any]
    """Counts of `Overlap`; empty where nothing was compared."""


def examine(title: str, evaluation: Evaluation, record: TrainingRecord | None) -> Training:
    """Return what a record says of an evaluation.

    Raises:
        RecipeError: The spec claims `unseen: true` of samples that were trained on.
    """
    tasks = _trained_tasks(evaluation, record)
    if record is None:
        return Training("unknown", tasks, {})
    overlap = find_overlap(evaluation, record)
    details = {**asdict(overlap), "fraction": overlap.fraction}
    if overlap.seen:
        if evaluation.unseen:
            raise RecipeError(
                f"{title}.unseen: expected data that the model was not trained on, got {overlap.seen:,} of "
                f"{overlap.samples:,} samples of {named(evaluation.data)} that it was ({overlap.seen_shards} of "
                f"{overlap.shards} shards). Hint: leave `unseen` out, or evaluate on a part that is held out"
            )
        return Training("seen", tasks, details)
    if record.unrecorded:
        return Training("unknown", tasks or None, {**details, "unrecorded": list(record.unrecorded)})
    return Training("not checked" if overlap.missing_shards else "unseen", tasks, details)


def check_unseen(specs: Sequence[str | Path | Spec], record: TrainingRecord | None) -> None:
    """Raise `RecipeError` where a spec claims `unseen: true` of samples that were trained on."""
    for spec in specs:
        for title, evaluation in load_spec(spec).evaluations.items():
            if evaluation.unseen:
                examine(title, evaluation, record)


def mark(result: Result, training: Training) -> Result:
    """Return a result that says what is known of training; baselines, which the weights have no part in, as they are.

    Rows of data or of tasks that were trained lose the words "zero-shot".
    """
    if not result.features.startswith("model"):
        return result
    setting, label = result.setting, result.label
    if training.data == "seen" or training.tasks:
        label = label.removeprefix(ZERO_SHOT_LABEL)
        setting = setting if setting == PROBE else SEEN if training.data == "seen" else TRAINED
    notes = {**result.notes, "training_data": training.details} if training.details else result.notes
    known = replace(result, training_data=training.data, trained_tasks=training.tasks)
    return replace(known, setting=setting, label=label, notes=notes)


def tell(title: str, evaluation: Evaluation, training: Training) -> None:
    """Log what a reader must know before any number."""
    if training.data == "seen":
        item = {"training_data": "seen", "notes": {"training_data": training.details}}
        logger.warning("%s: %s; its numbers say nothing about new data", title, training_note(item))
    if evaluation.unseen and training.tasks:
        logger.warning(
            "%s: the spec claims `unseen: true`, but %s was trained: the rows are not called zero-shot",
            title, ", ".join(training.tasks),
        )  # fmt: skip
    if evaluation.unseen and training.data in ("not checked", "unknown"):
        logger.warning(
            "%s: `unseen: true` is the spec's claim; %s", title, training_note({"training_data": training.data})
        )


def _trained_tasks(evaluation: Evaluation, record: TrainingRecord | None) -> tuple[str, ...] | None:
    """The tasks of a record that an evaluation asks."""
    if record is None:
        return (evaluation.task,) if isinstance(evaluation, Dense) and evaluation.names is None else None
    if isinstance(evaluation, Dense):
        names = _names_hash(evaluation.names)
        own = [task for task in record.tasks if task.name == evaluation.task and names in (None, task.labels)]
        return tuple(dict.fromkeys(task.name for task in own)) or ((evaluation.task,) if names is None else ())
    protocol, modalities = PROTOCOLS[type(evaluation)], set(evaluation.inputs.values())
    same = [task for task in record.tasks if set(dict(task.inputs).values()) == modalities]
    asked = (task for task in same if ANSWERS.get(task.answer) in protocol.kinds)
    return tuple(dict.fromkeys(task.name for task in asked if protocol.asks(evaluation, task, record)))


def _names_hash(names: str | Sequence[str] | None) -> str | None:
    if names is None:
        return None
    return names_hash(load_labels(names).names if isinstance(names, str) else names)
