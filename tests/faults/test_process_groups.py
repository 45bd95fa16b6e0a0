"""Processes of a run end without an abort, also where an error ends them."""

from pathlib import Path

import pytest
from tiny import write_recipe
from torchrun import torchrun

HERE = Path(__file__).parent
ENGINES = {
    "ddp": ["--engine.kind", "ddp"],
    "zero2": ["--engine.kind", "deepspeed", "--engine.zero", "2"],
    "zero3": ["--engine.kind", "deepspeed", "--engine.zero", "3"],
}
ENDS = {"well": ([], 0), "error": (["--optim.lr", "1e30", "--optim.warmup", "0"], 1)}


@pytest.mark.faults
@pytest.mark.distributed
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_no_thread_of_a_group_outlives_its_run(tmp_path: Path, engine: str, end: str, number: int) -> None:
    recipe = write_recipe(tmp_path, max_steps=6, seed=number, train={"log_every": 1})
    flags, status = ENDS[end]
    log = tmp_path / "output"
    code = torchrun(
        [str(HERE / "ending.py"), str(recipe), "--out", str(tmp_path / "run"), *ENGINES[engine], *flags], log, 2, 300
    )
    output = log.read_text()
    assert code == status, output[-4000:]
    assert "terminate called" not in output
    assert "SIGABRT" not in output
    for rank in range(2):
        assert f"rank {rank} ends with 0 threads of gloo" in output, output[-4000:]
    if status:
        assert "is not finite" in output, "the run ended for another reason"


@pytest.mark.faults
@pytest.mark.distributed
@pytest.mark.parametrize("number", range(10))
def test_nor_does_it_where_nothing_is_left_to_train(tmp_path: Path, number: int) -> None:
    recipe = write_recipe(tmp_path, max_steps=1, seed=number)
    for _ in range(2):
        log = tmp_path / "output"
        code = torchrun([str(HERE / "ending.py"), str(recipe), "--out", str(tmp_path / "run")], log, 2, 300)
        assert code == 0, log.read_text()[-4000:]
    assert "nothing is left to train" in log.read_text()
    assert log.read_text().count("ends with 0 threads of gloo") == 2
