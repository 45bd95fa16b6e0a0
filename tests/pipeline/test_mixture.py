"""Several data sets in one task, and shares of tasks that are not simply their weights."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unified.config.recipe import DataSettings, MixingSettings, Recipe
from unified.config.task import Answer, Task
from unified.core.errors import RecipeError
from unified.core.schema import build
from unified.data.shards.write import ShardWriter
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline.loader import StepLoader
from unified.pipeline.schedule import (
    Origin,
    record,
    resume,
    weighed,
)
from unified.pipeline.sources import SampleOrder, TaskData, open_data

SIZES = {"a": 20, "b": 6, "c": 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, size in SIZES.items():
        with ShardWriter(folder / name, kind="test", source="test", samples_per_shard=4) as writer:
            for number in range(size):
                writer.write(f"{name}{number}", {"txt": f"{name} {number}"})
    return folder


def task(folder: Path, sets: str, weights: tuple[float, ...] = (), **more: Any) -> Task:
    data = [str(folder / name) for name in sets]
    answer = Answer.of(candidates="vocabulary", read="masked")
    return Task(data, {"txt": "text"}, "txt", answer, "accuracy", **{"batch": 5, **more}, data_weights=weights)


def recipe(tasks: dict[str, Task], **more: Any) -> Recipe:
    return Recipe(tasks, **{"max_steps": 30, "slots": 1, "data": DataSettings(workers=0), **more})


def keys(loader: StepLoader) -> list[str]:
    return [key for _, slots, _ in loader for _, batch in slots for key in batch.keys]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    return {"text": TextTokenizer.load("text", max_length=8)}


def test_data_sets_come_by_weight_and_each_in_whole_epochs(folder: Path, tokenizers: Any) -> None:
    plan = recipe({"t": task(folder, "abc", (3.0, 1.0, 1.0))}, max_steps=60)
    found = keys(StepLoader(plan, tokenizers, {}))
    assert Counter(key[0] for key in found) == {"a": 180, "b": 60, "c": 60}
    for name, size in SIZES.items():
        own = [key for key in found if key[0] == name]
        for start in range(0, len(own) - size, size):
            assert sorted(own[start : start + size]) == sorted(f"{name}{number}" for number in range(size))
    for stop in range(0, 300, 7):
        seen = Counter(key[0] for key in found[:stop])
        assert abs(seen["a"] - 0.6 * stop) < 2, "they are spread evenly"


def test_a_run_goes_on_in_the_same_mixture(folder: Path, tokenizers: Any) -> None:
    plan = recipe({"t": task(folder, "abc", (1.7, 1.0, 0.31)), "u": task(folder, "b")}, slots=2)
    whole = keys(StepLoader(plan, tokenizers, {}))
    kept = json.loads(json.dumps(record(plan, 0, 13)))
    origin = resume(plan, 0, 13, kept)
    assert origin == Origin()
    assert keys(StepLoader(plan, tokenizers, {}, start_step=13, origin=origin)) == whole[13 * 10 :]


def test_ranks_share_the_same_samples(folder: Path, tokenizers: Any) -> None:
    plan = recipe({"t": task(folder, "abc", (1.7, 1.0, 0.31), batch=6)})
    parts = [keys(StepLoader(plan, tokenizers, {}, rank=rank, world=2)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(keys(StepLoader(plan, tokenizers, {})))


def test_changed_weights_go_on_where_each_data_set_was(folder: Path, tokenizers: Any) -> None:
    before = recipe({"t": task(folder, "ab", (1.0, 1.0))})
    after = recipe({"t": task(folder, "bac", (1.0, 3.0, 1.0))})
    first = keys(StepLoader(before, tokenizers, {}))[:20]
    kept = json.loads(json.dumps(record(before, 0, 4)))
    a, b, c = (str(folder / name) for name in "abc")
    assert kept["sets"] == {"t": {a: 10, b: 10}}
    origin = resume(after, 0, 4, kept)
    assert origin == Origin(4, {"t": 20}, {"t": {a: 10, b: 10}})
    rest = keys(StepLoader(after, tokenizers, {}, start_step=4, origin=origin))
    assert Counter(key[0] for key in rest[:25]) == {"a": 15, "b": 5, "c": 5}
    again = json.loads(json.dumps(record(after, 0, 9, origin)))
    assert again["sets"]["t"] == {a: 25, b: 15, c: 5}
    assert resume(after, 0, 9, again) == origin
    assert len({key for key in first if key[0] == "a"}) == 10


def test_data_sets_that_differ_in_secrets_alone_are_counted_apart(folder: Path) -> None:
    data = ["https://h/x/?sig=hush", "https://h/x/?sig=more"]
    plan = recipe({"t": replace(task(folder, "ab", (3.0, 1.0)), data=data)})
    kept = record(plan, 0, 8)
    assert kept["sets"] == {"t": {"https://h/x/?…": 30, "https://h/x/?… (2)": 10}}
    assert "hush" not in json.dumps(kept)
    assert resume(plan, 0, 8, json.loads(json.dumps(kept))) == Origin()


def test_a_late_sample_needs_no_replay(folder: Path) -> None:
    plan, data = open_data(recipe({"t": task(folder, "abc", (1.7, 1.0, 0.31))}))
    order = SampleOrder(plan, "t", data["t"], Origin())
    late = order.positions(np.arange(10**12, 10**12 + 50))
    assert ((late >= 0) & (late < 35)).all()
    seen = order.epochs(10**12)
    assert seen["t"] == pytest.approx(10**12 / 35)
    assert seen["t/0"] * 20 + seen["t/1"] * 6 + seen["t/2"] * 9 == pytest.approx(10**12)


def test_epochs_are_counted(folder: Path, tokenizers: Any) -> None:
    plan = recipe({"t": task(folder, "ab", (3.0, 1.0)), "u": task(folder, "ab")}, slots=2)
    loader = StepLoader(plan, tokenizers, {})
    assert loader.epochs(0) == {"epochs/t": 0, "epochs/t/0": 0, "epochs/t/1": 0, "epochs/u": 0}
    found = loader.epochs(8)
    assert found == {"epochs/t": 40 / 26, "epochs/t/0": 30 / 20, "epochs/t/1": 10 / 6, "epochs/u": 40 / 26}


def test_weights_of_data_are_checked(folder: Path) -> None:
    with pytest.raises(RecipeError, match="2 weights for 3 different entries"):
        task(folder, "abc", (1.0, 2.0))
    with pytest.raises(RecipeError, match="2 weights for 1 different entries"):
        task(folder, "aa", (1.0, 2.0))
    with pytest.raises(RecipeError, match="positive"):
        task(folder, "ab", (1.0, 0.0))
    written = {"data": ["x", "y"], "inputs": {"txt": "text"}, "target": "txt", "answer": {"candidates": "batch"}}
    built = build(Task, {**written, "metric": "accuracy", "batch": 4, "data_weights": [2, "1e-1"]}, "tasks.t")
    assert built.data_weights == (2.0, 0.1)
    with pytest.raises(RecipeError, match=r"tasks\.t: data_weights"):
        build(Task, {**written, "metric": "accuracy", "batch": 4, "data_weights": [2]}, "tasks.t")


def test_temperature_makes_shares_of_sizes(folder: Path) -> None:
    tasks = {name: task(folder, name) for name in "ab"} | {"c": task(folder, "c", sample_weight=2.0)}
    for temperature, expected in ((1.0, [20, 6, 18]), (2.0, [20**0.5, 6**0.5, 2 * 9**0.5]), (1e9, [1, 1, 2])):
        plan, data = open_data(recipe(tasks, mixing=MixingSettings(temperature=temperature)))
        weights = [task.sample_weight for task in plan.tasks.values()]
        assert weights == pytest.approx(expected)
        assert plan.mixing.temperature is None, "so that it is not applied twice"
        assert isinstance(data["a"], TaskData)
    assert weighed(recipe(tasks), {}) == recipe(tasks)
