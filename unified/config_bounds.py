"""What a config.json may say: kinds and ranges of every key, checked before anything is built or allocated."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from unified.config import RecipeError, build
from unified.core.text_files import shown_text
from unified.errors import DataError
from unified.model_settings import ExpertSettings, QuerySettings
from unified.query_spec import read_specs

WHERE = "config.json"
DTYPES = ("float32", "float64", "float16", "bfloat16")
MOST_LABELS = 100_000
"""Classes of a flat classifier; ImageNet-21k has 21,841."""


@dataclass(frozen=True)
class ImageShape:
    """The keys of `image`."""

    patch: int
    height: int
    width: int
    mean: Sequence[float]
    std: Sequence[float]
    positions: Literal["learned", "sincos"] = "learned"
    position_scale: float = 1.0
    grid: int = 14
    frames: int = 1
    window: int | None = None
    global_every: int = 1


@dataclass(frozen=True)
class TextShape:
    """The keys of `text`."""

    positions: int
    max_length: int


@dataclass(frozen=True)
class Prompts:
    """The keys of `prompts`."""

    tokens: int = 0
    candidates: bool = False
    spe_bias: bool = False
    classes: int | None = None


@dataclass(frozen=True)
class _Config:
    """The keys of a config.json that decide sizes."""

    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    hidden: int | None = None
    vocabulary_size: int | None = None
    spe_token_id: int | None = None
    end_token_id: int | None = None
    num_labels: int | None = None
    layer_scale: float | None = None
    drop_path: float | None = None
    families: Sequence[str] | None = None
    image: ImageShape | None = None
    text: TextShape | None = None
    prompts: Prompts | None = None


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("width", "hidden", "queries.width", "queries.hidden", "experts.hidden"), (1, 1 << 17)),
    **dict.fromkeys(("depth", "heads", "queries.heads"), (1, 1024)),
    "vocabulary_size": (1, 1 << 22),
    "num_labels": (0, MOST_LABELS),
    "layer_scale": (0, math.inf),
    **dict.fromkeys(("image.height", "image.width"), (1, 1 << 15)),
    "image.patch": (1, 1024),
    "image.grid": (1, 1024),
    "image.frames": (1, 4096),
    "image.window": (1, 1024),
    "image.global_every": (1, 1024),
    "image.position_scale": (0, math.inf),
    **dict.fromkeys(("text.positions", "text.max_length"), (1, 1 << 20)),
    "prompts.tokens": (0, 1 << 14),
    "prompts.classes": (1, MOST_LABELS),
    "experts.count": (1, 4096),
    "experts.top": (1, 4096),
    "queries.depth": (0, 256),
    "queries.doublings": (0, 6),
    "queries.detail": (0, 4096),
    "queries.reduction": (1, 4096),
}
"""By key: the least and the most."""


def check_config(content: Mapping[str, Any]) -> None:
    """Refuse what a config.json cannot say.

    Args:
        content: The mapping in the file; keys of transformers' own are left to it, but for sizes and the data type.

    Raises:
        DataError: A value of another kind, or beyond what a network can have; the message names the key.
    """
    try:
        _check(content)
    except RecipeError as error:
        raise DataError(str(error)) from error


def _check(content: Mapping[str, Any]) -> None:
    for name in ("width", "depth", "heads", "hidden", "vocabulary_size", "families", "image", "text"):
        if name in content and content[name] is None:
            raise DataError(f"{WHERE}: {name}: expected a value, got null")
    known = {field.name for field in fields(_Config)}
    config = build(_Config, {name: value for name, value in content.items() if name in known}, WHERE)
    _in_range(config, "")
    _check_parts(config)
    dtype = content.get("dtype", content.get("torch_dtype"))
    if dtype is not None and str(dtype).removeprefix("torch.") not in DTYPES:
        raise DataError(f"{WHERE}: dtype: expected {', '.join(DTYPES)}, got {shown_text(str(dtype))}")
    _check_mapping(content, "experts", _check_experts)
    _check_mapping(content, "queries", _check_queries)
    _check_mapping(content, "tasks", lambda _: None)


def _check_parts(config: _Config) -> None:
    if config.width and config.heads and config.width % config.heads:
        raise DataError(f"{WHERE}: heads: expected a divisor of the width {config.width}, got {config.heads}")
    if config.families is not None and (not config.families or len(set(config.families)) < len(config.families)):
        raise DataError(f"{WHERE}: families: expected different names, got {len(config.families)} with repeats or none")
    for name, number in (("spe_token_id", config.spe_token_id), ("end_token_id", config.end_token_id)):
        if number is not None and not 0 <= number < (config.vocabulary_size or math.inf):
            raise DataError(f"{WHERE}: {name}: expected a token of the vocabulary, got {number}")
    if config.image is not None:
        for name, values in (("mean", config.image.mean), ("std", config.image.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise DataError(f"{WHERE}: image.{name}: expected three finite numbers, got {list(values)[:4]}")
        if min(config.image.std) <= 0:
            raise DataError(f"{WHERE}: image.std: expected numbers above 0, got {list(config.image.std)}")


def _check_mapping(content: Mapping[str, Any], name: str, check: Callable[[Mapping[str, Any]], None]) -> None:
    found = content.get(name)
    if found is None:
        return
    if not isinstance(found, Mapping):
        raise DataError(f"{WHERE}: {name}: expected a mapping, got {shown_text(str(found))}")
    check(found)


def _check_experts(found: Mapping[str, Any]) -> None:
    own = {field.name for field in fields(ExpertSettings)}
    folded = found.get("router") == "rows"
    given = {name: value for name, value in found.items() if name in own and not (folded and name == "router")}
    settings = build(ExpertSettings, given, f"{WHERE}: experts")
    if not folded:
        _in_range(settings, "experts.")
    rows = found.get("rows", ())
    if isinstance(rows, str | Mapping) or not isinstance(rows, Sequence) or len(rows) > MOST_LABELS:
        raise DataError(f"{WHERE}: experts.rows: expected a list of names, got {shown_text(str(rows))}")


def _check_queries(found: Mapping[str, Any]) -> None:
    own = {name: value for name, value in found.items() if name != "tasks"}
    _in_range(build(QuerySettings, own, f"{WHERE}: queries"), "queries.")
    tasks = found.get("tasks") or {}
    if not isinstance(tasks, Mapping):
        raise DataError(f"{WHERE}: queries.tasks: expected a mapping, got {shown_text(str(tasks))}")
    for name, spec in read_specs(tasks).items():
        sizes = (spec.queries, spec.scale, spec.identities, *spec.size)
        if not all(0 <= size <= MOST_LABELS for size in sizes):
            raise DataError(
                f"{WHERE}: queries.tasks.{name}: expected sizes from 0 to {MOST_LABELS:,}, got {max(sizes):,}"
            )


def _in_range(part: Any, above: str) -> None:
    for field in fields(part):
        name, value = f"{above}{field.name}", getattr(part, field.name)
        if hasattr(value, "__dataclass_fields__"):
            _in_range(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{WHERE}: {name}: expected a finite number, got {value}")
        elif name in _RANGES and value is not None and not _RANGES[name][0] <= value <= _RANGES[name][1]:
            least, most = (f"{limit:,g}" for limit in _RANGES[name])
            raise DataError(f"{WHERE}: {name}: expected {least} to {most}, got {value:,}")
