"""Tasks with queries: the metric of what they read, and beside it baselines that nothing learned is needed for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from unified.answers.spec import QuerySpec
from unified.config.labels import Labels, check_unique, load_labels
from unified.core.errors import DataError, RecipeError, nearest
from unified.data.samples.decode import decode
from unified.data.shards.write import progress
from unified.evaluate.context import Context
from unified.evaluate.dense.evaluation import DenseEvaluation, Truths
from unified.evaluate.dense.table import find_evaluation
from unified.evaluate.dense.targets import Truth
from unified.evaluate.items import clusters_of, read_items
from unified.evaluate.protocols.protocol import Protocol
from unified.evaluate.results import TRAINED, ZERO_SHOT, Result
from unified.evaluate.sources import Source, open_source
from unified.evaluate.spec import Dense
from unified.modalities import MODALITIES
from unified.model.inference import Views, see

FLOOR = "floor: "
"""What the features of a baseline begin with."""
BATCH = 16
"""Pictures whose maps are held at once."""


def evaluate_dense(evaluation: Dense, name: str, context: Context) -> Iterator[Result]:
    """The model's scores, and those of the baselines that there are."""
    spec = find_spec(name, evaluation, context.model)
    names, of_kind = _names(evaluation, spec), _evaluation(name, spec)
    if of_kind.check is not None:
        of_kind.check(evaluation, names)
    tokenizer: Any = context.tokenizers[MODALITIES.spatial]
    picture = next(iter(evaluation.inputs))
    read = Truths(evaluation.task, of_kind, spec, names, picture, evaluation.target, tokenizer)
    columns = [evaluation.cluster] if evaluation.cluster else []
    items = read_items(evaluation.several, evaluation.inputs, columns, evaluation.limit)
    found = of_kind.baselines(spec, names, _training(evaluation, items.source.digest, read))
    baselines = {f"{FLOOR}{of}": answer for of, answer in found.items()}
    scores = {features: of_kind.scores(names) for features in ("model", *baselines)}
    views = Views(evaluation.aspect, evaluation.flip, evaluation.window)
    asked = {evaluation.task: _representations(names, spec, context)} if spec.from_names else None
    for start in progress(range(0, len(items), BATCH), -(-len(items) // BATCH), f"asking {evaluation.task}"):
        chosen = [int(number) for number in items.numbers[start : start + BATCH]]
        truths = [read(decode(items.source[number], read.columns), number) for number in chosen]
        pictures = [truth.picture for truth in truths]
        answers = see(context.model, tokenizer, pictures, [evaluation.task], views, names=asked, batch=BATCH)
        for truth, answer in zip(truths, answers, strict=True):
            scores["model"].add(answer[evaluation.task], truth)
            for features, baseline in baselines.items():
                scores[features].add(baseline(truth.picture), truth)
    cluster = clusters_of(items.columns[evaluation.cluster]) if evaluation.cluster else None
    cluster = scores["model"].clusters() if cluster is None else cluster
    base = Result(
        name, "dense", spec.read, _label(evaluation, spec), (), items.keys, items.digest,
        ZERO_SHOT if evaluation.unseen else TRAINED, clusters=cluster,
    )  # fmt: skip
    for features, scored in scores.items():
        measures = scored.measures(name, cluster)
        if not measures:
            raise DataError(f"{name}: the data know no answer to {evaluation.task!r}, so there is nothing to score")
        yield replace(
            base, features=features, measures=measures, notes=scored.notes(), per_class=scored.per_class(),
            answers=scored.answers(),
        )  # fmt: skip


def find_spec(name: str, evaluation: Dense, model: Any) -> QuerySpec:
    """The queries that an evaluation asks."""
    specs: dict[str, QuerySpec] = getattr(getattr(model, "queries", None), "specs", {})
    if not specs:
        raise RecipeError(f"{name}.task: {evaluation.task!r}: this model has no task queries")
    if evaluation.task not in specs:
        known = nearest(evaluation.task, [*specs])
        raise RecipeError(f"{name}.task: {evaluation.task!r} has no queries in this model{known}")
    return specs[evaluation.task]


def _evaluation(name: str, spec: QuerySpec) -> DenseEvaluation:
    found = find_evaluation(spec.read)
    if found is None:
        raise RecipeError(
            f"{name}.task: answers of kind {spec.read!r} have no evaluation. Hint: install what brings it"
        )
    return found


def _names(evaluation: Dense, spec: QuerySpec) -> tuple[str, ...]:
    if evaluation.names is None:
        return spec.names
    if not spec.from_names:
        raise RecipeError(f"names: the queries of {evaluation.task!r} are not made from names (answer.from_names)")
    labels = load_labels(evaluation.names) if isinstance(evaluation.names, str) else Labels((*evaluation.names,))
    return check_unique(labels, "names").names


def _representations(names: Sequence[str], spec: QuerySpec, context: Context) -> Any:
    """Of names, once for all pictures; a model in training has no processor that would read them."""
    tokenizer = context.tokenizers[MODALITIES.language]
    tokens = tokenizer.tokens([tokenizer.prepare(name) for name in names])
    return context.model.candidates(tokens, given=(MODALITIES.spatial,), family=spec.family)


class _Training(Sequence[Truth]):
    """What is right of training pictures, read when it is asked for, so that none is held."""

    def __init__(self, source: Source, read: Truths) -> None:
        self._source, self._read = source, read

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, number: Any) -> Any:
        return self._read(decode(self._source[number], self._read.columns), number)

    def __iter__(self) -> Iterator[Truth]:
        for number in progress(range(len(self)), len(self), "fitting the floors"):
            yield self[number]


def _training(evaluation: Dense, digest: str, read: Truths) -> _Training | None:
    if evaluation.floor is None:
        return None
    data = evaluation.floor if isinstance(evaluation.floor, str) else tuple(evaluation.floor)
    source = open_source(data)
    if source.digest == digest or data == evaluation.several:
        raise RecipeError("floor: the same samples as `data`; floors are fitted on training data apart")
    return _Training(source, read)


def _label(evaluation: Dense, spec: QuerySpec) -> str:
    """The task, what it reads, and how pictures are shown."""
    window = f"windows {evaluation.window[0]} × {evaluation.window[1]}" if evaluation.window else ""
    shown = [word for word in ("aspect kept" * evaluation.aspect, "flip" * evaluation.flip, window) if word]
    return ", ".join([f"{evaluation.task}: {spec.read}", *shown])


PROTOCOL = Protocol(settings=Dense, evaluate=evaluate_dense)
