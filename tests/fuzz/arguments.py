"""Command lines of all commands, with words changed, removed, doubled and added."""

import random
import sys
from pathlib import Path

from tests.commands import recipe_file
from tests.fuzz.doors import Door
from tests.fuzz.mutations import WORDS, bytes_changed
from unified.cli.main import main
from unified.cli.train import train

LINES = [
    "eval {here}/none digits --shots 0 5 --seeds 3 --out {here}/r.json",
    "predict {here}/none {here}/a.png --tasks objects --out {here}/p",
    "shards build {here}/none {here}/out --kind coco --options.held-out 0.2",
    "shards inspect {here}/data --count 3 --out {here}/sheet.png",
    "shards verify {here}/data",
    "shards index {here}/none",
    "export {here}/none {here}/out",
    "compare {here}/a.json {here}/b.json",
    "push {here}/none org/name --public",
    "report routing {here}/none --batches 2 --seed 0",
    "report interference {here}/none --layers 0 1 --linear down",
    "train {here}/a.yaml --dry-run --optim.lr 1e-3 --max-steps 20 --tasks.words.batch 4",
    "train {here}/a.yaml --dry-run --model.width 64 --data.workers 0 --seed 3",
    "tokenizer train {here}/none --out {here}/t",
    "--version",
]
FLAGS = [
    "--nope",
    "--",
    "-",
    "--out=",
    "--seed=x",
    "--batches",
    "--optim.lr",
    "nan",
    "--model",
    "--tasks.words",
    "--x=\x1b[2J",
]


class Arguments(Door):
    """What people type; all refusals end in a line that says what was wrong."""

    name = "arguments"
    inputs = 700

    def prepare(self, whole: Path) -> None:
        whole.mkdir()
        recipe_file(whole)
        train([str(whole / "a.yaml"), "--dry-run"])

    def damage(self, copy: Path, draw: random.Random) -> str:
        self.words = draw.choice(LINES).format(here=copy).split()
        for _ in range(draw.choice([1, 1, 2])):
            self.words = _changed(self.words, draw)
        return " ".join(self.words)[:200]

    def enter(self, copy: Path, draw: random.Random) -> bool:
        sys.argv = ["unified", *self.words]
        main()
        return True


def _changed(words: list[str], draw: random.Random) -> list[str]:
    at, kind = draw.randrange(len(words)), draw.randrange(5)
    if kind == 0:
        return words[:at] + words[at + 1 :] or ["x"]
    if kind == 1:
        return [*words[:at], draw.choice([*FLAGS, *WORDS]), *words[at:]]
    if kind == 2:
        return [*words[: at + 1], *words[at:]]
    if kind == 3:
        letters = bytes_changed(words[at].encode(), draw).decode(errors="ignore")
        return [*words[:at], letters.replace("\0", ""), *words[at + 1 :]]
    return [*words[:at], draw.choice([*FLAGS, *WORDS]), *words[at + 1 :]]
