"""Classification of one data set: by names, with k shots, and by probes, on the model's and on baseline features."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unified.answers.match.classification import CLASSIFICATION
from unified.answers.match.retrieval import RETRIEVAL
from unified.config.labels import Labels, load_labels
from unified.core.errors import RecipeError
from unified.core.locations import named
from unified.core.log import logger
from unified.core.training_record import TrainedTask, TrainingRecord, names_hash
from unified.data.class_lists import ClassNumbers, match_names
from unified.evaluate.answers import ItemAnswers, best_classes, scale_of
from unified.evaluate.context import Context
from unified.evaluate.items import Items, clusters_of, read_items, targets
from unified.evaluate.protocols.few_shot import (
    ALL,
    Subset,
    different,
    labelled_share,
    least_squares_answers,
    subset,
)
from unified.evaluate.protocols.knn import nearest_neighbours
from unified.evaluate.protocols.probe import fit_logistic
from unified.evaluate.protocols.protocol import Protocol, asks_same_data
from unified.evaluate.protocols.zero_shot import (
    accuracy_measures,
    class_ranks,
    class_weights,
    per_class,
    top5_measure,
)
from unified.evaluate.results import PROBE, UNTUNED, ZERO_SHOT, Measure, Result
from unified.evaluate.sources import class_names
from unified.evaluate.spec import Classification, Robustness


@dataclass(frozen=True)
class _Part:
    """Items with their classes; `rows` are those that belong to the part."""

    items: Items
    target: NDArray[np.int64]  # of the rows
    rows: NDArray[np.int64]

    def keys(self) -> tuple[str, ...]:
        return tuple(self.items.keys[row] for row in self.rows)

    def features(self, name: str, evaluation: Classification, context: Context) -> NDArray[np.float32]:
        return context.features(name, self.items, evaluation.inputs)[self.rows]


def evaluate_classification(evaluation: Classification, name: str, context: Context) -> Iterator[Result]:
    """Zero-shot where shots hold 0; k-shot probes for each other number, and then the probes on all training data."""
    labels = find_labels(evaluation)
    classes = ClassNumbers(labels)
    test = _read(evaluation, evaluation.several, classes, evaluation.limit)
    shots = [k for k in context.shots if k != 0]
    probed = bool(shots and evaluation.probes)
    if probed:
        # Before the first row: labelled data that will not do are no reason to lose the others later.
        known = _labels_of_probes(evaluation, labels)
        train, rest = _labelled(evaluation, name, test, classes if known is labels else ClassNumbers(known))
        _check_labelled(name, train, rest, known)
    if 0 in context.shots:
        yield from _zero_shot(evaluation, _base(evaluation, name, test, labels), test, labels, context)
    if probed:
        untested = np.setdiff1d(train.target, rest.target)  # of one item, if both parts are of the same data
        notes = {} if evaluation.train is not None else {"untested_classes": _names(known, untested)}
        for features in ("model", *evaluation.baselines):
            base = _base(evaluation, name, rest, known)
            base = replace(base, features=features, notes={**base.notes, **notes})
            yield from _probes(evaluation, base, train, rest, known, shots, context)


def _labels_of_probes(evaluation: Classification, labels: Labels) -> Labels:
    """The classes that probes choose from: those of the data, and further ones that only labelled data have."""
    if evaluation.labels is not None or evaluation.train is None:
        return labels
    found = class_names(evaluation.train if isinstance(evaluation.train, str) else tuple(evaluation.train))
    listed = load_labels(found).names if isinstance(found, str) else tuple(found or ())
    places = match_names(listed, labels.names)
    further = tuple(name for name, place in zip(listed, places, strict=True) if place is None)
    return replace(labels, names=(*labels.names, *further)) if further else labels


def _base(evaluation: Classification, name: str, part: _Part, labels: Labels) -> Result:
    """What all results on a part have in common."""
    cluster = [part.items.columns[evaluation.cluster][row] for row in part.rows] if evaluation.cluster else None
    notes = {"chance": 1 / len(labels)}
    return Result(
        name, "", "", "", (), part.keys(), part.items.digest, PROBE, clusters=clusters_of(cluster), notes=notes
    )


def _labelled(evaluation: Classification, name: str, test: _Part, classes: ClassNumbers) -> tuple[_Part, _Part]:
    """The labelled part, and the part that probes are tested on."""
    if evaluation.train is not None:
        data = evaluation.train if isinstance(evaluation.train, str) else tuple(evaluation.train)
        train = _read(evaluation, data, classes, None)
        if train.items.source.digest == test.items.source.digest:
            raise RecipeError(f"{name}: `train` and `data` are the same samples; probes need labelled data apart")
        return train, test
    if evaluation.train_share is None:
        raise RecipeError(
            f"{name}: probes need labelled data: name them under `train`, or set `train_share` to take them from `data`"
        )
    taken = labelled_share(test.target, evaluation.train_share, name)
    return tuple(_Part(test.items, test.target[rows], rows) for rows in map(np.flatnonzero, (taken, ~taken)))  # type: ignore[return-value]


def _check_labelled(name: str, train: _Part, test: _Part, labels: Labels) -> None:
    """Refuse to test on a class that no labelled item shows: no number of shots would be true of it."""
    missing = _names(labels, np.setdiff1d(test.target, train.target))
    if missing:
        raise RecipeError(
            f"{name}: expected a labelled item of each class that is tested, got none of {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} more' if len(missing) > 5 else ''}. Hint: label some under `train`, or leave "
            "the class out of `data`"
        )


def _names(labels: Labels, classes: NDArray[np.int64]) -> list[str]:
    return [labels.told_apart[number] for number in classes]


def find_labels(evaluation: Classification | Robustness) -> Labels:
    """The label set of the spec, or the one that comes with the data."""
    given = evaluation.labels
    if given is None:
        given = class_names(evaluation.several)
    if given is None:
        raise RecipeError(
            f"{named(evaluation.data)}: no class names come with the data (classes in manifest.json, classnames.txt, "
            "class folders); name them under `labels`"
        )
    labels = load_labels(given) if isinstance(given, str) else Labels(tuple(given))
    if labels.repeated:
        logger.warning(
            "%s: %d names are those of several classes, which names alone do not tell apart: %s",
            evaluation.data, len(labels.repeated), ", ".join(labels.repeated[:5]),
        )  # fmt: skip
    return labels


def _read(evaluation: Classification, data: str | tuple[str, ...], classes: ClassNumbers, limit: int | None) -> _Part:
    columns = [evaluation.target, *([evaluation.cluster] if evaluation.cluster else [])]
    items = read_items(data, evaluation.inputs, columns, limit)
    return _Part(items, targets(items, evaluation.target, classes), np.arange(len(items)))


def _zero_shot(
    evaluation: Classification, base: Result, test: _Part, labels: Labels, context: Context
) -> Iterator[Result]:
    if not evaluation.zero_shot:
        return
    features = test.features("model", evaluation, context)
    for prompt in evaluation.zero_shot:
        weights = class_weights(context, labels, prompt)
        ranks = class_ranks(features, weights, test.target)
        scale = scale_of(context.model, context.family)
        answers = ItemAnswers(
            test.target, *best_classes(features, weights, scale), labels.told_apart, scale is not None
        )
        measures: list[Measure] = list(accuracy_measures(ranks == 0, test.target, base.clusters, "", base.dataset))
        if len(labels) >= 5:
            measures.insert(1, top5_measure(ranks, base.clusters))
        count = f"{len(labels.templates)} templates" if prompt == "templates" else "bare names"
        yield replace(
            base,
            task="zeroshot_classification",
            protocol="clip_benchmark" if prompt == "templates" else "uni-perceiver",
            label=f"zero-shot, {count}",
            measures=tuple(measures),
            setting=ZERO_SHOT if evaluation.unseen else UNTUNED,
            undefined=() if len(labels) >= 5 else ("acc5",),
            per_class=per_class(ranks == 0, test.target, labels),
            answers=answers,
            notes={**base.notes, "prompt": prompt},
        )


def _probes(
    evaluation: Classification,
    base: Result,
    train: _Part,
    test: _Part,
    labels: Labels,
    shots: list[int],
    context: Context,
) -> Iterator[Result]:
    known = train.features(base.features, evaluation, context), train.target
    asked = test.features(base.features, evaluation, context)
    notes = {**base.notes, "train_hash": train.items.digest, "train_items": len(train.target)}
    base = replace(base, notes=notes)
    if "least_squares" in evaluation.probes:
        for k in shots:
            chosen = different([subset(train.target, k, s, base.dataset) for s in range(context.seeds)])
            answers = ItemAnswers(
                test.target, *least_squares_answers(known, asked, chosen, len(labels)), labels.told_apart
            )
            # Classes of the label set that no item has are short as well: probes know fewer classes than it names.
            absent = np.setdiff1d(np.arange(len(labels)), train.target) if k != ALL else np.zeros(0, dtype=np.int64)
            short = _names(labels, np.union1d(absent, np.array(chosen[0].short_classes, dtype=np.int64)))
            noted = replace(base, notes={**base.notes, "short_classes": short})
            yield _k_shot(noted, k, chosen, answers, train.keys())
    if "logistic" in evaluation.probes:
        fit = fit_logistic(known, asked, base.dataset)
        found = {"C": fit.strength, "validation_accuracy": fit.validation_accuracy, "converged": fit.converged}
        answers = ItemAnswers(test.target, fit.predicted, fit.probability, labels.told_apart, probability=True)
        yield _full(base, "dinov3_logreg", "logistic regression", "lp_", answers, found)
    if "knn" in evaluation.probes:
        near = nearest_neighbours(known, asked, len(labels))
        every = {f"k={k}": float((p == test.target).mean()) for k, p in near.predicted.items()}
        knn = {"k": near.best, "validation_accuracy": near.validation_accuracy, "acc1_by_k": every}
        best = near.predicted[near.best], near.share[near.best]
        answers = ItemAnswers(test.target, *best, labels.told_apart, probability=True)
        yield _full(base, "dinov3_knn", f"{near.best} nearest neighbours", "", answers, knn)


def _right(answers: ItemAnswers) -> NDArray[np.bool_]:
    return np.asarray(answers.answer) == np.asarray(answers.truth)


def _k_shot(
    base: Result,
    k: int,
    chosen: list[Subset],
    answers: ItemAnswers,
    keys: tuple[str, ...],
) -> Result:
    notes = {"train_items_per_seed": [len(s.index) for s in chosen]}
    subsets = {"subsets": [[keys[row] for row in s.index] for s in chosen]} if k != ALL else {}
    return replace(
        base,
        task="linear_probe",
        protocol="lsr",
        label="all data, least squares" if k == ALL else f"{k}-shot, least squares",
        measures=accuracy_measures(_right(answers), np.asarray(answers.truth), base.clusters, "lp_", base.dataset),
        answers=answers,
        shots=k,
        notes={**base.notes, **notes, **subsets},
    )


def _full(
    base: Result,
    protocol: str,
    label: str,
    prefix: str,
    answers: ItemAnswers,
    notes: Mapping[str, object],
) -> Result:
    return replace(
        base,
        task="linear_probe" if prefix else "knn",
        protocol=protocol,
        label=f"all data, {label}",
        measures=accuracy_measures(_right(answers), np.asarray(answers.truth), base.clusters, prefix, base.dataset),
        answers=answers,
        shots=ALL,
        notes={**base.notes, **notes},
    )


def asks_labels(evaluation: Classification | Robustness, task: TrainedTask, record: TrainingRecord) -> bool:
    """Whether an evaluation asks a task by its label set, or about another part of its dataset."""
    own = task.labels == names_hash(find_labels(evaluation).names)
    return own or asks_same_data(evaluation, task, record)


CANDIDATES = (CLASSIFICATION, RETRIEVAL)
PROTOCOL = Protocol(settings=Classification, evaluate=evaluate_classification, kinds=CANDIDATES, asks=asks_labels)
