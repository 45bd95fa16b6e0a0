"""The keys of `answer:` in recipes, and those of earlier files."""

import sys
from pathlib import Path
from typing import Any

import pytest

from unified.answers.table import own_keys, read_specs
from unified.config.task import Answer
from unified.core.errors import RecipeError, UserError
from unified.core.schema import build
from unified.modalities import MODALITIES
from unified.model.config import UnifiedConfig


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"map": "directions", "bins": 8}, r"'bins' is not a key of NormalSettings\. There are: map"),
        ({"map": "depth"}, "answer.map: 'depth' does not fit. There are: bins"),
        ({"candidates": "batch", "map": "bins"}, "expected one of candidates, map, got all of them"),
        ({"candidates": "batch", "read": "masked"}, "answer.read: expected none with these candidates, got 'masked'"),
        ({"candidates": "vocabulary", "read": "maskd"}, "expected caption, causal, masked, got 'maskd'; did you mean"),
        ({"names": "x"}, "expected `candidates`, `map` or `regress`, got"),
    ],
)
def test_wrong_keys_are_told_with_what_fits(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(Answer, keys, "answer")


def test_a_kind_whose_package_is_broken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_kind.py").write_text("raise OSError('no library')\n")
    folder = tmp_path / "broken-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text("[unified.answers]\nbroken = broken_kind:KIND\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"broken = broken_kind:KIND of broken 0\.1: .* got OSError: no library"):
        build(Answer, {"regress": "broken"}, "answer")
    assert build(Answer, {"candidates": "batch"}, "answer").kind == "batch"
    sys.modules.pop("broken_kind", None)


def test_recipes_of_earlier_runs_keep_their_own_keys_and_no_wrong_one() -> None:
    earlier = {"map": "bins", "bins": 8, "limits": [1, 2], "names": None, "softmax": False, "operator": None}
    assert own_keys(earlier, "answer") == {"map": "bins", "bins": 8, "limits": [1, 2]}
    words = {"candidates": "labels/digits", "read": "prefix", "vocabulary": "embedding", "group": None}
    assert own_keys(words, "answer") == {"candidates": "labels/digits"}
    assert "limts" in own_keys({**earlier, "limts": [1, 2]}, "answer"), "which the schema refuses"


def test_specs_of_earlier_configurations_are_read() -> None:
    spec = {"read": "share", "queries": 1, "softmax": False, "limits": [0, 0], "scale": 1, "size": [8, 8]}
    assert read_specs({"a": spec})["a"].queries == 1
    with pytest.raises(RecipeError, match=r"queries.tasks.a: 'lines' is not a key of QuerySpec"):
        read_specs({"a": {**spec, "lines": 1}})


def test_a_modality_comes_once() -> None:
    path = "unified.modalities.image.modality:IMAGE"
    with pytest.raises(RecipeError, match="expected each modality once, got 'image' again"):
        MODALITIES.read({path: {"patch": 8}}, "model.modalities")


def test_sections_beside_modalities_are_refused() -> None:
    content = UnifiedConfig().to_dict()
    with pytest.raises(RecipeError, match="expected image below modalities, got them beside it"):
        UnifiedConfig.from_dict({**content, "image": {"patch": 4}})
