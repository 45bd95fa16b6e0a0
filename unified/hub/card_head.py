"""The YAML head of a model card, which the hub reads: licence, language, data, base model and measured numbers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml

from unified.core.errors import DataError
from unified.core.training_record import ZERO_SHOT_LABEL, TrainingRecord

LICENSE = "unknown"
"""The hub's word for a licence that nobody has named; whoever publishes a model decides it."""
LANGUAGE = ("en",)
PARTS = ("train", "training", "test", "validation", "val", "valid")
"""Names of folders that are a part of a dataset, not its name."""
HUB_TASKS = {
    "zeroshot_classification": "zero-shot-image-classification",
    "zeroshot_retrieval": "image-text-retrieval",
    "linear_probe": "image-classification",
    "knn": "image-classification",
    "captioning": "image-to-text",
    "masked_language_modelling": "fill-mask",
}
"""The hub's names of tasks; others keep the name that results give them."""
_HEAD = re.compile(r"\A---[ \t]*\n(.*?\n)?---[ \t]*(\n|\Z)", re.DOTALL)
_LOADED = re.compile(r'unified\.load\("([^"\n]*)"')
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


def card_head(
    name: str,
    record: TrainingRecord | None,
    results: Mapping[str, Any] | None = None,
    *,
    base_model: str | None = None,
    license_name: str | None = None,
    language: Sequence[str] = LANGUAGE,
) -> dict[str, Any]:
    """Return the head of a card as the mapping that its YAML is.

    Args:
        name: What the model is called.
        record: What it was trained on, where that is known.
        results: Content of a results.json of `unified eval`.
        base_model: The model on the hub (org/name) that training started from.
        license_name: The hub's short name of the licence; None: not known.
        language: Codes of the languages of its texts (ISO 639).
    """
    data = datasets(record)
    measured = list(_measured(results)) if results is not None else []
    return {
        "library_name": "unified",
        "license": license_name or LICENSE,
        "language": list(language),
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["unified", "uni-perceiver", "feature-extraction", "image-to-text"],
        **({"datasets": data} if data else {}),
        **({"base_model": base_model} if base_model else {}),
        **({"model-index": [{"name": name, "results": measured}]} if measured else {}),
    }


def datasets(record: TrainingRecord | None) -> list[str]:
    """Return the names of the datasets of a record: repositories of the hub, or folders without their path."""
    shards = () if record is None else record.published().shards
    names = (_dataset(shard.location) for shard in shards if shard.location)
    return sorted({name for name in names if name})


def _dataset(location: str) -> str:
    scheme, separator, path = location.partition("://")
    above = list(PurePosixPath(path if separator else location).parts[:-1])
    if separator and scheme == "hf" and above[:1] == ["datasets"]:
        return "/".join(part.partition("@")[0] for part in above[1:3])
    while above and (above[-1] in PARTS or above[-1] in (".", "..", "/")):
        above.pop()
    return _NOT_IN_NAMES.sub("-", above[-1]).strip("-.") if above else ""


def _measured(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the model itself as the hub's `model-index` has them; zero-shot only where the data were unseen."""
    for row in results["results"]:
        if row["features"] != "model":
            continue
        unseen = row.get("training_data") == "unseen"
        label = row["label"] if unseen else row["label"].removeprefix(ZERO_SHOT_LABEL)
        found = {name: row["metrics"][name] for name in row["ci"] if row["metrics"][name] is not None}
        if found:
            task = str(row.get("task", "other"))
            yield {
                "task": {"type": HUB_TASKS.get(task, task.replace("_", "-"))},
                "dataset": {"type": _NOT_IN_NAMES.sub("-", row["dataset"]), "name": row["dataset"]},
                "metrics": [{"type": m, "value": value, "name": f"{m}, {label}"} for m, value in found.items()],
            }


def as_yaml(head: Mapping[str, Any]) -> str:
    """Return the head with its two lines of dashes."""
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True, width=1000)}---\n"


def for_repository(text: str, repository: str, head: Mapping[str, Any]) -> str:
    """Return a card that names its repository, so that what it says can be copied and run.

    Args:
        text: A card, also one that an earlier version wrote or people changed.
        repository: `org/name`.
        head: What the YAML head is to have where it lacks a key, as cards of earlier versions do.

    Raises:
        DataError: The head of the card is not a mapping in YAML.
    """
    found = _HEAD.match(text)
    body = text[found.end() :] if found else text
    try:
        own = yaml.safe_load(found[1] or "") or {} if found else {}
    except yaml.YAMLError as error:
        raise DataError(f"expected YAML between the two lines of dashes, got: {error}") from error
    if not isinstance(own, dict):
        raise DataError(f"expected keys and values between the two lines of dashes, got {own!r:.80}")
    name = _LOADED.search(body)
    if name is not None:
        body = re.sub(rf"^# {re.escape(name[1])}$", lambda _: f"# {repository}", body, flags=re.MULTILINE)
        body = body.replace(f'"{name[1]}"', f'"{repository}"')
        body = body.replace("  # a folder, or org/name on the hub", "")
    for entry in own.get("model-index") or ():
        if isinstance(entry, dict) and name is not None and entry.get("name") == name[1]:
            entry["name"] = repository
    return as_yaml({**own, **{key: value for key, value in head.items() if key not in own}}) + body
