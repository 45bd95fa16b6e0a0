"""Official checkpoints become folders that `unified.load` reads, and come back tensor by tensor."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import official_files as files
from unified.core.errors import DataError, HubError, UserError
from unified.hub.load import load
from unified.hub.uni_perceiver.from_hub import revert
from unified.hub.uni_perceiver.names import Shape, official_shapes
from unified.hub.uni_perceiver.to_hub import Converted, convert

State = files.State


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def converted(state: State, folder: Path, **options: object) -> Converted:
    file = save({"model": state}, folder / "in.pth")
    return convert(file, folder / "out", **{"heads": files.HEADS, **options})  # type: ignore[arg-type]


def assert_equal(found: State, expected: State) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert found[key].shape == value.shape, key
        assert torch.equal(found[key], value), key


def back(folder: Path) -> State:
    revert(str(folder / "out"), folder / "back.pth")
    content = torch.load(folder / "back.pth", weights_only=True)
    assert list(content) == ["model"]
    return content["model"]  # type: ignore[no-any-return]


KINDS = {
    "dense": files.dense,
    "own attention": lambda: files.dense(own_attention=True),
    "first stage": lambda: files.dense(scale=1.0),
    "experts": files.moe,
    "tuned": lambda: files.tuned(files.dense(), 5, candidates=False),
    "tuned experts": lambda: files.tuned(files.moe(), 0, candidates=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_every_bit_is_the_same(kind: str, tmp_path: Path) -> None:
    state = KINDS[kind]()
    converted(state, tmp_path)
    assert_equal(back(tmp_path), state)


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in files.dense().items()}
    state["loss_prepare.logit_scale_caption"] = state["loss_prepare.logit_scale_caption"].bfloat16()
    converted(state, tmp_path)
    assert_equal(back(tmp_path), state)


@pytest.mark.parametrize(("layers", "width", "experts", "tensors", "numbers"), [
    (12, 768, 0, 195, 124_757_003), (12, 768, 8, 651, 422_668_811), (24, 1024, 0, None, 355_532_811),
    (12, 192, 0, 195, 15_153_419),
])  # fmt: skip
def test_published_sizes_have_the_published_counts(
    layers: int, width: int, experts: int, tensors: int | None, numbers: int
) -> None:
    where = tuple(range(0, layers, 2)) if experts else ()
    expected = files.keys(width, layers, experts, where, words=49411)
    options = {"attention": "qkv_proj", "experts": 8, "expert_layers": where, "linears": ("qkv", "out", "up", "down")}
    found = official_shapes(Shape(width, layers, 4 * width, **(options if experts else {})))  # type: ignore[arg-type]
    assert found == expected
    assert tensors in (None, len(found))
    once = [math.prod(size) for key, size in found.items() if "video_embed.embeddings_norm" not in key]
    assert sum(once) == numbers


def test_what_is_found_is_inferred_and_written_down(tmp_path: Path) -> None:
    found = converted(files.moe(), tmp_path)
    model, _ = load(tmp_path / "out")
    config = model.config
    assert (config.width, config.depth, config.heads, config.hidden) == (64, 4, 4, 256)
    assert (config.vocabulary_size, config.spe_token_id, config.end_token_id) == (97, 96, 93)
    assert config.spatial["position_scale"] == pytest.approx(160 / 224)
    assert (config.spatial["height"], config.spatial["patch"], config.spatial["frames"]) == (224, 16, 8)
    experts = config.experts
    assert (experts["count"], experts["top"], experts["router"], experts["noise"]) == (8, 2, "attribute", 1.0)
    assert (experts["layers"], experts["linears"]) == ([0, 2], ["qkv", "out", "up", "down"])
    assert config.families == files.FAMILIES
    assert len(config.tasks) == 6
    assert "made from | the official checkpoint in.pth" in (tmp_path / "out" / "README.md").read_text()
    log = json.loads((tmp_path / "out" / "official.json").read_text())
    assert "OLD_CHECKPONT: True" in log["prefix"]
    assert log["heads_from"] == "--heads"
    aside = load_file(tmp_path / "out" / "official.safetensors")
    assert set(aside) == set(log["kept_aside"])
    dead = [key for key in aside if ".gate." in key]
    assert len(dead) == 2 * 2 * 5
    assert {key.split(".gate")[0].split(".", 3)[-1] for key in dead} == {"self_attn.dense", "linear2"}
    text = "\n".join(found.lines())
    for words in ("8 in qkv, out, up, down of layers 0, 2", "4 heads (from --heads)", "0.714286", "official.json"):
        assert words in text
    assert f"{sum(p.numel() for p in model.parameters()):,}" in text


def test_the_one_norm_may_be_named_once_but_not_hold_two_values(tmp_path: Path) -> None:
    state = files.dense()
    del state["video_embed.embeddings_norm.weight"], state["video_embed.embeddings_norm.bias"]
    converted(state, tmp_path)
    assert_equal(back(tmp_path), state)
    shutil.rmtree(tmp_path / "out")
    state = files.dense()
    state["video_embed.embeddings_norm.bias"] = state["video_embed.embeddings_norm.bias"] + 1e-6
    with pytest.raises(UserError, match=r"video_embed\.embeddings_norm\.bias differs from token_embed"):
        converted(state, tmp_path)
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    state = files.moe()
    missing = [
        "fused_encoder.layers.1.self_attn.qkv_proj.bias",
        "fused_encoder.layers.2.linear2.gate.wg.weight",
        "fused_encoder.layers.2.linear1.experts.deepspeed_experts.3.weight",
        "loss_prepare.logit_scale_retrieve",
        "token_embed.embeddings_pos.position_embeddings.weight",
    ]
    for key in missing:
        del state[key]
    state["loss_prepare.queue"] = torch.zeros(2)
    state["visual_embed.patch_embed.weight"] = torch.zeros(2)
    state["fused_encoder.layers.3.gamma_1"] = torch.zeros(1, 1, 64)
    with pytest.raises(UserError) as caught:
        converted(state, tmp_path)
    message = str(caught.value)
    assert "missing (5)" in message
    assert "unknown (2)" in message
    assert all(key in message for key in [*missing, "loss_prepare.queue", "visual_embed.patch_embed.weight"])
    assert "fused_encoder.layers.3.gamma_1 (1, 1, 64), expected (64,)" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    state = files.moe()
    wrong = ["fused_encoder.layers.2.linear1.experts.deepspeed_experts.3.weight", "loss_prepare.logit_scale_retrieve"]
    for name in wrong:
        state[name] = state[name].clone()
        state[name].view(-1)[-1] = value
    with pytest.raises(UserError) as caught:
        converted(state, tmp_path)
    assert "not finite (2):\n" + "\n".join(f"    {name}" for name in wrong) in str(caught.value)
    assert "missing" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth"]


def test_other_checkpoints_are_told_apart_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of the tensors is one of Uni-Perceiver; it holds visual\.proj"):
        converted({"visual.proj": torch.zeros(2)}, tmp_path)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize(("content", "message"), [
    ({"model": {"a": Code()}}, "not a file of plain tensors: it holds print"),
    ({"model": {"a": torch.zeros(1), "step": 3}}, r"found step \(int\)"),
    ({"model": {"a": torch.zeros(1, dtype=torch.uint8)}}, r"float32, float16 or bfloat16, found a \(tensor of uint8"),
    ({"model": {}}, "found nothing"),
    ([torch.zeros(1)], "holds a list"),
])  # fmt: skip
def test_what_is_no_state_dict_is_refused(
    content: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(content, tmp_path / "in.pth")
    with pytest.raises(UserError, match=message):
        convert(file, tmp_path / "out", heads=4)
    assert not (tmp_path / "out").exists()
    assert "run" not in capsys.readouterr().out


def test_damaged_and_absent_files_have_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    cases = [
        ("text.pth", "not a "),
        ("none.pth", "no such file"),
        ("pointer.pth", r"got a pointer of git-lfs\. Hint: "),
    ]
    for name, message in cases:
        with pytest.raises(UserError, match=message):
            convert(tmp_path / name, tmp_path / "out", heads=4)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(HubError, match="is there already"):
        converted(files.dense(), tmp_path)
    (tmp_path / "back.pth").write_text("kept")
    with pytest.raises(HubError, match="is there already"):
        revert(str(tmp_path / "out"), tmp_path / "back.pth")
    assert (tmp_path / "back.pth").read_text() == "kept"


def test_heads_must_be_given_where_the_width_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trace.*768: 12 heads.*--heads NUMBER"):
        converted(files.dense(), tmp_path, heads=None)
    with pytest.raises(UserError, match="--heads 5: does not divide the width 64"):
        converted(files.dense(), tmp_path, heads=5)
    state = files.fill(files.keys(192, 1, words=97), 1.0, "tiny")
    found = converted(state, tmp_path, heads=None)
    assert (found.log.heads, found.log.heads_from) == (3, "the width")


@pytest.mark.parametrize(("scale", "fits"), [(1.0, True), (160 / 224, True), (0.9, False)])
def test_positions_are_recognised_by_their_table(scale: float, fits: bool, tmp_path: Path) -> None:
    state = files.dense(scale=scale)
    if fits:
        found = converted(state, tmp_path)
        assert found.log.position_scale == pytest.approx(scale)
        assert found.log.position_distance < 1e-5
        return
    with pytest.raises(UserError, match=r"from scale 1, \S+ from scale 0\.7143.*--position-scale NUMBER"):
        converted(state, tmp_path)
    found = converted(state, tmp_path, position_scale=0.9)
    assert found.log.position_distance < 1e-5
    assert_equal(back(tmp_path), state)


@pytest.mark.parametrize("wrapped", ["module", None])
def test_older_files_are_renamed_as_the_authors_did(wrapped: str | None, tmp_path: Path) -> None:
    state = files.dense()
    old = files.before_publication(state)
    file = save({"module": old, "iteration": 3} if wrapped else old, tmp_path / "in.pth")
    found = convert(file, tmp_path / "out", heads=4)
    assert (found.log.layout, found.log.folded_type_embedding) == ("deepspeed", True)
    assert found.log.dropped == ["visual_embed.patch_embed.weight"]
    assert found.log.ignored == (["iteration"] if wrapped else [])
    folded = state["video_embed.embeddings.bias"] + state["video_embed.embeddings_type.weight"][0]
    expected = {**state, "video_embed.embeddings.bias": folded}
    assert_equal(back(tmp_path), expected)
    assert torch.equal(load(tmp_path / "out")[0].embeddings["image"].projection.bias, folded)


@pytest.mark.parametrize("fold", [None, False, True])
def test_the_type_embedding_of_older_files_with_experts_is_added_only_when_asked(
    fold: bool | None, tmp_path: Path
) -> None:
    state = files.moe()
    old = {key: value.half() for key, value in files.before_publication(state).items()}
    file = save({"module": old}, tmp_path / "in.pth")
    found = convert(file, tmp_path / "out", heads=4, fold=fold)
    assert found.log.folded_type_embedding is bool(fold)
    expected = {key: value.half().float() for key, value in state.items()}
    if fold:
        bias, kind = "video_embed.embeddings.bias", "video_embed.embeddings_type.weight"
        expected[bias] = expected[bias] + expected[kind][0]
    assert_equal(back(tmp_path), expected)


def test_a_published_file_is_not_folded_unless_asked(tmp_path: Path) -> None:
    state = files.dense()
    found = converted(state, tmp_path, fold=True)
    assert found.log.folded_type_embedding
    lines = revert(str(tmp_path / "out"), tmp_path / "back.pth")
    assert any("stays added" in line for line in lines)
    again = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert not torch.equal(again["video_embed.embeddings.bias"], state["video_embed.embeddings.bias"])


def test_without_a_tokenizer_pictures_work_and_words_say_what_to_do(tmp_path: Path) -> None:
    converted(files.dense(), tmp_path)
    model, processor = load(tmp_path / "out")
    pixels = processor(images=torch.zeros(3, 300, 260, dtype=torch.uint8))
    assert pixels["pixel_values"].shape == (1, 3, 224, 224)
    ids = torch.tensor([[1, 2, files.END], [3, files.END, files.END]])
    assert model.classify(pixels, ids).shape == (1, 2)
    for ask in (
        lambda: processor(text="a cat"),
        lambda: model.classify(pixels, ["a cat"]),
        lambda: model.caption(pixels, max_length=1),
        lambda: processor.tokenizers["text"],
    ):
        with pytest.raises(DataError, match="--tokenizer"):
            ask()
    processor.save_pretrained(tmp_path / "again")
    assert type(type(processor).from_pretrained(tmp_path / "again")) is type(processor)
