"""The commands `unified eval` and `unified compare`."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from unified.core.errors import RecipeError, say
from unified.core.log import logger
from unified.core.paths import cache_folder
from unified.evaluate.compare import compare, comparison_table
from unified.evaluate.results import read_results, write_results, write_rows
from unified.evaluate.robustness_figure import save_figure
from unified.evaluate.run import evaluate
from unified.evaluate.spec import load_spec
from unified.evaluate.table import results_table
from unified.hub.load import open_model


def eval_command(
    model_reference: str,
    specs: Sequence[str],
    shots: Sequence[int] = (0,),
    seeds: int = 5,
    out: Path | None = None,
) -> None:
    """Evaluate a model, print the table, and write results and figure where `out` names a file."""
    opened = [load_spec(spec) for spec in specs]  # a wrong name is said before the model is loaded
    if out is not None:
        _check_out(out)
    loaded = open_model(model_reference)
    command = shlex.join(
        ["unified", "eval", model_reference, *specs, "--shots", *map(str, shots), "--seeds", str(seeds)]
    )
    results = evaluate(
        loaded.model,
        loaded.processor,
        opened,
        shots=shots,
        seeds=seeds,
        device="cuda" if torch.cuda.is_available() else None,
        command=command,
        name=str(loaded.hub_name or model_reference),  # with the commit, which the next main branch may not be
        cache=cache_folder("features"),
    )
    say(results_table(results).rstrip("\n"))
    if out is not None:
        write_results(out, results)
        logger.info("written: %s", out)
        if len(results["results"]) > 1:
            rows = out.with_name(f"{out.stem}_rows")
            write_rows(rows, results)
            logger.info("written: %s, a file a row for CLIP_benchmark's build", rows)
        figure = out.with_name(f"{out.stem}_robustness.png")
        if save_figure(results, figure):
            logger.info("written: %s", figure)


def _check_out(out: Path) -> None:
    """Refuse a place where no file can be written, before hours of evaluation are spent."""
    if out.is_dir():
        raise RecipeError(f"--out: {out} is a folder; name a file in it, such as {out / 'results.json'}")
    if out.exists() and not out.is_file():
        raise RecipeError(f"--out: expected a file to write, got {out}, a device or a pipe")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RecipeError(f"--out: {out} cannot be written, as {above} is not a folder that can be written to")


def compare_command(a: Path | str, b: Path | str) -> None:
    """Print the paired test of two results files."""
    first, second = read_results(a), read_results(b)
    say(f"A: {first.get('model') or a} ({a})\nB: {second.get('model') or b} ({b})")
    for name, results in (("A", first), ("B", second)):
        seen = dict.fromkeys(row["dataset"] for row in results["results"] if row.get("training_data") == "seen")
        if seen:
            say(f"{name} was trained on data that it is asked about here: {', '.join(seen)}")
    say("")
    say(comparison_table(compare(first, second)).rstrip("\n"))
