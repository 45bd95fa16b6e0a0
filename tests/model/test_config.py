"""The configuration goes to config.json and back unchanged, and a newer one is refused."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from unified.config.model import ModelSettings
from unified.core.errors import RecipeError
from unified.modalities import load_tokenizers
from unified.modalities.image.settings import ImageSettings
from unified.modalities.sequence import Attributes
from unified.modalities.text.settings import TextSettings
from unified.model.config import UnifiedConfig

SETTINGS = ModelSettings(
    width=32,
    depth=2,
    heads=4,
    hidden=64,
    layer_scale=None,
    drop_path=0.1,
    modalities={"image": ImageSettings("image_glyph", 4)},
)


def made() -> UnifiedConfig:
    tokenizers = load_tokenizers(SETTINGS.modalities)
    return UnifiedConfig.from_settings(SETTINGS, tokenizers, ["names", "words"])


def test_configuration_follows_settings_and_tokenizers() -> None:
    config = made()
    text = load_tokenizers({"image": SETTINGS.modalities["image"], "text": TextSettings()})["text"]
    assert (config.width, config.depth, config.heads, config.hidden) == (32, 2, 4, 64)
    assert (config.layer_scale, config.drop_path) == (None, 0.1)
    assert (config.spatial["height"], config.spatial["patch"], config.spatial["mean"]) == (16, 4, [0.5, 0.5, 0.5])
    assert config.vocabulary_size == text.size
    assert config.spe_token_id == text.spe
    assert config.end_token_id == text.end
    assert config.families == ["names", "words"]


def test_round_trip_through_config_json(tmp_path: Path) -> None:
    config = made()
    config.save_pretrained(tmp_path)
    loaded = UnifiedConfig.from_pretrained(tmp_path)
    names = ["width", "depth", "heads", "hidden", "layer_scale", "drop_path", "modalities", "vocabulary_size"]
    for name in (*names, "spe_token_id", "end_token_id", "families", "format"):
        assert getattr(loaded, name) == getattr(config, name), name
    assert json.loads((tmp_path / "config.json").read_text())["format"] == 2


def test_a_configuration_of_the_first_format_is_upgraded(tmp_path: Path) -> None:
    config = made()
    config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    earlier = {**content, **content.pop("modalities"), "format": 1}
    del earlier["modalities"]
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    loaded = UnifiedConfig.from_pretrained(tmp_path)
    assert (loaded.modalities, loaded.format) == (config.modalities, 2)
    assert "image" not in loaded.to_dict()


def test_names_of_other_libraries_read_the_same_values() -> None:
    config = made()
    assert (config.hidden_size, config.num_hidden_layers, config.eos_token_id) == (32, 2, config.end_token_id)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    made().save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "format": 3}))
    with pytest.raises(RecipeError, match="expected a format up to 2"):
        UnifiedConfig.from_pretrained(tmp_path)


def test_names_of_classes_go_to_config_json_and_back(tmp_path: Path) -> None:
    tokenizers, kinds = load_tokenizers(SETTINGS.modalities), [Attributes("image", given=("image",))]
    answers = {"colours": {"read": "prefix", "id2label": dict(enumerate(["blue", "green", "red"]))}}
    config = UnifiedConfig.from_settings(SETTINGS, tokenizers, ["c"], {"colours": kinds}, answers=answers)
    config.save_pretrained(tmp_path)
    for found in (config, UnifiedConfig.from_pretrained(tmp_path)):
        assert found.tasks["colours"]["id2label"] == {0: "blue", 1: "green", 2: "red"} == found.id2label
        assert found.label2id == {"blue": 0, "green": 1, "red": 2}
        assert found.num_labels == 3
        assert found.kinds("colours") == kinds


def test_two_label_sets_are_no_flat_one() -> None:
    tokenizers, kinds = load_tokenizers(SETTINGS.modalities), [Attributes("image")]
    answers = {name: {"read": "prefix", "id2label": {0: f"{name} x", 1: f"{name} y"}} for name in ("a", "b")}
    config = UnifiedConfig.from_settings(SETTINGS, tokenizers, ["c"], {"a": kinds, "b": kinds}, answers=answers)
    assert config.tasks["b"]["id2label"] == {0: "b x", 1: "b y"}
    assert "a x" not in (config.id2label or {}).values()


def test_tasks_of_earlier_versions_are_read(tmp_path: Path) -> None:
    kind = Attributes("image", given=("image",), family="names")
    content = {**made().to_dict(), "tasks": {"names": [asdict(kind)]}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = UnifiedConfig.from_pretrained(tmp_path)
    assert found.kinds("names") == [kind]
    assert found.tasks["names"].keys() == {"kinds"}
