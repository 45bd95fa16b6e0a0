"""A model folder that is damaged or hostile: refused in one line by the classes themselves, whatever loads it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dense_models import dense_model
from safetensors.torch import load_file, save_file
from small_models import small_model, written
from transformers import AutoConfig, AutoModel, AutoProcessor

from unified.core.errors import DataError, UserError
from unified.hub import load as hub
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel
from unified.model.processor import UnifiedProcessor
from unified.model.weight_files import WEIGHTS, WeightsError

MODEL_DOORS = {"load": hub.load, "AutoModel": AutoModel.from_pretrained, "class": UnifiedModel.from_pretrained}
WORD_DOORS = {"load": hub.load, "AutoProcessor": AutoProcessor.from_pretrained, "own": UnifiedProcessor.from_pretrained}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(small_model(), tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def with_keys(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def refused(door: Callable[[Path], Any], folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        door(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("door", MODEL_DOORS.values(), ids=MODEL_DOORS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"proj.weighs": t.pop("proj.weight")}),
            r"missing: proj\.weight; unexpected: proj\.weighs",
        ),
        (lambda t: t.pop("encoder.blocks.1.norm1.bias"), r"missing: encoder\.blocks\.1\.norm1\.bias"),
        (lambda t: t.pop("log_scales.caption"), r"missing: log_scales\.caption"),
        (lambda t: t.update({"queries.rows": torch.zeros(3)}), r"unexpected: queries\.rows"),
        (lambda t: t.update({"x" * 5000: torch.zeros(3)}), r"unexpected: x{79}…\)"),
        (lambda t: t.update({"proj.bias": torch.zeros(31)}), r"mismatched: proj\.bias \(31 for 32\)"),
        (lambda t: t.update({"proj.weight": t["proj.weight"].flatten()}), r"proj\.weight \(1024 for 32×32\)"),
        (lambda t: t.update({"proj.bias": torch.zeros(32, dtype=torch.int32)}), r"'proj\.bias': expected .*got I32"),
        (lambda t: t.update({"proj.bias": torch.zeros(32, dtype=torch.bool)}), r"'proj\.bias': expected .*got BOOL"),
    ],
)
def test_tensors_that_are_not_those_of_the_model_are_named(
    folder: Path, door: Callable[[Path], Any], change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    with_tensors(folder, change)
    refused(door, folder, message)


@pytest.mark.parametrize("door", MODEL_DOORS.values(), ids=MODEL_DOORS)
def test_sizes_are_compared_before_memory_is_taken(folder: Path, door: Callable[[Path], Any]) -> None:
    """The network that the configuration says would have some 10^14 bytes."""
    with_keys(folder / "config.json", width=1 << 17, heads=2, hidden=1 << 17, depth=200)
    refused(door, folder, r"missing: .*and [\d,]+ more; mismatched: ")


def test_tensors_that_a_caller_asks_about_or_lets_differ_are_not_refused(folder: Path) -> None:
    with_tensors(folder, lambda tensors: tensors.pop("proj.bias"))
    _, report = UnifiedModel.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"] == {"proj.bias"}
    with_tensors(folder, lambda tensors: tensors.update({"proj.bias": torch.zeros(31)}))
    model = UnifiedModel.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.proj.bias.shape == (32,)


def test_tasks_may_be_added_and_left_out_by_a_configuration(saved: Path) -> None:
    config = UnifiedConfig.from_pretrained(saved)
    config.families = [*config.families[1:], "added"]
    for door in (AutoModel, UnifiedModel):
        model = door.from_pretrained(saved, config=config)
        assert set(model.log_scales) == set(config.families)
    config.depth = 4
    with pytest.raises(WeightsError, match=r"missing: encoder\.blocks\.3"):
        AutoModel.from_pretrained(saved, config=config)


def test_weights_that_older_models_have_not_may_be_absent(tmp_path: Path) -> None:
    folder = written(dense_model(), tmp_path / "model")
    before = load_file(folder / WEIGHTS)
    newer = [name for name in before if name.startswith("queries.baselines.")]
    assert newer
    with_tensors(folder, lambda tensors: [tensors.pop(name) for name in newer])
    for door in MODEL_DOORS.values():
        door(folder)


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/elsewhere", "peft_type": "LORA"}')
    refused(hub.load, folder, r"adapter_config\.json: expected a model, got an adapter")
    refused(UnifiedModel.from_pretrained, folder, "expected a model, got an adapter")


STEERING: list[tuple[str, Any]] = [
    *[("attn_implementation", name) for name in ("kernels-community/flash-attn", "org/name:func", "flash_attention_2")],
    *[("attn_implementation", name) for name in ("flex_attention", "paged|sdpa", 5, {"": "org/name"})],
    ("experts_implementation", "org/name"),
    ("auto_map", {"AutoModel": "code.Model", "AutoConfig": "org/name--code.Config"}),
    ("auto_map", 5),
    ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    *[("transformers_weights", name) for name in ("adapter_model.bin", "../x.safetensors", 5)],
    ("configuration_files", ["config.4.0.json"]),
    ("fusion_config", {"a": 1}),
    ("per_layer_config", {"0": {"width": 5}}),
    ("torch_dtype", "os"),
    ("dtype", "float8_e4m3fn"),
]


@pytest.mark.parametrize(("name", "value"), STEERING)
def test_no_key_of_a_configuration_steers_transformers(
    folder: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked for over the network, whatever a hub would answer."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    with_keys(folder / "config.json", **{name: value})
    first = value == 5 or name == "configuration_files"  # read by transformers before it knows whose class it is
    doors = {**MODEL_DOORS, "config": UnifiedConfig.from_pretrained}
    for door in (door for door_name, door in doors.items() if door_name != "AutoModel" or not first):
        refused(door, folder, rf"{name}: (expected|.* does not fit)")


@pytest.mark.parametrize("name", ["_attn_implementation", "_attn_implementation_internal", "_experts_implementation"])
def test_keys_that_are_nobodys_steer_nothing(folder: Path, name: str) -> None:
    with_keys(folder / "config.json", **{name: "kernels-community/flash-attn"})
    for door in (UnifiedModel.from_pretrained, AutoModel.from_pretrained):
        assert door(folder).config._attn_implementation == "sdpa"


def test_kernels_are_refused_by_the_model_itself(saved: Path) -> None:
    for name in ("kernels-community/flash-attn", "flash_attention_2", "org/name"):
        with pytest.raises(DataError, match=r"attn_implementation: expected 'eager' or 'sdpa', got"):
            AutoModel.from_pretrained(saved, attn_implementation=name)
    model = AutoModel.from_pretrained(saved, attn_implementation="eager")
    with pytest.raises(DataError, match="attn_implementation"):
        model.set_attn_implementation("kernels-community/flash-attn")
    assert model.config._attn_implementation == "eager"


def test_keys_of_other_programs_reach_nothing(folder: Path) -> None:
    """Trainers write some; names of transformers' own attributes would take their place."""
    own = UnifiedConfig.from_pretrained(folder).to_dict() | {"_name_or_path": ""}
    foreign = {"use_cache": False, "to_dict": 5, "num_hidden_layers": 10**7, "hidden_size": 10**9, "note": {"a": [1]}}
    with_keys(folder / "config.json", **foreign)
    for door in (AutoConfig.from_pretrained, UnifiedConfig.from_pretrained):
        assert door(folder).to_dict() | {"_name_or_path": ""} == own
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"families"', '"familes"'))
    refused(
        AutoModel.from_pretrained, folder, r"expected keys of a configuration, got 'familes'; did you mean 'families'\?"
    )


PARTS = ("tokenizer.json", "tokenizer_config.json", "processor_config.json")
BESIDE = ("special_tokens_map.json", "added_tokens.json", "preprocessor_config.json")
READ_BY_TRANSFORMERS = ("processor_config.json",)
"""What `AutoProcessor` reads before it knows whose class it is about: the error is its own there."""


def replaced_by(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def directory(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def link(target: str) -> Callable[[Path], None]:
    def mutation(file: Path) -> None:
        file.unlink(missing_ok=True)
        file.symlink_to(target)

    return mutation


def huge(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(1 << 40)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": replaced_by(b""),
    "cut": lambda file: file.write_bytes((file.read_bytes() if file.exists() else b'{"a": 12345}')[:9]),
    "list": replaced_by(b"[1, 2]"),
    "null": replaced_by(b"null"),
    "deep": replaced_by(b'{"a":' * 200_000),
    "digits": replaced_by(b'{"a": ' + b"9" * 10_000 + b"}"),
    "latin-1": replaced_by('{"a": "ä"}'.encode("latin-1")),
    "utf-16": replaced_by('{"a": 1}'.encode("utf-16")),
    "pipe": pipe,
    "folder": directory,
    "device": link("/dev/zero"),
    "nowhere": link("nowhere"),
    "loop": link("tokenizer_config.json"),
    "huge": huge,
}


@pytest.mark.parametrize("name", [*PARTS, *BESIDE])
@pytest.mark.parametrize("kind", DAMAGE)
def test_files_of_a_processor_that_cannot_be_read_are_named(folder: Path, name: str, kind: str) -> None:
    if kind == "loop" and name != "tokenizer_config.json":
        pytest.skip("it is of one file")
    DAMAGE[kind](folder / name)
    for door, load in WORD_DOORS.items():
        if door != "AutoProcessor" or name not in READ_BY_TRANSFORMERS:
            refused(load, folder, rf"{name}: expected")


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("tokenizer_config.json", {"model_max_length": "x"}, "model_max_length: expected int, found 'x'"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length: expected 1 to 1,048,576, got -1"),
        ("tokenizer_config.json", {"model_max_length": 10**30}, "model_max_length: expected 1 to"),
        ("tokenizer_config.json", {"eos_token": 5}, "eos_token: expected str, found 5"),
        ("tokenizer_config.json", {"pad_token": "<|nobody|>"}, "pad_token: expected a token of tokenizer.json"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map: expected no such key"),
        ("tokenizer_config.json", {"split_special_tokens": "x"}, "split_special_tokens: expected bool"),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "a.B"}}, "auto_map: expected no such key"),
        (
            "processor_config.json",
            {"audio_tokenizer": {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "org/name"}},
            "audio_tokenizer: expected no such key",
        ),
        ("processor_config.json", {"processor_class": "CLIPProcessor"}, "processor_class: expected 'UnifiedProcessor'"),
        ("processor_config.json", {"image_processor": 5}, "image_processor: expected an object, got a number"),
        ("processor_config.json", {"specs": 5}, "specs: expected an object of objects"),
        ("processor_config.json", {"texts": 5}, "texts: expected a boolean"),
        ("processor_config.json", {"format": 99}, "expected a format up to 1, got 99"),
        (
            "tokenizer.json",
            {"model": {"type": "BPE", "vocab": {"a": 1 << 31}, "merges": []}},
            r"tokenizer\.json: expected ids from 0 to 4,194,304, got 2147483648",
        ),
        (
            "tokenizer.json",
            {"added_tokens": [{"id": (1 << 32) - 1, "content": "a", "special": True}]},
            "expected ids from 0 to 4,194,304, got 4294967295",
        ),
        ("config.json", {"": 5}, r"config\.json: expected keys of a configuration, got an empty one"),
        ("tokenizer.json", {"model": 5}, r"tokenizer\.json: expected a file of the library tokenizers"),
        ("tokenizer.json", {"added_tokens": "x"}, r"tokenizer\.json: expected a file of the library tokenizers"),
    ],
)
def test_values_that_no_processor_can_have_are_told(
    folder: Path, name: str, keys: dict[str, Any], message: str
) -> None:
    with_keys(folder / name, **keys)
    for load in (hub.load, UnifiedProcessor.from_pretrained)[: 1 if name == "config.json" else 2]:
        refused(load, folder, message)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": -8, "width": 16}},
        {"size": {"height": 16, "width": 2**63}},
        {"size": 5},
        {"patch": "x"},
        {"patch": 7},
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_mean": [float("nan")] * 3},
        {"resample": 99},
        {"image_processor_type": "CLIPImageProcessor"},
        {"crop_fraction": float("inf")},
        {"unknown": 1},
    ],
)
def test_values_that_no_image_processor_can_have_are_told(folder: Path, change: dict[str, Any]) -> None:
    file = folder / "processor_config.json"
    with_keys(file, image_processor={**json.loads(file.read_text())["image_processor"], **change})
    for load in WORD_DOORS.values():
        refused(load, folder, "processor|image")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["id"] = 1 - token["id"]
    content["model"]["vocab"] |= {token["content"]: token["id"] for token in content["added_tokens"]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(hub.load, folder, r"tokenizer\.json: expected the tokenizer of a model with 2,048 ids")
