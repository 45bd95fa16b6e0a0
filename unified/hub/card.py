"""The card of an exported model: what it is, how to use it, and what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unified.core.training_record import ZERO_SHOT_LABEL, TrainingRecord, training_note
from unified.core.version import __version__
from unified.hub.card_head import LANGUAGE, as_yaml, card_head
from unified.model.config import UnifiedConfig
from unified.model.pretrained import UnifiedModel


def model_card(
    name: str,
    model: UnifiedModel,
    source: str,
    results: Mapping[str, Any] | None,
    facts: Mapping[str, str] | None = None,
    *,
    record: TrainingRecord | None = None,
    base_model: str | None = None,
    license_name: str | None = None,
    language: Sequence[str] = LANGUAGE,
) -> str:
    """Markdown with a YAML head; `results` is the content of a results.json of `unified eval`.

    `facts`: more rows of the table of what the model is; the keywords as in `card_head`.
    """
    head = card_head(name, record, results, base_model=base_model, license_name=license_name, language=language)
    parts = [as_yaml(head), f"# {name}\n", _shape(model, source, facts or {}), _use(name)]
    if results is not None:
        parts.append(_table(results))
    return "\n".join(parts)


def _shape(model: UnifiedModel, source: str, facts: Mapping[str, str]) -> str:
    config: UnifiedConfig = model.config
    image = config.spatial
    parameters = sum(parameter.numel() for parameter in model.parameters())
    more = "".join(f"| {name} | {fact} |\n" for name, fact in facts.items())
    return f"""A generalist perception model: one transformer that answers by comparing representations.

| | |
|---|---|
| parameters | {parameters:,} |
| transformer | {config.depth} layers, width {config.width}, {config.heads} heads |
| images | {image["height"]} × {image["width"]} pixels, patches of {image["patch"]} |
| texts | {config.vocabulary_size:,} ids, at most {config.language["max_length"]} tokens |
| temperatures | {", ".join(f"`{family}`" for family in config.families)} |
{more}| made from | {source}, with unified {__version__} |
"""


def _use(name: str) -> str:
    return f"""## Use

```python
import unified

model, processor = unified.load("{name}")  # a folder, or org/name on the hub
probabilities = model.classify(processor(images="picture.png"), labels=["a cat", "a dog"])
```

The classes of transformers work too, after `import unified`: `AutoModel`, `AutoProcessor`, and
`pipeline("zero-shot-image-classification", model="{name}")`, called with `hypothesis_template="{{}}"`.
"""


def _table(results: Mapping[str, Any]) -> str:
    rows = [line for item in results["results"] for line in _measured(item)]
    head = [
        "## Measured",
        "",
        f"By `{results['command']}`; intervals are 95 % of sampling, ± is 95 % over seeds.",
        "",
        "| data | protocol | features | metric | value | interval | over seeds | n | training data |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def _measured(item: Mapping[str, Any]) -> Iterator[str]:
    """A row of the table for each number of a result; a metric without a value on this data has none.

    Only data that were compared with the record of training and found unseen are published as zero-shot.
    """
    data = item.get("training_data", "unknown")
    label = item["label"] if data in ("unseen", None) else item["label"].removeprefix(ZERO_SHOT_LABEL)
    trained = training_note({**item, "training_data": data}) or data or "–"
    for name, interval in item["ci"].items():
        value = item["metrics"][name]
        if value is not None:
            seeds = (item["seeds"] or {}).get(name)
            spread = f"± {seeds['half_width']:.3g}" if seeds and seeds["half_width"] is not None else "–"
            low, high = interval["low"], interval["high"]
            limits = "none" if low is None else f"{low:.4g} – {high:.4g}"
            yield (
                f"| {item['dataset']} | {label} | {item['features']} | {name} | {value:.4g} "
                f"| {limits} | {spread} | {item['n']:,} | {trained} |"
            )
