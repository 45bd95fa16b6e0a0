import json
from collections import Counter

import pytest

from unified.config.recipe import Recipe
from unified.config.task import Answer, Task
from unified.core.errors import RecipeError
from unified.pipeline.schedule import (
    Origin,
    Slot,
    block_quotas,
    count,
    record,
    resume,
    samples_before,
    schedule,
)


def recipe(weights: dict[str, float], slots: int, batch: int = 4) -> Recipe:
    tasks = {
        name: Task(
            data="x",
            inputs={"png": "image"},
            target="txt",
            answer=Answer.of(candidates="batch"),
            metric="r1",
            batch=batch,
            sample_weight=weight,
        )
        for name, weight in weights.items()
    }
    return Recipe(tasks=tasks, max_steps=10, slots=slots)


MIXED = {"a": 3.0, "b": 1.0, "c": 1.37, "d": 0.2, "e": 2.0}


def test_a_block_holds_the_quotas() -> None:
    mixed = recipe(MIXED, slots=3)
    quotas = block_quotas(mixed)
    steps = sum(quotas) // 3
    for block in (0, 1, 7):
        seen = Counter(
            slot.task for step in range(block * steps, (block + 1) * steps) for slot in schedule(mixed, 5, step)
        )
        assert [seen[name] for name in MIXED] == list(quotas)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_offsets_are_contiguous(slots: int) -> None:
    mixed = recipe(MIXED, slots)
    ends = dict.fromkeys(MIXED, 0)
    for step in range(700):
        assert samples_before(mixed, 1, step) == ends
        slots_now = schedule(mixed, 1, step)
        assert [slot.ordinal for slot in slots_now] == list(range(slots))
        for slot in slots_now:
            assert slot.start == ends[slot.task]
            assert len(slot) == 4
            ends[slot.task] = slot.stop


def test_a_step_does_not_depend_on_those_asked_before() -> None:
    mixed = recipe(MIXED, slots=2)
    forwards = [schedule(mixed, 3, step) for step in range(50)]
    assert [schedule(mixed, 3, step) for step in reversed(range(50))] == forwards[::-1]


def test_twice_the_weight_is_seen_twice_as_often() -> None:
    double = recipe({"a": 2.0, "b": 1.0, "c": 1.0}, slots=2)
    seen = samples_before(double, 0, 1000)
    assert seen["a"] == pytest.approx(2 * seen["b"], abs=8)
    assert seen["b"] == pytest.approx(seen["c"], abs=4)


def test_slots_of_a_step_are_of_different_tasks_where_weights_allow() -> None:
    for weights in ({"a": 2.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.9, "c": 0.05, "d": 0.05}):
        for seed in range(5):
            for step in range(100):
                tasks = [slot.task for slot in schedule(recipe(weights, slots=2), seed, step)]
                assert len(set(tasks)) == 2, (weights, seed, step)


def test_a_heavy_task_fills_several_slots_evenly() -> None:
    heavy = recipe({"a": 3.0, "b": 1.0}, slots=2)
    counts = [sum(slot.task == "a" for slot in schedule(heavy, 0, step)) for step in range(100)]
    assert set(counts) == {1, 2}
    assert sum(counts) == 150


def test_a_task_is_spread_over_its_block() -> None:
    """Slots so far never leave the share of the weights by more than two, at any step and for any seed."""
    mixed = recipe(MIXED, slots=3)
    total = sum(MIXED.values())
    for seed in range(4):
        for step in range(0, 400, 7):
            for name, weight in MIXED.items():
                assert abs(count(mixed, seed, name, step) - 3 * step * weight / total) < 2.5


def test_a_rare_task_still_comes_and_a_weight_of_zero_does_not() -> None:
    rare = recipe({"a": 1.0, "b": 1e-6, "c": 0.0}, slots=1)
    quotas = block_quotas(rare)
    assert quotas[1:] == (1, 0)
    assert sum(quotas) == 1024


def test_seeds_differ() -> None:
    mixed = recipe(MIXED, slots=2)
    assert [schedule(mixed, 0, s) for s in range(20)] != [schedule(mixed, 1, s) for s in range(20)]


def test_a_late_step_needs_no_replay() -> None:
    slot = schedule(recipe(MIXED, slots=2), 0, 10**12)[0]
    assert slot.start > 10**11


def test_changed_weights_go_on_where_each_task_was() -> None:
    before = recipe({"a": 1.0, "b": 1.0}, slots=2)
    after = recipe({"a": 1.0, "c": 2.0}, slots=1, batch=8)
    kept = json.loads(json.dumps(record(before, 0, 10)))
    assert kept["samples"] == {"a": 40, "b": 40}
    assert resume(before, 0, 10, kept) == Origin()
    origin = resume(after, 0, 10, kept)
    assert origin == Origin(10, {"a": 40, "b": 40})
    starts = {}
    for step in range(10, 20):
        for slot in schedule(after, 0, step, origin):
            starts.setdefault(slot.task, slot.start)
    assert starts == {"a": 40, "c": 0}
    assert samples_before(after, 0, 13, origin)["b"] == 40
    again = json.loads(json.dumps(record(after, 0, 13, origin)))
    assert resume(after, 0, 13, again) == origin
    with pytest.raises(ValueError, match="before step 10"):
        schedule(after, 0, 9, origin)


def test_a_newer_record_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected a format up to 1, got 2"):
        resume(recipe(MIXED, 1), 0, 3, {"format": 2})


@pytest.mark.parametrize(("weights", "slots"), [({"a": -1.0}, 1), ({"a": 0.0}, 1), ({"a": 1.0}, 0)])
def test_senseless_weights_are_errors(weights: dict[str, float], slots: int) -> None:
    with pytest.raises(RecipeError):
        schedule(recipe(weights, slots), 0, 0)


def test_slot_has_the_length_of_the_batch() -> None:
    assert schedule(recipe({"a": 1.0}, slots=2, batch=6), 0, 3) == (Slot("a", 36, 42, 0), Slot("a", 42, 48, 1))
