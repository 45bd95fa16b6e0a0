"""Results files of older formats are read, and say what they should have said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unified.core import statistics
from unified.core.result_files import FORMAT, pack, upgraded
from unified.core.seed import generator
from unified.evaluate.compare import compare
from unified.evaluate.results import read_results
from unified.evaluate.table import results_table
from unified.hub.card import _measured
from unified.hub.load import read_results as read_for_card

CLUSTERS = np.repeat(np.arange(5), 8)
RIGHT = generator("old results").random(40) < 0.6
LOSS = generator("old loss").gamma(4.0, 1.0, 40)
TERMS = generator("old terms").integers(1, 9, 40).astype(float)


def interval(value: float, method: str, **known: Any) -> dict[str, Any]:
    """As format 1 has it."""
    limits = {"low": value - 0.1, "high": value + 0.1, "se": 0.05, "n": 40, "clusters": 5, "few_clusters": True}
    return {"value": value, "method": method, **limits, **known}


def old() -> dict[str, Any]:
    ci = {
        "acc1": interval(float(RIGHT.mean()), "wilson_clustered"),
        "perplexity": interval(float(np.exp(LOSS.sum() / TERMS.sum())), "exp_normal"),
        "mean_per_class_recall": interval(0.6, "bootstrap"),
        "rank1": interval(0.6, "wilson_clustered", clusters=4, few_clusters=True),
    }
    entry = {
        "dataset": "a", "model": "m", "task": "zeroshot_classification", "protocol": "uni-perceiver", "label": "names",
        "features": "model", "setting": "w/o tuning", "format": 1, "n": 40, "data_hash": "h", "notes": {},
        "seeds": None, "metrics": {name: found["value"] for name, found in ci.items()}, "ci": ci,
        "items": {
            "keys": "k", "clusters": CLUSTERS.tolist(), "terms": {"perplexity": pack(TERMS)},
            "values": {"acc1": pack(RIGHT), "perplexity": pack(LOSS), "rank1": pack(RIGHT)},
        },
    }  # fmt: skip
    return {"format": 1, "model": "m", "keys": {"k": [f"{n}" for n in range(40)]}, "results": [entry]}


def test_intervals_of_the_first_format_are_computed_anew() -> None:
    found = upgraded(old())
    assert (found["format"], found["results"][0]["format"]) == (FORMAT, FORMAT)
    ci = found["results"][0]["ci"]
    right = statistics.proportion(RIGHT, CLUSTERS)
    assert (ci["acc1"]["low"], ci["acc1"]["high"], ci["acc1"]["df"]) == (right.low, right.high, right.df)
    words = statistics.mean(LOSS, CLUSTERS, TERMS)
    assert (ci["perplexity"]["low"], ci["perplexity"]["high"]) == pytest.approx(
        (np.exp(words.low), np.exp(words.high)), rel=1e-5
    )
    # t with 4 degrees of freedom, and 5 / 4 of the variance; 4 clusters that the file does not name: t with 3.
    assert ci["mean_per_class_recall"]["high"] == pytest.approx(0.6 + 0.1 * 2.7764 / 1.95996 * 1.25**0.5, abs=1e-4)
    assert ci["rank1"]["low"] == pytest.approx(0.6 - 0.1 * 3.1824 / 1.95996, abs=1e-4)
    assert upgraded(found) == found


def test_one_cluster_of_the_first_format_has_no_interval() -> None:
    content = old()
    content["results"][0]["ci"]["acc1"] |= {"clusters": 1}
    found = upgraded(content)["results"][0]["ci"]["acc1"]
    assert (found["low"], found["high"], found["se"]) == (None, None, None)


def test_older_files_are_compared_printed_and_put_on_cards(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(old()))
    results = read_results(path)
    assert "only 5 clusters: interval widened for it, rough" in results_table(results)
    for row in compare(results, results):
        assert row.paired.difference == 0
    content = old()
    content["results"][0]["ci"]["rank1"] |= {"clusters": 1}
    path.write_text(json.dumps(content))
    lines = [line for item in read_for_card(path)["results"] for line in _measured(item)]
    assert "| none |" in next(line for line in lines if "rank1" in line)
