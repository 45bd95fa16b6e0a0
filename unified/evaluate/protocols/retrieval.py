"""Retrieval both ways: the text of an image, and the image of a text; every text of a group is a right answer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from unified.answers.match.classification import CLASSIFICATION
from unified.answers.match.retrieval import RETRIEVAL
from unified.config.labels import load_labels
from unified.core import statistics
from unified.core.errors import DataError, quoted
from unified.core.metrics import first_positive_rank, recall_at_k
from unified.core.text_files import split_lines
from unified.evaluate.answers import ItemAnswers, nearest_entries
from unified.evaluate.context import Context
from unified.evaluate.features import embed_texts
from unified.evaluate.items import Items, ceiling, clusters_of, number_through, read_items, texts_in
from unified.evaluate.protocols.groups import Groups
from unified.evaluate.protocols.protocol import Protocol, asks_same_data
from unified.evaluate.results import UNTUNED, ZERO_SHOT, Measure, Result
from unified.evaluate.spec import Retrieval
from unified.modalities import MODALITIES

TEXT_OF_IMAGE, IMAGE_OF_TEXT = "text_retrieval_recall", "image_retrieval_recall"


def evaluate_retrieval(evaluation: Retrieval, name: str, context: Context) -> Iterator[Result]:
    """R@k of images among texts (or among the `candidates`), and of the data's texts among the images."""
    columns = [c for c in (evaluation.target, evaluation.group, evaluation.cluster) if c]
    items = read_items(evaluation.several, evaluation.inputs, columns, evaluation.limit)
    owner, texts = _texts(items, evaluation)
    values = items.columns[evaluation.group] if evaluation.group else None
    groups = Groups(evaluation.groups, texts, values)
    # Lines belong to their image, whatever they say; otherwise equal texts and equal groups are the same answer.
    text_groups = [f"item {row}" for row in owner] if evaluation.lines else [groups.of(text) for text in texts]
    image_groups = [f"item {row}" for row in range(len(items))] if evaluation.lines else text_groups
    images = F.normalize(torch.from_numpy(context.features("model", items, evaluation.inputs)), dim=1)
    clusters = _clusters(items, evaluation, image_groups)
    base = Result(
        name, "zeroshot_retrieval", "retrieval", "", (), items.keys, items.digest,
        ZERO_SHOT if evaluation.unseen else UNTUNED, clusters=clusters,
    )  # fmt: skip
    gallery, gallery_groups = _gallery(evaluation, texts, text_groups, groups)
    vectors = _embedded(context, gallery)
    notes = _notes(items, texts, image_groups, gallery_groups) if not evaluation.lines else {"gallery": len(gallery)}
    yield replace(
        base,
        label=f"text of an image, among {len(gallery):,}",
        measures=_measures(TEXT_OF_IMAGE, evaluation, images, vectors, image_groups, gallery_groups, clusters),
        answers=_answers(images, vectors, image_groups, gallery_groups, gallery),
        notes=notes,
    )
    yield _images_of_texts(evaluation, base, context, items, images, image_groups, (owner, texts, text_groups))


def _images_of_texts(
    evaluation: Retrieval,
    base: Result,
    context: Context,
    items: Items,
    images: Float[Tensor, "n w"],
    image_groups: Sequence[str],
    asked: tuple[NDArray[np.int64], list[str], list[str]],
) -> Result:
    """Texts as queries: each line where an image has several, else each different text once."""
    owner, texts, text_groups = asked
    rows = np.arange(len(texts)) if evaluation.lines else np.unique(number_through(texts), return_index=True)[1]
    keys = [f"{items.keys[owner[row]]}:{row}" if evaluation.lines else texts[row] for row in rows]
    groups = [text_groups[row] for row in rows]
    # Texts of one image, or of one group, are found or missed together.
    clusters = clusters_of(groups)
    vectors = _embedded(context, [texts[row] for row in rows])
    return replace(
        base,
        label=f"image of a text, among {len(images):,}",
        measures=_measures(IMAGE_OF_TEXT, evaluation, vectors, images, groups, image_groups, clusters),
        answers=_answers(vectors, images, groups, image_groups, items.keys),
        keys=tuple(keys),
        clusters=clusters,
        notes={"gallery": len(images)},
    )


def _measures(
    metric: str,
    evaluation: Retrieval,
    queries: Float[Tensor, "q w"],
    gallery: Float[Tensor, "g w"],
    query_groups: Sequence[str],
    gallery_groups: Sequence[str],
    clusters: NDArray[np.int64] | None,
) -> tuple[Measure, ...]:
    numbers = torch.from_numpy(number_through([*query_groups, *gallery_groups]))
    ranks = first_positive_rank(queries, gallery, numbers[: len(queries)], numbers[len(queries) :])
    found = []
    for k in evaluation.ks:
        hits = recall_at_k(ranks, k, len(gallery)).numpy()
        found.append(Measure(f"{metric}@{k}", statistics.proportion(hits, clusters), values=hits))
    return tuple(found)


def _answers(
    queries: Float[Tensor, "q w"],
    gallery: Float[Tensor, "g w"],
    query_groups: Sequence[str],
    gallery_groups: Sequence[str],
    names: Sequence[str],
) -> ItemAnswers:
    """The entry that is found for each query; the truth is it where it is right, else the first that would be."""
    best, cosines = nearest_entries(queries, gallery)
    first: dict[str, str] = {}
    for group, name in zip(gallery_groups, names, strict=True):
        first.setdefault(group, name)
    answers = [names[row] for row in best.tolist()]
    truth = [
        answer if gallery_groups[row] == group else first.get(group)
        for row, group, answer in zip(best.tolist(), query_groups, answers, strict=True)
    ]
    return ItemAnswers(truth, answers, cosines)


def _texts(items: Items, evaluation: Retrieval) -> tuple[NDArray[np.int64], list[str]]:
    """All texts of the data with the item that each belongs to."""
    owner, texts = [], []
    for row, value in enumerate(texts_in(items, evaluation.target)):
        lines = [line.strip() for line in split_lines(value) if line.strip()] if evaluation.lines else [value.strip()]
        if not lines or not lines[0]:
            raise DataError(f"{items.places[row]}: column {quoted(evaluation.target)}: the text is empty")
        owner += [row] * len(lines)
        texts += lines
    return np.array(owner), texts


def _gallery(
    evaluation: Retrieval, texts: Sequence[str], text_groups: Sequence[str], groups: Groups
) -> tuple[list[str], list[str]]:
    """The texts that images are compared with, and their groups."""
    if evaluation.lines:
        return list(texts), list(text_groups)
    names = [name for reference in evaluation.candidates for name in load_labels(reference).names]
    gallery = list(dict.fromkeys(names or texts))
    return gallery, [groups.of(name) for name in gallery]


def _clusters(items: Items, evaluation: Retrieval, image_groups: Sequence[str]) -> NDArray[np.int64] | None:
    return clusters_of(items.columns[evaluation.cluster] if evaluation.cluster else image_groups)


def _notes(
    items: Items, texts: Sequence[str], image_groups: Sequence[str], gallery_groups: Sequence[str]
) -> dict[str, float | int]:
    """Ceilings of R@1: with groups as right answers, and if only an image's own text counted."""
    there = set(gallery_groups)
    reachable = [group if group in there else f"absent {row}" for row, group in enumerate(image_groups)]
    share = sum(group in there for group in image_groups) / max(len(items), 1)
    return {
        "gallery": len(gallery_groups),
        "ceiling": min(share, ceiling(items.pictures.tolist(), reachable)),
        "ceiling_own_text": ceiling(items.pictures.tolist(), texts),
    }


def _embedded(context: Context, texts: Sequence[str]) -> Float[Tensor, "n w"]:
    features = embed_texts(
        context.model, texts, context.tokenizers[MODALITIES.language], context.batch, **context.asked
    )
    return F.normalize(features, dim=1)


PROTOCOL = Protocol(
    settings=Retrieval, evaluate=evaluate_retrieval, kinds=(RETRIEVAL, CLASSIFICATION), asks=asks_same_data
)
