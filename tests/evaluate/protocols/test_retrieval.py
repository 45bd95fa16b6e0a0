import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import write_shards

from tests.evaluate.oracle import PROCESSOR, Oracle
from unified.core.errors import RecipeError
from unified.evaluate.protocols.groups import Groups
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Retrieval, Spec


def run(evaluation: Retrieval, model: Any = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = evaluate(model or Oracle(), PROCESSOR, [Spec("s", {"pairs": evaluation})])["results"]
    return found


def test_groups_make_every_text_of_a_colour_right(tmp_path: Path) -> None:
    data = str(write_shards(tmp_path / "data", 40))
    strict, grouped = run(Retrieval(data=data)), run(Retrieval(data=data, group="json.colour"))
    assert grouped[0]["metrics"]["text_retrieval_recall@1"] == 1.0
    assert grouped[1]["metrics"]["image_retrieval_recall@1"] == 1.0
    # The oracle reads the colour alone: among the texts of a colour it takes the first.
    assert strict[0]["metrics"]["text_retrieval_recall@1"] < 0.5
    assert strict[0]["metrics"]["text_retrieval_recall@10"] == 1.0
    assert strict[1]["n"] == 28  # different texts


def test_images_are_sought_among_further_names(tmp_path: Path) -> None:
    data = str(write_shards(tmp_path / "data", 8))
    names = tmp_path / "names.txt"
    names.write_text("a red hat\na green hat\na blue hat\na grey hat\nnothing\n")
    (found, _) = run(Retrieval(data=data, candidates=(str(names),)))
    assert found["notes"]["gallery"] == 5
    assert found["metrics"]["text_retrieval_recall@10"] == 0.0  # none of the names is a text of the data
    assert found["notes"]["ceiling"] == 0.0


def test_lines_of_a_caption_belong_to_their_image(tmp_path: Path) -> None:
    data = str(write_shards(tmp_path / "data", 12))
    texts, images = run(Retrieval(data=data, lines=True))
    assert texts["n"] == images["n"] == 12
    keys = evaluate(Oracle(), PROCESSOR, [Spec("s", {"pairs": Retrieval(data=data, lines=True)})])["keys"]
    assert "00000:0" in next(v for v in keys.values() if ":" in v[0])


def test_the_ceiling_counts_pictures_that_cannot_be_told_apart(tmp_path: Path) -> None:
    from unified.evaluate.items import read_items
    from unified.evaluate.protocols.retrieval import _notes

    items = read_items(str(write_shards(tmp_path / "data", 4)), ["png"], ["txt"])
    items.pictures[:] = np.array([0, 0, 1, 2])
    notes = _notes(items, ["a", "b", "c", "d"], ["g", "g", "c", "d"], ["g", "g", "c"])
    assert notes["ceiling"] == 0.75  # d is not in the gallery
    assert notes["ceiling_own_text"] == 0.75  # one of a and b


def test_intervals_are_clustered_by_group(tmp_path: Path) -> None:
    data = str(write_shards(tmp_path / "data", 40))
    found, _ = run(Retrieval(data=data, group="json.colour"))
    assert found["ci"]["text_retrieval_recall@1"]["clusters"] == 4
    assert found["ci"]["text_retrieval_recall@1"]["low"] < 0.6  # four colours, not forty pictures


def test_manifests_name_groups(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "shards": [], "groups": {"7": ["one", "I"]}}))
    groups = Groups([str(tmp_path)], ["one", "two"], [7, 9])
    assert groups.of("I") == groups.of("one") != groups.of("two")
    assert groups.members(["three"])[groups.of("one")] == {"one", "I"}
    with pytest.raises(RecipeError, match="'one' is in group 7"):
        Groups([str(tmp_path)], ["one"], [8])
    with pytest.raises(RecipeError, match=r"no manifest\.json"):
        Groups([str(tmp_path / "none")], [], None)


def test_a_model_on_random_features_is_near_chance(tmp_path: Path) -> None:
    class Blind(Oracle):
        def embed(self, inputs: Any) -> torch.Tensor:
            return torch.ones(len(next(iter(inputs.values()))), 3)

    data = str(write_shards(tmp_path / "data", 40))
    texts, _ = run(Retrieval(data=data), Blind())
    assert texts["metrics"]["text_retrieval_recall@1"] == pytest.approx(2 / 40)  # all tie: the first text for all
