"""The YAML head of model cards, and cards of earlier versions that are made ready for a repository."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from unified.core.errors import DataError
from unified.core.training_record import TrainedShard, TrainingRecord
from unified.hub.card_head import as_yaml, card_head, datasets, for_repository

OLD = """---
library_name: unified
pipeline_tag: zero-shot-image-classification
---

# tiny

Written by hand: a tiny model.

model, processor = unified.load("tiny")  # a folder, or org/name on the hub
pipeline("zero-shot-image-classification", model="tiny")
"""
ROW = {
    "dataset": "digits",
    "task": "zeroshot_classification",
    "label": "zero-shot, bare names",
    "features": "model",
    "metrics": {"acc1": 0.75, "acc5": None},
    "ci": {"acc1": {}, "acc5": {}},
    "training_data": "unseen",
}


def record(*locations: str) -> TrainingRecord:
    shards = [TrainedShard(f"{number:064d}", 1, location, "") for number, location in enumerate(locations)]
    return TrainingRecord(tuple(shards), ())


def head_of(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_the_hub_reads_the_head_and_its_measured_numbers() -> None:
    known = {**ROW, "dataset": "seen before", "training_data": "seen"}
    results = {"results": [ROW, {**ROW, "features": "pixels"}, known]}
    head = card_head("tiny", record("data/p/train/0.tar"), results, base_model="org/base", license_name="mit")
    card = ModelCard(as_yaml(head) + "# tiny\n")
    assert (card.data.license, card.data.language, card.data.datasets) == ("mit", ["en"], ["p"])
    assert card.data.base_model == "org/base"
    first, second = card.data.eval_results
    assert (first.task_type, first.dataset_name, first.metric_value) == (
        "zero-shot-image-classification",
        "digits",
        0.75,
    )
    assert first.metric_name == "acc1, zero-shot, bare names"
    # Of data that were trained on nothing is called zero-shot.
    assert (second.dataset_type, second.metric_name) == ("seen-before", "acc1, bare names")


def test_without_results_and_record_nothing_is_claimed() -> None:
    head = card_head("tiny", None)
    assert (head["license"], head["language"]) == ("unknown", ["en"])
    assert not {"datasets", "base_model", "model-index"} & set(head)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("data/glyphs/train/ascii-00000.tar", "glyphs"),
        ("data/mine/00000.tar", "mine"),
        ("https://host/cc3m/train/0.tar", "cc3m"),
        ("hf://datasets/org/name@main/train/0.tar", "org/name"),
        ("../my data/train/0.tar", "my-data"),
    ],
)
def test_datasets_are_named_without_their_path(location: str, name: str) -> None:
    assert datasets(record(location, location)) == [name]


def test_paths_of_this_machine_are_not_told() -> None:
    assert datasets(record("/home/me/secret/train/0.tar", "0.tar", "train/0.tar")) == []
    assert datasets(replace(record("a/0.tar"), shards=())) == []


def test_a_card_of_an_earlier_version_is_made_ready_for_its_repository() -> None:
    card = for_repository(OLD, "org/name", card_head("org/name", record("data/p/train/0.tar")))
    assert head_of(card)["license"] == "unknown"
    assert head_of(card)["datasets"] == ["p"]
    assert "\n# org/name\n" in card
    assert 'unified.load("org/name")\n' in card
    assert 'model="org/name"' in card
    assert "Written by hand: a tiny model." in card
    assert for_repository(card, "org/name", card_head("org/name", None)) == card


def test_what_people_wrote_into_the_head_stays() -> None:
    own = OLD.replace("library_name: unified\n", "library_name: unified\nlicense: cc0-1.0\nthumbnail: a.png\n")
    head = head_of(for_repository(own, "org/name", card_head("org/name", None)))
    assert (head["license"], head["thumbnail"]) == ("cc0-1.0", "a.png")
    assert head_of(for_repository("# My model\n", "org/name", card_head("org/name", None)))["language"] == ["en"]


@pytest.mark.parametrize(("head", "message"), [("a: [1", "expected YAML"), ("- 1", "expected keys and values")])
def test_a_head_that_is_no_mapping_is_refused(head: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        for_repository(f"---\n{head}\n---\n# x\n", "org/name", {})
