"""Guessing hidden words of a text."""

from collections.abc import Iterator
from dataclasses import replace

from unified.answers.match.masked import MASKED, MaskedSettings
from unified.evaluate.context import Context
from unified.evaluate.items import clusters_of
from unified.evaluate.protocols.language import (
    NO_BASELINE,
    base_result,
    baseline_rows,
    batches_of,
    cluster_column,
    read_texts,
    score_words,
    task_of,
    word_row,
)
from unified.evaluate.protocols.protocol import Protocol
from unified.evaluate.results import Result
from unified.evaluate.spec import Masked


def evaluate_masked(evaluation: Masked, name: str, context: Context) -> Iterator[Result]:
    """Perplexity and accuracy on hidden words; which are hidden depends on the data alone."""
    items = read_texts(evaluation, [])
    answer = MaskedSettings(vocabulary=evaluation.vocabulary, mask_fraction=evaluation.mask_fraction)
    task = task_of(evaluation, answer, context)
    base = replace(
        base_result(evaluation, name, items, clusters_of(cluster_column(evaluation, items))),
        task="masked_language_modelling",
        protocol="whole_word_mask",
    )
    scores = score_words(task, batches_of(evaluation, task, items, context), context)
    terms = int(scores.terms.sum())
    base = replace(
        base,
        label=f"hidden words ({terms:,} tokens)",
        notes={"mask_fraction": evaluation.mask_fraction, "terms": terms},
    )
    yield word_row(base, "model", scores, "" if evaluation.train else NO_BASELINE)
    yield from baseline_rows(evaluation, task, items, context, base, scores, masked=True)


PROTOCOL = Protocol(settings=Masked, evaluate=evaluate_masked, kinds=(MASKED,))
