"""Files of YAML: recipes of training, in a dry run, and specs of evaluations."""

import random
from pathlib import Path

import yaml

from tests.commands import recipe_file
from tests.fuzz.doors import Door
from tests.fuzz.mutations import damage_yaml
from unified.cli.train import train
from unified.core.paths import data_folder
from unified.evaluate.spec import load_spec

SPEC = {
    "labels": {
        "kind": "classification",
        "data": ["a", "b"],
        "inputs": {"png": "image"},
        "labels": "labels/digits",
        "train_share": 0.5,
        "probes": ["knn"],
        "limit": 10,
    },
    "pairs": {"kind": "retrieval", "data": "a", "ks": [1, 5]},
    "words": {"kind": "masked", "data": "a"},
}


class Recipes(Door):
    """A recipe with all its parts; whatever is damaged, a dry run ends well or in a line."""

    name = "recipes"
    inputs = 700

    def prepare(self, whole: Path) -> None:
        whole.mkdir()
        recipe_file(whole)
        content = yaml.safe_load((whole / "a.yaml").read_text())
        more = yaml.safe_load((data_folder("recipes") / "quickstart.yaml").read_text())
        content |= {key: more[key] for key in ("optim",) if key in more}
        content["model"]["experts"] = {"count": 3, "top": 2, "router": "attribute"}
        content["train"] = {"log_every": 1, "save_every": 2}
        (whole / "a.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        train([str(whole / "a.yaml"), "--dry-run"])

    def damage(self, copy: Path, draw: random.Random) -> str:
        return damage_yaml(copy / "a.yaml", draw)

    def enter(self, copy: Path, draw: random.Random) -> bool:
        train([str(copy / "a.yaml"), "--dry-run", "--out", str(copy / "run")])
        return not (copy / "run").exists()


class Specs(Door):
    """A spec of evaluations of several kinds."""

    name = "specs"
    inputs = 400

    def prepare(self, whole: Path) -> None:
        whole.mkdir()
        (whole / "a.yaml").write_text(yaml.safe_dump({"evaluations": SPEC}))
        assert len(load_spec(whole / "a.yaml").evaluations) == len(SPEC)

    def damage(self, copy: Path, draw: random.Random) -> str:
        return damage_yaml(copy / "a.yaml", draw)

    def enter(self, copy: Path, draw: random.Random) -> bool:
        return bool(load_spec(copy / "a.yaml").evaluations)
