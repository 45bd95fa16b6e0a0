"""A run from one machine to a thousand GPUs, by numbers that are computed and assumptions that are printed.

`python -m benchmarks.scaling_plan RECIPE [GPUS…]`: what a process has to do is that of the recipe on `PUBLISHED` GPUs,
so the global batch grows with the GPUs; work, bytes and messages are those of the dry run. Nothing is measured here.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from unified.config.recipe import EngineSettings, Recipe
from unified.core.schema import build, read_yaml
from unified.train.dry_run.communication import seconds
from unified.train.dry_run.plan import Plan, make_plan

GPUS = (8, 64, 256, 1000)
KINDS = {"DDP": EngineSettings("ddp"), "ZeRO 1": EngineSettings("deepspeed", 1)}


@dataclass(frozen=True)
class Assumed:
    """What the machine is assumed to be; none of it was measured for this."""

    peak: float = 989e12  # bf16 operations a second of a GPU (H100 SXM data sheet, dense)
    mfu: float = 0.40  # share of it that forward and backward reach while nothing is waited for
    link: float = 50e9  # bytes a second that a GPU sends to other machines: 400 Gb/s each
    hop: float = 10e-6  # seconds of latency of one message between machines
    image: float = 30e3  # bytes of a stored picture
    decode: float = 2000.0  # pictures that one core reads, decodes and crops in a second
    disk: float = 2e9  # bytes a second of one writer of checkpoints
    writers: float = 8.0  # that write at once
    hours: float = 50_000.0  # of a GPU between failures (419 in 54 days of 16,384 GPUs: Llama 3, arXiv 2407.21783)
    restart: float = 300.0  # seconds from a failure to the next step
    spread: float = 0.02  # standard deviation of a process's step, of its mean


def published(recipe: Recipe) -> int:
    """The greatest number of processes that divides all batches of the recipe."""
    return math.gcd(*(task.batch for task in recipe.tasks.values()))


def planned(recipe: Recipe, gpus: int) -> Plan:
    """The plan on so many GPUs, each with what it has on the published number."""
    per_gpu = {name: task.batch // published(recipe) for name, task in recipe.tasks.items()}
    tasks = {name: replace(task, batch=per_gpu[name] * gpus) for name, task in recipe.tasks.items()}
    return make_plan(replace(recipe, tasks=tasks), gpus)


def slowest(gpus: int, spread: float) -> float:
    """How much longer than the mean the slowest of normally distributed steps takes (Cramér, 1946, for the maximum)."""
    root = math.sqrt(2 * math.log(gpus))
    return spread * (root - (math.log(math.log(gpus)) + math.log(4 * math.pi)) / (2 * root))


def numbers(plan: Plan, assumed: Assumed) -> dict[str, str]:
    """What limits a run, by name."""
    gpus, size = plan.processes, 4 * plan.stored.total
    compute = plan.flops / gpus / (assumed.peak * assumed.mfu)
    samples = sum(slot.share * plan.recipe.tasks[name].batch for name, slot in plan.slots.items())
    images = sum(
        slot.share * plan.recipe.tasks[name].batch
        for name, slot in plan.slots.items()
        if "image" in plan.recipe.tasks[name].inputs.values()
    )
    found = {
        "samples of a step": f"{samples:,.0f}",
        "computing, ms": f"{1000 * compute:,.0f}",
    }
    exchanges = {name: plan.traffic(engine) for name, engine in KINDS.items()}
    latency = 2 * math.log2(gpus) * assumed.hop * max(size / 25e6, 1)  # DDP reduces 25 MB at a time
    for name, exchange in exchanges.items():
        sent = seconds(exchange, assumed.link) + latency
        found[f"{name}: sending, ms"] = f"{1000 * sent:,.0f}"
        found[f"{name}: efficiency if nothing is hidden"] = f"{compute / (compute + sent):.0%}"
    hidden = 2 / 3 * compute  # the backward pass, behind which DDP reduces
    late = max(seconds(exchanges["DDP"], assumed.link) + latency - hidden, 0.0)
    step = (compute + late) * (1 + slowest(gpus, assumed.spread))
    features = sum(one.sent for one in exchanges["DDP"] if one.part == "features")
    found["of it features and their gradients, MiB"] = f"{features / 2**20:,.0f}"
    pairs = max(slot.work.pairs for slot in plan.slots.values())
    found["largest similarity matrix of a GPU, GiB"] = f"{4 * pairs / 2**30:.2f}"
    found["slowest GPU over the mean"] = f"+{slowest(gpus, assumed.spread):.1%}"
    found["step with these, ms"] = f"{1000 * step:,.0f}"
    found["pictures a second and GPU"] = f"{images / gpus / step:,.0f}"
    found["cores a GPU to decode"] = f"{images / gpus / step / assumed.decode:.2f}"
    found["pictures of all, GB/s"] = f"{images / step * assumed.image / 1e9:.1f}"
    return found | _failures(plan, assumed, step)


def _failures(plan: Plan, assumed: Assumed, step: float) -> dict[str, str]:
    """Checkpoints as often as is best (Young 1974, Daly 2006), and what failures cost then."""
    stored = (16 if plan.recipe.optim.ema is not None else 12) * plan.stored.total
    save = stored / (assumed.disk * min(assumed.writers, plan.processes))
    between = 3600 * assumed.hours / plan.processes
    every = math.sqrt(2 * save * between)
    lost = save / every + every / 2 / between + assumed.restart / between
    return {
        "checkpoint, GB": f"{stored / 1e9:.1f}",
        "writing it, s": f"{save:.1f}",
        "hours between failures": f"{between / 3600:,.0f}",
        "best save interval, minutes": f"{every / 60:,.1f}",
        "the same in steps": f"{every / step:,.0f}",
        "lost to saving and failures": f"{lost:.2%}",
    }


def table(rows: Mapping[str, list[str]], head: list[str]) -> str:
    """Rows by name."""
    wide = max(map(len, rows))
    lines = [("GPUs", head), *rows.items()]
    return "\n".join(f"{name:<{wide}}" + "".join(f"{cell:>12}" for cell in cells) for name, cells in lines)


def main() -> None:
    """Print assumptions and numbers."""
    path = Path(sys.argv[1])
    gpus = [int(number) for number in sys.argv[2:]] or list(GPUS)
    recipe, assumed = build(Recipe, read_yaml(path), path.name), Assumed()
    recipe = replace(recipe, train=replace(recipe.train, precision="bf16"))
    rows: dict[str, list[str]] = {}
    for count in gpus:
        for name, value in numbers(planned(recipe, count), assumed).items():
            rows.setdefault(name, []).append(value)
    print("assumed: " + ", ".join(f"{field.name} {getattr(assumed, field.name):g}" for field in fields(assumed)))
    print(f"each GPU has what it has of the recipe on {published(recipe)}\n")
    print(table(rows, [f"{count:,}" for count in gpus]))


if __name__ == "__main__":
    main()
