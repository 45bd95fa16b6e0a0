"""Task queries of a model: asked together, about other names, saved and loaded, and what cannot be asked."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense_models import CLASSES, SIZE, SPECS, dense_model, outspoken
from small_models import SETTINGS, random_inputs, small_model, words_and_images
from torch import Tensor

from unified.answers.base import QueryStates
from unified.answers.spec import QuerySpec
from unified.answers.table import answers, loss_and_score, make_spec
from unified.core import seed
from unified.core.errors import DataError
from unified.core.types import Tokens
from unified.hub.load import Loaded, load, write
from unified.modalities.sequence import Attributes
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor
from unified.nn.moe.settings import ExpertSettings
from unified.nn.queries.modules import grid_points, sampled_at, unpatched
from unified.nn.queries.settings import QuerySettings

FLAT = ("classes", "points", "bins", "boxes", "masks", "presence", "identity")
NAMED = ("classes", "points", "boxes", "masks", "presence", "places")


def picture_tokens(size: tuple[int, int] = SIZE, count: int = 2) -> dict[str, Tokens]:
    generator = seed.torch_generator("asked", *size)
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    return {"image": words_and_images()["image"].tokens(list(images))}


def asked_model(name: str, specs: dict[str, QuerySpec], experts: Any = None, **queries: Any) -> UnifiedModel:
    """A model with drawn weights that has these tasks, each of a family of its own."""
    decoder = QuerySettings(depth=1, width=32, heads=2, hidden=48, doublings=1, **queries)
    settings = replace(SETTINGS, experts=experts, queries=decoder)
    kinds = {
        task: tuple(Attributes(*of, given=("image",), family=spec.family) for of in (("image",), ("image", "query")))
        for task, spec in specs.items()
    }
    families = list(dict.fromkeys(spec.family for spec in specs.values()))
    with seed.seeded(name):
        model = UnifiedModel(UnifiedConfig.from_settings(settings, words_and_images(), families, kinds, specs))
        outspoken(model)
    model.processor = UnifiedProcessor.from_tokenizers(words_and_images())
    return model.eval()


def numbers_of(found: QueryStates) -> list[Tensor]:
    answer = answers(found, [(20, 30)] * len(found.states[-1]))
    return [torch.as_tensor(value).float() for row in answer for value in row.values()]


class Passes:
    """How often the encoder of a model is passed."""

    def __init__(self, model: UnifiedModel) -> None:
        self.count = 0
        self.hook = model.encoder.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.count += 1

    def of(self, model: UnifiedModel, tasks: Sequence[str]) -> int:
        self.count = 0
        with torch.no_grad():
            found = model.ask(picture_tokens(), tasks)
        assert list(found) == list(tasks)
        return self.count


def test_the_encoder_is_passed_once_for_all_tasks() -> None:
    model = dense_model()
    passes = Passes(model)
    assert passes.of(model, FLAT[:1]) == 1
    assert passes.of(model, [name for name in SPECS if not SPECS[name].from_names]) == 1
    passes.hook.remove()


@pytest.mark.parametrize(
    ("experts", "queries", "expected"),
    [
        (ExpertSettings(4, 2, "task"), {}, 2),
        (ExpertSettings(4, 2, "attribute", bits=("family:b",)), {}, 2),
        (ExpertSettings(4, 2, "attribute"), {}, 1),
        (ExpertSettings(4, 2, "token"), {}, 1),
        (None, {"sharing": "projector", "reduction": 4}, 1),
        (None, {"place": "encoder"}, 3),
    ],
)
def test_it_is_passed_again_only_where_states_depend_on_who_asks(
    experts: ExpertSettings | None, queries: dict[str, Any], expected: int
) -> None:
    presence = partial(QuerySpec, "presence", 2, names=CLASSES[1:], size=SIZE)
    specs = {"a": presence(family="a"), "again": presence(family="a"), "b": presence(family="b")}
    model = asked_model("passes", specs, experts, **queries)
    assert Passes(model).of(model, list(specs)) == expected


def test_tasks_that_are_asked_together_find_what_each_finds_alone() -> None:
    model = dense_model()
    with torch.no_grad():
        together = model.ask(picture_tokens(), FLAT)
        for name in FLAT:
            alone = model.ask(picture_tokens(), [name])[name]
            assert all(a.equal(b) for a, b in zip(numbers_of(alone), numbers_of(together[name]), strict=True)), name


def test_pictures_do_not_change_what_others_are() -> None:
    model, tokens = dense_model(), picture_tokens(count=3)
    with torch.no_grad():
        all_ = model.ask(tokens, FLAT)
        one = model.ask({"image": tokens["image"].rows(slice(1, 2))}, FLAT)
    for name in FLAT:
        torch.testing.assert_close(one[name].states[-1][0], all_[name].states[-1][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "queries",
    [{}, {"place": "encoder"}, {"sharing": "attention"}, {"detail": 6, "object_content": "memory"}],
)
def test_saved_and_loaded_models_answer_the_same_bit_for_bit(tmp_path: Path, queries: dict[str, Any]) -> None:
    specs = {name: SPECS[name] for name in (*FLAT, "open")}
    if queries.get("place") != "encoder":
        specs["who"] = replace(SPECS["identity"], parts=True)
    model = asked_model("saved", specs, **queries)
    with torch.no_grad():
        before = model.ask(picture_tokens(), list(specs))
        write(Loaded(model, model.processor, "a test"), tmp_path, "saved")
        loaded, _ = load(tmp_path)
        after = loaded.ask(picture_tokens(), list(specs))
    assert {name: found.spec for name, found in after.items()} == specs
    for name in specs:
        assert all(a.equal(b) for a, b in zip(numbers_of(before[name]), numbers_of(after[name]), strict=True)), name


@pytest.mark.parametrize("sharing", ["all", "head"])
def test_details_of_pixels_reach_maps_and_learn(sharing: str) -> None:
    """Also where the patches' states are cut off from them."""
    model = asked_model("detail", {"share": make_spec("share", 1, size=SIZE, family="all")}, detail=6, sharing=sharing)
    found = model.ask(picture_tokens(), ["share"])["share"]
    found.interpreter.maps(found.states[-1].detach(), found.features).square().sum().backward()
    assert model.queries is not None
    learned = {name for name, p in model.queries.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {name for name, _ in model.queries.named_parameters() if ".detail." in name} <= learned


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("sharing", ["all", "head"])
def test_pictures_that_are_added_to_begin_as_the_picture_itself(scale: int, sharing: str) -> None:
    spec = make_spec("pixels", 3 * (4 * scale) ** 2, scale=scale, operator="identity", residual=True, family="all")
    model, tokens = asked_model("residual", {"better": spec}, sharing=sharing), picture_tokens()
    pictures = unpatched(tokens["image"].values.float().unflatten(1, (SIZE[0] // 8, SIZE[1] // 8))) / 255
    found = model.ask(tokens, ["better"])["better"]
    target = {"map": torch.ones(2, 3, scale * SIZE[0], scale * SIZE[1])}
    loss, _ = loss_and_score(found, {**target, "valid": torch.ones_like(target["map"][:, :1], dtype=torch.bool)})
    loss.sum().backward()
    assert any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        last = found.interpreter.map_head.out if sharing == "head" else found.interpreter.map_filter.layers[-1]
        last.weight.zero_()
        last.bias.zero_()
        told = answers(model.ask(tokens, ["better"])["better"], [SIZE] * 2)
    whole = F.interpolate(pictures, scale_factor=scale, mode="bicubic") if scale > 1 else pictures
    for row, answer in enumerate(told):
        torch.testing.assert_close(answer["image"], whole[row].clamp(0, 1))


def test_objects_may_begin_with_what_lies_at_their_anchors() -> None:
    learned, from_memory = (
        asked_model("anchored", {"boxes": SPECS["boxes"]}, object_content=content) for content in ("learned", "memory")
    )
    assert all(a.equal(b) for a, b in zip(learned.parameters(), from_memory.parameters(), strict=True))
    spread = []
    for model in (learned, from_memory):
        assert model.queries is not None
        seen: list[Tensor] = []
        model.queries.decoder.layers[0].register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        with torch.no_grad():
            model.ask(picture_tokens(), ["boxes"])
        spread.append((seen[0] - seen[0][:, :1]).abs().amax())
    assert spread[0] == 0, "one row for all"
    assert spread[1] > 0.01


def test_an_identity_of_parts_tells_what_is_where() -> None:
    spec = make_spec("identity", 16, identities=4, parts=True, size=SIZE, family="all")
    model = asked_model("parts", {"who": spec})
    assert model.queries is not None
    seen: list[Tensor] = []
    model.queries.decoder.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    memory: list[Tensor] = []
    model.queries.memory.register_forward_hook(lambda _, __, found: memory.append(found))
    tokens = picture_tokens()
    with torch.no_grad():
        found = model.ask(tokens, ["who"])["who"]
    begun = seen[0] - model.queries.content("who")
    grid = memory[0].unflatten(1, (SIZE[0] // 8, SIZE[1] // 8))
    torch.testing.assert_close(begun, sampled_at(grid, grid_points(4, 4)), rtol=1e-4, atol=1e-5)
    assert (begun[:, 0] - begun[:, -1]).abs().amax() > 0.01
    assert answers(found, [SIZE] * 2)[0]["features"].shape == (16 * 32,)


@pytest.mark.parametrize("place", ["decoder", "encoder"])
def test_other_names_may_be_asked_for(place: str) -> None:
    specs = {read: make_spec(read, 3, names=CLASSES, from_names=True, size=SIZE, family="all") for read in NAMED}
    specs |= {read: replace(specs[read], queries=5) for read in ("boxes", "masks")}
    model = asked_model("names", specs, place=place)
    own = dict.fromkeys(NAMED, CLASSES)
    other = dict.fromkeys(NAMED, ("a dog", *CLASSES[:2], "water"))
    with torch.no_grad():
        default, same, new = (model.ask(picture_tokens(), NAMED, names=of) for of in (None, own, other))
    for read in NAMED:
        assert all(a.equal(b) for a, b in zip(numbers_of(default[read]), numbers_of(same[read]), strict=True)), read
        answer = answers(new[read], [(8, 6)] * 2)[0]
        if read in ("boxes", "masks"):
            assert len(answer["scores"]) == 5 * 4
            assert answer["labels"].max() <= 3
        else:
            rows = {"classes": answer.get("labels"), "presence": answer.get("presence")}.get(read)
            found = answer["points"] if rows is None else rows
            assert found.shape == {"classes": (8, 6), "presence": (4,)}.get(read, (4, 2))
    assert not new["presence"].states[-1][:, 0].equal(default["presence"].states[-1][:, 0])


def test_what_cannot_be_asked() -> None:
    model, tokens = dense_model(), picture_tokens()
    with pytest.raises(KeyError, match=r"'boxs' has no queries in this model; did you mean 'boxes'"):
        model.ask(tokens, ["boxs"])
    plain = small_model()
    with pytest.raises(KeyError, match="no task queries; train it with a recipe that has `model"):
        plain.ask({"image": plain.tokens(**random_inputs(plain))["image"]}, ["boxes"])
    with pytest.raises(ValueError, match="'boxes': its queries are not made from names"):
        model.ask(tokens, ["boxes"], names={"boxes": ["dog"]})
    with pytest.raises(TypeError, match="asked about one image, found"):
        model.ask({**tokens, "text": tokens["image"]}, ["boxes"])
    image = words_and_images()["image"]
    mixed = image.tokens([torch.zeros(3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 24, dtype=torch.uint8)])
    with pytest.raises(DataError, match="pictures of one size and no videos"):
        model.ask({"image": mixed}, ["boxes"])
    video = image.tokens([torch.zeros(2, 3, 16, 16, dtype=torch.uint8)])
    with pytest.raises(DataError, match="pictures of one size and no videos"):
        model.ask({"image": video}, ["boxes"])
