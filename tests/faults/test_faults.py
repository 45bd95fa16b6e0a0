"""Faults of whole runs on two processes: each ends with a clear word, and the same command goes on exactly."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import losses, recipe_content, write_shards

from tests.faults.launching import Ended, launch
from unified import checkpoint
from unified.core.seed import generator
from unified.train.faults.watchdog import STATUS

pytestmark = [pytest.mark.faults, pytest.mark.distributed]
STEPS = 12
EXPERTS = {
    "dense": None,
    "attribute": {"count": 4, "top": 2, "router": "attribute"},
    "token": {"count": 4, "top": 2, "router": "token", "balance": 1.0, "z_loss": 0.1, "bias_rate": 0.01},
}
KILLED = (
    *("ddp/dense", "zero1/dense", "zero2/attribute", "zero3/dense", "ddp/token"),
    *("zero1/token", "zero2/dense", "zero3/attribute", "ddp/dense", "parts/token"),
)
"""Engine and model by seed; `parts`: ZeRO-2 with experts in parts, and checkpoints written beside training."""
PARTS = "--engine.kind deepspeed --engine.zero 2 --engine.expert-parallel 2 --train.async-save"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a recipe a model, and settings of ZeRO-3 that split a model as small as these."""
    folder = tmp_path_factory.mktemp("faults")
    write_shards(folder / "data", samples_per_shard=6)
    for name, experts in EXPERTS.items():
        write(folder, name, experts)
    settings = "zero_optimization:\n  stage: 3\n  stage3_param_persistence_threshold: 40\n"
    (folder / "zero3.yaml").write_text(settings)
    return folder


def write(folder: Path, name: str, experts: Any = None, **data: Any) -> Path:
    content = recipe_content(folder / "data", folder / "colours.yaml", max_steps=STEPS)
    content["train"] = {"log_every": 1, "save_every": 4, "keep_last": 2, "hang_seconds": 60}
    content["model"] |= {"experts": experts, "layer_scale": None}
    content["data"] |= data
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def arguments(folder: Path, case: str, out: Path, *flags: str) -> list[str]:
    """The command line of an engine and a model, `ddp/dense`."""
    engine, model = case.split("/")
    chosen = {
        "ddp": ["--engine.kind", "ddp"],
        "parts": PARTS.split(),
        "zero3": ["--engine.kind", "deepspeed", "--engine.deepspeed", str(folder / "zero3.yaml")],
    }.get(engine, ["--engine.kind", "deepspeed", "--engine.zero", engine[-1]])
    return [str(folder / f"{model}.yaml"), "--out", str(out), *chosen, *flags]


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The losses of runs that nothing interrupts, one after the other in the same processes."""
    found, command = {}, []
    for case in sorted(set(KILLED)):
        out = folder / f"whole_{case.replace('/', '_')}"
        command += [*arguments(folder, case, out), "--"]
        found[case] = out
    ended = launch("none", *command[:-1], out=out)
    assert ended.code == 0, ended.output[-4000:]
    assert all([row["step"] for row in losses(out)] == list(range(1, STEPS + 1)) for out in found.values())
    return {case: losses(out) for case, out in found.items()}


def goes_on(folder: Path, case: str, out: Path, *flags: str) -> Ended:
    """The same command again, to the end."""
    ended = launch("none", *arguments(folder, case, out, *flags), out=out)
    assert ended.code == 0, ended.output[-4000:]
    return ended


@pytest.mark.parametrize("seed", range(10))
def test_a_run_goes_on_exactly_after_kill_9_of_one_rank(
    folder: Path, whole: dict[str, list[dict[str, float]]], seed: int
) -> None:
    case, out = KILLED[seed], folder / f"killed{seed}"
    draw = generator("kill -9", seed)
    step, rank = int(draw.integers(2, STEPS)), int(draw.integers(2))
    ended = launch(f"kill:{step}:{rank}", *arguments(folder, case, out), out=out)
    assert ended.code != 0, ended.output[-4000:]
    assert "Signal 9 (SIGKILL)" in ended.output
    assert [row["step"] for row in losses(out)][-1:] != [STEPS], "the run was killed too late to show anything"
    goes_on(folder, case, out)
    assert losses(out) == whole[case]


@pytest.mark.parametrize("milliseconds", [0, 10, 30])
def test_a_run_goes_on_exactly_after_kill_9_while_a_checkpoint_is_written(
    folder: Path, whole: dict[str, list[dict[str, float]]], milliseconds: int
) -> None:
    out = folder / f"saving{milliseconds}"
    ended = launch(f"kill_saving:8:{milliseconds}", *arguments(folder, "zero2/dense", out), out=out)
    assert ended.code != 0, ended.output[-4000:]
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None
    assert found.name in (("step_00000004",) if milliseconds == 0 else ("step_00000004", "step_00000008"))
    goes_on(folder, "zero2/dense", out)
    assert losses(out) == whole["zero2/dense"]
    assert [path.name for path in (out / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(("fault", "code"), [("notice", 0), ("notice_all", 1)])
def test_sigterm_saves_at_the_end_of_the_step_and_the_run_goes_on_exactly(
    folder: Path, whole: dict[str, list[dict[str, float]]], fault: str, code: int
) -> None:
    out = folder / fault
    ended = launch(f"{fault}:6:1", *arguments(folder, "zero1/dense", out), out=out)
    assert ended.code == code, ended.output[-4000:]  # torchrun itself ends with 1 where it was asked to end
    assert "stopped after step" in ended.output
    assert "exitcode" not in ended.output, "a process did not end by itself within the 30 seconds of its notice"
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None
    assert 6 <= checkpoint.load(found, groups=()).step == losses(out)[-1]["step"] < STEPS
    goes_on(folder, "zero1/dense", out)
    assert losses(out) == whole["zero1/dense"]


def test_torchrun_restarts_a_run_that_is_killed_and_one_that_hangs(
    folder: Path, whole: dict[str, list[dict[str, float]]]
) -> None:
    out = folder / "restarted"
    flags = ("--data.workers", "1", "--train.hang-seconds", "20")
    ended = launch("kill:6:0,hang:10:1", *arguments(folder, "zero3/dense", out, *flags), out=out, restarts=2)
    assert ended.code == 0, ended.output[-4000:]
    assert losses(out) == whole["zero3/dense"]
    log = (out / "log.txt").read_text()
    for text in (ended.output, log):
        for rank in range(2):
            told = re.search(
                rf"rank {rank}, process .*\(train\.hang_seconds\) in step 10, tasks (.*), phase: (\w+)", text
            )
            assert told, text[-6000:]
            assert all(task in ("retrieve", "colour", "caption", "hidden", "next") for task in told[1].split(", "))
    stuck = ended.output.split("rank 1, process")[1]
    assert 'worker.py", line' in stuck
    assert "in <lambda>" in stuck
    assert log.count("continuing ") == 2


def test_a_slow_rank_is_waited_for(folder: Path, whole: dict[str, list[dict[str, float]]]) -> None:
    out = folder / "slow"
    ended = launch("slow:5:1", *arguments(folder, "zero2/dense", out, "--train.hang-seconds", "30"), out=out)
    assert ended.code == 0, ended.output[-4000:]
    assert losses(out) == whole["zero2/dense"]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_rank_whose_shards_vanish_ends_all_with_a_word(
    folder: Path, whole: dict[str, list[dict[str, float]]], workers: str
) -> None:
    own = folder / f"vanish{workers}"
    shutil.copytree(folder / "data", own / "data")
    write(own, "dense")
    out = own / "run"
    ended = launch("vanish:7:1", *arguments(own, "ddp/dense", out, "--data.workers", workers), out=out)
    assert ended.code != 0
    word = r"step \d+: \[Errno 2\] No such file or directory: '/.*\.tar'\. Make that readable again"
    # Both ranks read from this disk: whichever misses a shard first tells the other.
    assert len(re.findall(rf"error: (?:rank \d: )?{word}", ended.output)) == 2, ended.output[-4000:]
    assert re.search(rf"ERROR the run ends: (?:rank \d: )?{word}", (out / "log.txt").read_text())
    shutil.copytree(folder / "data", own / "data", dirs_exist_ok=True)
    goes_on(own, "ddp/dense", out)
    assert losses(out) == whole["ddp/dense"]


def test_bad_samples_are_replaced_counted_and_capped_over_all_ranks(folder: Path) -> None:
    other = folder / "bad"
    shutil.copytree(folder / "data", other / "data")
    for shard in sorted((other / "data").glob("*.tar"))[:2]:  # pictures alone: their headers are no longer PNG's
        shard.write_bytes(shard.read_bytes().replace(b"\x89PNG\r\n", b"\x00BAD\r\n"))
    write(other, "dense", max_bad_fraction=1.0)
    curves, counts = [], []
    for processes in (1, 2):
        out = other / f"on{processes}"
        ended = launch("none", str(other / "dense.yaml"), "--out", str(out), out=out, processes=processes)
        assert ended.code == 0, ended.output[-4000:]
        found = checkpoint.newest(out / "checkpoints")
        assert found is not None
        state = checkpoint.load(found, groups=()).state
        counts.append((state["bad_samples"], state["seen_samples"]))
        curves.append(losses(out))
    assert counts[0] == counts[1]
    assert counts[0][0] > 10
    for one, two in zip(*curves, strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    out = other / "capped"
    flags = ("--data.max-bad-fraction", "0.002")
    ended = launch("none", str(other / "dense.yaml"), "--out", str(out), *flags, out=out)
    assert ended.code != 0
    assert ended.output.count("more than data.max_bad_fraction = 0.002 allows") >= 2, "both ranks say so"


def test_a_full_disk_ends_the_run_and_keeps_its_checkpoints(
    folder: Path, whole: dict[str, list[dict[str, float]]]
) -> None:
    out = folder / "full"
    ended = launch("full_disk:7:0", *arguments(folder, "zero2/dense", out), out=out)
    assert ended.code != 0
    assert re.search(r"error: .*step_00000008: could not be written: .*File too large", ended.output), ended.output[
        -4000:
    ]
    assert "Make room on the disk" in ended.output
    found = checkpoint.newest(out / "checkpoints")
    assert found is not None
    assert found.name == "step_00000004"
    goes_on(folder, "zero2/dense", out)
    assert losses(out) == whole["zero2/dense"]


@pytest.mark.parametrize(("fault", "what"), [("not_finite", "loss"), ("steep", "gradient")])
def test_a_step_that_is_not_finite_stops_the_run_or_is_passed_over(
    folder: Path, whole: dict[str, list[dict[str, float]]], fault: str, what: str
) -> None:
    out = folder / fault
    ended = launch(f"{fault}:7:1", *arguments(folder, "zero2/dense", out), out=out)
    assert ended.code != 0
    word = rf"step 7: the {what} is not finite\. task '\w+', samples \[.*--train\.skip-steps passes over steps"
    assert len(re.findall(rf"error: {word}", ended.output)) == 2, ended.output[-4000:]
    assert re.search(rf"ERROR the run ends: {word}", (out / "log.txt").read_text())
    goes_on(folder, "zero2/dense", out, "--train.skip-steps", "7")
    assert losses(out)[:6] == whole["zero2/dense"][:6]
    assert [row["step"] for row in losses(out)] == [step for step in range(1, STEPS + 1) if step != 7]


def test_a_skipped_step_is_counted_and_a_run_that_goes_on_has_the_same_rates(folder: Path) -> None:
    flags = ("--train.non-finite", "skip")
    runs = []
    for name, faults in (("skipped", "not_finite:3:1"), ("skipped_and_killed", "not_finite:3:1,kill:6:0")):
        out = folder / name
        ended = launch(faults, *arguments(folder, "zero3/attribute", out, *flags), out=out, restarts=1)
        assert ended.code == 0, ended.output[-4000:]
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        runs.append([(r["step"], r["lr"], r.get("skipped_steps")) for r in records if "lr" in r])
        assert "step 3: the loss is not finite" in (out / "log.txt").read_text()
    assert runs[0] == runs[1]
    assert [skipped for *_, skipped in runs[0]] == [None] * 2 + [1] * (STEPS - 2)
    assert losses(folder / "skipped") == losses(folder / "skipped_and_killed")


def test_a_hang_without_restarts_ends_with_the_status_of_the_watchdog(folder: Path) -> None:
    out = folder / "hung"
    ended = launch("hang:3:0", *arguments(folder, "ddp/dense", out, "--train.hang-seconds", "5"), out=out)
    assert f"exitcode  : {STATUS}" in ended.output
    assert "rank 0, process" in ended.output
    assert "rank 1, process" in ended.output
