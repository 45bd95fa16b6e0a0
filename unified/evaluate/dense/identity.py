"""Scores of embeddings of identities, and a copy of the picture as one."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from unified.answers.base import SceneExample
from unified.answers.regress.identity import IDENTITY
from unified.answers.spec import QuerySpec
from unified.core.types import Sample
from unified.data.samples import annotations as said
from unified.evaluate.dense.baseline_maps import Baselines
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.nearest_neighbour import SIDE, small_copy
from unified.evaluate.dense.scores import Answer, Clusters, Scores, mean_measure, share_measure
from unified.evaluate.dense.targets import Truth
from unified.evaluate.items import number_through
from unified.evaluate.results import Measure, Metric
from unified.pipeline.dense_collate import SceneCollator


def _copy(spec: QuerySpec) -> Baselines:  # noqa: ARG001
    def answer(picture: Tensor) -> Answer:
        copy = small_copy(picture).float()
        return {"features": F.normalize(copy - copy.mean(), dim=0)}

    return {f"{SIDE} × {SIDE} pixels": answer}


class IdentityScores(Scores):
    """Each picture looks for others of its identity among all the rest: mAP, and whether the nearest one is."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.identities: list[str] = []

    def add(self, answer: Answer, truth: Truth) -> None:
        """A vector."""
        self.features.append(answer["features"].cpu().float())
        self.identities.append(truth.target)

    def clusters(self) -> NDArray[np.int64]:
        """Pictures of one identity are found or missed together."""
        return number_through(self.identities)

    def measures(self, key: str, clusters: Clusters) -> tuple[Measure, ...]:  # noqa: ARG002
        """Means over the pictures that have another of their identity, which are clusters unless there are others."""
        features = F.normalize(torch.stack(self.features), dim=1)
        who = self.clusters()
        similar = (features @ features.T).numpy()
        precision, first, asked = (np.zeros(len(who)) for _ in range(3))
        for row in range(len(who)):
            others = np.arange(len(who)) != row
            right = who[others] == who[row]
            if right.any():
                precision[row] = average_precision_score(right, similar[row, others])
                first[row] = right[similar[row, others].argmax()]
                asked[row] = 1
        if not asked.any():
            return ()
        groups = who if clusters is None else clusters
        return mean_measure("retrieval_map", precision, groups, asked), share_measure("rank1", first, groups, asked)

    def notes(self) -> dict[str, Any]:
        """How many identities are looked for; those with one picture are among the others alone."""
        counts = np.bincount(number_through(self.identities))
        several = int((counts > 1).sum())
        how = f"{several} of {len(counts)} identities have several pictures"
        return {"how": how, "identities": len(counts), "alone": len(counts) - several}


def _who(collator: SceneCollator, sample: Sample, example: SceneExample, number: int) -> Truth:  # noqa: ARG001
    """Whoever the sample shows, be it one of the training data or not."""
    return Truth(example.scene.image, example.scene, said.identity(sample))


EVALUATION = DenseEvaluation(
    kind=IDENTITY,
    scores=lambda _: IdentityScores(),
    metrics=(Metric("retrieval_map", "mAP of retrieval"),),
    truth=_who,
    untrained=_copy,
)
