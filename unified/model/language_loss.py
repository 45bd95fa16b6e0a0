"""What `UnifiedModel.forward` answers for a task that predicts tokens of a text: masked, causal, or of a caption."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from unified.answers import ANSWERS
from unified.answers.kind import IGNORED_ELSEWHERE
from unified.answers.match.similarity import loss_of_class, similarity
from unified.answers.match.words import WordKind
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities import MODALITIES
from unified.model.config import UnifiedConfig
from unified.model.network import Network
from unified.model.outputs import UnifiedOutput


class Reading(NamedTuple):
    """How a task of a model predicts tokens."""

    kind: WordKind
    vocabulary: str


def reading(config: UnifiedConfig, task: str | None) -> Reading | None:
    """Return how a task of the model reads tokens of a text; None of a task that picks among names or images.

    Args:
        config: of the model.
        task: its name.
    """
    entry = {} if task is None else config.tasks.get(task, {})
    kinds = config.kinds(str(task)) if "kinds" in entry else []
    if entry.get("id2label") or not any(
        kind.modality == MODALITIES.language and kind.role != "candidate" for kind in kinds
    ):
        return None
    words = [kind for kind in ANSWERS.values() if isinstance(kind, WordKind)]
    read = entry.get("read")
    # Exported models of earlier versions do not say how they read: their kinds of token do.
    fits = [one for one in words if one.name == read or (not read and one.reads_as(kinds))]
    vocabulary = "encoder" if any(kind.role == "candidate" for kind in kinds) else "embedding"
    return Reading(fits[0], vocabulary) if fits else None


def predict_tokens(
    model: Network, tokens: Mapping[str, Tokens], labels: Any, task: str, family: str, read: Reading
) -> UnifiedOutput:
    """Return logits over the vocabulary, (b, n, v), and the mean loss of the tokens that labels name.

    Args:
        model: the model.
        tokens: the inputs by modality. A masked task has its text with the masked tokens in it; a causal one the whole
            text; one of captions the images, with the captions or without them, as they are the labels.
        labels: ids (b, n), -100 where none is asked for. They are not shifted: the label of a place is its own token.
        task: the name of the task.
        family: the task family that asks.
        read: how the task reads tokens, from `reading`.

    Raises:
        ValueError: for labels of another shape or type, ids beyond the vocabulary, and where an input is missing.
    """
    ids = _checked(model, torch.as_tensor(labels, device=model.input_device), tokens.get(MODALITIES.language))
    asked = (ids != IGNORE) & (ids != IGNORED_ELSEWHERE)
    inputs, target, known = read.kind.labelled(task, dict(tokens), ids, asked)
    asked = asked & known
    states, _ = read.kind.states(model, Batch(task, inputs, target, ()), family, None)
    vocabulary = model.vocabulary(read.vocabulary, given={*inputs, MODALITIES.language}, family=family)
    logits = similarity(model.project(states.flatten(0, 1)), vocabulary, model.scale(family))
    loss = loss_of_class(logits, ids.masked_fill(~asked, IGNORED_ELSEWHERE).flatten())
    shape = (*ids.shape, len(vocabulary))
    return UnifiedOutput(loss=loss.sum() / asked.sum().clamp(min=1), logits=logits.view(shape))


def _checked(model: Network, labels: Tensor, text: Tokens | None) -> Int[Tensor, "b n"]:
    expected = "(b, n)" if text is None else str(tuple(text.values.shape))
    fits = labels.dim() == 2 if text is None else labels.shape == text.values.shape
    if labels.dtype.is_floating_point or not fits:
        raise ValueError(
            f"labels: expected token ids of shape {expected}, as input_ids are, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}. Hint: -100 where no token is asked for"
        )
    labels, size = labels.long(), model.config.vocabulary_size
    out = (labels >= size) | ((labels < 0) & (labels != IGNORE) & (labels != IGNORED_ELSEWHERE))
    if labels.device.type == "cpu" and bool(out.any()):
        raise ValueError(f"labels: expected token ids from 0 to {size - 1}, got {int(labels[out][0])}")
    return labels
