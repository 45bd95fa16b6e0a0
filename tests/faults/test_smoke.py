"""One run that is killed and hangs, in the default run of the tests; all other faults are in test_faults.py."""

import re
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from tiny import losses, write_recipe

from tests.faults.launching import launch
from unified.config.recipe import Recipe
from unified.core.schema import build, read_yaml
from unified.train.loop import run


@pytest.mark.distributed
def test_a_run_that_is_killed_and_hangs_is_restarted_and_tells_the_same_losses(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, max_steps=6, train={"log_every": 1, "save_every": 2, "hang_seconds": 6})
    whole, out = tmp_path / "whole", tmp_path / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    run(build(Recipe, read_yaml(recipe), "tiny.yaml"), whole)
    ended = launch("kill:3:1,hang:5:0", str(recipe), "--out", str(out), out=out, restarts=2)
    assert ended.code == 0, ended.output[-4000:]
    for one, two in zip(losses(whole), losses(out), strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    for rank in range(2):
        told = rf"rank {rank}, process .* no progress for 6 s \(train\.hang_seconds\) in step 5, tasks .*, phase: \w+"
        assert re.search(told, ended.output), ended.output[-6000:]
        assert re.search(told, (out / "log.txt").read_text())


@pytest.mark.distributed
def test_three_runs_follow_one_another_in_the_same_processes(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, max_steps=2, train={"log_every": 1, "save_every": 2})
    out = [tmp_path / name for name in ("first", "second", "third")]
    command = [word for folder in out for word in (str(recipe), "--out", str(folder), "--")]
    ended = launch("none", *command[:-1], out=out[0])
    assert ended.code == 0, ended.output[-4000:]
    assert losses(out[0]) == losses(out[1]) == losses(out[2])
