"""Specialists of a generalist's tasks: the same network, trained on one task with as many of its samples, then scored.

`python -m benchmarks.specialists RECIPE SPEC --tasks depth edges --out runs/specialists` prints the rows of `unified
eval`; evaluations of SPEC have the names of their tasks. Run again, it goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unified import hub, log
from unified.config import build, nearest, read_yaml
from unified.data.schedule import count
from unified.errors import UserError
from unified.evaluate.results import write_results
from unified.evaluate.run import evaluate
from unified.evaluate.spec import load_spec
from unified.evaluate.table import results_table
from unified.recipe import Recipe
from unified.train import loop


def specialist(recipe: Recipe, task: str) -> Recipe:
    """The recipe of one task alone: a slot a step, as many steps as the generalist has slots of it."""
    steps = count(recipe, recipe.seed, task, recipe.max_steps)
    warmup = max(1, round(recipe.optim.warmup * steps / recipe.max_steps))
    return replace(
        recipe,
        tasks={task: recipe.tasks[task]},
        slots=1,
        max_steps=steps,
        optim=replace(recipe.optim, warmup=warmup),
        evaluate=(),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    log.set_up()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.specialists", description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path, help="of the generalist")
    parser.add_argument("spec", help="evaluations named as their tasks")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/specialists"), help="folder of all runs (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        recipe, spec = build(Recipe, read_yaml(given.recipe), str(given.recipe)), load_spec(given.spec)
        for task in given.tasks:
            for where, known in ((given.recipe, recipe.tasks), (given.spec, spec.evaluations)):
                if task not in known:
                    sys.exit(f"error: {task!r} is not in {where}{nearest(task, list(known))}")
        for task in given.tasks:
            folder = given.out / task
            loop.run(specialist(recipe, task), folder)
            model, processor = hub.load(folder)
            asked = replace(spec, evaluations={task: spec.evaluations[task]})
            results = evaluate(model, processor, [asked], name=str(folder))
            write_results(folder / "results.json", results)
            sys.stdout.write(results_table(results))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
