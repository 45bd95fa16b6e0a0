"""Two models on the same items: paired differences, exact tests, and what could have been detected."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unified.core import statistics
from unified.core.errors import DataError
from unified.core.result_files import unpack
from unified.core.statistics import Paired, Seeds
from unified.core.text_tables import aligned
from unified.evaluate.table import find_metric, sample_note

HEAD = (
    *("data", "protocol", "metric", "A", "B", "A − B"),
    *("95 % sampling", "over seeds", "p", "p (Holm)", "detectable", "n", "notes"),
)
LEFT = {0, 1, 2, 12}


@dataclass(frozen=True)
class Comparison:
    """One metric of one protocol, first model minus second."""

    dataset: str
    label: str
    protocol: str
    metric: str
    first: float
    second: float
    paired: Paired
    seeds: Seeds | None


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Comparison]:
    """All numbers of the models' own features that both results hold with scores of items.

    Baselines are left out: they are equal by construction, and would count as comparisons in Holm's correction.
    Raises `DataError` where the items differ (with counts: nothing is joined silently) or nothing is in common.
    """
    entries = [{_identity(e): e for e in results["results"] if e["features"] == "model"} for results in (first, second)]
    common = [identity for identity in entries[0] if identity in entries[1]]
    if not common:
        listed = [", ".join(sorted({f"{e['dataset']} ({e['label']})" for e in found.values()})) for found in entries]
        raise DataError(f"the two results have no evaluation in common: A has {listed[0]}; B has {listed[1]}")
    found = []
    for identity in common:
        a, b = entries[0][identity], entries[1][identity]
        _check(a, b, first["keys"][a["items"]["keys"]], second["keys"][b["items"]["keys"]])
        metrics = [name for name in a["items"]["values"] if name in b["items"]["values"]]
        found += [_compared(a, b, name) for name in metrics]
    return found


def _identity(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return (item["dataset"], item["task"], item["protocol"], item["features"], item["metrics"].get("fewshot_k"),
            item["notes"].get("prompt"), item["notes"].get("gallery"))  # fmt: skip


def _check(a: Mapping[str, Any], b: Mapping[str, Any], a_keys: list[str], b_keys: list[str]) -> None:
    where = f"{a['dataset']} ({a['label']})"
    if a_keys != b_keys:
        only_a, only_b = len(set(a_keys) - set(b_keys)), len(set(b_keys) - set(a_keys))
        order = "; the same keys in another order" if not only_a and not only_b else ""
        raise DataError(
            f"{where}: the items differ: A has {len(a_keys):,}, B has {len(b_keys):,}; {only_a:,} only in A, "
            f"{only_b:,} only in B{order}. Evaluate both models with the same spec"
        )
    if a["data_hash"] != b["data_hash"]:
        raise DataError(f"{where}: the keys agree but the data behind them differ; evaluate both on the same shards")
    if a["notes"].get("subsets") != b["notes"].get("subsets"):
        raise DataError(f"{where}: the k-shot subsets differ (other seeds or training data); use the same --seeds")
    if a["notes"].get("train_hash") != b["notes"].get("train_hash"):
        raise DataError(f"{where}: the probes were fitted on different training data; evaluate both on the same shards")


def _compared(a: Mapping[str, Any], b: Mapping[str, Any], metric: str) -> Comparison:
    scores = [unpack(item["items"]["values"][metric]) for item in (a, b)]
    clusters = a["items"]["clusters"]
    seeds = None
    if scores[0].ndim == 2:
        seeds = statistics.over_seeds((scores[0] - scores[1]).mean(1).tolist())
        # One subset keeps its 0 and 1, so that the exact test applies.
        scores = [found.mean(0) if len(found) > 1 else found[0] for found in scores]
    terms = a["items"]["terms"].get(metric)
    if terms is not None:
        if terms != b["items"]["terms"][metric]:
            raise DataError(
                f"{a['dataset']} ({a['label']}): the texts have different numbers of tokens; perplexities of "
                "different tokenizers cannot be compared"
            )
        metric = "loss (nats)" if metric == "perplexity" else metric
    paired = statistics.paired(scores[0], scores[1], clusters, None if terms is None else unpack(terms))
    own = [float(np.sum(found) / (len(found) if terms is None else np.sum(unpack(terms)))) for found in scores]
    return Comparison(a["dataset"], a["label"], a["protocol"], metric, own[0], own[1], paired, seeds)


def comparison_table(found: list[Comparison]) -> str:
    """One row a metric; shares in percentage points; p after Holm for the number of rows."""
    with_p = [row for row in found if row.paired.p is not None]
    adjusted = dict(zip(map(id, with_p), statistics.holm([float(r.paired.p or 0.0) for r in with_p]), strict=True))
    rows = []
    for row in found:
        metric = find_metric(row.metric, row.protocol)
        factor = 1.0 if row.metric.startswith("loss") else metric.factor
        digits = 3 if factor == 1.0 else 1
        paired = row.paired
        values = [f"{value * factor:.{digits}f}" for value in (row.first, row.second)]
        known = not math.isnan(paired.low)
        limits = f"[{paired.low * factor:+.{digits}f}, {paired.high * factor:+.{digits}f}]" if known else "none"
        rows.append(
            [row.dataset, row.label, metric.title, *values, f"{paired.difference * factor:+.{digits}f}",
             limits, _seeds(row.seeds, factor), _p(paired.p), _p(adjusted.get(id(row))),
             f"{paired.detectable * factor:.{digits}f}" if known else "–", f"{paired.n:,}",
             sample_note(paired.low, paired.n, paired.clusters)]
        )  # fmt: skip
    legend = (
        "A − B on the same items. p: exact McNemar for right and wrong, else t as the interval has it; Holm: for all\n"
        "rows. detectable: the smallest difference found with 80 % power. Overlap of two intervals is not a test."
    )
    return f"{aligned(HEAD, rows, LEFT)}\n\n{legend}\n"


def _seeds(seeds: Seeds | None, factor: float) -> str:
    if seeds is None:
        return "–"
    if seeds.half_width is None:
        return "1 seed"
    return f"± {seeds.half_width * factor:.1f} ({len(seeds.values)} seeds)"


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
