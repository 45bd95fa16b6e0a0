import io
import logging
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from unified.config.labels import Labels
from unified.config.recipe import DataSettings, Recipe
from unified.config.task import Answer, Task
from unified.core.errors import DataError, RecipeError
from unified.core.seed import generator
from unified.core.types import Batch, Tokens
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter
from unified.modalities.image.tokenizer import ImageSpec, ImageTokenizer
from unified.modalities.text.tokenizer import TextTokenizer
from unified.pipeline import collate as collate_module
from unified.pipeline import loader as loader_module
from unified.pipeline.loader import Report, StepLoader
from unified.pipeline.permutation import positions
from unified.pipeline.sample_cache import SampleCache
from unified.pipeline.schedule import Origin, Slot, schedule

COUNT = 50
LABELS = {"script": Labels(("latin", "greek"))}
AUGMENT = ({"kind": "affine", "degrees": 20}, {"kind": "blur"})


def png(number: int) -> bytes:
    pixels = generator(number, "picture").integers(0, 256, (12, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write(folder: Path, bad: Callable[[int], bool] | None = None) -> str:
    with ShardWriter(folder, kind="test", source="test", samples_per_shard=20) as writer:
        for number in range(COUNT):
            picture = b"\x89PNG broken" if bad and bad(number) else png(number)
            script = "greek" if number % 3 else "latin"
            writer.write(f"k{number}", {"png": picture, "txt": f"letter {number % 7}", "json": {"script": script}})
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Any]:
    spec = ImageSpec(height=8, width=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resample=2)
    return {"image": ImageTokenizer(spec, patch=4), "text": TextTokenizer.load("text", max_length=16)}


def recipe(data: str, *, steps: int = 5, batch: int = 4, **settings: Any) -> Recipe:
    plain: dict[str, Any] = {
        "data": data,
        "inputs": {"png": "image"},
        "target": "txt",
        "metric": "accuracy",
        "batch": batch,
    }
    words = Answer.of(candidates="vocabulary", read="masked")
    tasks = {
        "retrieve": Task(answer=Answer.of(candidates="batch"), augment=AUGMENT, **plain),
        "script": Task(answer=Answer.of(candidates="labels/script"), **{**plain, "target": "json.script"}),
        "words": Task(answer=words, **{**plain, "inputs": {"txt": "text"}}),
    }
    return Recipe(tasks=tasks, max_steps=steps, slots=2, data=DataSettings(**{"workers": 0, **settings}))


def flat(value: Any) -> Iterator[Tensor | str]:
    if isinstance(value, Tensor | str):
        yield value
    elif isinstance(value, Tokens):
        yield from (value.values, value.mask, value.position)
    elif isinstance(value, Batch):
        yield from [*flat(value.inputs), *flat(value.target), *value.keys]
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from flat(value[name])


def same(first: Any, second: Any) -> bool:
    a, b = list(flat(first)), list(flat(second))
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x == y
        for x, y in zip(a, b, strict=True)
    )


def same_steps(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        a[0] == b[0]
        and [s for s, _ in a[1]] == [s for s, _ in b[1]]
        and all(same(x, y) for (_, x), (_, y) in zip(a[1], b[1], strict=True))
        for a, b in zip(first, second, strict=True)
    )


def test_steps_follow_schedule_and_order(data: str, tokenizers: Any) -> None:
    plan = recipe(data)
    for number, slots, report in StepLoader(plan, tokenizers, LABELS):
        assert tuple(slot for slot, _ in slots) == schedule(plan, 0, number)
        assert report.samples == 8
        assert report.bytes > 0
        for slot, batch in slots:
            places = positions(0, slot.task, np.arange(slot.start, slot.stop), [20, 20, 10])
            assert batch.task == slot.task
            assert batch.keys == [f"k{place}" for place in places]


@pytest.mark.parametrize("changes", [{"workers": 2}, {"workers": 1, "prefetch": 1}, {"cache_mb": 1}])
def test_batches_are_the_same_however_they_are_loaded(data: str, tokenizers: Any, changes: dict[str, int]) -> None:
    plain = list(StepLoader(recipe(data, steps=20), tokenizers, LABELS))
    assert same_steps(plain, list(StepLoader(recipe(data, steps=20, **changes), tokenizers, LABELS)))


def test_large_images_are_cut_one_by_one_into_the_same_batches(
    tmp_path: Path, tokenizers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = recipe(write(tmp_path / "x", bad=lambda number: number in (3, 4, 30)), steps=20, max_bad_fraction=0.1)
    plain = list(StepLoader(plan, tokenizers, LABELS))
    monkeypatch.setattr(collate_module, "CACHE_BYTES", 0)
    loader = StepLoader(plan, tokenizers, LABELS)
    cut = [name for name, source in loader.steps.sources.items() if source.collator.rows(4)]
    assert cut == ["script"], "the others augment, or have no images"
    assert same_steps(plain, list(loader))


def test_a_later_start_gives_the_same_steps(data: str, tokenizers: Any) -> None:
    whole = list(StepLoader(recipe(data, steps=9), tokenizers, LABELS))
    resumed = StepLoader(recipe(data, steps=9, workers=1), tokenizers, LABELS, start_step=6)
    assert len(resumed) == 3
    assert same_steps(whole[6:], list(resumed))


def test_slices_of_two_ranks_make_the_batch_of_one(data: str, tokenizers: Any) -> None:
    plan = recipe(data, steps=6)
    whole = StepLoader(plan, tokenizers, LABELS, rank=0, world=1)
    parts = [StepLoader(plan, tokenizers, LABELS, rank=rank, world=2) for rank in range(2)]
    for (_, one, _), (_, first, _), (_, second, _) in zip(whole, *parts, strict=True):
        for (slot, batch), (_, left), (_, right) in zip(one, first, second, strict=True):
            assert [*left.keys, *right.keys] == list(batch.keys)
            if slot.task == "script":
                assert torch.equal(torch.cat([left.target, right.target]), batch.target)
            if slot.task != "words":
                halves = [part.inputs["image"].values for part in (left, right)]
                assert torch.equal(torch.cat(halves), batch.inputs["image"].values)
            else:
                for part, rows in ((left, slice(0, 2)), (right, slice(2, 4))):
                    length = part.target.shape[1]
                    assert torch.equal(batch.target[rows, :length], part.target)


def test_no_global_generator_is_touched(data: str, tokenizers: Any) -> None:
    before = torch.get_rng_state()
    list(StepLoader(recipe(data, workers=1), tokenizers, LABELS))
    assert torch.equal(before, torch.get_rng_state())


def test_a_schedule_that_begins_later(data: str, tokenizers: Any) -> None:
    origin = Origin(3, {"retrieve": 101})
    for _, slots, _ in StepLoader(recipe(data), tokenizers, LABELS, start_step=3, origin=origin):
        assert all(slot.start >= 101 for slot, _ in slots if slot.task == "retrieve")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_replaced_by_the_next_good_one(
    tmp_path: Path, tokenizers: Any, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "x", bad=lambda number: number in (3, 4, 30))
    loader = StepLoader(recipe(folder, steps=30, workers=workers, max_bad_fraction=0.1), tokenizers, LABELS)
    replaced = 0
    with caplog.at_level(logging.WARNING, "unified"):
        for _, slots, _ in loader:
            for slot, batch in slots:
                due = positions(0, slot.task, np.arange(slot.start, slot.stop), [20, 20, 10]).tolist()
                for key, index, place in zip(batch.keys, range(slot.start, slot.stop), due, strict=True):
                    wanted = index
                    while slot.task != "words" and place in (3, 4, 30):
                        wanted += 1
                        replaced += 1
                        place = int(positions(0, slot.task, np.array([wanted]), [20, 20, 10])[0])
                    assert key == f"k{place}"
    assert loader.bad == replaced > 0
    assert loader.seen == 240
    assert len(caplog.messages) == 3, "each bad sample is named once"
    assert "shard-00001.tar: k30: column 'png'" in " ".join(caplog.messages)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_end_the_run(tmp_path: Path, tokenizers: Any, workers: int) -> None:
    folder = write(tmp_path / "x", bad=lambda number: number % 2 == 0)
    with pytest.raises(DataError, match=r"max_bad_fraction = 0\.001") as error:
        list(StepLoader(recipe(folder, steps=50, workers=workers), tokenizers, LABELS))
    assert "column 'png'" in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reads_as_without_one(
    tmp_path: Path, tokenizers: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "ATTEMPTS", 10)
    folder = write(tmp_path / "x", bad=lambda number: number >= 0)
    with pytest.raises(DataError, match="10 samples in a row could not be used") as error:
        list(StepLoader(recipe(folder, workers=workers), tokenizers, LABELS))
    assert "Traceback" not in str(error.value)


def test_signals_of_the_group_leave_the_end_to_training(data: str, tokenizers: Any) -> None:
    steps = iter(StepLoader(recipe(data, steps=30, workers=1), tokenizers, LABELS))
    next(steps)
    (worker,) = torch.multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert len(list(steps)) == 29
    worker.join(5)
    assert not worker.is_alive()


def test_the_world_must_divide_the_batch(data: str, tokenizers: Any) -> None:
    with pytest.raises(RecipeError, match=r"tasks\.retrieve\.batch: 4 samples .* 3 processes; 3 or 6 would do"):
        StepLoader(recipe(data), tokenizers, LABELS, rank=0, world=3)


def test_waiting_long_is_logged(
    data: str, tokenizers: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = StepLoader(recipe(data, steps=1), tokenizers, LABELS, patience=0.05)
    plain = Shards.__getitem__

    def slow(shards: Shards, number: int) -> dict[str, Any]:
        torch.multiprocessing.get_context().Event().wait(0.05)
        return plain(shards, number)

    monkeypatch.setattr(Shards, "__getitem__", slow)
    with caplog.at_level(logging.WARNING, "unified"):
        list(loader)
    assert any("step 0: no batch for" in message and "shard-0000" in message for message in caplog.messages)


def test_probe_has_a_batch_of_every_task(data: str, tokenizers: Any) -> None:
    probe = StepLoader(recipe(data), tokenizers, LABELS).probe()
    assert [(slot, batch.task) for slot, batch in probe] == [
        (Slot(name, 0, 4, 0), name) for name in ("retrieve", "script", "words")
    ]


def test_digests_tell_data_apart(data: str, tokenizers: Any, tmp_path: Path) -> None:
    other = write(tmp_path / "x", bad=lambda number: number == 0)
    here, there = (StepLoader(recipe(folder), tokenizers, LABELS) for folder in (data, other))
    assert here.sizes() == {"retrieve": COUNT, "script": COUNT, "words": COUNT}
    assert here.digests()["words"] != there.digests()["words"]


def test_steps_can_be_sent_to_spawned_workers(data: str, tokenizers: Any) -> None:
    steps = StepLoader(recipe(data), tokenizers, LABELS).steps
    copy = pickle.loads(pickle.dumps(steps))
    for (_, a), (_, b) in zip(steps[2].slots, copy[2].slots, strict=True):
        assert same(a, b)


def test_the_cache_decodes_once_and_keeps_to_its_limit(data: str) -> None:
    shards = Shards.open(data)
    cache = SampleCache(12_000)
    first, size = cache.sample(shards, 5, ["png"])
    whole = sum(len(shards[5][name]) for name in ("png", "txt", "json"))
    assert size == whole
    again, nothing = cache.sample(shards, 5, ["png"])
    assert again["png"] is first["png"]
    assert nothing == 0
    more, size = cache.sample(shards, 5, ["txt", "png"])
    assert more["png"] is first["png"]
    assert size == whole
    for number in range(20):
        assert cache.sample(shards, number, ["png"])[0]["__key__"] == f"k{number}"
    assert 0 <= cache.room < 3000
    assert cache.sample(shards, 19, ["png"])[1] > 0, "there was no room for it"


def test_the_report_of_a_step_counts_time_and_bytes(data: str, tokenizers: Any) -> None:
    _, _, report = next(iter(StepLoader(recipe(data), tokenizers, LABELS)))
    assert isinstance(report, Report)
    assert report.decode_seconds > 0
    assert report.collate_seconds > 0
    assert report.bad == []
