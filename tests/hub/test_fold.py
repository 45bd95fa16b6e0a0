"""Folding: a model with experts and its dense form say the same, and what cannot be folded is refused."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small_models import TASKS, random_inputs, small_model, written

from unified.core.errors import HubError, UserError
from unified.core.training_record import TrainedShard, TrainingRecord, read_record, write_record
from unified.hub import fold as folding
from unified.hub.fold import fold, folded_config, row_keys
from unified.hub.load import load, training_record
from unified.model.config import UnifiedConfig
from unified.model.parameter_count import active, deployed, skeleton, stored
from unified.model.pretrained import UnifiedModel
from unified.model.routing_attributes import plain
from unified.nn.moe.settings import ExpertSettings
from unified.reports.experts import routing

PICTURE, NAME, HIDDEN, WORD = "10011000", "10010110", "01010100", "11010101"
ROUTERS = ["attribute", "task", "modality", "hash"]


def experts(router: str = "attribute", **changes: object) -> ExpertSettings:
    return ExpertSettings(count=4, router=router, layers=(0, 2), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("router", "shared"), [*((router, True) for router in ROUTERS), ("attribute", False)])
def test_a_folded_folder_answers_as_the_original_for_all_its_tasks(tmp_path: Path, router: str, shared: bool) -> None:
    source = written(small_model(experts(router, shared_decisions=shared)), tmp_path / "moe")
    found = fold(source, tmp_path / "dense")
    before, after = load(source)[0], load(tmp_path / "dense")[0]
    assert after.config.experts["router"] == "rows"
    assert after.config.experts["folded"] == router
    assert max([*found.difference.values(), *found.logits.values()]) < 1e-5
    assert set(found.logits) == set(TASKS)
    inputs = random_inputs(before)
    for family in TASKS:
        a, b = (model(**inputs, family=family) for model in (before, after))
        torch.testing.assert_close(a.logits_per_image, b.logits_per_image, atol=1e-4, rtol=0)
        assert torch.equal(a.logits_per_image.argmax(dim=1), b.logits_per_image.argmax(dim=1))
        torch.testing.assert_close(a.image_embeds, b.image_embeds, atol=1e-6, rtol=0)
        torch.testing.assert_close(a.text_embeds, b.text_embeds, atol=1e-6, rtol=0)


def test_a_folded_model_writes_the_captions_of_the_original(tmp_path: Path) -> None:
    source = written(small_model(experts()), tmp_path / "moe")
    fold(source, tmp_path / "dense", tasks=["caption"])
    found = []
    for name in ("moe", "dense"):
        model = load(tmp_path / name)[0]
        images = {"pixel_values": random_inputs(model)["pixel_values"]}
        found.append(model.caption(images, family="caption", beams=2, max_length=4))
    assert found[0] == found[1]


@torch.no_grad()
def test_the_experts_matter_in_these_models() -> None:
    """Otherwise the comparisons above would show nothing."""
    model = small_model(experts())
    rows = [folding._row_features(model, row) for row in (PICTURE, NAME, HIDDEN, WORD)]
    for one, other in pairwise(rows):
        assert folding._largest(one, other) > 1e-2


def test_one_row_has_the_weights_of_a_dense_model_and_refuses_other_rows(tmp_path: Path) -> None:
    source = written(small_model(experts()), tmp_path / "moe")
    found = fold(source, tmp_path / "dense", rows=[PICTURE])
    before, after = load(source)[0], load(tmp_path / "dense")[0]
    assert (after.config.experts["router"], after.config.experts["rows"]) == ("rows", [PICTURE])
    assert (after.config.experts["layers"], after.encoder.conditional_layers()) == ([], {})
    names = {name: tuple(tensor.shape) for name, tensor in after.state_dict().items()}
    assert names == {name: tuple(tensor.shape) for name, tensor in small_model().state_dict().items()}
    inputs = random_inputs(before)
    pixels, words = inputs.pop("pixel_values"), inputs
    torch.testing.assert_close(before.embed(pixel_values=pixels), after.embed(pixel_values=pixels), atol=1e-6, rtol=0)
    for role in ("input", "candidate"):
        with pytest.raises(UserError, match=f"is not in this folded model, which has {PICTURE}; .*--rows {PICTURE}"):
            after.embed(**words, role=role)
    assert found.deployed == stored(small_model().config).total == stored(after.config).total
    assert active(after.config).total == found.active
    assert found.tasks == ()
    assert "parameters for 1 row\n" in "\n".join(found.lines())
    assert (
        f"| folded for | row `{PICTURE}`; other kinds of tokens are refused |"
        in (tmp_path / "dense" / "README.md").read_text()
    )
    with pytest.raises(UserError, match="a folded model"):
        routing.check(after, "dense")
    with pytest.raises(UserError, match=f"folded already, for the row {PICTURE};"):
        fold(tmp_path / "dense", tmp_path / "again")


def test_a_task_of_one_row_is_answered_alone(tmp_path: Path) -> None:
    """Words of a task router's other families are refused, images too: their rows are the families."""
    source = written(small_model(experts("task")), tmp_path / "moe")
    assert fold(source, tmp_path / "dense", tasks=["caption"]).tasks == ("caption",)
    before, after = load(source)[0], load(tmp_path / "dense")[0]
    inputs = random_inputs(before)
    expected, found = (model(**inputs, family="caption").logits_per_image for model in (before, after))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with pytest.raises(UserError, match="row 'hidden' is not in this folded model"):
        after(**inputs, family="hidden")


def test_rows_come_from_tasks_and_the_encoded_vocabulary_is_one(tmp_path: Path) -> None:
    config = small_model(experts()).config
    assert row_keys(config, ["classify"]) == (PICTURE, NAME)
    assert row_keys(config, ["caption"]) == ("11011000", WORD)
    assert row_keys(config, ["hidden"]) == (HIDDEN, "11010110")
    assert row_keys(config) == (PICTURE, NAME, "11011000", WORD, HIDDEN, "11010110")
    assert row_keys(config, rows=[NAME, PICTURE, NAME]) == (NAME, PICTURE)
    source = written(small_model(experts()), tmp_path / "moe")
    found = fold(source, tmp_path / "dense", tasks=["classify"])
    assert found.tasks == ("classify",)
    with pytest.raises(UserError, match=rf"row '{HIDDEN}' is not in this folded model.*--rows"):
        load(tmp_path / "dense")[0].embed(input_ids=torch.zeros(1, 3, dtype=torch.long))


def test_noise_is_off(tmp_path: Path) -> None:
    model = small_model(experts(noise=100.0))
    quiet = small_model(experts(noise=0.0))
    for name, tensor in folding.merged_state(model, [PICTURE, NAME]).items():
        assert torch.equal(tensor, folding.merged_state(quiet, [PICTURE, NAME])[name]), name


def test_what_was_measured_is_written_beside_the_model(tmp_path: Path) -> None:
    source = written(small_model(experts()), tmp_path / "moe")
    found = fold(source, tmp_path / "dense", tasks=["classify", "caption"])
    content = json.loads((tmp_path / "dense" / "fold.json").read_text())
    assert content["format"] == 1
    assert content["rows"] == list(found.rows)
    weights = sum(tensor.numel() for tensor in load(source)[0].parameters())
    assert (content["stored"], content["deployed"]) == (weights, found.deployed)
    assert found.deployed == sum(tensor.numel() for tensor in load(tmp_path / "dense")[0].parameters())
    assert found.deployed == deployed(small_model(experts()).config, 4).total
    assert content["active"] == stored(small_model().config).total
    card = (tmp_path / "dense" / "README.md").read_text()
    assert f"| parameters deployed | {found.deployed:,} |" in card
    assert f"| parameters with all experts | {weights:,} |" in card
    assert "# dense\n" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tasks": ["captoin"]},
            r"'captoin' is no task.*did you mean 'caption'\? There are: caption, classify, hidden",
        ),
        ({"rows": ["1001"]}, r"'1001' is no word of 8 bits.*classify: 10011000 10010110"),
        ({"rows": ["1001100x"]}, r"'1001100x' is no word of 8 bits"),
        ({"rows": [PICTURE], "tasks": ["caption"]}, "not both"),
    ],
)
def test_unknown_tasks_and_rows_are_refused(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        row_keys(small_model(experts()).config, **arguments)


def test_rows_of_names_are_checked_too() -> None:
    with pytest.raises(UserError, match=r"'images' is no modality.*did you mean 'image'"):
        row_keys(small_model(experts("modality")).config, rows=["images"])
    with pytest.raises(UserError, match=r"'clasify' is no task.*did you mean 'classify'"):
        row_keys(small_model(experts("task")).config, rows=["clasify"])


def test_a_row_that_no_task_uses_is_folded_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="unified"):
        assert row_keys(small_model(experts()).config, rows=["11111111"]) == ("11111111",)
    assert "row 11111111: no task of this model uses it" in caplog.text


@pytest.mark.parametrize("router", ["token", "context"])
def test_routers_that_look_at_tokens_cannot_be_folded_but_written(tmp_path: Path, router: str) -> None:
    source = written(small_model(experts(router)), tmp_path / "moe")
    with pytest.raises(UserError, match=r"each token chooses experts by its own state.*--keep-experts"):
        fold(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    folding.export_with_experts(source, tmp_path / "out")
    before, after = (load(tmp_path / name)[0] for name in ("moe", "out"))
    inputs = random_inputs(before)
    assert torch.equal(before(**inputs).logits_per_image, after(**inputs).logits_per_image)


def test_the_record_of_training_data_goes_with_the_weights(tmp_path: Path) -> None:
    source = written(small_model(experts()), tmp_path / "moe")
    assert read_record(source) is None
    record = TrainingRecord((TrainedShard("a" * 64, 3, "data/x.tar", "pairs here"),), ())
    write_record(source, record)
    fold(source, tmp_path / "dense", tasks=["classify"])
    folding.export_with_experts(source, tmp_path / "out")
    assert training_record(tmp_path / "dense") == training_record(tmp_path / "out") == record


def test_dense_and_folded_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no experts, so there is nothing to fold"):
        row_keys(small_model().config)
    with pytest.raises(UserError, match="folded already, for the rows 10011000, 10010110; fold the model that it came"):
        row_keys(folded_config(small_model(experts()).config, [PICTURE, NAME]), rows=[PICTURE])


def test_a_gate_that_is_no_number_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = small_model(experts())
    with torch.no_grad():
        model.encoder.conditional_layers()[2]["mlp"].gate.weight[1, 3] = torch.nan  # type: ignore[union-attr, index]
    source = written(model, tmp_path / "moe")
    with pytest.raises(UserError, match="logits of a gate are not finite"):
        fold(source, tmp_path / "dense")
    assert [path.name for path in tmp_path.iterdir()] == ["moe"]


def test_a_folded_model_that_differs_is_refused_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(small_model(experts()), tmp_path / "moe")
    right = folding.merged_state

    def wrong(model: UnifiedModel, keys: list[str]) -> dict[str, torch.Tensor]:
        state = right(model, keys)
        state["encoder.blocks.2.mlp.down.bias"][1, 0] += 1e-2
        return state

    monkeypatch.setattr(folding, "merged_state", wrong)
    with pytest.raises(UserError, match=rf"differs from the original by more than rounding \(row {NAME}"):
        fold(source, tmp_path / "dense", tasks=["classify"])
    assert [path.name for path in tmp_path.iterdir()] == ["moe"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(HubError, match="is there already"):
        fold("anything", tmp_path / "out")


def test_the_stored_dtype_is_kept_and_weights_are_merged_in_fp32(tmp_path: Path) -> None:
    source = written(small_model(experts()).bfloat16(), tmp_path / "moe")
    before = load(source)[0]
    assert before.dtype == torch.bfloat16
    found = fold(source, tmp_path / "dense", tasks=["classify"])
    after = load(tmp_path / "dense")[0].state_dict()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    exact = folding.merged_state(before.float(), found.rows)
    assert all(torch.equal(tensor, exact[name].bfloat16()) for name, tensor in after.items())
    assert max(found.difference.values()) < 1e-5


@pytest.mark.parametrize(
    ("depth", "width", "heads", "official"), [(12, 768, 12, 167_265_803), (24, 1024, 16, 506_638_347)]
)
def test_the_published_models_have_the_published_size_after_folding(
    depth: int, width: int, heads: int, official: int
) -> None:
    settings = ExpertSettings(count=8, top=2, layers="even")
    config = UnifiedConfig(
        width=width, depth=depth, heads=heads, hidden=4 * width, experts=plain(settings, depth), families=["one"]
    )
    folded = folded_config(config, [PICTURE, NAME])
    # The published layout also stores the fixed positions of 14 x 14 patches, a type vector of images that no token
    # gets, and eleven temperatures, whatever the tasks.
    beside = 196 * width + width + 11 - len(config.families)
    model = skeleton(folded)
    assert sum(parameter.numel() for parameter in model.parameters()) == official - beside
    assert stored(folded).total == deployed(config, 2).total == official - beside
    assert active(folded).total == stored(folded_config(config, [PICTURE])).total
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["encoder.blocks.2.attention.qkv.weight"] == (2, 3 * width, width)
    assert shapes["encoder.blocks.1.attention.qkv.weight"] == (3 * width, width)
    assert not any(".routers." in name for name in shapes)
