"""The evaluation of each kind of answer that queries give."""

from unified.answers import ANSWERS
from unified.answers.extensions import extension
from unified.evaluate.dense import (
    attributes,
    density,
    depth,
    edges,
    identity,
    image,
    keypoints,
    normals,
    objects,
    semantic,
)
from unified.evaluate.dense.evaluation import DenseEvaluation

DENSE = {
    evaluation.kind.name: evaluation
    for evaluation in (
        semantic.EVALUATION,
        *keypoints.EVALUATIONS,
        depth.EVALUATION,
        normals.EVALUATION,
        edges.EVALUATION,
        image.EVALUATION,
        density.EVALUATION,
        *objects.EVALUATIONS,
        attributes.EVALUATION,
        identity.EVALUATION,
    )
}
"""By the name of the kind; kinds of other packages bring theirs along."""


def find_evaluation(name: str) -> DenseEvaluation | None:
    """Return the evaluation of the kind of a name; None where there is none."""
    if name in DENSE:
        return DENSE[name]
    kind = ANSWERS.get(name)
    found: DenseEvaluation | None = None if kind is None else extension(kind, "evaluation", DenseEvaluation)
    return found
