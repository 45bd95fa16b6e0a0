"""`unified eval` and `unified compare`."""

from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

import unified.cli.convert  # adds its commands
import unified.cli.fold  # adds its commands
import unified.cli.predict  # adds its commands
import unified.cli.report  # noqa: F401 - adds its commands
from unified.cli.app import command
from unified.core import consent


@command("eval")
def evaluate(
    model: Annotated[str, Positional, arg(metavar="MODEL")],
    specs: Annotated[tuple[str, ...], Positional, arg(metavar="SPEC [SPEC ...]")],
    /,
    shots: Annotated[tuple[int, ...], arg(metavar="K …")] = (0,),
    seeds: int = 5,
    out: Path | None = None,
    allow_commands: Annotated[bool, FlagCreatePairsOff] = False,
) -> None:
    """Evaluate a model zero-shot, with k shots and with probes; every number comes with its error.

    Example: unified eval runs/quickstart digits data/mine --shots 0 1 5 --seeds 5 --out results.json

    Args:
        model: A hub name (org/name, org/name@revision), an exported folder, or a run (its newest complete checkpoint).
        specs: Names in recipes/eval, YAML files, or data folders.
        shots: Labelled examples a class; 0 is zero-shot.
        seeds: Subsets that each k-shot result is averaged over.
        out: Results as JSON, with every item for `unified compare`.
        allow_commands: Let `pipe:` commands of the specs run, and addresses that the folder of a run names be fetched
            (`train.checkpoints`); read them first.
    """
    from unified.evaluate.commands import eval_command

    with consent.allow_commands(None if allow_commands else ()):
        eval_command(model, specs, shots=shots, seeds=seeds, out=out)


@command("compare")
def compare(
    a: Annotated[Path, Positional, arg(metavar="A")],
    b: Annotated[Path, Positional, arg(metavar="B")],
    /,
) -> None:
    """Compare two results files on the same items, with paired intervals and tests.

    Example: unified compare runs/a/results.json runs/b/results.json

    Args:
        a: Results of `unified eval`.
        b: Results of the other model on the same items.
    """
    from unified.evaluate.commands import compare_command

    compare_command(a, b)
