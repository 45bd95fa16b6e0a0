"""The first steps of recipes/quickstart.yaml: five tasks with small batches, where a GPU waits for the host most."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.feeding import last_records
from benchmarks.gpu.made import write_quickstart
from benchmarks.gpu.setting import Setting
from unified.config.recipe import Recipe
from unified.core.paths import data_folder
from unified.core.schema import build, read_yaml

STEPS = 200


def measure(_part: str, setting: Setting) -> dict[str, Any]:
    """Speed, and each task's loss in its first and last record."""
    setting.free()
    records = last_records(_recipe(setting), setting.folder / "quickstart run")
    losses = [{k.removeprefix("loss/"): v for k, v in r.items() if k.startswith("loss/")} for r in records]
    last = {name: value for found in losses for name, value in found.items()}
    first = {name: value for found in losses[::-1] for name, value in found.items()}
    return {
        "steps": records[-1]["step"],
        "samples/s": records[-1]["samples_per_second"],
        "tokens/s": records[-1]["tokens_per_second"],
        "data wait": records[-1]["data_wait"],
        **{f"loss {name}": f"{first[name]:.3f} -> {last[name]:.3f}" for name in sorted(first)},
    }


def _recipe(setting: Setting) -> Recipe:
    """The recipe over the shards that are there, or that are made."""
    content = read_yaml(data_folder("recipes") / "quickstart.yaml")
    names, words = data(setting)
    for name, task in content["tasks"].items():
        task["data"] = {"names": names["ascii"], "words": [words, names["glyphs"]]}.get(name, names["glyphs"])
        if setting.tiny:
            task["batch"] = 8
    content["tasks"]["script"]["answer"]["candidates"] = names["scripts"]
    content["max_steps"] = 8 if setting.tiny else STEPS
    content["train"] |= {"save_every": STEPS, "log_every": 2 if setting.tiny else 20}
    if setting.tiny:
        content["data"]["workers"] = 0
    return build(Recipe, content, "recipes/quickstart.yaml")


def data(setting: Setting) -> tuple[dict[str, str], str]:
    """The glyphs (`ascii`, `glyphs`, names of `scripts`) and the documentation."""
    if setting.shards is not None:
        glyphs, words = setting.shards / "glyphs", setting.shards / "documentation/train"
        ascii_only, every = str(glyphs / "train/ascii-*.tar"), str(glyphs / "train/*.tar")
        return {"ascii": ascii_only, "glyphs": every, "scripts": str(glyphs / "scripts.yaml")}, str(words / "*.tar")
    made: Path = setting.folder / "quickstart shards"
    if not made.exists():
        write_quickstart(made)
    names = {"ascii": str(made / "ascii"), "glyphs": str(made / "glyphs"), "scripts": str(made / "scripts.yaml")}
    return names, str(made / "documentation")
