"""Folders of runs: checkpoints and records, read by resuming, exporting and evaluating."""

import json
import random
from pathlib import Path

import torch

import unified
from tests.commands import recipe_file
from tests.fuzz.doors import Door, files
from tests.fuzz.mutations import damage_bytes, damage_json, damage_yaml
from unified.cli.main import call
from unified.cli.train import train

STEPS = 4


class Runs(Door):
    """A run of two of four steps; whatever is damaged, what goes on has the losses of an undamaged run."""

    name = "runs"
    inputs = 300

    def prepare(self, whole: Path) -> None:
        whole.mkdir()
        self.recipe = recipe_file(whole.parent, train={"log_every": 1, "save_every": 1, "keep_last": 2})
        train([str(self.recipe), "--out", str(whole / "run"), "--max-steps", "2"])
        train([str(self.recipe), "--out", str(whole.parent / "right"), "--max-steps", str(STEPS)])
        self.right = losses(whole.parent / "right")
        assert len(self.right) == STEPS
        call(["export", str(whole / "run"), str(whole.parent / "exported")], "")
        steps = sorted((whole / "run" / "checkpoints").glob("step_*"))
        assert len(steps) == 2
        self.weights = [unified.load(step)[0].state_dict() for step in steps]

    def damage(self, copy: Path, draw: random.Random) -> str:
        path = draw.choice(files(copy))
        how = {".json": damage_json, ".yaml": damage_yaml}.get(path.suffix, damage_bytes)
        return f"{path.relative_to(copy)}: {how(path, draw)}"

    def enter(self, copy: Path, draw: random.Random) -> bool:
        how = draw.randrange(4)
        if how == 0:
            call(["export", str(copy / "run"), str(copy / "out")], "")
            return (copy / "out" / "config.json").exists()
        if how == 1:
            loaded = unified.load(copy / "run")[0].state_dict()
            return any(all(torch.equal(loaded[name], one[name]) for name in one) for one in self.weights)
        train([str(self.recipe), "--out", str(copy / "run"), "--max-steps", str(STEPS)])
        found = losses(copy / "run")
        return {step: loss for step, loss in found.items() if step > 2} == {
            s: self.right[s] for s in self.right if s > 2
        }


def losses(run: Path) -> dict[int, float]:
    """The loss of each step by a run's own records."""
    found = {}
    for line in (run / "metrics.jsonl").read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
            found[record["step"]] = record["loss/words"]
        except (ValueError, KeyError, TypeError):
            continue
    return found
