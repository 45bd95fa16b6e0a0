"""The plan of a run for people: what a dry run prints."""

from collections.abc import Sequence

import yaml

from unified.config.recipe import Recipe
from unified.core.errors import say
from unified.core.locations import without_secrets
from unified.core.text_tables import aligned
from unified.modalities import MODALITIES
from unified.model.parameter_count import active
from unified.pipeline.schedule import schedule
from unified.train.devices import run_device, seems_here, unusable_gpu, ways
from unified.train.dry_run.communication import LINKS, seconds
from unified.train.dry_run.plan import Plan, make_plan
from unified.train.monitor.recipe_diff import plain

GIB = 2**30
COLUMNS = ("weights", "fetched", "copy", "gradients", "buckets", "moments", "average")
"""Those of `States`, on the device."""

_IMAGES = f"model.modalities.{MODALITIES.spatial}"


def dry_run(recipe: Recipe, processes: int | None = None) -> None:
    """Print the resolved recipe and its plan on so many processes; trains nothing."""
    plan = make_plan(recipe, processes)
    say(yaml.safe_dump(without_secrets(plain(recipe)), sort_keys=False, allow_unicode=True, width=120))
    say(describe(plan))


def describe(plan: Plan) -> str:
    """The plan for people."""
    start = [] if plan.start is None else [plan.start]
    return "\n\n".join(
        [
            *(_parameters(plan), _work(plan), *_images(plan), _memory(plan), _traffic(plan), _steps(plan)),
            *(*start, _here(plan), *plan.notes, *_warnings(plan)),
        ]
    )


def _here(plan: Plan) -> str:
    """By what this machine would compute, and why not by a GPU that seems to be in it."""
    reason = unusable_gpu(seems_here=seems_here())
    without = "" if reason is None else f"\nan NVIDIA GPU seems to be here, but cannot be used: {reason}"
    return f"{ways(plan.recipe, run_device())}{without}"


def _parameters(plan: Plan) -> str:
    used = active(plan.config)
    rows = [f"{'parameters':<16} {'stored':>15} {'of one token':>15}"]
    for name, number in plan.stored.by_part.items():
        rows.append(f"{name:<16} {number:>15,} {used.by_part[name]:>15,}")
    return "\n".join(rows)


def _work(plan: Plan) -> str:
    head = f"{'task':<16} {'slots a step':>12} {'batch':>8} {'tokens':>12} {'GFLOP':>12}"
    rows = [f"{head} {'samples of data':>16} {'epochs':>8}"]
    for name, slot in plan.slots.items():
        samples = "not found" if slot.samples is None else f"{slot.samples:,}"
        tokens, flops = plan.processes * slot.work.tokens, plan.processes * slot.flops / 1e9
        batch = plan.recipe.tasks[name].batch
        seen = plan.recipe.max_steps * slot.share * batch
        epochs = "–" if slot.samples is None else f"{seen / slot.samples:,.1f}"
        row = f"{name:<16} {slot.share:>12.3f} {batch:>8,} {tokens:>12,} {flops:>12,.1f} {samples:>16} {epochs:>8}"
        rows.append(row)
    rows.append(f"{'mean step':<16} {plan.recipe.slots:>12} {'':>8} {plan.tokens:>12,.0f} {plan.flops / 1e9:>12,.1f}")
    whole = plan.flops * plan.recipe.max_steps
    many = "process" if plan.processes == 1 else "processes"
    rows.append(f"{plan.recipe.max_steps:,} steps on {plan.processes} {many}: {whole:.3g} floating-point operations")
    return "\n".join(rows)


def _images(plan: Plan) -> list[str]:
    """How large images are in the data and for the model; nothing where no task reads any."""
    if not plan.images:
        return []
    rows = [f"{'images':<16} {'median of data':>15} {'model sees':>12} {'patch':>6} {'tokens of one':>14}"]
    for name, image in plan.images.items():
        stored = "not found" if image.stored is None else _pixels(image.stored)
        rows.append(f"{name:<16} {stored:>15} {_pixels(image.seen):>12} {image.patch:>6} {image.tokens:>14,}")
    return ["\n".join(rows)]


def _warnings(plan: Plan) -> list[str]:
    return [
        f"warning: tasks.{name}: images of {_pixels(image.stored)} pixels (width × height) are reduced to "
        f"{_pixels(image.seen)} and lose half of a side or more. Hint: set {_IMAGES}.tokenizer to a larger size "
        f"(tokenizers/image_32, image_64, image_160, image, or a folder of your own), and {_IMAGES}.patch"
        for name, image in plan.images.items()
        if image.shrinks and image.stored is not None
    ]


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]} × {size[0]}"


def _memory(plan: Plan) -> str:
    """A row for each engine, marked where it is the recipe's own."""
    names = [*COLUMNS, "activations", "total", "host"]
    rows = []
    for engine in plan.engines.values():
        need = plan.states(engine)
        values = [*(getattr(need, column) for column in COLUMNS), plan.activations]
        rows.append([*values, need.total + plan.activations, need.host])
    table = _by_engine(plan, "GiB of a process", names, [[_gib(value) for value in row] for row in rows])
    return f"{table}\n* of this recipe. An estimate, beside data, libraries and fragments"


def _traffic(plan: Plan) -> str:
    """What each process sends, and how long that takes where nothing is hidden behind the computation."""
    if plan.processes == 1:
        return "one process sends nothing"
    names = ["gradients", "weights", "features", "tokens", "total", *(f"{name}, ms" for name in LINKS)]
    rows = []
    for engine in plan.engines.values():
        found = plan.traffic(engine)
        sent = dict.fromkeys(names[:4], 0.0)
        for one in found:
            sent[one.part] += one.sent
        times = [f"{1000 * seconds(found, link):,.1f}" for link in LINKS.values()]
        rows.append([*(_mib(value) for value in (*sent.values(), sum(sent.values()))), *times])
    return _by_engine(plan, "MiB sent a step", names, rows)


def _by_engine(plan: Plan, title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marked = [["  " if number else "* ", *row] for number, row in enumerate(rows)]
    lines = [[mark + name, *row] for name, (mark, *row) in zip(plan.engines, marked, strict=True)]
    return aligned([f"  {title}", *names], lines, {0}, rule=False)


def _gib(value: float) -> str:
    return f"{value / GIB:,.2f}" if value else "–"


def _mib(value: float) -> str:
    return f"{value / 2**20:,.1f}" if value else "–"


def _steps(plan: Plan) -> str:
    rows = []
    for step in range(min(3, plan.recipe.max_steps)):
        slots = schedule(plan.recipe, plan.recipe.seed, step)
        rows.append(f"step {step}: " + ", ".join(f"{slot.task} {slot.start}…{slot.stop - 1}" for slot in slots))
    return "\n".join(rows)
