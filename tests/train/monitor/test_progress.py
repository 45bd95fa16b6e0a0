"""What the line of a step says, with a clock of our own."""

import json
import logging

import pytest

from unified.train.monitor.progress import LINE, Progress, Record, duration, line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def steps(progress: Progress, clock: Clock, first: int, last: int, seconds: float = 0.5) -> None:
    for done in range(first, last + 1):
        with progress.waiting():
            clock.now += 0.1 * seconds
        clock.now += 0.9 * seconds
        task = "caption" if done % 2 else "classify"
        progress.step(
            done,
            losses={task: float(done)},
            metrics={f"{task}.accuracy": 0.5},
            lr=1e-3,
            norm=2.0,
            norms={"text": 1.5} if progress.recorded(done) else {},
            samples=100,
            tokens=3000,
            flops={task: 5 * 10**9},
            seconds={task: 0.2 * seconds if task == "caption" else 0.1 * seconds},
            seen={task: 100 * done},
        )


def test_records_speed_losses_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    clock, told = Clock(), list[Record]()
    progress = Progress(100, every=10, tell=told.append, peak=2e10, clock=clock)
    with caplog.at_level(logging.INFO, logger="unified"):
        steps(progress, clock, 1, 20)
    assert [record["step"] for record in told] == [1, 10, 20]
    record = told[2]
    assert record["loss/caption"] == (11 + 13 + 15 + 17 + 19) / 5
    assert record["loss/classify"] == (12 + 14 + 16 + 18 + 20) / 5
    assert record["samples_per_second"] == pytest.approx(200)
    assert record["tokens_per_second"] == pytest.approx(6000)
    assert record["mfu"] == pytest.approx(0.5)
    assert record["mfu/caption"] == pytest.approx(5 * 25e9 / (10 * 0.45 * 2 / 3) / 5 / 2e10)
    assert record["mfu/classify"] == pytest.approx(2 * record["mfu/caption"]), "as many operations in half the time"
    assert (record["time/caption"], record["time/classify"]) == pytest.approx((2 / 3, 1 / 3))
    assert (record["samples/caption"], record["samples/classify"]) == (1900, 2000)
    assert (record["gradient_norm"], record["gradient_norm/text"]) == (2.0, 1.5)
    assert record["memory/host_gib"] > 0.05
    assert "imbalance" not in record
    assert record["data_wait"] == pytest.approx(0.1)
    assert record["seconds_left"] == pytest.approx(40)
    assert "seconds_left" in told[0]
    assert told[0]["seconds_left"] is None
    assert json.loads(json.dumps(record)) == record
    assert caplog.messages[2] == (
        "step  20/100  caption 15.000  classify 16.000  lr 1.00e-03  200 samples/s  6.0k tokens/s  MFU 50%  "
        "data wait 10%  ETA 0:40"
    )


def test_pauses_count_for_the_end_and_not_for_the_speed() -> None:
    clock, told = Clock(), list[Record]()
    progress = Progress(21, every=10, tell=told.append, clock=clock)
    steps(progress, clock, 1, 9)
    with progress.paused():
        clock.now += 10
    steps(progress, clock, 10, 10)
    steps(progress, clock, 11, 11)
    assert told[1]["samples_per_second"] == pytest.approx(200)
    assert told[1]["seconds_left"] == pytest.approx(11 * (9 * 0.5 + 10) / 9)
    assert "mfu" not in told[1]


def test_the_last_step_is_told_and_a_resumed_run_keeps_the_intervals() -> None:
    clock, told = Clock(), list[Record]()
    steps(Progress(25, every=10, tell=told.append, start=12, clock=clock), clock, 13, 25)
    assert [record["step"] for record in told] == [20, 25]
    assert told[0]["seconds_left"] == pytest.approx(2.5)


def test_one_step_is_told_exactly() -> None:
    clock, told = Clock(), list[Record]()
    progress = Progress(2, every=1, tell=told.append, clock=clock)
    value = 0.1 + 0.2
    progress.step(
        1, losses={"a": value}, metrics={}, lr=0.1, norm=1.0, norms={}, samples=1, tokens=1, flops={"a": 1},
        seconds={"a": 1.0}, seen={"a": 1},
    )  # fmt: skip
    assert told[0]["loss/a"] == value


def test_line_leaves_out_what_is_not_known() -> None:
    record = {"step": 3, "lr": 0.1, "samples_per_second": 1.0, "tokens_per_second": 2.0, "data_wait": 0.0}
    assert "MFU" not in line({**record, "seconds_left": None}, 10)
    assert "ETA" not in line({**record, "seconds_left": None}, 10)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "0:05"), (245, "4:05"), (11045, "3:04:05"), (2 * 86400 + 61, "2d 0:01:01"), (59.6, "1:00")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ranks_that_wait_or_are_slow_are_named(caplog: pytest.LogCaptureFixture) -> None:
    clock, told = Clock(), list[Record]()

    def of_ranks(waited: float, own: float, host: float, device: float) -> list[list[float]]:
        return [[waited, own, host, device], [3 * waited, own / 2, host, device], [0.0, 3 * own, 2 * host, 8e9]]

    progress = Progress(10, every=5, tell=told.append, of_ranks=of_ranks, clock=clock)
    with caplog.at_level(logging.INFO, logger="unified"):
        steps(progress, clock, 1, 5)
    record = told[-1]
    assert (record["data_wait"], record["data_wait_rank"]) == (pytest.approx(0.3), 1)
    assert (record["imbalance"], record["slowest_rank"]) == (pytest.approx(2.0), 2)
    assert record["memory/device_gib"] == pytest.approx(8e9 / 2**30)
    assert "data wait 30% (rank 1)  rank 2 takes 2.0x the mean" in caplog.messages[-1]


def test_a_line_has_room_for_so_many_losses(caplog: pytest.LogCaptureFixture) -> None:
    record = {f"loss/caption_of_{number}": 2.5 for number in range(30)}
    record |= {"step": 7, "lr": 1e-3, "samples_per_second": 5.0, "tokens_per_second": 9.0}
    text = line(record | {"data_wait": 0.0, "seconds_left": 70.0}, 1000)
    assert len(text) <= LINE
    assert "caption_of_0 2.500  caption_of_1 2.500" in text
    assert " more)  lr 1.00e-03" in text
