"""What `UnifiedModel.forward` answers for one of its tasks, and the loss of the answers against labels.

The losses are those of training (`matching`), as the mean of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unified.answers.assignment import assign
from unified.answers.kind import IGNORED_ELSEWHERE
from unified.answers.match.similarity import loss_of_class, similarity
from unified.answers.table import begin_queries, query_kind
from unified.core.errors import nearest
from unified.core.types import IGNORE, Tokens
from unified.modalities import MODALITIES
from unified.model.config import UnifiedConfig
from unified.model.language_loss import predict_tokens, reading
from unified.model.network import Network
from unified.model.outputs import UnifiedOutput
from unified.model.query_forward import ask


def answer(
    model: Network, tokens: Mapping[str, Tokens], labels: Any, task: str | None, family: str | None
) -> UnifiedOutput:
    """Return what the model answers for a task, with the loss where labels say what is right.

    Args:
        model: the model.
        tokens: the inputs by modality. Texts beside images are the candidates of a task that picks among them.
        labels: class numbers (b,), -100 or -1 where a sample has none; of a task that predicts tokens, their ids; of a
            task that queries answer, its target as training has it, or the one tensor that is in it. None: no loss is
            wanted.
        task: the name of the task; None: the only one whose classes are known, or a choice among the texts.
        family: the task family that asks; None: that of the task.

    Raises:
        KeyError: for a task that the model does not have.
        ValueError: for labels of another shape, and for a task whose candidates are not known.
    """
    specs = {} if model.queries is None else model.queries.specs
    known = list(dict.fromkeys([*specs, *model.config.tasks, *model.config.families]))
    if task is not None and task not in known:
        raise KeyError(f"task {task!r} is not one of this model{nearest(task, known)}")
    if task in specs:
        return _asked(model, tokens, labels, str(task))
    family = family or _family(model.config, task)
    if labels is not None and (read := reading(model.config, task)) is not None:
        return predict_tokens(model, tokens, labels, str(task), str(family), read)
    if len(tokens) > 1:
        output = model.compared(tokens, family)
        output.logits = output.logits_per_image
    elif labels is None:
        return model.compared(tokens, family)
    else:
        output = _among_classes(model, tokens, task, family)
    if labels is not None:
        assert output.logits is not None
        output.loss = class_loss(output.logits, labels)
    return output


def class_loss(logits: Tensor, labels: Any) -> Tensor:
    """Return the mean cross entropy of class numbers; 0 where no sample has one.

    Args:
        logits: (b, c).
        labels: whole numbers (b,), -100 or -1 where a sample has none.
    """
    found = torch.as_tensor(labels, device=logits.device)
    if found.dtype.is_floating_point or found.shape != logits.shape[:1]:
        raise ValueError(
            f"labels: expected whole numbers of shape {tuple(logits.shape[:1])}, the class of each sample, got "
            f"{found.dtype} of shape {tuple(found.shape)}. Hint: classes are numbered from 0 to {logits.shape[1] - 1}"
        )
    found = found.long()
    asked = (found != IGNORE) & (found != IGNORED_ELSEWHERE)
    if found.device.type == "cpu" and bool((asked & ((found < 0) | (found >= logits.shape[1]))).any()):
        raise ValueError(
            f"labels: expected classes from 0 to {logits.shape[1] - 1}, got {sorted(set(found[asked].tolist()))}. "
            "Hint: a class that is left out is -100"
        )
    loss = loss_of_class(logits, found.masked_fill(~asked, IGNORED_ELSEWHERE))
    return loss.sum() / asked.sum().clamp(min=1)


def class_names(config: UnifiedConfig, task: str) -> Sequence[str] | None:
    """Return the names of the classes of a task in their order, None where the configuration has none.

    Args:
        config: of the model.
        task: its name.
    """
    entry = config.tasks.get(task)
    names = entry.get("id2label") if isinstance(entry, Mapping) else None
    return None if not names else [names[key] for key in sorted(names, key=int)]


def _family(config: UnifiedConfig, task: str | None) -> str | None:
    """The family of a task: that of its tokens."""
    if task is None or task not in config.tasks:
        return task
    entry: Any = config.tasks[task]
    kinds = entry.get("kinds", ()) if isinstance(entry, Mapping) else entry
    return next((kind["family"] for kind in kinds if kind.get("family")), task)


def _among_classes(model: Network, tokens: Mapping[str, Tokens], task: str | None, family: str | None) -> UnifiedOutput:
    """The similarities of inputs and the classes of a task."""
    known = {name: own for name in model.config.tasks if (own := class_names(model.config, name))}
    if task is None and len(known) == 1:
        task = next(iter(known))
        family = family or _family(model.config, task)
    if task not in known:
        raise ValueError(
            f"labels: expected a task whose classes this model knows, got task {task!r}; there are "
            f"{', '.join(sorted(known)) or 'none'}. Hint: give the texts of the classes as input_ids beside the images"
        )
    features = model.represent(tokens, family=family, unit=False)
    names = model.candidates(list(known[task]), given=tokens, family=family)
    embeds = F.normalize(features, dim=-1)
    logits = similarity(embeds, names, model.scale(family))
    if model.classifier is not None:
        logits = model.classifier(logits, features)
    where = "image_embeds" if MODALITIES.spatial in tokens else "text_embeds"
    return UnifiedOutput(logits=logits, **{where: embeds})


def _asked(model: Network, tokens: Mapping[str, Tokens], labels: Any, task: str) -> UnifiedOutput:
    """What the queries of a task find."""
    found = ask(model, tokens, [task])[task]
    if labels is None:
        return UnifiedOutput(logits=query_kind(found.spec.read).logits(found, None))
    kind = query_kind(found.spec.read)
    target = labels
    if not isinstance(labels, Mapping):
        given = torch.as_tensor(labels).to(found.features.device)
        target = kind.labelled(found.spec, given, len(tokens[MODALITIES.spatial]))
    begun = begin_queries(found, target)
    loss, _ = begun.finish(assign(begun.costs))
    return UnifiedOutput(loss=loss.mean(), logits=kind.logits(found, target))
