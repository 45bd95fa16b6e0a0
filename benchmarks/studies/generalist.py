"""A generalist's tasks in one table: held-out metrics beside their floors, and beside specialists where there are some.

`python -m benchmarks.studies.generalist runs/queries_cpu/results.json --specialists runs/specialists` prints the table
of docs/task-queries.md, in Markdown, from what `unified eval --out` and
`python -m benchmarks.studies.specialists` wrote.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unified.core.errors import DataError, UserError
from unified.core.result_files import unpack
from unified.core.statistics import paired
from unified.evaluate.dense.nearest_neighbour import NEAREST
from unified.evaluate.dense.protocol import FLOOR
from unified.evaluate.results import read_results
from unified.evaluate.table import LOWER, MAIN, UNITS, find_metric, limits, number, sample_note

Entry = Mapping[str, Any]


def read_specialists(folder: Path) -> dict[str, Entry]:
    """The model's own results of each folder in `folder` that has a results file, by evaluation."""
    found = {}
    for path in sorted(folder.glob("*/results.json")):
        for entry in read_results(path)["results"]:
            if entry["features"] == "model":
                found[entry["dataset"]] = entry
    return found


def table(results: Mapping[str, Any], specialists: Mapping[str, Entry] | None = None) -> str:
    """A row for each evaluation of queries; of several floors that do not look, the best one counts.

    "better by" is the mean gain on the same pictures with its interval; a plain "better" or "intervals overlap" is said
    of metrics that single pictures have no score of.

    Raises `DataError` where there are none, or where a specialist was scored on other data than the generalist.
    """
    of_all: dict[str, list[Entry]] = {}
    for entry in results["results"]:
        if entry["protocol"] in MAIN:
            of_all.setdefault(entry["dataset"], []).append(entry)
    if not of_all:
        raise DataError("no results of queries among them; expected evaluations of `kind: dense`")
    beside = [] if specialists is None else ["specialist"]
    head = ["task", "pictures", "metric", "generalist" if beside else "model", "floor", NEAREST, *beside]
    head += [f"against the {other}" for other in ("floor", NEAREST, *beside)]
    rows = [_row(name, entries, specialists) for name, entries in of_all.items()]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(name: str, entries: Sequence[Entry], specialists: Mapping[str, Entry] | None) -> list[str]:
    metric = MAIN[entries[0]["protocol"]]
    own = next(entry for entry in entries if entry["features"] == "model")
    floors = {e["features"].removeprefix(FLOOR): e for e in entries if e["features"].startswith(FLOOR)}
    nearest = floors.pop(NEAREST, None)
    floor = best_floor(floors, metric)
    specialist = None if specialists is None else _specialist(own, specialists.get(name))
    others = [None if floor is None else floors[floor], nearest, *([] if specialists is None else [specialist])]
    return [
        f"`{name}`", f"{own['ci'][metric]['n']:,}", f"{find_metric(metric).title} {'←' if metric in LOWER else '→'}",
        _shown(own, metric), "–" if floor is None else f"{_shown(floors[floor], metric)}, {floor}",
        *(_shown(other, metric) for other in others[1:]), *(_verdict(own, other, metric) for other in others),
    ]  # fmt: skip


def best_floor(floors: Mapping[str, Entry], metric: str) -> str | None:
    """The name of the best of several; None where there are none."""
    sign = -1 if metric in LOWER else 1
    return max(floors, key=lambda name: sign * floors[name]["metrics"][metric], default=None)


def _specialist(own: Entry, specialist: Entry | None) -> Entry | None:
    if specialist is not None and specialist["data_hash"] != own["data_hash"]:
        raise DataError(f"{own['dataset']}: the specialist was scored on other data; evaluate both with the same spec")
    return specialist


def _shown(entry: Entry | None, metric: str) -> str:
    if entry is None:
        return "–"
    interval = entry["ci"][metric]
    return _interval(metric, entry["metrics"][metric], interval["low"], interval["high"])


def _interval(metric: str, value: float, low: float | None, high: float | None) -> str:
    factor = 1.0 if metric in UNITS else 100.0
    return f"{number(value, factor)} {limits(low, high, factor)}" if low is not None else number(value, factor)


def _verdict(own: Entry, other: Entry | None, metric: str) -> str:
    """Which is the better one: by the paired difference of pictures where they have scores, else by two intervals."""
    if other is None:
        return "–"
    values = [entry["items"]["values"].get(metric) for entry in (own, other)]
    if None in values:
        return _apart(own["ci"][metric], other["ci"][metric], metric)
    sign = -1.0 if metric in LOWER else 1.0
    ours, theirs = (sign * unpack(packed) for packed in values)
    terms = own["items"]["terms"].get(metric)
    gain = paired(ours, theirs, own["items"]["clusters"], None if terms is None else unpack(terms))
    if gain.p is None:
        return sample_note(None, gain.n, gain.clusters)
    if gain.low <= 0 <= gain.high:
        return "not told apart"
    if gain.difference > 0:
        return f"better by {_interval(metric, gain.difference, gain.low, gain.high)}"
    return f"worse by {_interval(metric, -gain.difference, -gain.high, -gain.low)}"


def _apart(ours: Mapping[str, Any], theirs: Mapping[str, Any], metric: str) -> str:
    for interval in (ours, theirs):
        if interval["low"] is None:
            return sample_note(None, interval["n"], interval["clusters"])
    if ours["low"] > theirs["high"]:
        return "worse" if metric in LOWER else "better"
    if ours["high"] < theirs["low"]:
        return "better" if metric in LOWER else "worse"
    return "intervals overlap"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.generalist", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("results", type=Path, help="file of the generalist, by `unified eval --out`")
    parser.add_argument("--specialists", type=Path, help="folder of `python -m benchmarks.studies.specialists`")
    given = parser.parse_args(arguments)
    try:
        specialists = None if given.specialists is None else read_specialists(given.specialists)
        sys.stdout.write(table(read_results(given.results), specialists))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
