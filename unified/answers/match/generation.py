"""Captions word by word: each step asks a [SPE] query which vocabulary entry comes next."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unified.answers.base import AnsweringNetwork
from unified.answers.match.similarity import similarity
from unified.core.transfers import HostCopy, constant
from unified.core.types import Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.nn.attention import Cache


@dataclass
class _Beams:
    """Unfinished and finished captions of a batch, `beams` rows a sample, and the cache of what they have seen."""

    ids: Int[Tensor, "r t"]
    total: Float[Tensor, "r"]  # log-probability
    done: Bool[Tensor, "r"]
    past: tuple[Cache, ...]
    past_mask: Bool[Tensor, "r m"]

    def reorder(self, rows: Int[Tensor, "r"]) -> None:
        self.ids, self.done, self.past_mask = self.ids[rows], self.done[rows], self.past_mask[rows]
        self.past = tuple(cache.rows(rows) for cache in self.past)


@torch.no_grad()
def generate(
    model: AnsweringNetwork,
    inputs: Mapping[str, Tokens],
    *,
    beams: int = 1,
    max_length: int | None = None,
    family: str | None = None,
    vocabulary: str = "embedding",
) -> list[list[int]]:
    """The most probable caption of each sample, as ids without the end token; no length penalty.

    `beams` 1 is greedy search. `max_length` counts words with the end token; the model's own where it is None.
    `family` names the temperature and `vocabulary` how entries are represented (see `UnifiedModel.vocabulary`).
    States of the input and of chosen words are computed once and cached
    (Uni-Perceiver's caption beam search).
    """
    if beams < 1:
        raise ValueError(f"beams: {beams}; expected 1 (greedy) or more")
    limit = model.config.language["max_length"] if max_length is None else max_length
    positions = model.config.language["positions"]
    if not 1 <= limit <= positions:
        raise ValueError(f"max_length: {limit}; expected 1 to {positions}, the text positions of this model")
    language = MODALITIES.language
    kind = Attributes(language, causal=True, given=tuple(sorted({*inputs, language})), family=family or "")
    with model.encoder.sharing():
        candidates = model.vocabulary(vocabulary, given=kind.given, family=family)
        state = _begin(model, inputs, beams, kind)
        _extend(model, state, candidates, model.scale(family), limit, beams, kind)
    size = len(state.total) // beams
    best = state.total.view(size, beams).argmax(dim=1) + torch.arange(size, device=state.total.device) * beams
    return [_closed(ids, model.config.end_token_id) for ids in state.ids[best].tolist()]


def _begin(model: AnsweringNetwork, inputs: Mapping[str, Tokens], beams: int, kind: Attributes) -> _Beams:
    """Encode the inputs once, and repeat what they leave for each beam."""
    parts = [(replace(kind, modality=t.modality, causal=False), t) for t in inputs.values()]
    encoded = model.encode(parts, keep_past=True)
    masks = torch.cat([tokens.mask for tokens in inputs.values()], dim=1)
    size = len(masks)
    rows = torch.arange(size, device=masks.device).repeat_interleave(beams)
    total = torch.full((size, beams), -torch.inf, device=masks.device)
    total[:, 0] = 0.0  # all beams of a sample are equal at first: only one may grow
    seen = torch.cat([masks.new_ones(size, 1), masks], dim=1)
    return _Beams(
        torch.empty(len(rows), 0, dtype=torch.long, device=masks.device),
        total.flatten(),
        torch.zeros(len(rows), dtype=torch.bool, device=masks.device),
        tuple(cache.rows(rows) for cache in encoded.past),
        seen[rows],
    )


def _extend(
    model: AnsweringNetwork,
    state: _Beams,
    candidates: Float[Tensor, "v w"],
    scale: Float[Tensor, "1"],
    limit: int,
    beams: int,
    kind: Attributes,
) -> None:
    """Add words until every caption is closed or has `limit` of them.

    An accelerator tells a word later that all are closed, so that nobody waits; a closed caption stays as it is.
    """
    told: HostCopy | None = None
    for step in range(limit):
        states = _ask(model, state, step, kind)
        logits = similarity(model.project(states), candidates, scale)
        logits[:, model.config.spe_token_id] = -torch.inf  # the question is never the answer
        _grow(state, logits.log_softmax(dim=1), beams, model.config.end_token_id)
        before, told = told, HostCopy(state.done.all())
        known = told if state.done.device.type == "cpu" else before
        if known is not None and bool(known.read()):
            break


def _ask(model: AnsweringNetwork, state: _Beams, step: int, kind: Attributes) -> Float[Tensor, "r w"]:
    """The state of the query at place `step`; on the way the word chosen last enters the cache."""
    count = len(state.total)
    query = torch.full((count, 1), model.config.spe_token_id, device=state.total.device)
    # The word sees itself and the query sees both, which is their part of the two-block mask.
    parts = [(kind, _tokens(state.ids[:, -1:], step - 1))] if step else []
    parts.append((replace(kind, role="query"), _tokens(query, step)))
    encoded = model.encode(parts, past=state.past, past_mask=state.past_mask, keep_past=True)
    # The query has answered and leaves; the word stays for later queries to see.
    state.past = tuple(cache.without_last() for cache in encoded.past)
    if step:
        state.past_mask = torch.cat([state.past_mask, state.past_mask.new_ones(count, 1)], dim=1)
    return encoded.states[:, -1]


def _grow(state: _Beams, choices: Float[Tensor, "r v"], beams: int, end: int) -> None:
    """Append to each sample's beams the words that keep the `beams` most probable captions."""
    words = choices.shape[1]
    stays = torch.full_like(choices[:1], -torch.inf)
    stays[:, end] = 0.0
    choices = torch.where(state.done[:, None], stays, choices)  # a finished caption stays as it is
    joint = (state.total[:, None] + choices).view(-1, beams * words)
    total, flat = joint.topk(beams, dim=1)
    first = torch.arange(len(joint), device=flat.device)[:, None] * beams
    state.reorder((first + flat // words).flatten())
    state.total = total.flatten()
    word = (flat % words).flatten()
    state.ids = torch.cat([state.ids, word[:, None]], dim=1)
    state.done = state.done | (word == end)


def _tokens(ids: Int[Tensor, "r n"], first: int) -> Tokens:
    """Ids as tokens whose places count from `first`."""
    tokens = text_tokens(ids)
    return replace(tokens, position=tokens.position + constant((float(first), 0.0, 0.0), ids.device))


def _closed(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
