"""What filters of their own give tasks in company: short runs with them, and with the filters of all tasks alone.

`python -m benchmarks.studies.own_filters` prints the table of docs/task-queries.md: four tasks of
recipes/queries_cpu.yaml, three slots a step, scored on held-out images by their main metric. Filters that stay
at their first zeros are none.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from unified.config.recipe import Recipe
from unified.core import log
from unified.core.errors import UserError
from unified.core.schema import build, read_yaml
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Spec, load_spec
from unified.evaluate.table import MAIN, UNITS, number
from unified.pipeline.loader import StepLoader
from unified.train.build import build as build_parts
from unified.train.engines.accelerator import make_accelerator
from unified.train.first_samples import begin_at_baselines
from unified.train.trainer import Trainer

RECIPE, SPEC = Path("recipes/queries_cpu.yaml"), "queries_cpu"
TASKS = ("edges", "emoji_attributes", "denoise", "sobel")
SLOTS, WARMUP, EMA = 3, 15, 0.97


def company(whole: Recipe, steps: int, seed: int) -> Recipe:
    """`TASKS` alone, in a run so short that its moving average must forget the start soon."""
    tasks, data = {task: whole.tasks[task] for task in TASKS}, replace(whole.data, workers=0)
    optim = replace(whole.optim, warmup=WARMUP, ema=EMA)
    return replace(whole, tasks=tasks, seed=seed, max_steps=steps, slots=SLOTS, optim=optim, data=data)


def scores(recipe: Recipe, spec: Spec, *, own: bool) -> Mapping[str, float]:
    """Train, and return the main metric of each evaluation; `own`: tasks learn filters of their own."""
    parts = build_parts(recipe)
    loader = StepLoader(recipe, parts.tokenizers, parts.labels)
    begin_at_baselines(parts, loader)
    assert parts.model.queries is not None
    parts.model.queries.filters.requires_grad_(own)
    with TemporaryDirectory() as folder:
        trainer = Trainer(recipe, make_accelerator(recipe, Path(folder)), parts, loader.probe())
        for _, slots, _ in loader:
            trainer.train_step(slots)
        with trainer.engine.evaluated(trainer.ema) as model:
            results = evaluate(model, parts.processor, [spec])["results"]
    of_model = [entry for entry in results if entry["features"] == "model"]  # not of baselines
    mains = {entry["dataset"]: (entry["metrics"], MAIN[entry["protocol"]]) for entry in of_model}
    return {name: of[main] * (1.0 if main in UNITS else 100.0) for name, (of, main) in mains.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: a row for each kind of filters, in each cell the scores by seed."""
    log.set_up()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.own_filters", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=40, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs with each kind of filters (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        whole, spec = build(Recipe, read_yaml(RECIPE), str(RECIPE)), load_spec(SPEC)
        asked = replace(spec, evaluations={task: spec.evaluations[task] for task in TASKS})
        lines = [["", *(f"`{task}`" for task in TASKS)], ["---"] * (1 + len(TASKS))]
        for name, own in (("filters of all tasks alone", False), ("and a task's own", True)):
            runs = [scores(company(whole, given.steps, seed), asked, own=own) for seed in range(given.seeds)]
            lines.append([name, *(", ".join(number(run[task]) for run in runs) for task in TASKS)])
        sys.stdout.writelines(f"| {' | '.join(cells)} |\n" for cells in lines)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
