"""Zero-shot classification: the most similar class name, bare (Uni-Perceiver) or as a mean of prompts (CLIP)."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from unified.config.labels import Labels
from unified.core import statistics
from unified.core.metrics import BLOCK, class_recalls, mean_per_class_recall, target_rank
from unified.evaluate.context import Context
from unified.evaluate.features import embed_texts
from unified.evaluate.results import Measure
from unified.modalities import MODALITIES


def class_weights(context: Context, labels: Labels, prompt: str) -> Float[Tensor, "c w"]:
    """One unit vector a class: of its bare name, or the normalised mean over its prompts' unit vectors."""
    prompts = [[name] if prompt == "bare" else labels.prompts(name) for name in labels.names]
    texts = [text for several in prompts for text in several]
    features = embed_texts(
        context.model, texts, context.tokenizers[MODALITIES.language], context.batch, **context.asked
    )
    features = F.normalize(features, dim=1).view(len(labels), -1, features.shape[1])
    return F.normalize(features.mean(1), dim=1)


def class_ranks(
    features: NDArray[np.float32], weights: Float[Tensor, "c w"], target: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The place of each item's class among all classes, from 0."""
    images = F.normalize(torch.from_numpy(features), dim=1)
    wanted = torch.from_numpy(target)
    blocks = zip(images.split(BLOCK), wanted.split(BLOCK), strict=True)
    return torch.cat([target_rank(image @ weights.T, number) for image, number in blocks]).numpy()


def accuracy_measures(
    correct: NDArray[np.bool_],
    target: NDArray[np.int64],
    clusters: NDArray[np.int64] | None,
    prefix: str,
    dataset: str,
) -> tuple[Measure, Measure]:
    """Accuracy, and mean per-class recall with its bootstrap; `correct` is (n,), or (seeds, n) for k-shot.

    The spread over seeds stands apart: more seeds do not make the test set larger, so its error is that of one run.
    """
    several = correct.ndim == 2
    rows = correct if several else correct[None]
    average = rows.mean(0)
    top, recall = f"{prefix}acc1", f"{prefix}mean_per_class_recall"
    accuracies, recalls = rows.mean(1), [mean_per_class_recall(row, target) for row in rows]
    seeds = (statistics.over_seeds(accuracies.tolist()), statistics.over_seeds(recalls)) if several else (None, None)
    interval = statistics.proportion(average, clusters)
    spread = statistics.bootstrap(
        lambda index: mean_per_class_recall(average[index], target[index]),
        len(target),
        dataset,
        recall,
        clusters=clusters,
        strata=target if clusters is None else None,
        bounds=(0.0, 1.0),
    )
    return Measure(top, interval, seeds[0], correct), Measure(recall, spread, seeds[1])


def top5_measure(ranks: NDArray[np.int64], clusters: NDArray[np.int64] | None) -> Measure:
    """Whether the class is among the five best; defined from five classes on."""
    return Measure("acc5", statistics.proportion(ranks < 5, clusters), values=ranks < 5)


def per_class(correct: NDArray[np.bool_], target: NDArray[np.int64], labels: Labels) -> dict[str, float | None]:
    """Recall of each class by name; None for a class without items."""
    recalls = class_recalls(correct, target, len(labels))
    return {name: None if np.isnan(r) else float(r) for name, r in zip(labels.told_apart, recalls, strict=True)}
