"""Captions, scored word by word and written freely."""

from collections.abc import Iterator
from dataclasses import replace

from unified.answers.match.caption import CAPTION, CaptionSettings
from unified.answers.match.generation import generate
from unified.config.task import Task
from unified.core import statistics
from unified.core.log import logger
from unified.core.metrics import exact_match
from unified.evaluate.answers import ItemAnswers
from unified.evaluate.context import Context
from unified.evaluate.items import Items, ceiling, clusters_of, texts_in
from unified.evaluate.language_baselines import WordScores, other_images
from unified.evaluate.protocols.groups import Groups
from unified.evaluate.protocols.language import (
    NO_BASELINE,
    base_result,
    baseline_rows,
    batches_of,
    cluster_column,
    read_texts,
    row_beside,
    score_words,
    task_of,
    word_row,
)
from unified.evaluate.protocols.protocol import Protocol
from unified.evaluate.results import Measure, Result
from unified.evaluate.spec import Caption
from unified.modalities import MODALITIES
from unified.modalities.text.tokenizer import TextTokenizer


def evaluate_caption(evaluation: Caption, name: str, context: Context) -> Iterator[Result]:
    """Perplexity with the right words before, then the share of captions written exactly right."""
    items = read_texts(evaluation, [evaluation.group] if evaluation.group else [])
    task = task_of(evaluation, CaptionSettings(vocabulary=evaluation.vocabulary), context)
    texts = texts_in(items, evaluation.target)
    groups = Groups(evaluation.groups, texts, items.columns[evaluation.group] if evaluation.group else None)
    own = [groups.of(text) for text in texts]
    cluster = cluster_column(evaluation, items) or own
    base = replace(base_result(evaluation, name, items, clusters_of(cluster)), task="captioning")
    scores = score_words(task, batches_of(evaluation, task, items, context), context)
    words = replace(
        base,
        protocol="teacher_forcing",
        label="caption, right words before",
        notes={"terms": int(scores.terms.sum())},
    )
    yield word_row(words, "model", scores, "" if evaluation.train else NO_BASELINE)
    if MODALITIES.spatial in evaluation.inputs.values():
        yield from _without_its_image(evaluation, task, items, context, words, scores, own)
    yield from baseline_rows(evaluation, task, items, context, words, scores, masked=False)
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


def _without_its_image(
    evaluation: Caption, task: Task, items: Items, context: Context, base: Result, model: WordScores, own: list[str]
) -> Iterator[Result]:
    """The row of the model that is shown another sample's image: what is left is knowledge of captions."""
    others = other_images(own, items.pictures)
    if others is None:
        logger.warning("%s: most items have one answer or one image, so none is shown another's", base.dataset)
        return
    scores = score_words(task, batches_of(evaluation, task, items, context, others), context)
    yield row_beside(base, "model, another sample's image", scores, model, "an image with another answer")


def _write(evaluation: Caption, task: Task, items: Items, context: Context, beams: int) -> list[str]:
    tokenizer = context.tokenizers[MODALITIES.language]
    assert isinstance(tokenizer, TextTokenizer)
    texts = []
    for batch in batches_of(evaluation, task, items, context):
        found = generate(
            context.model, batch.to(context.device).inputs, beams=beams, max_length=tokenizer.max_length,
            family=task.family, vocabulary=evaluation.vocabulary,
        )  # fmt: skip
        texts += [tokenizer.text(ids) for ids in found]
    return texts


PROTOCOL = Protocol(settings=Caption, evaluate=evaluate_caption, kinds=(CAPTION,))
