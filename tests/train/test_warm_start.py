"""Starting from other weights: nothing changes that was learned, and what does not fit changes nothing."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SETTINGS, TASKS, random_inputs, small_model
from tiny import recipe_content, tiny_recipe

from unified.config.recipe import Recipe, StartSettings
from unified.config.task import Answer, Task
from unified.core.errors import HubError, RecipeError
from unified.hub.fold import folded_config, merged_state
from unified.hub.load import Loaded, load, write
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import Conditioner
from unified.nn.moe.settings import ExpertSettings
from unified.train.build import build
from unified.train.dry_run.plan import make_plan
from unified.train.dry_run.report import describe
from unified.train.warm_start import check_start, start_from

ROUTERS = ["attribute", "task", "modality", "hash", "token", "context"]


def experts(router: str = "attribute", **changes: object) -> ExpertSettings:
    return ExpertSettings(count=4, router=router, layers=(0, 2), **changes)  # type: ignore[arg-type]


def snapshot(model: UnifiedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_a_model_with_experts_begins_as_the_dense_one(router: str, shared: bool) -> None:
    dense = small_model(name="dense")
    model = small_model(experts(router, shared_decisions=shared), name="new")
    before = snapshot(model)
    start_from(model, dense.state_dict())
    inputs = random_inputs(dense)
    for family in TASKS:
        a, b = (each(**inputs, family=family) for each in (dense, model))
        torch.testing.assert_close(a.image_embeds, b.image_embeds, atol=1e-6, rtol=0)
        torch.testing.assert_close(a.text_embeds, b.text_embeds, atol=1e-6, rtol=0)
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if ".routers." in name)
    assert torch.equal(after["log_scales.caption"], dense.log_scales["caption"])


@torch.no_grad()
def test_noise_tells_experts_apart_in_proportion_to_the_matrix() -> None:
    dense = small_model(name="dense")
    with torch.no_grad():
        dense.encoder.blocks[0].attention.qkv.weight[:32] *= 10  # type: ignore[union-attr, index, operator]
    models = [small_model(experts(), name=name) for name in ("one", "other", "seed")]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        start_from(model, dense.state_dict(), noise=0.1, seed=seed)
    one, other, third = (model.state_dict() for model in models)
    name = "encoder.blocks.0.attention.qkv.weight"
    assert torch.equal(one[name], other[name])
    assert not torch.equal(one[name], third[name])
    source = dense.state_dict()[name]
    for expert in one[name]:
        for part in range(3):
            rows = slice(32 * part, 32 * part + 32)
            ratio = (expert[rows] - source[rows]).std() / source[rows].std()
            assert 0.08 < float(ratio) < 0.12
    assert not torch.equal(one[name][0] - source, one[name][1] - source)
    bias = "encoder.blocks.0.attention.qkv.bias"
    assert torch.equal(one[bias], dense.state_dict()[bias].expand_as(one[bias]))


def test_appended_attributes_leave_the_routing_of_old_rows() -> None:
    old = small_model(experts(), name="old")
    new = small_model(experts(bits=("query", "family:hidden")), name="new")
    start_from(new, old.state_dict())
    rows = ["10011000", "01010100", "11010101"]
    device = torch.device("cpu")
    for number, layer in new.encoder.conditional_layers().items():
        before = old.encoder.conditional_layers()[number]
        conditions = [
            Conditioner(model.config.experts, model.config.families).conditions([row + more for row in rows], device)
            for model, more in ((old, ""), (new, "00"), (new, "11"))
        ]
        expected, _ = before.gates(conditions[0])
        for asked in conditions[1:]:  # also with the new bits set, as their columns are zero
            found, _ = layer.gates(asked)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
            assert torch.equal(found > 0, expected > 0)
        weight = layer["attention"].transform.weight  # type: ignore[union-attr]
        assert weight.shape == (32, 10)
        assert not weight[:, 8:].any()  # type: ignore[index, union-attr]


def test_equal_models_are_copied_whole_and_temperatures_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    old = small_model(experts(), name="old")
    tasks = {
        "caption": TASKS["caption"],
        "retrieve": Task("", {"png": "image"}, "txt", Answer.of(candidates="batch"), "accuracy", 2),
    }
    new = small_model(experts(), tasks=tasks, name="new")
    before = snapshot(new)
    with caplog.at_level(logging.INFO, logger="unified"):
        start_from(new, old.state_dict())
    after, source = new.state_dict(), old.state_dict()
    assert torch.equal(after["log_scales.retrieve"], before["log_scales.retrieve"])
    assert all(torch.equal(after[name], source[name]) for name in after if name in source)
    assert "start at their own first value: log_scales.retrieve" in caplog.text
    assert "left out: log_scales.classify, log_scales.hidden" in caplog.text


def test_a_model_folded_for_one_row_is_a_dense_one_to_start_from_and_of_two_it_is_not() -> None:
    moe = small_model(experts())
    one, two = (folded_config(moe.config, rows) for rows in (["10011000"], ["10011000", "10010110"]))
    for target in (small_model(), small_model(experts("task"))):
        check_start(target.config, one, "runs/one")
        start_from(target, merged_state(moe, ["10011000"]))
        with pytest.raises(RecipeError, match="the other is folded; start from the model that it came from"):
            check_start(target.config, two, "runs/two")


def test_layers_and_linears_may_gain_experts() -> None:
    old = small_model(experts(linears=("up", "down")), name="old")
    new = small_model(replace(experts(), layers=(0, 1, 2)), name="new")
    before = snapshot(new)
    start_from(new, old.state_dict())
    after = new.state_dict()
    for name, tensor in old.state_dict().items():
        assert torch.equal(after[name], tensor.expand_as(after[name])), name
    fresh = [name for name in after if ".routers." in name and name not in old.state_dict()]
    assert any("blocks.0.routers.attention" in name for name in fresh)
    assert any("blocks.1.routers.mlp" in name for name in fresh)
    assert all(torch.equal(after[name], before[name]) for name in fresh)


@pytest.mark.parametrize(
    ("source", "target", "messages"),
    [
        (
            small_model(settings=replace(SETTINGS, width=16)),
            small_model(),
            [r"norm\.weight 32: 16 in the other model", r"text\.word\.weight \d+×32: \d+×16 in the other model"],
        ),
        (
            small_model(settings=replace(SETTINGS, depth=4)),
            small_model(),
            [r"encoder\.blocks\.3\.mlp\.up\.weight 48×32: this model has none"],
        ),
        (
            small_model(settings=replace(SETTINGS, layer_scale=None)),
            small_model(),
            [r"encoder\.blocks\.1\.scale2 32: the other model has none"],
        ),
        (
            small_model(experts()),
            small_model(),
            [r"attention\.qkv\.weight 96×32: 4×96×32 in the other.*unified fold", r"routers\..*: this model has none"],
        ),
        (
            small_model(experts("attribute")),
            small_model(experts("task")),
            [r"routers\.mlp\.embedding\.weight 3×32: the other", r"routers\.mlp\.transform\.weight 32×8: this model"],
        ),
        (
            small_model(),
            small_model(experts("token", hidden=24)),
            [
                r"mlp\.up\.weight 4×24×32: 48×32 in the other.*experts\.hidden 24 cannot.*48: leave experts\.hidden",
                r"mlp\.down\.bias 4×32: 32 in the other.*an MLP of the width 48: leave",
            ],
        ),
        (
            small_model(experts(bits=("query",))),
            small_model(experts()),
            [r"transform\.weight 32×8: 32×9 in the other model"],
        ),
    ],
)
def test_what_does_not_fit_is_listed_and_changes_nothing(
    source: UnifiedModel, target: UnifiedModel, messages: list[str]
) -> None:
    before = snapshot(target)
    with pytest.raises(RecipeError) as caught:
        start_from(target, source.state_dict(), noise=0.1)
    for message in messages:
        assert caught.match(message)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (replace(SETTINGS, heads=4), SETTINGS, "heads: 2 here, 4 in the other"),
        (replace(SETTINGS, width=16), SETTINGS, "width: 32 here, 16 in the other"),
        (
            replace(SETTINGS, experts=experts(bits=("query",))),
            replace(SETTINGS, experts=experts(bits=("family:caption", "query"))),
            r"experts\.bits: \['family:caption', 'query'\] here do not begin with \['query'\]",
        ),
        (replace(SETTINGS, experts=experts()), SETTINGS, "experts: none here.*unified fold"),
        (
            replace(SETTINGS, experts=experts()),
            replace(SETTINGS, experts=ExpertSettings(count=6, shared_decisions=False)),
            r"experts\.count: 6 here, 4 in the other\n  experts\.shared_decisions: False here, True in the other",
        ),
        (
            replace(SETTINGS, experts=experts("modality")),
            replace(SETTINGS, experts=experts("task")),
            r"experts\.router: 'task' here, 'modality' in the other",
        ),
    ],
)
def test_another_network_is_refused_also_where_shapes_fit(source: object, target: object, message: str) -> None:
    configs = [small_model(each.experts, settings=each).config for each in (target, source)]  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=rf"(?s)start\.model: runs/old is another network.*{message}"):
        check_start(*configs, "runs/old")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def recipe_of(data: Path, start: Path, **model: Any) -> Recipe:
    settings = recipe_content(data, data / "colours.yaml")["model"]
    return tiny_recipe(data, model={**settings, **model}, start={"model": str(start), "noise": 0.0})


@pytest.fixture(scope="module")
def dense(data: Path) -> Path:
    parts = build(tiny_recipe(data, seed=11))
    write(Loaded(parts.model, parts.processor, "a test"), data / "dense", "dense")
    return data / "dense"


@torch.no_grad()
def test_a_recipe_starts_with_the_weights_of_another_model(data: Path, dense: Path) -> None:
    recipe = recipe_of(data, dense, experts={"count": 4})
    model, source = build(recipe).model.eval(), load(dense)[0]
    inputs = random_inputs(source)
    expected, found = source(**inputs), model(**inputs)
    torch.testing.assert_close(found.logits_per_image, expected.logits_per_image, atol=1e-5, rtol=0)
    own = build(recipe, fresh=False).model.state_dict()
    assert not torch.equal(own["embeddings.text.word.weight"], source.state_dict()["embeddings.text.word.weight"])


def test_a_start_that_does_not_fit_is_refused_before_training(data: Path, dense: Path) -> None:
    with pytest.raises(RecipeError, match=rf"(?s)start\.model: {dense} is another network.*width: 16 here, 32 in the"):
        build(recipe_of(data, dense, width=16))
    with pytest.raises(RecipeError, match=rf"(?s)start\.model: {dense}: the weights do not fit.*experts\.hidden 32"):
        build(recipe_of(data, dense, experts={"count": 4, "router": "token", "hidden": 32}))
    with pytest.raises(RecipeError, match=r"start.noise: expected a finite number of at least 0, got -1"):
        tiny_recipe(data, start={"model": "runs/x", "noise": -1})


def test_a_dry_run_says_what_would_be_started_from_and_checks_it(
    data: Path, dense: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = recipe_of(data, dense, experts={"count": 4})
    start = replace(recipe, start=StartSettings(str(dense), noise=0.25))
    with caplog.at_level("INFO", logger="unified"):
        plan = make_plan(start)
    assert "starting with" not in caplog.text
    routers = {name for name in build(start).model.state_dict() if ".routers." in name}
    copied = len(build(start).model.state_dict()) - len(routers) - 2 * 4  # weight and bias of each linear
    assert plan.start == (
        f"starts with {dense}\n  {copied} tensors as they are\n"
        "  4 linears as copies for each expert, with noise of 0.25 standard deviations"
    )
    assert f"\n\n{plan.start}" in describe(plan)
    assert make_plan(tiny_recipe(data)).start is None
    fewer = replace(recipe, tasks={name: task for name, task in recipe.tasks.items() if name != "colour"})
    assert "of the other model, left out: log_scales.colour" in str(make_plan(fewer).start)
    with pytest.raises(RecipeError, match=r"(?s)is another network.*width: 16 here, 32 in the"):
        make_plan(recipe_of(data, dense, width=16))
    with pytest.raises(RecipeError, match=rf"(?s)start\.model: {dense}: the weights do not fit.*experts\.hidden 32"):
        make_plan(recipe_of(data, dense, experts={"count": 4, "router": "token", "hidden": 32}))


def test_a_dry_run_says_that_a_start_is_not_there_yet(data: Path, dense: Path) -> None:
    for name, reason in (("nothing", "no such folder"), ("begun", "no complete checkpoint yet")):
        if name == "begun":
            shutil.copytree(dense, data / name / "model")
        start = make_plan(recipe_of(data, data / name)).start
        assert start is not None
        assert start.startswith(f"starts with {data / name}, which is not there yet, so it is not checked: ")
        assert reason in start
    unread = recipe_of(
        data, dense, modalities={"text": {"tokenizer": "./absent/text", "max_length": 16, "positions": 16}}
    )
    assert make_plan(unread).start == f"starts with {dense}: not checked, as the tokenizer is not there"
    (data / "empty").mkdir()
    with pytest.raises(HubError, match=r"no config\.json"):
        make_plan(recipe_of(data, data / "empty"))


def test_other_words_under_the_same_ids_are_refused(data: Path, dense: Path) -> None:
    other = data / "other words"
    shutil.copytree(dense, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    for first in (build, make_plan):
        with pytest.raises(RecipeError, match="has other words than the recipe's tokenizer under the same ids"):
            first(recipe_of(data, other))


def test_other_families_are_refused_where_the_router_knows_them() -> None:
    turned = dict(reversed(TASKS.items()))
    configs = [small_model(experts("task"), tasks=tasks).config for tasks in (TASKS, turned)]
    with pytest.raises(RecipeError, match="families, which its router knows"):
        check_start(*configs, "runs/old")
    check_start(*[small_model(experts(), tasks=tasks).config for tasks in (TASKS, turned)], "runs/old")
