"""What routers are told: the published attributes, for every kind of task, as training and generation ask."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from conditional import FAMILIES, IMAGE, TEXT, model, pixels, settings, texts

from unified.answers.base import Scores
from unified.answers.match.generation import generate
from unified.answers.score import score, token_kinds
from unified.config.task import Answer, Task
from unified.core.errors import RecipeError, UserError
from unified.core.types import IGNORE, Batch, Tokens
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes, Layout, layout
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import Conditioner, bits, key

Asked = list[list[tuple[Attributes, int]]]
"""The kinds of token of each pass through the encoder, and how many of each."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    seen: Asked = []
    made = Conditioner.__call__

    def spy(self: Conditioner, whole: Layout, *rest: Any) -> Any:
        seen.append([(whole.rows[segment.row], len(segment)) for segment in whole.segments])
        return made(self, whole, *rest)

    monkeypatch.setattr(Conditioner, "__call__", spy)
    return seen


def task(inputs: dict[str, str], answer: Answer, family: str | None = "names") -> Task:
    return Task("data", inputs, "txt", answer, "accuracy", 3, family=family)


IMAGES, SENTENCES, BOTH = {"png": "image"}, {"txt": "text"}, {"png": "image", "txt": "text"}
TASKS = {
    "image classification": task(IMAGES, Answer.of(candidates="labels/x")),
    "retrieval": task(IMAGES, Answer.of(candidates="batch")),
    "captioning": task(IMAGES, Answer.of(candidates="vocabulary", read="caption", vocabulary="encoder")),
    "captioning, words as they are": task(IMAGES, Answer.of(candidates="vocabulary", read="caption")),
    "masked words": task(SENTENCES, Answer.of(candidates="vocabulary", read="masked", vocabulary="encoder")),
    "masked words beside an image": task(BOTH, Answer.of(candidates="vocabulary", read="masked", vocabulary="encoder")),
    "next words": task(SENTENCES, Answer.of(candidates="vocabulary", read="causal", vocabulary="encoder")),
    "text classification": task(SENTENCES, Answer.of(candidates="labels/x")),
    "question about an image": task(BOTH, Answer.of(candidates="labels/x")),
    "no family": task(IMAGES, Answer.of(candidates="labels/x"), None),
}
PUBLISHED = {
    "image classification": [["10011000"], ["10010110"]],
    "retrieval": [["10011000"], ["10010110"]],
    "captioning": [["11011000", "11010101", "11010101"], ["11010110"]],
    "captioning, words as they are": [["11011000", "11010101", "11010101"]],
    "masked words": [["01010100"], ["11010110"]],
    "text classification": [["01010100"], ["11010110"]],
}
"""The rows of the published table, by pass and segment."""


def batch(asked_for: Task) -> tuple[Batch, Tokens | None]:
    """Three samples, and the label set of a task that has one."""
    tokens = {"image": patches(pixels(3), 8), "text": texts(4, 5, 5)}
    inputs = {modality: tokens[modality] for modality in asked_for.inputs.values()}
    answer, labels = asked_for.answer, None
    target: Any
    if answer.kind == "caption":
        target = tokens["text"]
    elif answer.kind in ("masked", "causal"):
        target = tokens["text"].values.masked_fill(~tokens["text"].mask, IGNORE)
    elif answer.candidates == "batch":
        target = {"tokens": tokens["text"], "group": torch.arange(3)}
    else:
        target, labels = torch.tensor([0, 1, 0]), texts(2, 3)
    return Batch(FAMILIES[1], inputs, target, ["a", "b", "c"]), labels


def scored(network: UnifiedModel, asked_for: Task) -> Scores:
    data, labels = batch(asked_for)
    return score(network, asked_for, data, labels=labels, name=FAMILIES[1])


@pytest.mark.parametrize("name", list(PUBLISHED))
@torch.no_grad()
def test_every_segment_has_its_published_attributes(name: str, asked: Asked) -> None:
    scored(model(), TASKS[name])
    found = [[bits(kind) for kind, _ in parts] for parts in asked]
    assert [each for n, each in enumerate(found) if n == 0 or each != found[n - 1]] == PUBLISHED[name]
    family = TASKS[name].family
    assert {kind.family for parts in asked for kind, _ in parts} == {family}


@pytest.mark.parametrize("name", list(TASKS))
@torch.no_grad()
def test_the_kinds_of_token_of_a_task_are_those_that_it_runs(name: str, asked: Asked) -> None:
    scored(model(), TASKS[name])
    ran = {kind for parts in asked for kind, _ in parts}
    kinds = token_kinds(TASKS[name], FAMILIES[1])
    assert set(kinds) == ran
    assert len(kinds) == len(ran)


@torch.no_grad()
def test_the_prefix_belongs_to_the_first_part(asked: Asked) -> None:
    scored(model(), TASKS["captioning"])
    assert [count for _, count in asked[0]] == [1 + 4, 5, 5]
    asked.clear()
    scored(model(), TASKS["question about an image"])
    assert asked[0] == [(replace(IMAGE, family="names"), 1 + 4), (replace(TEXT, family="names"), 5)]


@pytest.mark.parametrize("vocabulary", ["embedding", "encoder"])
@torch.no_grad()
def test_generation_asks_as_training_did(vocabulary: Any, asked: Asked) -> None:
    captions = task(IMAGES, Answer.of(candidates="vocabulary", read="caption", vocabulary=vocabulary))
    network = model()
    scored(network, captions)
    learned = {kind for parts in asked for kind, _ in parts}
    asked.clear()
    found = generate(network, {"image": patches(pixels(2), 8)}, max_length=4, family="names", vocabulary=vocabulary)
    assert max(map(len, found)) > 1
    assert {kind for parts in asked for kind, _ in parts} == learned


@pytest.mark.parametrize(
    ("router", "first", "second"),
    [
        ("attribute", "11011000", "11010100"),
        ("hash", "11011000", "11010100"),
        ("modality", "image", "text"),
        ("task", "names", "words"),
        ("token", "token", "token"),
        ("context", "context", "context"),
    ],
)
def test_rows_are_named_by_what_the_router_looks_at(router: str, first: str, second: str) -> None:
    experts = settings(router)
    assert [key(kind, experts, FAMILIES) for kind in (IMAGE, TEXT)] == [first, second]
    folded = {**experts, "router": "rows", "folded": router, "rows": [first]}
    assert key(IMAGE, folded, FAMILIES) == first
    assert key(replace(IMAGE, family=""), settings("task"), FAMILIES) == FAMILIES[0]


def test_neighbours_of_one_row_are_one_segment() -> None:
    causal = replace(TEXT, causal=True)
    real = torch.ones(2, 10, dtype=torch.bool)
    parts = [(IMAGE, 3), (causal, 2), (replace(causal, role="query"), 2), (IMAGE, 3)]
    segments, conditions = Conditioner(settings(), FAMILIES)(layout(parts), real, None)
    assert [(s.start, s.stop, s.row) for s in segments] == [(0, 3, 0), (3, 7, 1), (7, 10, 0)]
    assert conditions.keys == ("11011000", "11010101")
    assert conditions.values.tolist() == [[float(bit) for bit in name] for name in conditions.keys]
    assert conditions.tokens.tolist() == [12, 8]
    apart, conditions = Conditioner(settings(bits=("query",)), FAMILIES)(layout(parts), real, None)
    assert [len(s) for s in apart] == [3, 2, 2, 3]
    assert conditions.keys == ("110110000", "110101010", "110101011")
    (one,), conditions = Conditioner(settings("token"), FAMILIES)(layout(parts), real, None)
    assert (len(one), conditions.keys) == (10, ("token",))


def test_appended_bits_are_facts_about_a_token() -> None:
    names = ("query", "modality:image", "modality:text", "family:names")
    assert bits(IMAGE, names)[8:] == "0101"
    assert bits(replace(TEXT, role="query"), names)[8:] == "1010"


@torch.no_grad()
def test_no_family_is_the_first_one_for_appended_bits_too() -> None:
    network = model("attribute", bits=("family:names",))
    words = {"text": texts(3, 5)}
    assert torch.equal(network.embed(words), network.embed(words, family=FAMILIES[0]))
    assert not torch.equal(network.embed(words), network.embed(words, family=FAMILIES[1]))


@pytest.mark.parametrize("name", ["role", "modality:sound", "family:", "modality"])
def test_an_unknown_bit_is_answered_with_those_there_are(name: str) -> None:
    with pytest.raises(
        RecipeError, match=f"{name}' is no attribute; there are: query, modality:.*modality:text.*family:NAME"
    ):
        bits(TEXT, [name])


def test_a_row_that_was_not_folded_is_named_with_the_command_that_helps() -> None:
    folded = {**settings(), "router": "rows", "folded": "attribute", "rows": ["10011000"]}
    conditioner = Conditioner(folded, FAMILIES)
    real = torch.ones(1, 2, dtype=torch.bool)
    image = Attributes("image", given=("image",))
    assert conditioner(layout([(image, 2)]), real, None)[1].index == (0,)
    with pytest.raises(
        UserError, match=r"'10010110' is not in this folded model, which has 10011000; .*--rows 10011000 10010110"
    ):
        conditioner(layout([(Attributes("text", "candidate", given=("image",)), 2)]), real, None)


def test_an_unknown_family_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'name' has no routing in this model; did you mean 'names'"):
        key(replace(IMAGE, family="name"), settings("task"), FAMILIES)
    with pytest.raises(UserError, match="'name' has no routing"):
        model("task").embed(pixel_values=pixels(1), family="name")


def test_routers_by_token_have_no_table_of_rows() -> None:
    with pytest.raises(UserError, match="context router chooses by tokens"):
        Conditioner(settings("context"), FAMILIES).conditions(["context"], torch.device("cpu"))


def test_models_can_be_copied_and_pickled_after_use() -> None:
    network = model()
    wanted = network.embed(pixel_values=pixels(2))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other.embed(pixel_values=pixels(2)), wanted)


@pytest.mark.parametrize("router", ["attribute", "task"])
def test_training_goes_on_after_answers_in_inference_mode(router: str) -> None:
    network = model(router)
    with torch.inference_mode():
        network.embed(pixel_values=pixels(2))
    scored(network, TASKS["image classification"]).loss.sum().backward()
    assert network.encoder.blocks[0].routers is not None
    assert all(p.grad is not None for p in network.encoder.blocks[0].routers.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize("router", ["attribute", "task", "modality", "hash", "token", "context"])
@torch.no_grad()
def test_scores_in_buckets_of_like_length_are_those_of_all_at_once(
    router: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model(router)
    for name in ("retrieval", "captioning", "masked words", "next words", "text classification"):
        found = []
        for buckets in (None, [torch.tensor([1, 2]), torch.tensor([0])]):
            for place in ("unified.model.network.by_length", "unified.answers.match.words.by_length"):
                monkeypatch.setattr(place, lambda tokens, *_, b=buckets: b if len(tokens) == 3 else None)
            found.append(scored(network, TASKS[name]).loss)
        torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-5)
