"""One task's forward pass: read the inputs, encode the candidates, match; or ask the task's queries."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unified.answers import table
from unified.answers.assignment import assign
from unified.answers.base import AnsweringNetwork
from unified.answers.match.similarity import correct, loss_of_class, loss_of_set, similarity
from unified.config.task import Match, Task
from unified.core.distributed import gather_parts, gather_rows, rank, reduce_sum, rows_of_rank, world_size
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities.sequence import Attributes
from unified.modalities.text.length_buckets import by_length, trimmed
from unified.modalities.text.tokenizer import text_tokens
from unified.nn.encoder import Noise


@dataclass(frozen=True)
class Scores:
    """How a model did on each sample of a batch."""

    loss: Float[Tensor, "b"]  # sum over the sample's terms
    terms: Int[Tensor, "b"]  # 1, or the number of words that were asked for
    correct: Int[Tensor, "b"] | Float[Tensor, "b"]  # terms whose most similar candidate is right; a score of queries


@dataclass(frozen=True)
class Drawn:
    """The noise of a slot: of its inputs and of its candidates."""

    inputs: Noise
    candidates: Noise | None = None


@dataclass(frozen=True)
class Begun:
    """Scores for which queries may have to be assigned to objects first: for all slots of a step at once."""

    finish: Callable[[Sequence[Tensor]], Scores]
    """The scores, given the assignment of each of `costs`."""
    costs: tuple[Float[Tensor, "b q m"], ...] = ()


def score(
    model: AnsweringNetwork,
    task: Task,
    batch: Batch,
    *,
    labels: Tokens | None = None,
    noise: Drawn | None = None,
    name: str = "",
) -> Scores:
    """Losses and hits of a batch of one task.

    `labels` are the tokens of the task's label set, or of the names that its queries are made of.

    `name` stands in for the task's family where it names none.
    """
    begun = begin(model, task, batch, labels=labels, noise=noise, name=name)
    return begun.finish(assign(begun.costs))


def begin(
    model: AnsweringNetwork,
    task: Task,
    batch: Batch,
    *,
    labels: Tokens | None = None,
    noise: Drawn | None = None,
    name: str = "",
) -> Begun:
    """Return what `score` does, up to the assignment of queries to objects, if there is one."""
    if not isinstance(task.answer, Match):
        return _begin_queries(model, batch, labels, noise)
    scores = _score_match(model, task, task.answer, batch, labels, noise, name)
    return Begun(lambda _: scores)


def _score_match(
    model: AnsweringNetwork,
    task: Task,
    answer: Match,
    batch: Batch,
    labels: Tokens | None,
    noise: Drawn | None,
    name: str,
) -> Scores:
    of_inputs, of_candidates = (noise.inputs, noise.candidates) if noise else (None, None)
    family = task.family or name or batch.task
    scale = model.scale(family)
    if answer.read == "prefix":
        features = model.represent(batch.inputs, noise=of_inputs, family=family)
        if answer.candidates == "batch":
            texts = {"text": batch.target["tokens"]}
            candidates = model.represent(texts, "candidate", of_candidates, given=batch.inputs, family=family)
            return _match_batch(features, candidates, batch.target["group"], scale, answer.label_smoothing)
        assert labels is not None, "a task with a label set needs the tokens of its labels"
        candidates = _labels(model, labels, of_candidates, batch, family)
        return _classes(similarity(features, candidates, scale), batch.target, answer.label_smoothing)
    states, target, row = [], [], []
    for rows, part in _parts(batch):
        drawn = of_inputs if of_inputs is None or rows is None else of_inputs.rows(rows)
        read, ids = read_words(model, answer, part, family, drawn)
        # Words that are asked for are known to the host, unless texts are cut into buckets, which a CPU alone does.
        places = words_asked(ids) if part.asked is None else part.asked
        states.append(read.flatten(0, 1).index_select(0, places))
        target.append(ids.flatten().index_select(0, places))
        number = places // ids.shape[1]
        row.append(number if rows is None else rows[number])
    given = {*task.inputs.values(), "text"}  # a caption is asked for by its words so far
    with model.encoder.sharing(1 / world_size()):
        vocabulary = model.vocabulary(answer.vocabulary, given=given, family=family)
    logits = similarity(model.project(torch.cat(states)), vocabulary, scale)
    return _by_sample(_classes(logits, torch.cat(target), answer.label_smoothing), torch.cat(row), len(batch))


def words_asked(ids: Int[Tensor, "b n"]) -> Int[Tensor, "t"]:
    """Return the places of the words that are asked for, in all rows as one; to be called on the host."""
    return (ids != IGNORE).flatten().nonzero()[:, 0]


def _begin_queries(model: AnsweringNetwork, batch: Batch, labels: Tokens | None, noise: Drawn | None) -> Begun:
    of_inputs, of_names = (noise.inputs, noise.candidates) if noise else (None, None)
    names = None
    if labels is not None:
        assert model.queries is not None
        family = model.queries.specs[batch.task].family
        names = {batch.task: _labels(model, labels, of_names, batch, family)}
    found = model.ask(batch.inputs, [batch.task], names=names, noise=of_inputs)[batch.task]
    begun = table.begin(found, batch.target)

    def finish(matched: Sequence[Tensor]) -> Scores:
        loss, score = begun.finish(matched)
        return Scores(loss, torch.ones_like(loss, dtype=torch.long), score)

    return Begun(finish, begun.costs)


def _labels(model: AnsweringNetwork, labels: Tokens, noise: Noise | None, batch: Batch, family: str) -> Tensor:
    """The representations of a label set, of which each rank encodes a part; `noise` is of that part."""
    own = rows_of_rank(len(labels))
    part = 1.0 if len(own) < len(labels) else 1 / world_size()
    with model.encoder.sharing(part):
        mine = {"text": labels.rows(slice(own.start, own.stop))}
        found = model.represent(mine, "candidate", noise, given=batch.inputs, family=family)
    return gather_parts(found, len(labels))


def _parts(batch: Batch) -> Iterator[tuple[Tensor | None, Batch]]:
    """The batch in buckets of texts of like length, each with its rows; or the batch itself."""
    captions = isinstance(batch.target, Tokens)
    text = batch.target if captions else batch.inputs["text"]
    others = [tokens for name, tokens in batch.inputs.items() if captions or name != "text"]
    extra = 1 + sum(tokens.values.shape[1] for tokens in others)
    buckets = by_length(text, extra // 2 if captions else extra)  # a caption is in the sequence twice
    if buckets is None:
        yield None, batch
        return
    for rows in buckets:
        short = trimmed(text, rows)
        inputs = {name: tokens.rows(rows) for name, tokens in batch.inputs.items()}
        target = short if captions else batch.target[rows, : short.values.shape[1]]
        if not captions:
            inputs["text"] = short
        yield rows, replace(batch, inputs=inputs, target=target, asked=None)


def _by_sample(found: "Scores", row: Int[Tensor, "t"], samples: int) -> "Scores":
    """Scores of terms, summed over the terms of each sample."""
    zero = found.loss.new_zeros(samples)
    return Scores(
        zero.index_add(0, row, found.loss),
        zero.long().index_add(0, row, found.terms),
        zero.long().index_add(0, row, found.correct),
    )


def _classes(logits: Tensor, target: Tensor, label_smoothing: float) -> Scores:
    hits = (logits.argmax(dim=1) == target).long()
    return Scores(loss_of_class(logits, target, label_smoothing), torch.ones_like(hits), hits)


def _match_batch(
    features: Tensor, texts: Tensor, group: Int[Tensor, "b"], scale: Tensor, label_smoothing: float
) -> Scores:
    """Retrieval in both directions: this rank's rows against the candidates of all ranks."""
    all_features, all_texts = gather_rows(features), gather_rows(texts)
    right = group[:, None] == _all_groups(group)[None, :]
    forward, backward = similarity(features, all_texts, scale), similarity(texts, all_features, scale)
    loss = (loss_of_set(forward, right, label_smoothing) + loss_of_set(backward, right, label_smoothing)) / 2
    hits = correct(forward, right).long()
    return Scores(loss, torch.ones_like(hits), hits)


def _all_groups(group: Int[Tensor, "b"]) -> Int[Tensor, "a"]:
    """The groups of all ranks; whole numbers have no gradient, so a sum of slices at their places gathers them."""
    if world_size() == 1:
        return group
    placed = group.new_zeros(world_size() * len(group))
    placed[rank() * len(group) : (rank() + 1) * len(group)] = group
    return reduce_sum(placed)


def read_words(
    model: AnsweringNetwork, answer: Match, batch: Batch, family: str, noise: Noise | None
) -> tuple[Tensor, Tensor]:
    """The states that answer for words, and the words' ids (b, n), IGNORE where none is asked."""
    inputs = batch.inputs
    if answer.read == "masked":
        encoded = model.encode([(Attributes(t.modality, family=family), t) for t in inputs.values()], noise=noise)
        segment = encoded.layout.find("text")
        words = encoded.states[:, segment.stop - batch.target.shape[1] : segment.stop]
        return words, batch.target
    if answer.read == "causal":
        part = (Attributes("text", causal=True, family=family), inputs["text"])
        return model.encode([part], noise=noise).states[:, :-1], batch.target
    parts = [(Attributes(tokens.modality), tokens) for tokens in inputs.values()]
    return read_caption(model, parts, batch.target, noise, family=family)


def read_caption(
    model: AnsweringNetwork,
    parts: list[tuple[Attributes, Tokens]],
    text: Tokens,
    noise: Noise | None = None,
    *,
    family: str = "",
) -> tuple[Tensor, Tensor]:
    """The state of each [SPE] query of a caption (b, n, w), and the ids that they should find (b, n).

    One pass over `[SPE] image | text | queries`: the query at place i sees the image and the words before i.
    """
    queries = text_tokens(torch.full_like(text.values, model.config.spe_token_id), text.mask)
    halves = [
        (Attributes("text", causal=True), text),
        (Attributes("text", "query", causal=True), queries),
    ]
    whole = [(replace(attributes, family=family), tokens) for attributes, tokens in [*parts, *halves]]
    encoded = model.encode(whole, noise=noise, read=slice(-queries.values.shape[1], None))
    return encoded.states, text.values.masked_fill(~text.mask, IGNORE)


def token_kinds(task: Task, name: str, *, inside: bool = False) -> tuple[Attributes, ...]:
    """Every kind of token that `score` runs through the encoder for a task: the rows that its routing has.

    `inside`: queries pass the encoder.
    """
    family, answer = task.family or name, task.answer
    given = tuple(sorted(set(task.inputs.values())))
    inputs = [Attributes(modality, given=given, family=family) for modality in given]
    candidate = Attributes("text", "candidate", given=given, family=family)
    if not isinstance(answer, Match):
        asked = [replace(inputs[0], role="query")] if inside else []
        return (*inputs, *asked, *([candidate] if answer.from_names else []))
    if answer.read == "prefix":
        return (*inputs, candidate)
    both = tuple(sorted({*given, "text"}))
    encoded = (replace(candidate, given=both),) if answer.vocabulary == "encoder" else ()
    if answer.read == "masked":
        return (*inputs, *encoded)
    if answer.read == "causal":
        return (Attributes("text", causal=True, given=("text",), family=family), *encoded)
    words = Attributes("text", causal=True, given=both, family=family)
    return (*(replace(part, given=both) for part in inputs), words, replace(words, role="query"), *encoded)
