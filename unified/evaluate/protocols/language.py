"""What evaluations of texts share, whose tokens are scored one by one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.answers.match.kind import Example
from unified.answers.score import score
from unified.config.task import Answer, Task
from unified.core import statistics
from unified.core.errors import RecipeError
from unified.core.locations import named
from unified.core.types import Batch
from unified.data.samples.decode import decode, using
from unified.data.shards.write import progress
from unified.evaluate.context import Context
from unified.evaluate.items import Items, read_items
from unified.evaluate.language_baselines import WordScores, fit_baselines, gather_asked
from unified.evaluate.results import BASELINE, UNTUNED, ZERO_SHOT, Measure, Result
from unified.evaluate.spec import Words
from unified.modalities import MODALITIES
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.pretrained import UnifiedModel
from unified.pipeline.collate import Collator

KEY = "evaluation"  # of the words that are hidden: the same in every evaluation
NO_BASELINE = "no baseline: name the training data under `train`"


def read_texts(evaluation: Words, further: list[str]) -> Items:
    """Return the items with their texts, and with further columns."""
    cluster = [evaluation.cluster] if evaluation.cluster else []
    return read_items(evaluation.several, evaluation.inputs, [evaluation.target, *cluster, *further], evaluation.limit)


def cluster_column(evaluation: Words, items: Items) -> list[Any] | None:
    """Return what items of one cluster have in common; None where each is its own."""
    return items.columns[evaluation.cluster] if evaluation.cluster else None


def base_result(evaluation: Words, name: str, items: Items, clusters: NDArray[np.int64] | None) -> Result:
    """Return what all rows of an evaluation have in common."""
    setting = ZERO_SHOT if evaluation.unseen else UNTUNED
    return Result(name, "", "", "", (), items.keys, items.digest, setting, clusters=clusters)


def task_of(evaluation: Words, answer: Answer, context: Context) -> Task:
    """The evaluation as a task, so that training and evaluation prepare and score alike."""
    model = context.model
    if not isinstance(model, UnifiedModel):
        raise RecipeError(f"words are scored by a UnifiedModel; found {type(model).__name__}, which only embeds")
    families = list(model.config.families)
    if evaluation.family is None and len(families) > 1:
        raise RecipeError(f"family: the model has several temperatures; name one of {', '.join(families)}")
    family = evaluation.family or families[0]
    return Task(evaluation.several, evaluation.inputs, evaluation.target, answer, "perplexity", 1, family=family)


def word_row(base: Result, features: str, scores: WordScores, how: str) -> Result:
    """Return the row of some features; `how` stands in the table."""
    measures = _word_measures(scores.loss, scores.terms, scores.correct, base.clusters)
    return replace(base, features=features, measures=measures, notes={**base.notes, **({"how": how} if how else {})})


def row_beside(base: Result, features: str, scores: WordScores, model: WordScores, how: str) -> Result:
    """A row beside the model's: what is said of it ends with the paired difference of the losses."""
    paired = statistics.paired(model.loss, scores.loss, base.clusters, model.terms)
    known = np.isfinite(paired.low)  # unknown with one text or one cluster
    limits = f" [{paired.low:+.2f}, {paired.high:+.2f}]" if known else ""
    return word_row(base, features, scores, f"{how}; model {paired.difference:+.2f}{limits} nats")


def baseline_rows(
    evaluation: Words, task: Task, items: Items, context: Context, base: Result, model: WordScores, *, masked: bool
) -> Iterator[Result]:
    """Rows of n-gram models of the training texts, about the very tokens that the model was asked for."""
    if evaluation.training is None:
        return
    tokenizer = context.tokenizers[MODALITIES.language]
    assert isinstance(tokenizer, TextTokenizer)
    fitted = fit_baselines(evaluation.training, evaluation.target, tokenizer, items, masked=masked)
    asked = gather_asked(batches_of(evaluation, task, items, context), tokenizer)
    base = replace(base, setting=BASELINE)
    for baseline in fitted:
        yield row_beside(base, baseline.name, baseline.score(asked), model, baseline.how)


def batches_of(
    evaluation: Words,
    task: Task,
    items: Items,
    context: Context,
    images: NDArray[np.int64] | None = None,
) -> Iterator[Batch]:
    """The items as batches on the host; `images`: the item whose image each one is shown in place of its own."""
    # Keyed by position and this one name: what is hidden is the same for every model with this tokenizer.
    collator = Collator(KEY, task, context.tokenizers, None, 0)

    def example(number: int) -> Example:
        sample = decode(items.source[number], collator.columns)
        with using(sample):
            return collator.example(sample)

    starts = range(0, len(items), context.batch)
    for start in progress(starts, len(starts), f"words of {named(evaluation.data)}"):
        numbers = items.numbers[start : start + context.batch]
        examples = [example(int(number)) for number in numbers]
        if images is not None:
            shown = [example(int(items.numbers[row])) for row in images[start : start + context.batch]]
            examples = [
                own._replace(inputs={**own.inputs, MODALITIES.spatial: other.inputs[MODALITIES.spatial]})
                for own, other in zip(examples, shown, strict=True)
            ]
        yield collator.batch(examples, numbers)


def score_words(task: Task, batches: Iterator[Batch], context: Context) -> WordScores:
    """Return the losses and hits of each item."""
    rows: dict[str, list[NDArray[Any]]] = {"loss": [], "terms": [], "correct": []}
    for batch in batches:
        scores = score(context.model, task, batch.to(context.device))
        for name, found in rows.items():
            found.append(getattr(scores, name).double().cpu().numpy())
    return WordScores(**{name: np.concatenate(found) for name, found in rows.items()})


def _word_measures(
    loss: NDArray[np.float64],
    terms: NDArray[np.float64],
    correct: NDArray[np.float64],
    cluster: NDArray[np.int64] | None,
) -> tuple[Measure, ...]:
    """Perplexity and accuracy of a word; words of one text are a cluster."""
    interval = statistics.exponential(statistics.mean(loss, cluster, terms))
    accuracy = statistics.proportion(correct, cluster, terms)
    return (
        Measure("perplexity", interval, values=loss, terms=terms),
        Measure("token_accuracy", accuracy, values=correct, terms=terms),
    )
