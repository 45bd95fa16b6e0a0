"""Words: guessing hidden ones, and captions, scored word by word and written freely."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.answers.match.caption import CaptionSettings
from unified.answers.match.generation import generate
from unified.answers.match.kind import Example
from unified.answers.match.masked import MaskedSettings
from unified.answers.score import score
from unified.config.task import Answer, Task
from unified.core import statistics
from unified.core.locations import named
from unified.core.log import logger
from unified.core.metrics import exact_match
from unified.core.schema import RecipeError
from unified.core.types import Batch
from unified.data.samples.decode import decode, using
from unified.data.shards.write import progress
from unified.evaluate.answers import ItemAnswers
from unified.evaluate.context import Context
from unified.evaluate.items import Items, ceiling, clusters_of, read_items, texts_in
from unified.evaluate.language_baselines import WordScores, fit_baselines, gather_asked, other_images
from unified.evaluate.protocols.groups import Groups
from unified.evaluate.results import BASELINE, UNTUNED, ZERO_SHOT, Measure, Result
from unified.evaluate.spec import Caption, Masked
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.pretrained import UnifiedModel
from unified.pipeline.collate import Collator

KEY = "evaluation"  # of the words that are hidden: the same in every evaluation
NO_BASELINE = "no baseline: name the training data under `train`"


def evaluate_masked(evaluation: Masked, name: str, context: Context) -> Iterator[Result]:
    """Perplexity and accuracy on hidden words; which are hidden depends on the data alone."""
    items = _items(evaluation, [])
    answer = MaskedSettings(vocabulary=evaluation.vocabulary, mask_fraction=evaluation.mask_fraction)
    task = _task(evaluation, answer, context)
    base = replace(
        _base(evaluation, name, items, clusters_of(_cluster_column(evaluation, items))),
        task="masked_language_modelling",
        protocol="whole_word_mask",
    )
    scores = _score(task, _batches(evaluation, task, items, context), context)
    terms = int(scores.terms.sum())
    base = replace(
        base,
        label=f"hidden words ({terms:,} tokens)",
        notes={"mask_fraction": evaluation.mask_fraction, "terms": terms},
    )
    yield _row(base, "model", scores, "" if evaluation.train else NO_BASELINE)
    yield from _baselines(evaluation, task, items, context, base, scores)


def evaluate_caption(evaluation: Caption, name: str, context: Context) -> Iterator[Result]:
    """Perplexity with the right words before, then the share of captions written exactly right."""
    items = _items(evaluation, [evaluation.group] if evaluation.group else [])
    task = _task(evaluation, CaptionSettings(vocabulary=evaluation.vocabulary), context)
    texts = texts_in(items, evaluation.target)
    groups = Groups(evaluation.groups, texts, items.columns[evaluation.group] if evaluation.group else None)
    own = [groups.of(text) for text in texts]
    cluster = _cluster_column(evaluation, items) or own
    base = replace(_base(evaluation, name, items, clusters_of(cluster)), task="captioning")
    scores = _score(task, _batches(evaluation, task, items, context), context)
    words = replace(
        base,
        protocol="teacher_forcing",
        label="caption, right words before",
        notes={"terms": int(scores.terms.sum())},
    )
    yield _row(words, "model", scores, "" if evaluation.train else NO_BASELINE)
    if "image" in evaluation.inputs.values():
        yield from _without_its_image(evaluation, task, items, context, words, scores, own)
    yield from _baselines(evaluation, task, items, context, words, scores)
    members = groups.members(texts)
    pictures = items.pictures.tolist()
    notes = {"ceiling": ceiling(pictures, own), "ceiling_own_text": ceiling(pictures, texts)}
    for beams in evaluation.beams:
        written = _write(evaluation, task, items, context, beams)
        right = exact_match(written, [members[group] for group in own])
        examples = dict(zip(items.keys[:5], written, strict=False))
        yield replace(
            base,
            protocol="greedy" if beams == 1 else f"beam_{beams}",
            label="caption, greedy" if beams == 1 else f"caption, {beams} beams",
            measures=(Measure("exact_match", statistics.proportion(right, base.clusters), values=right),),
            answers=ItemAnswers(texts, written),
            notes={**notes, "beams": beams, "examples": examples},
        )


def _items(evaluation: Masked | Caption, further: list[str]) -> Items:
    cluster = [evaluation.cluster] if evaluation.cluster else []
    return read_items(evaluation.several, evaluation.inputs, [evaluation.target, *cluster, *further], evaluation.limit)


def _cluster_column(evaluation: Masked | Caption, items: Items) -> list[Any] | None:
    return items.columns[evaluation.cluster] if evaluation.cluster else None


def _base(evaluation: Masked | Caption, name: str, items: Items, clusters: NDArray[np.int64] | None) -> Result:
    setting = ZERO_SHOT if evaluation.unseen else UNTUNED
    return Result(name, "", "", "", (), items.keys, items.digest, setting, clusters=clusters)


def _task(evaluation: Masked | Caption, answer: Answer, context: Context) -> Task:
    """The evaluation as a task, so that training and evaluation prepare and score alike."""
    model = context.model
    if not isinstance(model, UnifiedModel):
        raise RecipeError(f"words are scored by a UnifiedModel; found {type(model).__name__}, which only embeds")
    families = list(model.config.families)
    if evaluation.family is None and len(families) > 1:
        raise RecipeError(f"family: the model has several temperatures; name one of {', '.join(families)}")
    family = evaluation.family or families[0]
    return Task(evaluation.several, evaluation.inputs, evaluation.target, answer, "perplexity", 1, family=family)


def _row(base: Result, features: str, scores: WordScores, how: str) -> Result:
    measures = _word_measures(scores.loss, scores.terms, scores.correct, base.clusters)
    return replace(base, features=features, measures=measures, notes={**base.notes, **({"how": how} if how else {})})


def _beside(base: Result, features: str, scores: WordScores, model: WordScores, how: str) -> Result:
    """A row beside the model's: what is said of it ends with the paired difference of the losses."""
    paired = statistics.paired(model.loss, scores.loss, base.clusters, model.terms)
    known = np.isfinite(paired.low)  # unknown with one text or one cluster
    limits = f" [{paired.low:+.2f}, {paired.high:+.2f}]" if known else ""
    return _row(base, features, scores, f"{how}; model {paired.difference:+.2f}{limits} nats")


def _baselines(
    evaluation: Masked | Caption, task: Task, items: Items, context: Context, base: Result, model: WordScores
) -> Iterator[Result]:
    """Rows of n-gram models of the training texts, about the very tokens that the model was asked for."""
    if evaluation.training is None:
        return
    tokenizer = context.tokenizers["text"]
    assert isinstance(tokenizer, TextTokenizer)
    masked = isinstance(evaluation, Masked)
    fitted = fit_baselines(evaluation.training, evaluation.target, tokenizer, items, masked=masked)
    asked = gather_asked(_batches(evaluation, task, items, context), tokenizer)
    base = replace(base, setting=BASELINE)
    for baseline in fitted:
        yield _beside(base, baseline.name, baseline.score(asked), model, baseline.how)


def _without_its_image(
    evaluation: Caption, task: Task, items: Items, context: Context, base: Result, model: WordScores, own: list[str]
) -> Iterator[Result]:
    """The row of the model that is shown another sample's image: what is left is knowledge of captions."""
    others = other_images(own, items.pictures)
    if others is None:
        logger.warning("%s: most items have one answer or one image, so none is shown another's", base.dataset)
        return
    scores = _score(task, _batches(evaluation, task, items, context, others), context)
    yield _beside(base, "model, another sample's image", scores, model, "an image with another answer")


def _batches(
    evaluation: Masked | Caption,
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
                own._replace(inputs={**own.inputs, "image": other.inputs["image"]})
                for own, other in zip(examples, shown, strict=True)
            ]
        yield collator.batch(examples, numbers)


def _score(task: Task, batches: Iterator[Batch], context: Context) -> WordScores:
    rows: dict[str, list[NDArray[Any]]] = {"loss": [], "terms": [], "correct": []}
    for batch in batches:
        scores = score(context.model, task, batch.to(context.device))
        for name, found in rows.items():
            found.append(getattr(scores, name).double().cpu().numpy())
    return WordScores(**{name: np.concatenate(found) for name, found in rows.items()})


def _write(evaluation: Caption, task: Task, items: Items, context: Context, beams: int) -> list[str]:
    tokenizer = context.tokenizers["text"]
    assert isinstance(tokenizer, TextTokenizer)
    texts = []
    for batch in _batches(evaluation, task, items, context):
        found = generate(
            context.model, batch.to(context.device).inputs, beams=beams, max_length=tokenizer.max_length,
            family=task.family, vocabulary=evaluation.vocabulary,
        )  # fmt: skip
        texts += [tokenizer.text(ids) for ids in found]
    return texts


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
