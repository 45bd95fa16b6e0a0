"""A whole run over remote, mixed data sets: it trains as from the disk, and goes on exactly."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from tiny import losses, tiny_recipe, write_shards

from tests.shard_server import serve
from unified.config.recipe import DataSettings, MixingSettings, Recipe
from unified.train import loop


def run(recipe: Recipe, out: Path) -> list[dict[str, Any]]:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "gradient_norm" in row]


def test_remote_data_sets_train_as_local_ones(tmp_path: Path) -> None:
    plain = tiny_recipe(tmp_path, max_steps=4)
    write_shards(tmp_path / "small", samples=12, samples_per_shard=4)
    local = DataSettings(workers=0, window=20)
    remote = replace(local, workers=1, shard_cache=str(tmp_path / "cache"), shard_cache_gb=0.005)

    def over(place: str, settings: DataSettings, steps: int) -> Recipe:
        mixed = replace(plain.tasks["colour"], data=[f"{place}/data/", f"{place}/small/"], data_weights=(3.0, 1.0))
        tasks = {"colour": mixed, "hidden": replace(plain.tasks["hidden"], data=f"{place}/data/")}
        mixing = MixingSettings(temperature=2.0)
        return replace(plain, tasks=tasks, data=settings, mixing=mixing, max_steps=steps, slots=3)

    expected = run(over(str(tmp_path), local, 4), tmp_path / "local")
    with serve(tmp_path) as server:
        run(over(server.url, remote, 2), tmp_path / "remote")
        found = run(over(server.url, remote, 4), tmp_path / "remote")
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    names = [name for name in expected[-1] if name.startswith(("loss/", "epochs/"))]
    assert {"epochs/colour", "epochs/colour/0", "epochs/colour/1", "epochs/hidden", "loss/colour"} <= set(names)
    last = expected[-1]
    assert last["epochs/colour"] * 60 == last["epochs/colour/0"] * 48 + last["epochs/colour/1"] * 12 > 0
    assert last["epochs/colour/0"] * 48 / 3 == last["epochs/colour/1"] * 12
    for before, after in zip(expected, found, strict=True):
        assert {name: after.get(name) for name in names} == {name: before.get(name) for name in names}
    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
