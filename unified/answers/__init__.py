"""The kinds of answers: what a recipe may ask of a task, from its settings to the loss and the prediction.

Each kind is one module, in `match/`, `map/` or `regress/`, and nothing else knows its name. Other packages add kinds by
the entry point `unified.answers`. Tensors and samples go in, scores and answers come out; the network is given.
"""

from unified.answers.kind import AnswerKind
from unified.answers.map.density import DENSITY
from unified.answers.map.depth import DEPTH
from unified.answers.map.edges import EDGES
from unified.answers.map.heatmaps import HEATMAPS
from unified.answers.map.image import IMAGE
from unified.answers.map.normals import NORMALS
from unified.answers.map.semantic import SEMANTIC
from unified.answers.match.caption import CAPTION
from unified.answers.match.causal import CAUSAL
from unified.answers.match.classification import CLASSIFICATION
from unified.answers.match.masked import MASKED
from unified.answers.match.retrieval import RETRIEVAL
from unified.answers.regress.attributes import ATTRIBUTES
from unified.answers.regress.identity import IDENTITY
from unified.answers.regress.keypoints import KEYPOINTS
from unified.answers.regress.objects import BOXES, MASKS
from unified.core.plugins import Table

ANSWERS: Table[AnswerKind] = Table(
    "unified.answers",
    "kind of answer",
    [
        CLASSIFICATION,
        RETRIEVAL,
        MASKED,
        CAUSAL,
        CAPTION,
        SEMANTIC,
        HEATMAPS,
        DEPTH,
        NORMALS,
        EDGES,
        IMAGE,
        DENSITY,
        BOXES,
        MASKS,
        ATTRIBUTES,
        KEYPOINTS,
        IDENTITY,
    ],
    AnswerKind,
)
"""By name. A later row claims the keys of an `answer:` before an earlier one: the first takes what others leave."""
