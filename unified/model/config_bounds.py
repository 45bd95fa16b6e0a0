"""What a config.json may say: kinds and ranges of every key, checked before anything is built or allocated.

The bounds stand on the fields. Keys of transformers' own are listed here, too, and no others reach it: they could make
it fetch code or kernels, read other files, or hide one of its methods.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Interval

from unified.answers.table import read_specs, readings
from unified.config.earlier import IN_CONFIGURATIONS, without_removed
from unified.core.bounds import (
    MOST_LABELS,
    Classes,
    Depth,
    NotNegative,
    Vocabulary,
    Width,
)
from unified.core.errors import MOST_QUOTED, DataError, RecipeError, quoted
from unified.core.schema import build
from unified.core.text_files import shown_text
from unified.modalities import MODALITIES
from unified.nn.moe.settings import ExpertSettings
from unified.nn.queries.settings import QuerySettings

WHERE = "config.json"
DTYPES = ("float32", "float64", "float16", "bfloat16")
ATTENTION = (None, "eager", "sdpa")
"""How attention is computed; transformers fetches and runs kernels under any other name."""
MOST_TASKS = 1_000
"""Also temperatures; each makes modules."""
_PROPERTIES = ("num_labels", "name_or_path", "_name_or_path", "_commit_hash", "torch_dtype", "output_attentions")
"""Keys that transformers writes or wrote beside the fields of its configuration."""
_STEERING = (
    *("auto_map", "configuration_files", "custom_pipelines", "distributed_config", "fusion_config", "kernel_config"),
    *("per_layer_config", "quantization_config", "transformers_weights", "use_kernels"),
)
"""Keys by which transformers runs code of a repository, reads other files or makes another network."""
_ALIKE = 0.75
"""How much a damaged name has in common with that of a key, as `difflib` counts."""
_OF_EXPERTS = (
    *("count", "top", "router", "layers", "linears", "shared_decisions", "noise", "bits", "hidden", "bias_rate"),
    "capacity",
)
"""What decides conditional layers; the other settings are for training."""
_NEEDED = ("width", "depth", "heads", "hidden", "vocabulary_size", "families", "modalities")


@dataclass(frozen=True)
class Prompts:
    """The keys of `prompts`."""

    tokens: Annotated[int, Interval(ge=0, le=1 << 14)] = 0
    candidates: bool = False
    spe_bias: bool = False
    classes: Classes | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of token of a task, as `modalities.sequence.Attributes`."""

    modality: str
    role: Literal["input", "candidate", "query"]
    causal: bool
    given: Sequence[str]
    family: str = ""


@dataclass(frozen=True)
class TaskEntry:
    """The keys of an entry of `tasks`."""

    kinds: Sequence[Kind] = ()
    id2label: dict[str, str] | None = None
    read: str | None = None
    inputs: Sequence[str] = ()
    templates: Sequence[str] = ()
    vocabulary: Literal["embedding", "encoder"] | None = None


@dataclass(frozen=True)
class _Config:
    """The keys of a config.json, but for its sections (`modalities`, `experts`, `queries`, `tasks`) and those that
    transformers reads without harm."""

    width: Width | None = None
    depth: Depth | None = None
    heads: Depth | None = None
    hidden: Width | None = None
    vocabulary_size: Vocabulary | None = None
    spe_token_id: int | None = None
    end_token_id: int | None = None
    num_labels: Annotated[int, Interval(ge=0, le=MOST_LABELS)] | None = None
    layer_scale: NotNegative | None = None
    drop_path: NotNegative | None = None
    families: Sequence[str] | None = None
    prompts: Prompts | None = None
    architectures: Sequence[str] | None = None
    transformers_version: str | None = None
    model_type: str | None = None
    id2label: dict[str, str] | None = None
    label2id: dict[str, int] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    output_hidden_states: bool | None = None
    output_attentions: bool | None = None
    return_dict: bool | None = None
    chunk_size_feed_forward: Annotated[int, Interval(ge=0, le=1 << 20)] | None = None
    is_encoder_decoder: bool | None = None
    attn_implementation: Literal["eager", "sdpa"] | None = None
    experts_implementation: Literal["eager", "grouped_mm"] | None = None
    name_or_path: str | None = None
    _name_or_path: str | None = None
    _commit_hash: str | None = None


def checked_config(content: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config.json says, without keys of other programs, which is refused where it cannot be.

    Args:
        content: The mapping in the file.
        defaults: The fields of the configuration, those of transformers' own with them, and what they are if not given.

    Raises:
        DataError: A key is damaged or would steer transformers, a value is of another kind, or beyond what a network
            can have; the message names the key.
    """
    try:
        return _checked(without_removed(content, IN_CONFIGURATIONS, WHERE), defaults)
    except RecipeError as error:
        raise DataError(str(error)) from error


def _checked(content: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    for name in _NEEDED:
        if name in content and content[name] is None:
            raise DataError(f"{WHERE}: {name}: expected a value, got null")
    check_steering(content)
    checked = {field.name for field in fields(_Config)}
    every = {*checked, *defaults, *_PROPERTIES}
    for name in content.keys() - every:
        _check_foreign(name, [key for key in defaults if key not in content])
    whole = {**{name: value for name, value in defaults.items() if isinstance(value, int | float)}, **content}
    config = build(_Config, {name: value for name, value in whole.items() if name in checked}, WHERE)
    _check_parts(config)
    for name in ("dtype", "torch_dtype"):
        if content.get(name) is not None and str(content[name]).removeprefix("torch.") not in DTYPES:
            raise DataError(f"{WHERE}: {name}: expected {', '.join(DTYPES)}, got {shown_text(str(content[name]))}")
    _check_mapping(content, "modalities", _check_modalities)
    _check_mapping(content, "experts", _check_experts)
    _check_mapping(content, "queries", _check_queries)
    _check_mapping(content, "tasks", _check_tasks)
    return {name: value for name, value in content.items() if name in every}


def check_steering(content: Mapping[str, Any]) -> None:
    """Raise `DataError` for keys by which transformers would run code or read other files.

    Args:
        content: The mapping in a config.json.
    """
    name = next((name for name in _STEERING if content.get(name) is not None), None)
    if name is not None:
        raise DataError(
            f"{WHERE}: {name}: expected no such key, got one. Hint: this model needs no code or files by it"
        )


def _check_foreign(name: str, absent: Sequence[str]) -> None:
    """Refuse the damaged name of a key that is not there."""
    if not name:
        raise DataError(f"{WHERE}: expected keys of a configuration, got an empty one")
    if alike := difflib.get_close_matches(name[:MOST_QUOTED], absent, n=1, cutoff=_ALIKE):
        raise DataError(f"{WHERE}: expected keys of a configuration, got {quoted(name)}; did you mean {alike[0]!r}?")


def _check_parts(config: _Config) -> None:
    if config.width and config.heads and config.width % config.heads:
        raise DataError(f"{WHERE}: heads: expected a divisor of the width {config.width}, got {config.heads}")
    if config.families is not None and len(config.families) > MOST_TASKS:
        raise DataError(f"{WHERE}: families: expected at most {MOST_TASKS:,}, got {len(config.families):,}")
    if config.families is not None and (not config.families or len(set(config.families)) < len(config.families)):
        raise DataError(f"{WHERE}: families: expected different names, got {len(config.families)} with repeats or none")
    for name, number in (("spe_token_id", config.spe_token_id), ("end_token_id", config.end_token_id)):
        if number is not None and not 0 <= number < (config.vocabulary_size or math.inf):
            raise DataError(f"{WHERE}: {name}: expected a token of the vocabulary, got {number}")
    if config.id2label is not None:
        _check_classes(config.id2label, "id2label")


def _check_classes(names: Mapping[str, str], where: str) -> None:
    wrong = next((number for number in names if not (number.isascii() and number.isdecimal())), None)
    if wrong is not None or len(names) > MOST_LABELS:
        got = f"{len(names):,}" if wrong is None else quoted(wrong)
        raise DataError(f"{WHERE}: {where}: expected at most {MOST_LABELS:,} names by the number of a class, got {got}")


def _check_tasks(found: Mapping[str, Any]) -> None:
    if len(found) > MOST_TASKS:
        raise DataError(f"{WHERE}: tasks: expected at most {MOST_TASKS:,}, got {len(found):,}")
    for name, entry in found.items():
        where = f"{WHERE}: tasks.{shown_text(str(name))}"
        task = build(TaskEntry, {"kinds": entry} if isinstance(entry, list) else entry, where)
        if task.read is not None and task.read not in (known := readings()):
            raise DataError(f"{where}.read: expected {', '.join(known)}, got {shown_text(task.read)}")
        if task.id2label is not None:
            _check_classes(task.id2label, f"tasks.{shown_text(str(name))}.id2label")


def _check_mapping(content: Mapping[str, Any], name: str, check: Callable[[Mapping[str, Any]], None]) -> None:
    found = content.get(name)
    if found is None:
        return
    if not isinstance(found, Mapping):
        raise DataError(f"{WHERE}: {name}: expected a mapping, got {shown_text(str(found))}")
    check(found)


def _check_modalities(found: Mapping[str, Any]) -> None:
    missing = [name for name in MODALITIES.built_in if name not in found]
    if missing or len(found) > MOST_TASKS:
        raise DataError(f"{WHERE}: modalities: expected {' and '.join(MODALITIES.built_in)}, got {quoted(list(found))}")
    for name, section in found.items():
        where = f"{WHERE}: modalities"
        MODALITIES.find(str(name), where).check_section(section, f"{where}.{name}")


def _check_experts(found: Mapping[str, Any]) -> None:
    folded = found.get("router") == "rows"
    given = {name: value for name, value in found.items() if name not in ("rows", "folded")}
    if folded:
        given.pop("router")
    missing = [name for name in (*_OF_EXPERTS, *(("rows",) if folded else ())) if name not in found]
    if missing:
        raise DataError(f"{WHERE}: experts: expected all keys of the experts, got none of {', '.join(missing)}")
    build(ExpertSettings, given, f"{WHERE}: experts")
    rows = found.get("rows", ())
    if isinstance(rows, str | Mapping) or not isinstance(rows, Sequence) or len(rows) > MOST_LABELS:
        raise DataError(f"{WHERE}: experts.rows: expected a list of names, got {shown_text(str(rows))}")


def _check_queries(found: Mapping[str, Any]) -> None:
    own = {name: value for name, value in found.items() if name != "tasks"}
    build(QuerySettings, own, f"{WHERE}: queries")
    tasks = {} if found.get("tasks") is None else found["tasks"]
    if not isinstance(tasks, Mapping):
        raise DataError(f"{WHERE}: queries.tasks: expected a mapping, got {shown_text(str(tasks))}")
    if len(tasks) > MOST_TASKS:
        raise DataError(f"{WHERE}: queries.tasks: expected at most {MOST_TASKS:,}, got {len(tasks):,}")
    for name, spec in read_specs(tasks).items():
        counts = [value for value in vars(spec).values() if isinstance(value, int)]
        sizes = (*counts, *spec.size)
        if not all(0 <= size <= MOST_LABELS for size in sizes):
            raise DataError(
                f"{WHERE}: queries.tasks.{name}: expected sizes from 0 to {MOST_LABELS:,}, got {max(sizes):,}"
            )
