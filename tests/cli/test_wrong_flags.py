"""The last line of a refused command line says what was wrong, and names the nearest flag."""

from pathlib import Path

import pytest
import yaml
from commands import recipe_file, run

from unified.cli import app
from unified.cli.flags import flags_of, with_flags
from unified.cli.wrong_flags import describe
from unified.config.recipe import Recipe
from unified.core.schema import build, read_yaml

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
        ("shards inspect", "unified shards inspect: expected PATH, got nothing. Hint: --help tells what they are"),
        ("export", "unified export: expected RUN OUT, got nothing. Hint: --help tells what they are"),
        ("eval a b --allow-commands=yes", "unified eval: --allow-commands: expected no value, got 'yes'"),
        ("eval a b --no-allow-commands", f"{UNKNOWN} '--no-allow-commands'. Hint: the nearest is --allow-commands"),
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
        ("--dry-run=yes", "--dry-run: expected no value, got 'yes'"),
        ("--out x --out y", "--out: expected it once, got it again"),
        ("--allow-commands --seed", "--seed: expected a value, got nothing"),
        ("--max-steps nan", "--max-steps: expected INT, got 'nan'"),
        ("--max-steps -1", "max_steps: expected 1 to 1,000,000,000,000, got -1"),
        ("--slots 1000000000", "slots: expected 1 to 65,536, got 1,000,000,000"),
        ("--tasks.words.batch 0", "tasks.words.batch: expected 1 to 1,048,576, got 0"),
        ("--model.depth 10000000", "model.depth: expected 1 to 1,024, got 10,000,000"),
        ("--optim.eps inf", "optim.eps: expected a finite number above 0, got inf"),
        ("--optim.betas 0.9", "--optim.betas: expected a value, got nothing"),
        ("--optim.lr 1 2", "expected no further value, got 2"),
        ("--tasks 3", "got '--tasks'. Hint: the nearest is --tasks.words.data"),
        ("--tasks.words.inputs x", "got '--tasks.words.inputs'. Hint: the nearest is --tasks.words.inputs.txt"),
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


PLACES = {
    "convert uni-perceiver": "s o",
    "fold": "m o",
    "predict": "m i",
    "report interference": "m",
    "report routing": "m",
    "report run": "r",
    "shards build": "s o",
    "shards inspect": "p",
    "shards verify": "p",
    "shards index": "p",
    "tokenizer train": "c o",
    "eval": "m digits",
    "compare": "a b",
    "export": "r o",
    "push": "f o/n",
}


def test_all_commands_are_tried() -> None:
    assert {*PLACES, "train"} == app.commands().keys()


@pytest.mark.parametrize("command", PLACES)
def test_every_wrong_flag_is_named_with_the_nearest(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    for flag in [*app.commands()[command], "--help"][::4]:  # 50 ms each
        status, told = run(capfd, *command.split(), *PLACES[command].split(), f"{flag}x")
        assert status == 2
        expected = f"error: unified {command}: {UNKNOWN} '{flag}x'. Hint: the nearest is {flag}"
        assert told.removesuffix("2").splitlines()[-1] == expected


@pytest.mark.parametrize("command", sorted(set(PLACES) - {"tokenizer train"}))
def test_what_a_command_lacks_is_named(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, told = run(capfd, *command.split())
    assert status == 2
    last = told.removesuffix("2").splitlines()[-1]
    assert last.startswith(f"error: unified {command}: expected ")
    assert last.endswith(", got nothing. Hint: --help tells what they are")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train", "train.py: expected RECIPE, got nothing. Hint: quickstart is one"),
        ("train --dry-run a.yaml", "train.py: expected RECIPE before all flags, got '--dry-run'. Hint: --help"),
        ("train a.yaml --out", "--out: a value must follow"),
        ("train a.yaml --out --dry-run", "--out: a value must follow"),
        ("train a.yamll", "'a.yamll' is neither a path nor a name in recipes. There are: "),
        ("tokenizer train c", "tokenizer train: give at least one corpus, and the folder to write"),
        ("reprot run x", "unified: 'reprot' is not a command; did you mean 'report'? There are: "),
        ("report runn x", "unified report: 'runn' is not a command; did you mean 'run'? There are: "),
        ("help nope", "unified: 'nope' is not a command. There are: "),
    ],
)
def test_wrong_words_are_told_in_the_last_line(
    line: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    status, _ = run(capfd, *line.split())
    assert str(status).startswith(f"error: {expected}")


@pytest.mark.parametrize("value", ["-1", "\x1b]0;t\x07" + "x" * 300], ids=["-1", "long"])
def test_wrong_values_of_a_recipe_name_their_key(value: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe, refused = build(Recipe, read_yaml(recipe_file(tmp_path)), "a.yaml"), 0
    for flag in flags_of(recipe)[::14]:  # 50 ms each
        try:
            with_flags(recipe, [f"{flag}={value}"], "train.py")
        except SystemExit:
            refused += 1
            last = capfd.readouterr().err.splitlines()[-1]
            assert last.startswith("error: train.py: ")
            assert flag.rpartition(".")[2].lstrip("-").replace("-", "_") in last.replace("-", "_")
            assert len(last) < 400
            assert "\x1b" not in last
    assert refused > 1


@pytest.mark.parametrize(
    "above",
    ["", "model", "model.modalities.image", "model.modalities.text", "optim", "data", "mixing", "train", "engine"],
)
def test_unknown_keys_of_recipes_name_the_nearest(
    above: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(recipe_file(tmp_path).read_text())
    part = content
    for name in above.split(".") if above else ():
        part = part.setdefault(name, {})
    part["maxx_steps"] = 1
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    status, _ = run(capfd, "train", str(tmp_path / "a.yaml"), "--dry_run")
    where = ".".join(["a.yaml", *above.split(".")]).rstrip(".")
    assert str(status).startswith(f"error: {where}: 'maxx_steps' is not a key of ")
    assert "There are: " in str(status)
