"""A kind of answer of another package: trained, evaluated, predicted, drawn, exported and loaded by the commands."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import run
from outside.number import NUMBER
from PIL import Image

import unified
from unified.answers import ANSWERS
from unified.config.task import Answer
from unified.core import seed
from unified.core.errors import RecipeError
from unified.core.schema import build
from unified.data.shards.write import ShardWriter

SIDE = 16
QUERIES = {"depth": 1, "width": 32, "heads": 2, "hidden": 32, "doublings": 1}


def image(number: int) -> Any:
    """A grey image, and how bright it is."""
    grey = int(seed.generator("grey", number).integers(0, 256))
    return np.full((SIDE, SIDE, 3), grey, np.uint8), grey / 255


def write(folder: Path, numbers: range) -> None:
    with ShardWriter(folder, kind="test", source="test") as writer:
        for number in numbers:
            pixels, bright = image(number)
            png = BytesIO()
            Image.fromarray(pixels).save(png, "png")
            facts = {"width": SIDE, "height": SIDE, "number": bright}
            writer.write(f"{number:02d}", {"png": png.getvalue(), "json": facts})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write(tmp_path / "data", range(16))
    write(tmp_path / "held_out", range(16, 24))
    task = {"data": str(tmp_path / "data"), "inputs": {"png": "image"}, "target": "json.number", "metric": "score"}
    content = {
        "extends": "quickstart",
        "max_steps": 30,
        "slots": 1,
        "data": {"workers": 0},
        "optim": {"lr": 0.01, "warmup": 3},
        "model": {"width": 32, "depth": 1, "heads": 2, "hidden": 32, "queries": QUERIES},
        "tasks": {
            "bright": {**task, "batch": 8, "answer": {"regress": "number", "limits": [0, 1]}, "size": [SIDE, SIDE]},
            **dict.fromkeys(("names", "retrieve", "caption", "words", "script"), None),
        },
        "evaluate": [],
    }
    (tmp_path / "bright.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "bright.yaml"


def test_from_the_recipe_to_the_loaded_export(recipe: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent
    assert run(capfd, "train", str(recipe), "--out", str(folder / "run"))[0] == 0
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()[1:]]
    losses = [record["loss/bright"] for record in records if "loss/bright" in record]
    assert losses[-1] < losses[0]

    spec = {"evaluations": {"bright": {"kind": "dense", "task": "bright", "data": str(folder / "held_out"),
            "inputs": {"png": "image"}, "floor": str(folder / "data")}}}  # fmt: skip
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    status, told = run(capfd, "eval", str(folder / "run"), str(folder / "spec.yaml"), "--out", str(folder / "r.json"))
    assert status == 0, told
    assert "mean absolute error" in told
    rows = json.loads((folder / "r.json").read_text())["results"]
    assert {row["features"] for row in rows} >= {"model", "floor: mean"}

    Image.fromarray(image(3)[0]).save(folder / "grey.png")
    status, told = run(capfd, "predict", str(folder / "run"), str(folder / "grey.png"), "--out", str(folder / "told"))
    assert status == 0, told
    predicted = json.loads((folder / "told" / "predictions.json").read_text())
    assert "number" in str(predicted)
    assert list((folder / "told").glob("*.png"))

    assert run(capfd, "export", str(folder / "run"), str(folder / "out"))[0] == 0
    pixels = torch.from_numpy(np.stack([image(number)[0] for number in range(2)])).permute(0, 3, 1, 2)
    answers = []
    for place in ("run", "out"):
        model, processor = unified.load(str(folder / place))
        states = model.ask(processor(images=pixels, size=(SIDE, SIDE)), ["bright"])["bright"]
        answers.append(torch.stack([answer["number"] for answer in NUMBER.predict(states, [(SIDE, SIDE)] * 2)]))
    assert torch.equal(*answers)


def test_it_is_found_by_its_entry_point_and_has_keys_of_its_own() -> None:
    assert ANSWERS["number"] is NUMBER
    with pytest.raises(RecipeError, match=r"'bins' is not a key of NumberSettings\. There are: limits, regress"):
        build(Answer, {"regress": "number", "bins": 4}, "answer")
