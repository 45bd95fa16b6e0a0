"""The content of results files: how scores of items are written, and files of older formats brought up to date.

Format 1 had limits of the normal distribution, which are too narrow for few items and few clusters.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unified.core.errors import DataError, quoted
from unified.core.small_samples import Z, degrees, t_quantile
from unified.core.statistics import Interval, exponential, mean, proportion

FORMAT = 2
WIDENED = ("bootstrap", "normal", "normal_clustered", "exp_normal", "wilson_clustered")
"""Methods of format 1 with limits that few items or clusters make too narrow; Wilson's hold."""


def pack(values: NDArray[Any]) -> Any:
    """Scores of items for JSON: 0 and 1 as a string of digits, others as numbers; (seeds, n) as a list of rows."""
    if values.ndim == 2:
        return [pack(row) for row in values]
    if values.dtype == bool:
        return "".join("1" if value else "0" for value in values)
    return [round(float(value), 6) for value in values]


def unpack(packed: Any) -> NDArray[np.float64]:
    """The scores that `pack` wrote."""
    if isinstance(packed, str):
        return np.array([digit == "1" for digit in packed], dtype=np.float64)
    if packed and isinstance(packed[0], str | list):
        return np.stack([unpack(row) for row in packed])
    return np.array(packed, dtype=np.float64)


def check_rows(content: Mapping[str, Any], where: str) -> None:
    """Refuse results whose rows are not as `unified eval` writes them.

    Args:
        content: Of a results file.
        where: The file, as an error names it.

    Raises:
        DataError: A row lacks something, or has it in another type; the message names the row and the key.
    """
    rows = content.get("results")
    if not isinstance(rows, list):
        raise DataError(f"{where}: results: expected a list, got {quoted(rows)}")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{where}: results[{number}]: expected a result, got {quoted(row)}")
        for key, (expected, fits) in _ROW.items():
            if not fits(row.get(key)):
                got = quoted(row[key]) if key in row else "none"
                raise DataError(f"{where}: results[{number}].{key}: expected {expected}, got {got}")
        if not row["ci"].keys() <= row["metrics"].keys():
            raise DataError(f"{where}: results[{number}].ci: expected names that `metrics` has, got others")


def check_items(content: Mapping[str, Any], where: str) -> None:
    """Refuse results whose scores of items are not those of its lists of keys; arguments as of `check_rows`."""
    keys = content.get("keys")
    if not isinstance(keys, dict) or not all(_all(found, str) for found in keys.values()):
        raise DataError(f"{where}: keys: expected lists of keys by name, got {quoted(keys)}")
    for number, row in enumerate(content["results"]):
        for key in ("task", "protocol", "data_hash"):
            if not isinstance(row.get(key), str):
                raise DataError(f"{where}: results[{number}].{key}: expected a text, got {quoted(row.get(key))}")
        if not isinstance(row.get("notes"), dict):
            raise DataError(f"{where}: results[{number}].notes: expected notes by name, got {quoted(row.get('notes'))}")
        try:
            items = row["items"]
            many = len(keys[items["keys"]])
            fits = items["clusters"] is None or (_all(items["clusters"], int) and len(items["clusters"]) == many)
            packed = [*items["values"].values(), *items["terms"].values()]
            fits = fits and all(unpack(found).shape[-1:] == (many,) for found in packed)
        except (LookupError, TypeError, ValueError, AttributeError):
            fits = False
        if not fits:
            raise DataError(f"{where}: results[{number}].items: expected a score for each of its keys, got others")


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _is_number(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and -(2**1000) < value < 2**1000)


def _numbers(value: Any, *keys: str) -> bool:
    return isinstance(value, dict) and all(key in value and _is_number(value[key]) for key in keys or value)


_TEXT = ("a text", lambda value: isinstance(value, str))
_ROW: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("dataset", "label", "features"), _TEXT),
    "n": ("a number of items", lambda value: type(value) is int),
    "notes": ("notes by name, or none", lambda value: value is None or isinstance(value, dict)),
    "seeds": (
        "spreads by name, or null",
        lambda value: (
            value is None or (isinstance(value, dict) and all(_numbers(s, "half_width") for s in value.values()))
        ),
    ),
    "metrics": ("numbers by name", _numbers),
    "ci": (
        "intervals by name",
        lambda value: isinstance(value, dict) and all(_numbers(one, "low", "high") for one in value.values()),
    ),
}
"""What every row has."""


def upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a results file in the present format.

    Intervals of format 1 are computed anew where the scores of items are in the file. Those of a bootstrap, and of
    clusters that the file does not name, are widened as few items or clusters need it.
    """
    if content.get("format") != 1:
        return dict(content)
    entries = []
    for item in content["results"]:
        limits = {name: _interval(item, name, old) for name, old in item.get("ci", {}).items()}
        entries.append({**item, "format": FORMAT, "ci": limits} if limits else {**item, "format": FORMAT})
    return {**content, "format": FORMAT, "results": entries}


def _interval(item: Mapping[str, Any], name: str, old: Mapping[str, Any]) -> dict[str, Any]:
    """One interval of format 1 in the present format."""
    count = old.get("clusters")
    n = old.get("n") if count is None else count
    if n is None:  # written by hand: nothing is known of what it rests on
        return {**old, "df": None}
    if n < 2:
        return {**old, "low": None, "high": None, "se": None, "df": None}
    found = _computed(item, name, old.get("method"))
    if found is not None and found.clusters == count:
        new = {"low": found.low, "high": found.high, "se": found.se, "method": found.method, "df": found.df}
        return {**old, **{key: None if value != value else value for key, value in new.items()}}
    value = item["metrics"][name]
    if None in (value, old["low"], old["high"]) or old.get("method") not in WIDENED:
        return {**old, "df": None}
    df = degrees(np.full(n, 1 / n))
    widening = t_quantile(df) / Z * (math.sqrt(n / (n - 1)) if old["method"] == "bootstrap" else 1.0)
    low, high = (value + widening * (limit - value) for limit in (old["low"], old["high"]))
    if old["method"] in ("bootstrap", "wilson_clustered") and old["low"] >= 0 and old["high"] <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return {**old, "low": low, "high": high, "df": df}


def _computed(item: Mapping[str, Any], name: str, method: str | None) -> Interval | None:
    """The interval of the scores of items; None where they are not in the file, or are not all that it rests on."""
    items = item.get("items", {})
    packed = items.get("values", {}).get(name)
    if packed is None:
        return None
    values, terms = unpack(packed), items["terms"].get(name)
    values = values.mean(0) if values.ndim == 2 else values
    given = items["clusters"], None if terms is None else unpack(terms)
    if method in ("wilson", "wilson_clustered"):
        return proportion(values, *given)
    if method in ("normal", "normal_clustered"):
        return mean(values, *given)
    return exponential(mean(values, *given)) if method == "exp_normal" else None
