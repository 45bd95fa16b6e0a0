"""`train.py` and `unified train`: run a recipe."""

import sys
from collections.abc import Sequence
from pathlib import Path

import unified.cli.convert  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # noqa: F401 - adds its commands
from unified.cli.app import command, make_ready
from unified.cli.ends import guarded
from unified.core import consent
from unified.core.errors import RecipeError, quoted

TRAIN_HELP = """usage: python train.py RECIPE [--out RUN] [--dry-run] [--FLAG VALUE ...]    (= unified train RECIPE ...)

Pretrain, fine-tune or continue a run. RECIPE is a YAML file, or a name in recipes/.
A run that was stopped goes on from its newest complete checkpoint when the same command is given again.

  --out RUN     the run's folder; default runs/<name of the recipe>
  --allow-commands  let `pipe:` commands of the specs in `evaluate` run, and addresses that the run of `start.model`
                names be fetched; those of the recipe itself always may
  --dry-run     print the resolved recipe, parameters, work and memory of a step, the first steps and what weights
                it starts with, and stop; needs no data and starts no command. --processes N: as if on so many
  --help        with a RECIPE: every flag with the value that the recipe gives it

Several processes: torchrun --nproc-per-node N train.py RECIPE; with DeepSpeed: --engine.kind deepspeed.
recipes/launch has settings of ZeRO, and scripts for one machine and for many.

example: python train.py recipes/quickstart.yaml --optim.lr 1e-3 --max-steps 200 --out runs/try
"""


def train(arguments: Sequence[str] | None = None) -> None:
    """`train.py`: run a recipe."""
    guarded(_train, list(sys.argv[1:] if arguments is None else arguments))


def _train(arguments: list[str]) -> None:
    _, arguments = _take(
        arguments, "--local_rank", ""
    )  # the `deepspeed` launcher adds it; the environment says as much
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(TRAIN_HELP)
        if not arguments:
            raise RecipeError("train.py: expected RECIPE, got nothing. Hint: quickstart is one")
        sys.exit(0)
    if arguments[0].startswith("-"):
        raise RecipeError(f"train.py: expected RECIPE before all flags, got {quoted(arguments[0])}. Hint: --help")
    from unified.cli.flags import with_flags
    from unified.config.recipe import Recipe
    from unified.core.paths import find
    from unified.core.schema import build, read_yaml

    name, *rest = arguments
    rest = [_OWN.get(flag, flag) for flag in rest]
    path = find("recipes", name, ".yaml")
    out, rest = _take(rest, "--out", f"runs/{path.stem}")
    dry, allow = "--dry-run" in rest, consent.FLAG in rest
    processes, rest = _take(rest, "--processes", "")
    recipe = build(Recipe, read_yaml(path), path.name)
    flags = [flag for flag in rest if flag not in ("--dry-run", consent.FLAG)]
    recipe = with_flags(recipe, flags, prog=f"train.py {name}")
    make_ready()
    from unified.train.dry_run.report import dry_run
    from unified.train.loop import run

    if processes and not dry:
        raise RecipeError("--processes goes with --dry-run; a run has those that torchrun starts")
    with consent.allow_commands(None if allow else ()):
        if dry:
            dry_run(recipe, _whole(processes, "--processes") if processes else None)
        else:
            run(recipe, Path(out))


_OWN = {"--dry_run": "--dry-run", "--allow_commands": consent.FLAG}
"""Flags as people also write them."""


def _whole(text: str, flag: str) -> int:
    if not text.isdecimal():
        raise RecipeError(f"{flag}: expected int, found {text!r}")
    if int(text) < 1:
        raise RecipeError(f"{flag}: expected at least 1, found {text}")
    return int(text)


def _take(arguments: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """The value of one flag, and the arguments without it."""
    rest = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == flag:
            if index + 1 == len(arguments) or arguments[index + 1].startswith("--"):
                raise RecipeError(f"{flag}: a value must follow")
            return arguments[index + 1], rest[:index] + rest[index + 2 :]
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}="), rest[:index] + rest[index + 1 :]
    return default, rest


@command("train")
def train_pointer() -> None:
    """Pretrain a recipe: `unified train RECIPE [--flags]`, the same as `python train.py RECIPE`."""
    sys.stdout.write(TRAIN_HELP)
