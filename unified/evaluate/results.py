"""What an evaluation found: numbers with their errors and every item's score, as the results JSON.

Each entry keeps the keys of a CLIP_benchmark result (dataset, model, pretrained, task, language, metrics); what is
added stands beside them.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.core.atomic_files import replace_file, replacing_files
from unified.core.errors import DataError
from unified.core.json_files import MOST_BYTES, read_json
from unified.core.result_files import FORMAT, check_items, check_rows, pack, upgraded
from unified.core.statistics import Interval, Seeds
from unified.core.version import check_format
from unified.evaluate.answers import ItemAnswers

UNTUNED, ZERO_SHOT, PROBE, BASELINE = "w/o tuning", "zero-shot", "probe", "baseline"
TRAINED, SEEN = "trained task", "trained on this data"


@dataclass(frozen=True)
class Measure:
    """One number: its sampling error, its spread over seeds, and each item's score."""

    name: str  # the key in `metrics`
    interval: Interval
    seeds: Seeds | None = None
    values: NDArray[Any] | None = None  # (n,), or (seeds, n); None where items have no score of their own
    terms: NDArray[Any] | None = None  # (n,) where a value is a sum over so many terms

    @property
    def value(self) -> float:
        """The number that `metrics` holds."""
        return self.interval.value


@dataclass(frozen=True)
class Metric:
    """How the numbers of one key of `metrics` are shown, and which of them are better."""

    name: str
    heading: str = ""
    """For people; empty: the name."""
    lower: bool = False
    """Less is better."""
    percent: bool = True
    """A fraction, shown in percent."""

    @property
    def title(self) -> str:
        """The heading, or the name where there is none."""
        return self.heading or self.name

    @property
    def factor(self) -> float:
        """What the number is multiplied by where it is shown."""
        return 100.0 if self.percent else 1.0


def error_metric(name: str, heading: str = "") -> Metric:
    """Return a metric in a unit of its own, of which less is better."""
    return Metric(name, heading, lower=True, percent=False)


@dataclass(frozen=True)
class Result:
    """One protocol on one data set."""

    dataset: str
    task: str
    protocol: str
    label: str
    """The protocol as the table names it."""
    measures: tuple[Measure, ...]
    keys: tuple[str, ...]
    """Of the items, in the order of the values."""
    data_hash: str
    setting: str
    features: str = "model"
    shots: int | None = None
    clusters: NDArray[np.int64] | None = None
    per_class: dict[str, float | None] | None = None
    undefined: tuple[str, ...] = ()
    """Metrics that this data set has no value for; null in the JSON."""
    notes: dict[str, Any] = field(default_factory=dict)
    training_data: str | None = None
    """seen, unseen, not checked or unknown (`evaluate/training_data.py`); None for baselines."""
    answers: ItemAnswers | None = None
    """None where an item has no answer of its own, or one too large to list (maps, objects)."""
    trained_tasks: tuple[str, ...] | None = None
    """The trained tasks that were asked; None: unknown, or a baseline."""


def entry(result: Result, model: Mapping[str, Any], keys_name: str) -> dict[str, Any]:
    """One result in the JSON; `model` holds what all entries say of the model."""
    metrics: dict[str, float | None] = {measure.name: _number(measure.value) for measure in result.measures}
    metrics |= dict.fromkeys(result.undefined)
    shots = {} if result.shots is None else {"fewshot_k": result.shots}
    return {
        "dataset": result.dataset,
        "model": model["model"],
        "pretrained": "",
        "task": result.task,
        "language": "en",
        "metrics": metrics | shots,
        "format": FORMAT,
        "protocol": result.protocol,
        "label": result.label,
        "features": result.features,
        "setting": result.setting,
        "training_data": result.training_data,
        "trained_tasks": None if result.trained_tasks is None else list(result.trained_tasks),
        "n": len(result.keys),
        "ci": {
            m.name: _clean({**asdict(m.interval), "few_clusters": m.interval.few_clusters}) for m in result.measures
        },
        "seeds": {m.name: _clean(asdict(m.seeds)) for m in result.measures if m.seeds is not None} or None,
        "per_class": _clean(result.per_class),
        "notes": _clean(result.notes),
        "data_hash": result.data_hash,
        **{name: model[name] for name in ("model_hash", "versions", "command")},
        "items": {
            "keys": keys_name,
            "clusters": None if result.clusters is None else result.clusters.tolist(),
            "values": {m.name: pack(m.values) for m in result.measures if m.values is not None},
            "terms": {m.name: pack(m.terms) for m in result.measures if m.terms is not None},
            **(result.answers.content() if result.answers is not None else {}),
        },
    }


def collect(results: Sequence[Result], model: Mapping[str, Any]) -> dict[str, Any]:
    """All results as the content of one JSON file; equal lists of keys are written once."""
    names: dict[tuple[str, ...], str] = {}
    entries = []
    for result in results:
        name = names.setdefault(result.keys, f"{result.dataset}-{len(names)}")
        entries.append(entry(result, model, name))
    return {"format": FORMAT, **model, "keys": {name: list(keys) for keys, name in names.items()}, "results": entries}


ROW = ("dataset", "model", "pretrained", "task", "language", "metrics")
"""The keys of a CLIP_benchmark result (clip_benchmark/cli.py): `build` makes a line of CSV of them and of `metrics`."""
BESIDE = ("protocol", "label", "features", "setting", "n")
"""Keys that tell rows of one data set and task apart; `build` makes columns of them as well."""
_ROW_FILE = "[0-9][0-9][0-9]-*.json"


def row_files(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each result as the content of a CLIP_benchmark result, by the name of a file."""
    found = {}
    for number, item in enumerate(results["results"]):
        name = re.sub(r"[^\w.]+", "-", f"{item['dataset']}-{item['label']}").strip("-")
        found[f"{number:03d}-{name[:80]}.json"] = {key: item[key] for key in (*ROW, *BESIDE)}
    return found


def write_rows(folder: Path, results: Mapping[str, Any]) -> None:
    """Write a file a result, as CLIP_benchmark's `build` reads them; rows of an earlier evaluation are replaced."""
    files = row_files(results)
    with replacing_files(folder) as part:
        for name, content in files.items():
            (part / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    for old in folder.glob(_ROW_FILE):
        if old.name not in files:
            old.unlink()


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write a results file, complete or not at all; one line an entry.

    The keys of a single result stand at the top as well, so that CLIP_benchmark's `build` reads the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {name: value for name, value in results.items() if name not in ("keys", "results")}
    if len(results["results"]) == 1:
        (row,) = row_files(results).values()
        head |= row
    lines = [json.dumps(head, ensure_ascii=False, allow_nan=False)[:-1]]
    keys = ",\n  ".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in results["keys"].items())
    lines.append(f', "keys": {{\n  {keys}\n }}, "results": [\n ')
    lines.append(",\n ".join(json.dumps(e, ensure_ascii=False, allow_nan=False) for e in results["results"]))
    lines.append("\n]}\n")
    replace_file(path, "".join(lines))


def read_results(path: Path | str) -> dict[str, Any]:
    """The content of a results file, upgraded where it is older. Raises `DataError` for others and newer formats."""
    try:
        content = read_json(Path(path), most=MOST_BYTES)
    except (OSError, DataError) as error:
        raise DataError(f"{path}: not a results file ({error}); expected what `unified eval --out` writes") from error
    if not isinstance(content.get("results"), list) or "keys" not in content:
        raise DataError(f"{path}: no `results` and `keys` in it; expected what `unified eval --out` writes")
    check_format(content.get("format"), FORMAT, str(path))
    check_rows(content, str(path))
    check_items(content, str(path))
    return upgraded(content)


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a results content under one name, "digits/zero-shot, bare names/acc1": for logs of training."""
    found = {}
    for item in results["results"]:
        own = "" if item["features"] == "model" else f" on {item['features']}"
        own += " on training data" if item["training_data"] == "seen" else ""
        for name in item["ci"]:
            if item["metrics"][name] is not None:
                found[f"{item['dataset']}/{item['label']}{own}/{name}"] = float(item["metrics"][name])
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _clean(value: Any) -> Any:
    """JSON has no NaN and no numpy: null and plain numbers."""
    if isinstance(value, Mapping):
        return {str(name): _clean(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return _number(value) if isinstance(value, float) else value
