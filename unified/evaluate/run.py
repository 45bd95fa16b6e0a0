"""One evaluation run: all protocols of all specs on one model."""

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
import transformers

from unified.core.errors import RecipeError, nearest
from unified.core.log import logger
from unified.core.training_record import TrainingRecord
from unified.core.version import __version__
from unified.evaluate.context import Context, evaluating
from unified.evaluate.dense.protocol import find_spec
from unified.evaluate.features import weights_hash
from unified.evaluate.protocols.few_shot import ALL
from unified.evaluate.protocols.table import PROTOCOLS
from unified.evaluate.results import Result, collect, flat_metrics
from unified.evaluate.spec import Dense, Evaluation, Spec, load_spec
from unified.evaluate.training_data import examine, mark, tell
from unified.modalities import MODALITIES
from unified.model.routing_attributes import by_family

__all__ = ["evaluate", "flat_metrics"]

BATCH = 256


def evaluate(
    model: Any,
    processor: Any,
    specs: Sequence[str | Path | Spec],
    *,
    shots: Sequence[int] = (0,),
    seeds: int = 5,
    device: torch.device | str | None = None,
    batch: int = BATCH,
    command: str = "",
    name: str = "",
    cache: Path | None = None,
    record: TrainingRecord | None = None,
) -> dict[str, Any]:
    """Run specs on a model and return the content of a results file.

    `shots`: 0 is zero-shot, -1 all training data; any number but 0 also runs the probes on all data that the spec
    lists. `seeds` is the number of k-shot subsets. `device` moves the model; by default it stays where it is. `cache`
    is a folder of features; none by default. `record` is that of the data that the model was trained on; by default the
    one that was loaded with it, and without any the results say "unknown". Training may call this between steps:
    modes, gradients and random numbers are left as they were.
    """
    _check(shots, seeds, batch)
    loaded = [load_spec(spec) for spec in specs]
    if not loaded:
        raise RecipeError("no evaluation spec given; name one of recipes/eval, a YAML file or a data folder")
    if device is not None:
        model.to(device)
    # What the model cannot be asked is found here, and not after an hour of others.
    record = record or getattr(model, "training_record", None)
    planned = [
        (title, e, _family(title, e, model), examine(title, e, record))
        for spec in loaded
        for title, e in spec.evaluations.items()
    ]
    model_hash = weights_hash(model)
    # 0 first, the rest in the order given, each once: k-shot rows come after the zero-shot one.
    asked = tuple(dict.fromkeys(sorted(shots, key=lambda k: k != 0)))
    results: list[Result] = []
    with evaluating(model):
        for title, evaluation, family, training in planned:
            tell(title, evaluation, training)
            given = tuple(sorted(set(evaluation.inputs.values())))
            _check_modalities(title, given, processor.tokenizers)
            context = Context(model, processor.tokenizers, asked, seeds, batch, cache, model_hash, given, family)
            start = time.monotonic()
            found = [mark(row, training) for row in PROTOCOLS[type(evaluation)].evaluate(evaluation, title, context)]
            results += found
            logger.info("%s: %d results in %.1f s", title, len(found), time.monotonic() - start)
    about = {"model": name, "model_hash": model_hash, "versions": versions(), "command": command}
    return collect(results, about)


def versions() -> Mapping[str, str]:
    """What computed the results."""
    modules = {"torch": torch, "transformers": transformers, "numpy": np, "scikit-learn": sklearn}
    found = {name: str(module.__version__) for name, module in modules.items()}
    return {"unified": __version__, "python": platform.python_version(), **found}


def _family(title: str, evaluation: Evaluation, model: Any) -> str | None:
    """The family that an evaluation names; one that the model lacks is an error, none may be a surprise."""
    if isinstance(evaluation, Dense):
        find_spec(title, evaluation, model)
        return None  # queries know the family that they were trained with
    config = getattr(model, "config", None)
    families = list(getattr(config, "families", []))
    if evaluation.family is None and len(families) > 1 and by_family(getattr(config, "experts", None)):
        logger.warning(
            "the model's experts are chosen by task family, and the evaluation names none: it is asked as %r. "
            "`family: NAME` in a spec names one of %s", families[0], ", ".join(families)
        )  # fmt: skip
    if families and evaluation.family is not None and evaluation.family not in families:
        raise RecipeError(
            f"{title}.family: {evaluation.family!r} is none of the model's{nearest(evaluation.family, families)}"
        )
    return evaluation.family


def _check_modalities(title: str, given: Sequence[str], tokenizers: Mapping[str, Any]) -> None:
    for name in given:
        if name not in tokenizers and name != MODALITIES.language:  # a model without words says so when it is asked
            known = nearest(name, list(tokenizers))
            raise RecipeError(f"{title}.inputs: expected a modality of the model, got {name!r}{known}")


def _check(shots: Sequence[int], seeds: int, batch: int) -> None:
    wrong = [k for k in shots if k < ALL]
    if wrong or not shots:
        raise RecipeError(f"shots: {list(shots)}; expected 0 (zero-shot), numbers from 1, or {ALL} for all data")
    if seeds < 1 or batch < 1:
        raise RecipeError(f"seeds ({seeds}) and batch ({batch}) must be at least 1")
