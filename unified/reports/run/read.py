"""What a run wrote about itself: its records, its starts, its log; also while it is still training."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified import checkpoint
from unified.answers.score import token_kinds
from unified.checkpoint.place import checkpoints_of
from unified.config.recipe import Recipe
from unified.core.errors import UserError
from unified.core.log import logger
from unified.model.routing_attributes import key
from unified.nn.moe.routing import BY_TOKEN
from unified.train.monitor.records import MOST_STEPS, read_metrics, read_recipe, read_starts

Record = Mapping[str, Any]

TRAINED = "gradient_norm"  # records of training have it, those of evaluation do not
MEASURED = frozenset({TRAINED, "samples_per_second", "tokens_per_second", "data_wait"})
"""What every record of training has."""
PROGRESS = re.compile(r"INFO step +(\d+)/\d+ ")
CONTINUING = re.compile(r"INFO continuing .* from step (\d+) of \d+$")
BAD = "bad sample, replaced by the next good one: "
STALL = re.compile(r"step \d+: no batch for ")


@dataclass(frozen=True)
class Curve:
    """A number over the steps at whose end it was recorded."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def finite(self) -> "Curve":
        """Without the values that are not finite numbers."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])


@dataclass(frozen=True)
class Resume:
    """The run went on from a checkpoint."""

    step: int
    repeated: int = 0
    """Steps that had been done after that checkpoint, and were done again."""
    gap: tuple[int, int] | None = None
    """First and last of the steps that are in no record, as the process ended before it wrote one."""


@dataclass(frozen=True)
class Samples:
    """How many samples could not be used."""

    seen: int | None
    """Of the whole run until the newest checkpoint; None before the first one."""
    bad: int
    named: tuple[str, ...] = ()
    """Those that the log names."""


@dataclass(frozen=True)
class Log:
    """What log.txt says beyond the records, since the run last began at step 0."""

    continued: tuple[tuple[int, int], ...] = ()
    """Of each resume the step, and how many steps were done again."""
    bad: tuple[str, ...] = ()
    stalls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run as far as it has come."""

    path: Path
    recipe: Recipe
    records: Sequence[Record]
    """Of training, by step; at least one."""
    evaluations: Sequence[Record] = ()
    resumes: Sequence[Resume] = ()
    overwritten: int = 0
    """Records that were left out, as later ones go back before them."""
    samples: Samples = Samples(None, 0)
    stalls: Sequence[str] = ()

    @property
    def step(self) -> int:
        """The last one that a record tells of."""
        return int(self.records[-1]["step"])

    def names(self, prefix: str) -> list[str]:
        """The keys of records that begin so, in the order of their first record."""
        every = dict.fromkeys(name for record in (*self.records, *self.evaluations) for name in record)
        return [name for name in every if name.startswith(prefix)]

    def curve(self, name: str) -> Curve:
        """The values of a key in the records that have it."""
        return curve((*self.records, *self.evaluations), name)

    def tasks(self) -> list[str]:
        """Those that a record has a loss of, in the order of the recipe."""
        found = [name.removeprefix("loss/") for name in self.names("loss/")]
        known = list(self.recipe.tasks)
        return [name for name in known if name in found] + [name for name in found if name not in known]

    def covered(self) -> NDArray[np.int64]:
        """The number of steps that each record is about."""
        steps = [int(record["step"]) for record in self.records]
        begins = [0, *(resume.step for resume in self.resumes)]
        before = [
            max(last, *(begin for begin in begins if begin < step))
            for last, step in zip([0, *steps], steps, strict=False)
        ]
        return np.array(steps) - np.array(before)

    def first_of_process(self) -> NDArray[np.bool_]:
        """Of each record whether it has the first steps of a process, which warm up and are slow."""
        steps = np.array([int(record["step"]) for record in self.records])
        found = np.zeros(len(steps), dtype=bool)
        for begin in (0, *(resume.step for resume in self.resumes)):
            after = int(np.searchsorted(steps, begin, side="right"))
            found[after : after + 1] = True
        return found

    def rows(self) -> int | None:
        """How many kinds of token the routers tell apart; None where they look at the tokens, or there are none."""
        experts = self.recipe.model.experts
        if experts is None or experts.router in BY_TOKEN:
            return None
        tasks = self.recipe.tasks
        families = list(dict.fromkeys(task.family or name for name, task in tasks.items()))
        kinds = [kind for name, task in tasks.items() for kind in token_kinds(task, name)]
        return len({key(kind, asdict(experts), families) for kind in kinds})


def curve(records: Iterable[Record], name: str) -> Curve:
    """The numbers of a key; null is passed over."""
    found = [(record["step"], record[name]) for record in records if isinstance(record.get(name), int | float)]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return Curve(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))


def read_run(path: Path) -> Run:
    """Read the folder of a run, which may be in use; `UserError` where it is none or has no record yet."""
    recipe = read_recipe(path / "recipe.yaml")
    if recipe is None:
        what = "no such folder" if not path.exists() else "not the folder of a run, as recipe.yaml is not in it"
        raise UserError(f"{path}: {what}. Name the folder that train.py wrote, such as runs/quickstart")
    metrics = path / "metrics.jsonl"
    found, overwritten = forward(readable(read_metrics(metrics), metrics))
    records = [record for record in found if TRAINED in record]
    if not records:
        raise UserError(
            f"{path}: no records yet in metrics.jsonl. The first one is written after the first step; try again then"
        )
    log = read_log(path / "log.txt")
    return Run(
        path=path,
        recipe=recipe,
        records=records,
        evaluations=[record for record in found if TRAINED not in record],
        resumes=resumes(_begun(path), log, [int(record["step"]) for record in records]),
        overwritten=overwritten,
        samples=samples(path, log),
        stalls=log.stalls,
    )


def readable(records: Iterable[Record], path: Path) -> Iterator[Record]:
    """Yield records with their numbers alone, without those of training that lack one; these are counted in the log.

    Args:
        records: As of `read_metrics`.
        path: Where they were read, for the log.
    """
    left, loads = 0, dict[str, int]()
    for record in records:
        fitting = {name: value for name, value in record.items() if _is_number(value) or _is_load(name, value)}
        for name, value in list(fitting.items()):
            if isinstance(value, list) and len(value) != loads.setdefault(name, len(value)):
                del fitting[name]
        if "slowest_rank" not in fitting:
            fitting.pop("imbalance", None)
        if TRAINED in record and not fitting.keys() >= MEASURED:
            left += 1
        else:
            yield fitting
    if left:
        logger.warning("%s: %d records are left out: expected %s as numbers", path, left, ", ".join(sorted(MEASURED)))


def _is_number(value: Any) -> bool:
    """Whether a value can be drawn: numbers, infinite ones too, that a float holds."""
    return type(value) is float or (type(value) is int and abs(value) < MOST_STEPS)


def _is_load(name: str, value: Any) -> bool:
    return name.endswith("/load") and isinstance(value, list) and len(value) > 1 and all(map(_is_number, value))


def forward(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Records in the order of their steps; where steps go back, later ones count. Also how many were dropped."""
    kept: list[Record] = []
    dropped = 0
    for record in records:
        evaluated = TRAINED not in record  # comes after the training record of its step
        while kept and (kept[-1]["step"] > record["step"] or (kept[-1]["step"] == record["step"] and not evaluated)):
            kept.pop()
            dropped += 1
        kept.append(record)
    return kept, dropped


def read_log(path: Path) -> Log:
    """What log.txt says; an empty `Log` where there is none."""
    continued: list[tuple[int, int]] = []
    warnings: list[str] = []
    last = told = 0  # the last step, and the warnings that came before it was told
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        if progress := PROGRESS.search(line):
            last = int(progress[1])
            if last == 1:  # begun at step 0 again: what came before is of another run
                continued.clear()
                del warnings[:told]
            told = len(warnings)
        elif again := CONTINUING.search(line):
            step = int(again[1])
            continued.append((step, max(last - step, 0)))
            last = step
        elif " WARNING " in line:
            warnings.append(line.partition(" WARNING ")[2])
    bad = dict.fromkeys(warning.removeprefix(BAD) for warning in warnings if warning.startswith(BAD))
    return Log(tuple(continued), tuple(bad), tuple(warning for warning in warnings if STALL.match(warning)))


def _begun(path: Path) -> list[int]:
    """The steps after which the processes of a run began, 0 first; nothing where that is not known."""
    return [int(start["step"]) for start in read_starts(path / "versions.json") or ()]


def resumes(begun: Sequence[int], log: Log, recorded: Sequence[int]) -> list[Resume]:
    """Every time the run went on: from versions.json, and what was lost or repeated from the log and the records."""
    steps = [step for step in begun if step > 0] if begun else [step for step, _ in log.continued]
    again = dict[int, int]()
    for step, repeated in log.continued:
        again[step] = again.get(step, 0) + repeated
    found = []
    for number, step in enumerate(steps):
        before = max((record for record in recorded if record <= step), default=0)
        stands = all(later > step for later in steps[number + 1 :])  # otherwise its records were dropped
        gap = (before + 1, step) if stands and before < step else None
        found.append(Resume(step, again.pop(step, 0), gap))
    return found


def samples(path: Path, log: Log) -> Samples:
    """Of the newest checkpoint of a run; of the log alone where there is none, or it is removed at this moment."""
    try:
        checkpoints = checkpoint.listed(checkpoints_of(path))
    except (checkpoint.CheckpointError, UserError) as error:
        logger.warning("%s. Samples are counted by the log alone", error)
        checkpoints = []
    for found in reversed(checkpoints):
        try:
            state = checkpoint.state(found)
        except (checkpoint.CheckpointError, ValueError, KeyError):
            continue
        seen, bad = state.get("seen_samples"), state.get("bad_samples")
        if isinstance(seen, int) and isinstance(bad, int):
            return Samples(seen, max(bad, len(log.bad)), log.bad)
    return Samples(None, len(log.bad), log.bad)


def not_finite(records: Iterable[Record]) -> dict[str, list[int]]:
    """The steps at which a number was not finite, by key."""
    found: dict[str, list[int]] = {}
    for record in records:
        for name, value in record.items():
            values = value if isinstance(value, list) else [value]
            if any(isinstance(one, float) and not math.isfinite(one) for one in values):
                found.setdefault(name, []).append(int(record["step"]))
    return found
