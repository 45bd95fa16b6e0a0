"""The command `unified report run`."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from unified.core.errors import say
from unified.core.log import logger
from unified.core.text_tables import aligned
from unified.reports.experts.commands import out_folder, write_json
from unified.reports.run import figure
from unified.reports.run.diagnosis import LIMITS, diagnose, effective, late_loads, waiting
from unified.reports.run.page import number, write_page
from unified.reports.run.read import Curve, Run, read_run
from unified.reports.run_course import speeds
from unified.reports.run_findings import Diagnosis
from unified.reports.source import FORMAT
from unified.train.monitor.progress import duration

PREFIXES = ("loss/", "metric/", "eval/", "gradient_norm/", "mfu/", "time/", "samples/", "epochs/", "memory/")
COLUMNS = 110  # letters of a line in the terminal


def run_command(path: Path, out: Path | None = None) -> None:
    """Read a run, print what it is and what is wrong with it, and write run.json, run.png and run.html."""
    folder = out_folder(str(path), out)
    run = read_run(path)
    found = diagnose(run)
    content = report(run, found)
    say(text(content).rstrip("\n"))
    write_json(folder / "run.json", content)
    figure.draw(run, found, folder / "run.png")
    write_page(content, folder / "run.png", folder / "run.html")
    logger.info("written: %s, run.png and run.json", folder / "run.html")


def report(run: Run, found: Sequence[Diagnosis]) -> dict[str, Any]:
    """The content of run.json."""
    names = [name for prefix in PREFIXES for name in run.names(prefix)]
    names += ["lr", "gradient_norm", "samples_per_second", "tokens_per_second", "mfu", "data_wait", "imbalance"]
    names.append("skipped_steps")
    names += [name for name in run.names("experts/") if not name.endswith("/load")]
    curves = {name: run.curve(name) for name in names}
    return {
        "format": FORMAT,
        "report": "run",
        "run": run.path.resolve().name,
        "step": run.step,
        "max_steps": run.recipe.max_steps,
        "facts": facts(run),
        "diagnoses": [asdict(one) | {"steps": list(one.steps)} for one in found],
        "tasks": {task: task_entry(run, task) for task in run.tasks()},
        "experts": {
            place: {
                "load": load.tolist(),
                "effective": effective(load),
                "busiest": int(load.argmax()),
                "idle": np.flatnonzero(load == 0).tolist(),
            }
            for place, load in late_loads(run).items()
        },
        "evaluation": {name.removeprefix("eval/"): evaluation_entry(run.curve(name)) for name in run.names("eval/")},
        "resumes": [asdict(resume) | {"gap": list(resume.gap) if resume.gap else None} for resume in run.resumes],
        "samples": {"seen": run.samples.seen, "bad": run.samples.bad, "named": list(run.samples.named)},
        "data_wait": waiting(run),
        "limits": {name: limit._asdict() for name, limit in LIMITS.items()},
        "curves": {
            name: {"steps": curve.steps.tolist(), "values": [plain(value) for value in curve.values.tolist()]}
            for name, curve in curves.items()
            if len(curve.steps)
        },
    }


def facts(run: Run) -> dict[str, str]:
    """What a person wants to know first."""
    last = run.records[-1]
    done = run.step >= run.recipe.max_steps
    written = datetime.fromtimestamp((run.path / "metrics.jsonl").stat().st_mtime)
    state = "finished" if done else "not at its end yet"
    left = last.get("seconds_left")
    if left and not done:
        state += f"; {duration(left)} were left at the last record"
    found = {
        "step": f"{run.step:,} of {run.recipe.max_steps:,}, {state}",
        "last record": f"{written:%Y-%m-%d %H:%M:%S}",
        "speed": f"{last['samples_per_second']:,.0f} samples/s, {last['tokens_per_second']:,.0f} tokens/s",
    }
    if (ends := speeds(run)) is not None:
        found["speed"] += f" (medians: {ends[0]:,.0f} samples/s in the first quarter, {ends[1]:,.0f} in the last)"
    if "mfu" in last:
        found["MFU"] = f"{last['mfu']:.0%}"
    if (share := waiting(run)) is not None:
        found["waiting for data"] = f"{share:.1%} of the time"
    if "imbalance" in last:
        found["slowest rank"] = f"rank {last['slowest_rank']}, {last['imbalance']:.2f} times the mean of all"
    memory = {
        name.removeprefix("memory/").removesuffix("_gib"): last[name] for name in last if name.startswith("memory/")
    }
    if memory:
        found["memory"] = ", ".join(f"{value:.1f} GiB ({where})" for where, value in memory.items())
    if run.resumes:
        found["resumed at step"] = ", ".join(f"{resume.step:,}" for resume in run.resumes)
    if run.samples.seen is not None:
        found["samples"] = f"{run.samples.seen:,} until the newest checkpoint, {run.samples.bad:,} bad"
    return found


def task_entry(run: Run, task: str) -> dict[str, Any]:
    """Losses of a task: the first, the lowest and the last; its last metrics."""
    curve = run.curve(f"loss/{task}")
    fine = curve.finite()
    best = int(fine.values.argmin()) if len(fine.values) else None
    metrics = {name: run.curve(name) for name in run.names(f"metric/{task}.")}
    return {
        "records": len(curve.steps),
        "first": plain(float(curve.values[0])),
        "lowest": None if best is None else float(fine.values[best]),
        "lowest_step": None if best is None else int(fine.steps[best]),
        "last": plain(float(curve.values[-1])),
        **{name: latest(run.curve(f"{name}/{task}")) for name in ("samples", "epochs", "time", "mfu")},
        "metrics": {
            name.removeprefix(f"metric/{task}."): plain(float(one.values[-1])) for name, one in metrics.items()
        },
    }


def latest(curve: Curve) -> float | None:
    """The last number of a curve; None where it has none."""
    fine = curve.finite().values
    return float(fine[-1]) if len(fine) else None


def evaluation_entry(curve: Curve) -> dict[str, Any]:
    """A result over the evaluations of a run."""
    fine = curve.finite().values
    return {
        "first": plain(float(curve.values[0])),
        "lowest": float(fine.min()) if len(fine) else None,
        "highest": float(fine.max()) if len(fine) else None,
        "last": plain(float(curve.values[-1])),
        "step": int(curve.steps[-1]),
    }


def plain(value: float) -> float | None:
    """A number as JSON has it: null for one that is not finite."""
    return value if math.isfinite(value) else None


def text(content: Mapping[str, Any]) -> str:
    """The report for the terminal."""
    width = max(map(len, content["facts"]))
    lines = [content["run"], *(f"  {name:<{width}}  {value}" for name, value in content["facts"].items()), ""]
    rows = [
        [
            name,
            number(one["first"]),
            "–" if one["lowest"] is None else f"{number(one['lowest'])} (step {one['lowest_step']})",
            number(one["last"]),
            ", ".join(f"{metric} {number(value)}" for metric, value in one["metrics"].items()),
        ]
        for name, one in content["tasks"].items()
    ]
    lines += [aligned(["task", "first loss", "lowest", "last", "metrics, last"], rows, {0, 4}), ""]
    for one in content["diagnoses"]:
        lines.append(textwrap.fill(f"{one['level']}: {one['text']}", COLUMNS, subsequent_indent="  "))
    if not content["diagnoses"]:
        lines.append("nothing was found by the limits that run.html states")
    return "\n".join(lines) + "\n"
