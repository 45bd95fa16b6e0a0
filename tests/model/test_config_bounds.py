"""A config.json of strangers is checked before a network is built from it."""

from pathlib import Path
from typing import Any

import pytest
from dense_models import dense_model
from small_models import small_model

from unified.core.errors import DataError, UserError
from unified.core.schema import merge
from unified.model.config import UnifiedConfig
from unified.nn.moe.settings import ExpertSettings

EXPERTS = ExpertSettings(count=4, router="attribute")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": "x"}, "config.json.width: expected int, found 'x'"),
        ({"width": -1}, "config.json.width: expected 1 to 131,072, got -1"),
        ({"width": True}, "width: expected int"),
        ({"heads": 3}, "config.json: heads: expected a divisor of the width 32, got 3"),
        ({"hidden": None}, "config.json: hidden: expected a value, got null"),
        ({"depth": 10**7}, "config.json.depth: expected 1 to 1,024, got 10,000,000"),
        ({"layer_scale": float("inf")}, "layer_scale: expected a finite number"),
        ({"families": []}, "families: expected different names"),
        ({"families": ["a", "a"]}, "families: expected different names"),
        ({"families": "ab"}, "families: expected a list"),
        (
            {"modalities": {"image": {"grid": 30_000}}},
            "config.json: modalities.image.grid: expected 1 to 1,024, got 30",
        ),
        ({"modalities": {"image": {"std": [0.5, 0, 0.5]}}}, r"image.std\[1\]: expected a finite number above 0, got 0"),
        ({"modalities": {"image": {"mean": [0.5]}}}, "image.mean: expected 3 values, found 1"),
        ({"modalities": {"text": 5}}, "config.json: modalities.text: expected the keys of TextShape"),
        (
            {"modalities": {"texts": {}}},
            "config.json: modalities: expected a modality, got 'texts'; did you mean 'text'",
        ),
        ({"modalities": 5}, "config.json: modalities: expected a mapping, got '5'"),
        ({"end_token_id": 10**6}, "end_token_id: expected a token of the vocabulary, got 1000000"),
        ({"num_labels": 10**9}, "num_labels: expected 0 to 100,000, got 1,000,000,000"),
        ({"dtype": "os"}, "dtype: expected float32, float64, float16, bfloat16, got 'os'"),
        ({"experts": 3}, "experts: expected a mapping, got '3'"),
        ({"experts": {"count": 10**6}}, "experts.count: expected 1 to 4,096"),
        ({"experts": {"router": "nobody"}}, "experts.router: 'nobody' does not fit"),
        ({"queries": {"depth": "deep"}}, "queries.depth: expected int"),
        (
            {"queries": {"tasks": {"a": {"read": "boxes", "queries": 10**9}}}},
            "tasks.a: expected sizes from 0 to 100,000",
        ),
        ({"prompts": {"tokens": 10**8}}, "prompts.tokens: expected 0 to 16,384"),
        ({"tasks": 5}, "tasks: expected a mapping"),
        ({"tasks": {"a": 5}}, "tasks.'a': expected the keys of TaskEntry"),
        ({"tasks": {"a": [{"modality": 5}]}}, "tasks.'a'.kinds"),
        ({"tasks": {"a": {"id2label": {"x": "y"}}}}, "tasks.'a'.id2label: expected at most .* got 'x'"),
        ({"tasks": {"a": {"id2label": {"0": 5}}}}, "id2label.0: expected str, found 5"),
        ({"id2label": {"1.5": "a"}}, "id2label: expected at most 100,000 names by the number of a class, got '1.5'"),
        ({"id2label": 5}, "id2label"),
        ({"families": [f"f{i}" for i in range(2000)]}, "families: expected at most 1,000, got 2,000"),
        ({"queries": {"tasks": ""}}, "queries.tasks: expected a mapping"),
        ({"experts": {"bias": 1}}, "experts: 'bias' is not a key"),
        ({"return_dict": "x"}, "return_dict: expected bool"),
        ({"architectures": 5}, "architectures: expected a list"),
        ({"problem_type": "x"}, "problem_type: 'x' does not fit"),
        ({"drop_path": float("nan")}, "drop_path: expected a finite number"),
        ({"format": "x"}, "expected a format up to 2, got 'x'"),
    ],
)
def test_values_that_no_network_can_have_are_refused(change: dict[str, Any], message: str) -> None:
    content = small_model(EXPERTS).config.to_dict()
    with pytest.raises(UserError, match=message) as caught:
        UnifiedConfig.from_dict(merge(content, change))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"text": {"positions": 8, "max_length": 8}}, r"modalities: expected image and text, got \['text'\]"),
        (
            {"image": {}, "text": {}},
            "modalities.image: patch, height, width, mean, std, positions, position_scale, grid",
        ),
    ],
)
def test_sections_of_modalities_that_lack_something(modalities: dict[str, Any], message: str) -> None:
    content = small_model(EXPERTS).config.to_dict()
    with pytest.raises(UserError, match=message):
        UnifiedConfig.from_dict({**content, "modalities": modalities})


def test_what_models_write_is_read() -> None:
    for model in (small_model(), small_model(EXPERTS), dense_model()):
        assert UnifiedConfig.from_dict(model.config.to_dict()).to_dict() == model.config.to_dict()


def test_keys_that_a_network_needs_are_named_where_they_are_absent() -> None:
    content = small_model(EXPERTS).config.to_dict()
    for name in ("count", "layers", "bias_rate", "capacity"):
        part = {key: value for key, value in content["experts"].items() if key != name}
        with pytest.raises(DataError, match=f"experts: expected all keys of the experts, got none of {name}"):
            UnifiedConfig.from_dict({**content, "experts": part})
    del content["spe_token_id"]  # by default the last one of a larger vocabulary
    with pytest.raises(DataError, match="spe_token_id: expected a token of the vocabulary, got 49410"):
        UnifiedConfig.from_dict(content)


def test_a_file_is_read_as_its_content_is(tmp_path: Path) -> None:
    config = small_model(EXPERTS).config
    config.to_json_file(tmp_path / "config.json")
    read = UnifiedConfig.from_json_file(tmp_path / "config.json")
    assert read.to_json_string() == config.to_json_string()
    (tmp_path / "config.json").write_text('{"width": "x"}')
    with pytest.raises(DataError, match=r"config\.json\.width: expected int"):
        UnifiedConfig.from_json_file(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(DataError, match=r"config\.json: expected JSON, got brackets in too many levels"):
        UnifiedConfig.from_pretrained(tmp_path)
