"""What `UnifiedModel.forward` answers for a task that predicts tokens of a text: masked, causal, or of a caption."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unified.answers.match.similarity import loss_of_class, similarity
from unified.answers.score import read_words
from unified.config.task import Match
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.config import UnifiedConfig
from unified.model.network import Network
from unified.model.outputs import UnifiedOutput

IGNORED_ELSEWHERE = -100
"""The label of what has none, in torch's losses and in transformers."""


def reading(config: UnifiedConfig, task: str | None) -> Match | None:
    """Return how a task of the model reads tokens of a text; None of a task that picks among names or images.

    Args:
        config: of the model.
        task: its name.
    """
    entry = {} if task is None else config.tasks.get(task, {})
    kinds = config.kinds(str(task)) if "kinds" in entry else []
    if entry.get("id2label") or not any(kind.modality == "text" and kind.role != "candidate" for kind in kinds):
        return None
    read, vocabulary = entry.get("read") or _read_by(kinds), "embedding"
    if any(kind.role == "candidate" for kind in kinds):
        vocabulary = "encoder"
    return None if read == "prefix" else Match("vocabulary", read, vocabulary)  # type: ignore[arg-type]


def _read_by(kinds: Sequence[Attributes]) -> str:
    """How a task reads tokens, by their kinds: exported models of earlier versions do not say it."""
    if any(kind.role == "query" for kind in kinds):
        return "caption"
    return "causal" if any(kind.causal for kind in kinds) else "masked"


def predict_tokens(
    model: Network, tokens: Mapping[str, Tokens], labels: Any, task: str, family: str, read: Match
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
    ids = _checked(model, torch.as_tensor(labels, device=model.input_device), tokens.get("text"))
    inputs = dict(tokens)
    asked = (ids != IGNORE) & (ids != IGNORED_ELSEWHERE)
    if read.read == "caption":
        given = inputs.pop("text", None) or _caption(ids, asked)
        target: Any = given
        asked = asked & given.mask
    else:
        if "text" not in inputs:
            raise ValueError(f"task {task!r}: expected input_ids beside labels, got none. Hint: it reads texts")
        asked = asked & inputs["text"].mask
        target = ids.masked_fill(~asked, IGNORE)
    if read.read == "caption" and not inputs:
        raise ValueError(f"task {task!r}: expected pixel_values, got a text alone. Hint: it captions images")
    states, _ = read_words(model, read, Batch(task, inputs, target, ()), family, None)
    vocabulary = model.vocabulary(read.vocabulary, given={*inputs, "text"}, family=family)
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


def _caption(ids: Int[Tensor, "b n"], asked: Bool[Tensor, "b n"]) -> Tokens:
    return text_tokens(ids.masked_fill(~asked, 0), asked)
