"""Specialists of a generalist's tasks: the same network, trained on one task with as many of its samples, then scored.

`python -m benchmarks.studies.specialists RECIPE SPEC --out runs/specialists` prints the table of
`benchmarks.studies.generalist` of all results in that folder; evaluations of SPEC have the names of their tasks. Run
again, it goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.studies.generalist import table
from unified import checkpoint
from unified.checkpoint.place import checkpoints_of
from unified.config.recipe import Recipe
from unified.core import log
from unified.core.errors import UserError, nearest
from unified.core.log import logger
from unified.core.schema import build, read_yaml
from unified.evaluate.results import read_results, write_results
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Spec, load_spec
from unified.hub.load import load
from unified.pipeline.schedule import count
from unified.train import loop


def specialist(recipe: Recipe, task: str) -> Recipe:
    """The recipe of one task alone: a slot a step, as many steps as the generalist has slots of it.

    Its loss has the weight 1: weights are there to make gradients of several tasks comparable.
    """
    steps = count(recipe, recipe.seed, task, recipe.max_steps)
    warmup = max(1, round(recipe.optim.warmup * steps / recipe.max_steps))
    return replace(
        recipe,
        tasks={task: replace(recipe.tasks[task], loss_weight=1.0)},
        slots=1,
        max_steps=steps,
        optim=replace(recipe.optim, warmup=warmup),
        evaluate=(),
    )


def train_and_score(recipe: Recipe, spec: Spec, task: str, folder: Path) -> None:
    """Train the specialist of a task, or go on with it, and write its results beside it."""
    own = specialist(recipe, task)
    loop.run(own, folder)
    newest = checkpoint.newest(checkpoints_of(folder))
    if newest is None or (step := checkpoint.opened(newest, groups=(), hashes=False).step) < own.max_steps:
        reached = 0 if newest is None else step
        sys.exit(f"{folder}: stopped at step {reached} of {own.max_steps}; the same command goes on from there")
    model, processor = load(folder)
    asked = replace(spec, evaluations={task: spec.evaluations[task]})
    write_results(folder / "results.json", evaluate(model, processor, [asked], name=str(folder)))


def summary(folder: Path) -> str:
    """The table of all results below a folder."""
    found = [entry for path in sorted(folder.glob("*/results.json")) for entry in read_results(path)["results"]]
    return table({"results": found}) if found else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; a task that fails is told of, and the others go on."""
    log.set_up()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.specialists", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("recipe", type=Path, help="of the generalist")
    parser.add_argument("spec", help="evaluations named as their tasks")
    parser.add_argument("--tasks", nargs="+", help="by default all that the recipe and the spec have")
    parser.add_argument("--out", type=Path, default=Path("runs/specialists"), help="folder of all runs (%(default)s)")
    given = parser.parse_args(arguments)
    failed = []
    try:
        recipe, spec = build(Recipe, read_yaml(given.recipe), str(given.recipe)), load_spec(given.spec)
        for task in given.tasks or ():
            for where, known in ((given.recipe, recipe.tasks), (given.spec, spec.evaluations)):
                if task not in known:
                    sys.exit(f"error: {task!r} is not in {where}{nearest(task, list(known))}")
        for task in given.tasks or [task for task in recipe.tasks if task in spec.evaluations]:
            try:
                train_and_score(recipe, spec, task, given.out / task)
            except (UserError, RuntimeError, OSError) as error:  # hours of the other tasks must not be lost
                own = not isinstance(error, UserError)
                logger.error("%s failed, the others go on: %s", task, error, exc_info=own)
                failed.append(task)
        sys.stdout.write(summary(given.out))
    except UserError as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit(f"error: no results of {', '.join(failed)}; the log above says why")


if __name__ == "__main__":
    main()
