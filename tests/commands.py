"""Commands run in this process, and the small recipe that tests of the command line write."""

import sys
from pathlib import Path

import pytest
import yaml

from unified.cli.main import main
from unified.core.log import logger
from unified.data.shards.write import ShardWriter

RECIPE = {
    "max_steps": 2,
    "slots": 1,
    "data": {"workers": 0},
    "model": {
        "width": 32,
        "depth": 1,
        "heads": 2,
        "hidden": 32,
        "modalities": {
            "image": {"tokenizer": "image_glyph", "patch": 8, "frames": 1},
            "text": {"max_length": 16, "positions": 16},
        },
    },
    "tasks": {
        "words": {
            "inputs": {"txt": "text"},
            "target": "txt",
            "metric": "perplexity",
            "batch": 8,
            "answer": {"candidates": "vocabulary", "read": "masked"},
        }
    },
}


def run(capfd: pytest.CaptureFixture[str], *command: str) -> tuple[object, str]:
    """The status of a command, or its last line, and all that it printed."""
    before, sys.argv = sys.argv, ["unified", *command]
    handlers = list(logger.handlers)
    try:
        main()
        status: object = 0
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = before
        logger.handlers[:] = handlers  # one made here writes to where this test looks
    told = capfd.readouterr()
    return status, f"{told.out}{told.err}{status}"


def recipe_file(folder: Path, **changes: object) -> Path:
    with ShardWriter(folder / "data", kind="x", source="x") as writer:
        for number in range(16):
            writer.write(f"{number:02d}", {"txt": f"a red square number {number % 7}"})
    words = {**RECIPE["tasks"]["words"], "data": str(folder / "data")}  # type: ignore[index]
    content = {**RECIPE, "tasks": {"words": words}, **changes}
    (folder / "a.yaml").write_text(yaml.safe_dump(content))
    return folder / "a.yaml"
