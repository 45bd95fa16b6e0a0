"""Samples of one identity come together: which, in what order, over ranks, workers and resumed runs."""

import json
import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.test_loader import png, same_steps
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.core.errors import DataError, RecipeError
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.pipeline.grouped import Together, identities_of
from unified.pipeline.loader import StepLoader
from unified.pipeline.permutation import positions
from unified.train.validate import check_task

COUNTS = {"ann": 1, "bob": 2, "cy": 4, "dee": 6, "eve": 9, "flo": 1, "gus": 17}
WHO = [name for name, count in COUNTS.items() for _ in range(count)]
NUMBERS = np.random.default_rng(0).permutation(np.array([list(COUNTS).index(name) for name in WHO])).astype(np.uint64)


def runs(who: list[Any]) -> list[tuple[Any, int]]:
    """What follows one another, with how often."""
    found: list[tuple[Any, int]] = []
    for one in who:
        if found and found[-1][0] == one:
            found[-1] = (one, found[-1][1] + 1)
        else:
            found.append((one, 1))
    return found


@pytest.mark.parametrize("most", [2, 4, 5])
@pytest.mark.parametrize("epoch", [0, 1, 10**9])
def test_an_epoch_has_every_sample_once_in_groups_of_one_identity(most: int, epoch: int) -> None:
    total = len(NUMBERS)
    found = Together(3, "a", NUMBERS, most).positions(np.arange(total) + epoch * total)
    assert sorted(found) == list(range(total))
    of_who: dict[int, list[int]] = {}
    for who, length in runs(NUMBERS[found].tolist()):
        of_who.setdefault(who, []).append(length)
    for who, count in enumerate(COUNTS.values()):
        groups = -(-count // most)
        assert sum(of_who[who]) == count
        assert len(of_who[who]) <= groups, "fewer where two groups of an identity follow one another"
        assert min(of_who[who]) >= count // groups


def test_groups_are_as_equal_as_can_be() -> None:
    numbers = np.array([1] * 6 + [2] * 7, dtype=np.uint64)
    orders = [Together(seed, "a", numbers, 4).positions(np.arange(13)) for seed in range(40)]
    apart = {tuple(sorted(length for _, length in runs(numbers[order].tolist()))) for order in orders}
    assert (3, 3, 3, 4) in apart


def test_orders_differ_by_seed_task_and_epoch_and_members_change() -> None:
    total = len(NUMBERS)
    first = Together(0, "a", NUMBERS, 4)
    orders = [
        first.positions(np.arange(total)),
        first.positions(np.arange(total) + total),
        Together(1, "a", NUMBERS, 4).positions(np.arange(total)),
        Together(0, "b", NUMBERS, 4).positions(np.arange(total)),
    ]
    assert len({tuple(order) for order in orders}) == 4
    gus = np.uint64(list(COUNTS).index("gus"))
    companions = [{frozenset(group) for group in _groups(order, gus)} for order in orders]
    assert companions[0] != companions[1]


def _groups(order: Any, who: np.uint64) -> list[list[int]]:
    found, last = [], None
    for place in order.tolist():
        if NUMBERS[place] == who:
            if last != who:
                found.append([])
            found[-1].append(place)
        last = NUMBERS[place]
    return found


def test_any_index_is_found_without_those_before_it() -> None:
    indices = np.array([500, 3, 41, 3, 10**12, 79])
    one_by_one = [int(Together(0, "a", NUMBERS, 4).positions(np.array([index]))[0]) for index in indices]
    assert Together(0, "a", NUMBERS, 4).positions(indices).tolist() == one_by_one


def test_every_sample_comes_first_equally_often_within_its_identity() -> None:
    numbers = np.zeros(8, dtype=np.uint64)
    first = Together(0, "a", numbers, 4).positions(np.arange(2000) * 8)
    counts = np.bincount(first, minlength=8)
    assert ((counts - 250) ** 2 / 250).sum() < 24.3  # χ² of 8 cells, 99.9 % quantile


# shards


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    with ShardWriter(folder, kind="test", source="test", samples_per_shard=15) as writer:
        for number, who in enumerate(NUMBERS.tolist()):
            facts = {"width": 12, "height": 12, "identity": list(COUNTS)[who]}
            writer.write(f"k{number}", {"png": png(number), "json": facts})
    (folder / "who.txt").write_text("".join(f"{name}\n" for name in COUNTS))
    return folder


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    spec = ImageSpec(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resample=2)
    return {"image": ImageTokenizer(spec, patch=4)}


def recipe(data: Path, together: int = 4, **settings: Any) -> Recipe:
    answer = Answer.of(regress="identity", queries=2, identities=str(data / "who.txt"))
    task = Task(
        str(data), {"png": "image"}, "json.identity", answer, "score", batch=8, together=together,
        augment=({"kind": "flip"},),
    )  # fmt: skip
    return Recipe(tasks={"who": task}, max_steps=10, slots=1, data=DataSettings(**{"workers": 0, **settings}))


def places(loader: StepLoader) -> list[int]:
    return [int(name[1:]) for _, slots, _ in loader for _, batch in slots for name in batch.keys]


def test_batches_have_groups(data: Path, tokenizers: Any) -> None:
    loader = StepLoader(recipe(data), tokenizers, {})
    found = places(loader)
    order = Together(0, "who", identities_of(Shards.open(data)), 4)
    assert found == order.positions(np.arange(80)).tolist()
    assert sorted(found[:40]) == list(range(40))
    pairs = [NUMBERS[a] == NUMBERS[b] for a, b in pairwise(found)]
    assert sum(pairs) > 40, "of 80 samples, those of 40 are followed by one of their identity"
    assert loader.epochs(5) == {"epochs/who": 1.0}


@pytest.mark.parametrize("together", [1, 4])
def test_resumed_runs_workers_and_ranks_see_the_same(data: Path, tokenizers: Any, together: int) -> None:
    plan = recipe(data, together)
    whole = list(StepLoader(plan, tokenizers, {}))
    assert same_steps(whole[4:], list(StepLoader(plan, tokenizers, {}, start_step=4)))
    assert same_steps(whole, list(StepLoader(recipe(data, together, workers=2), tokenizers, {})))
    ranks = [list(StepLoader(plan, tokenizers, {}, rank=rank, world=2)) for rank in range(2)]
    for step, (_, ((_, batch),), _) in enumerate(whole):
        halves = [ranks[rank][step][1][0][1] for rank in range(2)]
        assert batch.keys == [*halves[0].keys, *halves[1].keys]
        for half, rows in zip(halves, (slice(0, 4), slice(4, 8)), strict=True):
            assert half.target["identity"].tolist() == batch.target["identity"][rows].tolist()


def test_without_it_the_order_is_as_it_was(data: Path, tokenizers: Any) -> None:
    loader = StepLoader(recipe(data, 1), tokenizers, {})
    assert places(loader) == positions(0, "who", np.arange(80), [15, 15, 10]).tolist()


def test_a_window_does_not_apply(data: Path, tokenizers: Any) -> None:
    assert places(StepLoader(recipe(data, window=5), tokenizers, {})) == places(
        StepLoader(recipe(data), tokenizers, {})
    )


def test_identities_are_read_once_and_kept(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in data.glob("*.ids"):
        path.unlink()
    with caplog.at_level(logging.INFO):
        first = identities_of(Shards.open(data))
    assert "read the identities of 15 samples, kept as shard-00000.tar.ids" in caplog.text
    assert len(np.unique(first)) == 7
    assert len({*zip(first.tolist(), NUMBERS.tolist(), strict=True)}) == 7, "the same in all shards"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert (identities_of(Shards.open(data)) == first).all()
    assert not caplog.text


def test_what_was_kept_of_another_tar_is_read_anew(data: Path) -> None:
    expected = identities_of(Shards.open(data))
    kept = data / "shard-00000.tar.ids"
    good = kept.read_bytes()
    for wrong in (b"", good[:-8], good[:20] + bytes(32) + good[52:], b"UNIFIDX" + good[7:]):
        kept.write_bytes(wrong)
        assert (identities_of(Shards.open(data)) == expected).all()
        assert kept.read_bytes() == good


def test_where_nothing_can_be_kept(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected, kept = identities_of(Shards.open(data)), data / "shard-00000.tar.ids"
    kept.unlink()
    kept.mkdir()
    with caplog.at_level(logging.INFO):
        assert (identities_of(Shards.open(data)) == expected).all()
    kept.rmdir()
    assert "kept as in memory only" not in caplog.text
    assert "in memory only" in caplog.text
    assert not list(data.glob("*.partial"))


def test_samples_without_identity_stand_alone(tmp_path: Path) -> None:
    facts: list[Any] = [{"identity": "a"}, {}, {"identity": 3}, {"identity": "a"}, b"{broken", ["identity"]]
    with ShardWriter(tmp_path / "s", kind="test", source="test") as writer:
        for number, said in enumerate(facts):
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            writer.write(f"k{number}", {"json": content})
        writer.write("k9", {"png": b"no facts"})
    found = identities_of(Shards.open(tmp_path / "s"))
    assert found[0] == found[3]
    assert len(np.unique(found)) == 6


def test_shards_without_the_column_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", kind="test", source="test") as writer:
        writer.write("k", {"png": b"x", "txt": "a"})
    with pytest.raises(
        DataError, match=r"`together` needs json\.identity, found the columns png, txt; build the shards"
    ):
        identities_of(Shards.open(tmp_path / "s"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "json.attributes"}, r"together: for tasks whose target is json\.identity, found 'json.attributes'"),
        ({"together": 0}, "expected 1 to 4, half of the batch"),
        ({"together": 5}, "expected 1 to 4, half of the batch.* found 5"),
        ({"data": ("a", "b"), "data_weights": (1, 2)}, "data sets that are mixed part what belongs together"),
    ],
)
def test_tasks_that_cannot_have_it_are_refused(data: Path, changes: dict[str, Any], message: str) -> None:
    task = recipe(data).tasks["who"]
    check_task("who", task)
    with pytest.raises(RecipeError, match=rf"tasks\.who\.{'' if 'together' in message else 'together: '}.*{message}"):
        check_task("who", replace(task, **changes))
