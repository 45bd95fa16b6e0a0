"""A modality of another package, which nothing in `unified` knows."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from outside.series import SERIES, SeriesSettings

from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, UserError
from unified.evaluate.run import evaluate
from unified.hub.load import load
from unified.modalities import MODALITIES, ModalityTable, load_tokenizers
from unified.testing.modality import ModalityTests
from unified.testing.runs import model_of, recipe_of, spec_of, write_shards
from unified.train.validate import check


class TestSeries(ModalityTests):
    modality, column = SERIES, "npy"
    values = tuple(np.sin(np.arange(2 * length).reshape(length, 2)).astype(np.float32) for length in (5, 12, 32, 8))

    def encoded(self, value: Any) -> bytes:
        file = BytesIO()
        np.save(file, value)
        return file.getvalue()


def test_it_is_found_by_its_entry_point() -> None:
    assert MODALITIES["toyseries"] is SERIES
    assert "toyseries" not in MODALITIES.built_in


def recipe(folder: Path, **modalities: Any) -> Recipe:
    made = TestSeries()
    data = write_shards(folder / "data", "npy", [made.encoded(value) for value in made.values])
    content = recipe_of(data, "toyseries", "npy")
    return replace(content, model=replace(content.model, modalities={**content.model.modalities, **modalities}))


def test_a_recipe_without_it_says_what_the_model_has(tmp_path: Path) -> None:
    whole = recipe(tmp_path)
    alone = {name: settings for name, settings in whole.model.modalities.items() if name != "toyseries"}
    with pytest.raises(
        RecipeError, match=r"inputs\.npy: expected a modality of the model, got 'toyseries'.*image, text"
    ):
        check(replace(whole, model=replace(whole.model, modalities=alone)))


def test_an_evaluation_without_it_says_what_the_model_has(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", "npy", [b""])
    spec = spec_of(data, "toyseries", "npy", tmp_path)
    spec.write_text(spec.read_text().replace("family: toyseries", "family: null"))
    tokenizers = load_tokenizers(MODALITIES.defaults())
    with pytest.raises(RecipeError, match=r"colours\.inputs: expected a modality of the model, got 'toyseries'"):
        evaluate(None, SimpleNamespace(tokenizers=tokenizers), [spec])


def test_its_settings_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"modalities\.toyseries: 'pach' is not a key of SeriesSettings"):
        MODALITIES.read({"toyseries": {"pach": 2}}, "modalities")


def test_a_modality_by_its_place_needs_no_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unified.core.plugins._found", lambda *_: {})
    table = ModalityTable([MODALITIES[name] for name in MODALITIES.built_in])
    assert table.read({"outside.series:SERIES": {"patch": 2}}, "modalities")["outside.series:SERIES"].patch == 2
    assert table["toyseries"] is SERIES
    with pytest.raises(UserError, match=r"modalities: expected a modality, got 'toyserie'; did you mean 'toyseries'"):
        table.read({"toyserie": {}}, "modalities")


def test_a_model_of_it_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = model_of("toyseries", SeriesSettings())
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("unified.core.plugins._found", lambda *_: {})
    with pytest.raises(UserError, match=r"modalities: expected a modality, got 'toyseries'.*unified\.modalities"):
        load(tmp_path)
