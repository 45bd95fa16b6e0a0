"""`python -m benchmarks.studies.quality`: train what is missing, then print and write the table and the figure.

Written into OUT: a run folder each (with `results.json` for `unified compare`), summary.json, table.md, scores.png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.studies.quality.figure import draw
from benchmarks.studies.quality.held_out import write_held_out
from benchmarks.studies.quality.plan import BASE, Run, plan
from benchmarks.studies.quality.results import Result, read
from benchmarks.studies.quality.runs import carry_out
from benchmarks.studies.quality.scores import Question, asked_of, questions
from benchmarks.studies.quality.summary import sampling, summarise
from benchmarks.studies.quality.table import markdown
from benchmarks.studies.quality.variants import VARIANTS
from unified.config.recipe import Recipe
from unified.core import log
from unified.core.errors import UserError
from unified.core.schema import build, read_yaml

STEPS = 500


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; stopped by Ctrl-C or killed, it goes on when given again."""
    log.set_up()
    given = _parser().parse_args(arguments)
    try:
        runs = plan(given.steps, given.only, given.seeds)
        asked = questions(write_held_out(given.out / "held_out", build(Recipe, read_yaml(BASE), BASE).tasks["names"]))
        tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
        if given.table:
            found = _finished(runs, given.out)
        else:
            found = [result for _, result in carry_out(runs, given.out, asked)]
        _report(found, asked, tasks, given.out)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<22} {v.about}{' (extra)' if v.extra else ''}" for name, v in VARIANTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.quality",
        description=f"Generalists against specialists on the tasks of {BASE}, on equal data.",
        epilog=f"variants, of which extras run only where they are named:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of all runs (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a generalist (%(default)s)")
    parser.add_argument("--only", nargs="+", default=(), metavar="VARIANT", help="these variants")
    parser.add_argument("--seeds", type=int, help="for each variant, instead of its own number")
    parser.add_argument("--table", action="store_true", help="train nothing: report what is finished")
    return parser


def _finished(runs: Sequence[Run], out: Path) -> list[Result]:
    found = [read(out / run.name, run, asked_of(run.tasks)) for run in runs]
    return [result for result in found if result is not None]


def _report(found: Sequence[Result], asked: dict[str, Question], tasks: Sequence[str], out: Path) -> None:
    rows = summarise(found, tasks, {name: question.higher_is_better for name, question in asked.items()})
    if not rows:
        raise UserError(f"{out}: no variant has a finished seed yet")
    text = markdown(rows, asked, tasks, sampling(found))
    (out / "table.md").write_text(text, encoding="utf-8")
    (out / "summary.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    draw(rows, asked, out / "scores.png")
    sys.stdout.write(f"\n{text}")


if __name__ == "__main__":
    main()
