"""Results for people: aligned text in which sampling error and spread over seeds stand apart."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unified.core.small_samples import FEW_CLUSTERS
from unified.core.text_tables import aligned
from unified.core.training_record import training_note
from unified.evaluate.dense.table import DENSE, find_evaluation
from unified.evaluate.results import UNTUNED, ZERO_SHOT, Metric, error_metric

HEAD = ("data", "protocol", "features", "metric", "value", "95 % sampling", "over seeds", "n", "notes")
LEFT = {0, 1, 2, 3, 8}
METRICS = {
    metric.name: metric
    for metric in (
        Metric("acc1", "accuracy"),
        Metric("acc5", "accuracy in 5"),
        Metric("lp_acc1", "accuracy"),
        Metric("exact_match", "exact match"),
        Metric("token_accuracy", "token accuracy"),
        error_metric("perplexity"),
        *(metric for evaluation in DENSE.values() for metric in evaluation.metrics),
    )
}
"""Those that are no plain fractions under their own name."""
LOWER = {name for name, metric in METRICS.items() if metric.lower}
"""Metrics of which less is better."""
UNITS = {name for name, metric in METRICS.items() if not metric.percent}
"""Metrics that are no fractions."""
MAIN = {kind: evaluation.metrics[0].name for kind, evaluation in DENSE.items()}
"""The metric that stands for what queries read, where there is room for one."""
QUIET = ("mean_per_class_recall", "lp_mean_per_class_recall")
"""In the JSON only: beside accuracy they would double the table."""


def results_table(results: Mapping[str, Any]) -> str:
    """One row a number; shares in percent."""
    rows = [row for item in results["results"] for row in _rows(item)]
    legend = (
        "95 % sampling: another test set of this kind. Over seeds: other labelled examples (± t-interval).\n"
        "w/o tuning: class names or data may have been in pretraining. Trained task: the model learned to answer this."
    )
    return f"{aligned(HEAD, rows, LEFT)}\n\n{legend}\n"


def _rows(item: Mapping[str, Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    for name, value in item["metrics"].items():
        if name not in item["ci"] or name in QUIET:
            continue
        interval, metric = item["ci"][name], find_metric(name, item["protocol"])
        first = not rows
        rows.append(
            [
                item["dataset"] if first else "",
                item["label"] if first else "",
                item["features"] if first else "",
                metric.title,
                number(value, metric.factor),
                limits(interval["low"], interval["high"], metric.factor),
                _seeds((item["seeds"] or {}).get(name), metric.factor),
                f"{interval['n']:,}",
                _notes(item) if first else "",
            ]
        )
    return rows


def find_metric(name: str, protocol: str = "") -> Metric:
    """Return how a metric is shown.

    Args:
        name: Its key in `metrics`.
        protocol: That of its row: the kind of answer where queries answered.
    """
    if name not in METRICS and (evaluation := find_evaluation(protocol)) is not None:
        return next((metric for metric in evaluation.metrics if metric.name == name), Metric(name))
    plain = Metric(name, f"R@{name.rpartition('@')[2]}" if "retrieval_recall@" in name else "")
    return METRICS.get(name, plain)


def _seeds(seeds: Mapping[str, Any] | None, factor: float) -> str:
    if seeds is None:
        return "–"
    count = len(seeds["values"])
    if seeds["half_width"] is None:
        return f"{count} seed"
    return f"± {number(seeds['half_width'], factor)} ({count} seeds)"


def _notes(item: Mapping[str, Any]) -> str:
    notes = item["notes"]
    found = [item["setting"]] if item["setting"] in (UNTUNED, ZERO_SHOT) else []
    found += [note] if (note := training_note(item)) else []
    for name, text in (("chance", "chance"), ("ceiling", "ceiling"), ("ceiling_own_text", "own text alone")):
        if notes.get(name) is not None:
            found.append(f"{text} {number(notes[name], 100.0)}")
    if notes.get("short_classes"):
        found.append(f"fewer labelled items of {_some(notes['short_classes'])}")
    if notes.get("untested_classes"):
        found.append(f"no test item of {_some(notes['untested_classes'])}")
    for interval in item["ci"].values():
        if told := sample_note(interval["low"], interval["n"], interval["clusters"]):
            found.append(told)
            break
    if notes.get("how"):
        found.append(notes["how"])
    if notes.get("converged") is False:
        found.append("not converged")
    return "; ".join(found)


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])}, … ({len(names)} classes)"


def sample_note(low: float | None, n: int, clusters: int | None) -> str:
    """A warning about a sample that is too small for an interval, or for one to be relied on; "" where none is due."""
    count, of = (n, "item") if clusters is None else (clusters, "cluster")
    if low is None or math.isnan(low):
        return f"one {of}: no interval" if count < 2 else "no interval"
    few = clusters is not None and clusters < FEW_CLUSTERS
    return f"only {clusters} clusters: interval widened for it, rough" if few else ""


def limits(low: float | None, high: float | None, factor: float = 1.0) -> str:
    """The limits of an interval; "none" where there is none."""
    if low is None or high is None or math.isnan(low):
        return "none"
    return f"[{number(low, factor)}, {number(high, factor)}]"


def number(value: float | None, factor: float = 1.0) -> str:
    """A number with as many digits as its interval deserves; "–" for none."""
    if value is None:
        return "–"
    scaled = value * factor
    if factor == 1.0 and abs(scaled) < 10:
        return f"{scaled:.2f}" if abs(scaled) >= 1 else f"{scaled:.3f}"
    return f"{scaled:.1f}" if abs(scaled) < 1000 else f"{scaled:,.0f}"
