"""The last line of a refused command line says what was wrong, and names the nearest flag."""

from pathlib import Path

import pytest
from commands import recipe_file, run

from unified.cli.wrong_flags import describe

UNKNOWN = "expected one of its flags, got"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("eval a b --shot x", f"unified eval: {UNKNOWN} '--shot'. Hint: the nearest is --shots"),
        (
            "shards inspect a --conut=3",
            f"unified shards inspect: {UNKNOWN} '--conut'. Hint: the nearest is --count",
        ),
        (
            "eval a b --seeds 3 --outt x",
            f"unified eval: {UNKNOWN} '--outt'. Hint: the nearest is --out",
        ),
        (
            "push a b --privat",
            f"unified push: {UNKNOWN} '--privat'. Hint: the nearest is --private",
        ),
        (
            "eval a b --allow_command",
            f"unified eval: {UNKNOWN} '--allow_command'. Hint: the nearest is --allow-commands",
        ),
        (
            "shards verify a -v",
            f"unified shards verify: {UNKNOWN} '-v'. Hint: the nearest is --help",
        ),
        ("shards inspect a --count x", "unified shards inspect: --count: expected INT, got 'x'"),
        ("shards inspect a --count 3 --count=x", "unified shards inspect: --count: expected INT, got 'x'"),
        ("shards inspect a --count", "unified shards inspect: --count: expected a value, got nothing"),
        ("predict m i --window 3", "unified predict: --window: expected HEIGHT WIDTH, got '3'"),
        ("shards build a b --kind cooc", "yolo, got 'cooc'. Hint: the nearest is 'coco'"),
        ("shards inspect", "unified shards inspect: expected PATH A folder of shards, or one shard., got nothing"),
        ("shards inspect a b", "unified shards inspect: expected no further value, got b"),
        ("shards", "unified shards: Expected one of {build, inspect, verify, index}."),
        ("--verion", f"unified: {UNKNOWN} '--verion'. Hint: the nearest is --version"),
    ],
)
def test_the_last_line_of_a_command(line: str, expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, told = run(capfd, *line.split())
    assert status == 2
    *box, last = told.removesuffix("2").splitlines()
    assert last.startswith("error: ")
    assert last.endswith(expected)
    assert any("For full helptext" in shown for shown in box)  # what tyro says is there too


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--optim.lrr 1", f"{UNKNOWN} '--optim.lrr'. Hint: the nearest is --optim.lr"),
        ("--dry-rnu", f"{UNKNOWN} '--dry-rnu'. Hint: the nearest is --dry-run"),
        ("--tasks.wrods.batch 3", "got '--tasks.wrods.batch'. Hint: the nearest is --tasks.words.batch"),
        ("--optim.lr fast", "--optim.lr: expected FLOAT, got 'fast'"),
        ("--optim.lr", "--optim.lr: expected a value, got nothing"),
        ("--train.precision fp8", "auto, bf16, fp16, fp32, got 'fp8'"),
        ("--model.width 33", "model.heads: 2 does not divide model.width 33"),
        ("stray", "expected no further value, got stray"),
        ("http://me:hush@h/x", "expected no further value, got http://…@h/x"),
    ],
)
def test_the_last_line_of_training(line: str, expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, told = run(capfd, "train", str(recipe_file(tmp_path)), *line.split())
    assert status == 2
    last = told.removesuffix("2").splitlines()[-1]
    assert last.startswith("error: train.py ")
    assert last.endswith(expected)
    assert "hush" not in told


def test_other_words_of_the_parser_are_told_in_one_line() -> None:
    lines = [
        "╭─ Other ───╮",
        "│ two lines │",
        "│ of words  │",
        "│ ───────── │",
        "│ For full helptext, run x │",
        "╰───────────╯",
    ]
    box = "\n".join(lines)
    assert describe(box, [], []) == "two lines of words"
    assert describe("no box", [], []) == "no box"
