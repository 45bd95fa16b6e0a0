"""The shape of a model as a Hugging Face configuration: what config.json holds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Any, Self

from transformers import PretrainedConfig

from unified.answers.spec import QuerySpec, plain_specs
from unified.config.model import ModelSettings
from unified.core import json_files
from unified.core.errors import RecipeError
from unified.core.version import check_format
from unified.modalities import MODALITIES
from unified.modalities.base import Tokenizer
from unified.modalities.image.modality import image_section
from unified.modalities.image.settings import ImageSettings
from unified.modalities.sequence import Attributes
from unified.modalities.text.modality import text_section
from unified.modalities.text.settings import TextSettings
from unified.modalities.text.tokenizer import TextTokenizer
from unified.model.config_bounds import check_steering, checked_config
from unified.model.routing_attributes import plain

FORMAT = 2
"""Of a config.json. The first had the sections of images and texts beside the other keys."""
_OF_PUBLISHED_MODELS = (224, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _published() -> dict[str, Any]:
    """What the published models have of each modality of this package."""
    image = image_section(ImageSettings(), *_OF_PUBLISHED_MODELS)
    return {MODALITIES.spatial: image, MODALITIES.language: text_section(TextSettings())}


class UnifiedConfig(PretrainedConfig):  # type: ignore[misc]
    """Plain values that decide the network; a recipe's model settings together with what its tokenizers say."""

    model_type = "unified"
    attribute_map = {  # noqa: RUF012 - the base class declares it as a class attribute
        "hidden_size": "width",
        "num_hidden_layers": "depth",
        "num_attention_heads": "heads",
        "intermediate_size": "hidden",
        "vocab_size": "vocabulary_size",
        "eos_token_id": "end_token_id",
        "pad_token_id": "end_token_id",
        "mask_token_id": "spe_token_id",
    }

    width: int = ModelSettings.width
    depth: int = ModelSettings.depth
    heads: int = ModelSettings.heads
    hidden: int = ModelSettings.hidden
    layer_scale: float | None = ModelSettings.layer_scale
    drop_path: float = ModelSettings.drop_path
    experts: dict[str, Any] | None = None
    """Conditional experts, in the keys of a recipe's `model.experts` with `layers` as numbers; None: a dense network.

    A folded model has the router "rows", the names of its `rows`, and `folded`, the router that it came from. With one
    row it has no `layers` of experts, and the row says what it may be asked.
    """
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is kept of each task that the model was made for.

    `kinds`: its kinds of token (`Attributes`), as folding and reports ask for. `id2label`: the names of its classes by
    number, where it has a label set or queries with names. Of tasks that match, `read` and `inputs` (modalities), the
    `templates` of their label set, and how a caption takes its `vocabulary`. `id2label` of the configuration itself
    is that of the one task that picks from a label set, where there is one.
    """
    queries: dict[str, Any] | None = None
    """The decoder of task queries, in the keys of a recipe's `model.queries`, and `tasks`: a `QuerySpec` of each."""
    prompts: dict[str, Any] | None = None
    """Of a model after prompt tuning: `tokens` of each layer, whether `candidates` have others, whether there is a
    `spe_bias`, and the number of `classes` of a linear classifier or None."""
    modalities: dict[str, dict[str, Any]] = field(default_factory=_published)
    """What decides the embedding of each modality, as its row of `MODALITIES` says it."""
    vocabulary_size: int = 49411  # of the published models: CLIP's BPE and five special tokens
    spe_token_id: int = 49410
    end_token_id: int = 49407
    families: list[str] = field(default_factory=lambda: ["default"])
    """Names of the learned temperatures."""
    format: int = FORMAT

    @classmethod
    def from_settings(
        cls,
        settings: ModelSettings,
        tokenizers: Mapping[str, Tokenizer],
        families: Sequence[str],
        tasks: Mapping[str, Sequence[Attributes]] | None = None,
        queries: Mapping[str, QuerySpec] | None = None,
        answers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """The configuration of a recipe's model with these tokenizers and one temperature a family.

        `tasks`: the kinds of token of each task; `queries`: of each that queries answer; `answers`: what else is kept
        of tasks that match, such as `id2label`.
        """
        text = tokenizers[MODALITIES.language]
        assert isinstance(text, TextTokenizer)
        rows = [(MODALITIES.row(key), found) for key, found in settings.modalities.items()]
        specs, kept = queries or {}, answers or {}
        named = {name: _by_number(spec.names) for name, spec in specs.items() if spec.names}
        classes = [answer["id2label"] for answer in kept.values() if "id2label" in answer]
        flat = {"id2label": classes[0], "label2id": {n: i for i, n in classes[0].items()}} if len(classes) == 1 else {}
        return cls(
            **flat,
            width=settings.width,
            depth=settings.depth,
            heads=settings.heads,
            hidden=settings.hidden,
            layer_scale=settings.layer_scale,
            drop_path=settings.drop_path,
            experts=plain(settings.experts, settings.depth) if settings.experts else None,
            queries={**asdict(settings.queries), "tasks": plain_specs(specs)} if settings.queries else None,
            tasks={
                name: {
                    "kinds": [asdict(kind) for kind in kinds],
                    **({"id2label": named[name]} if name in named else {}),
                    **kept.get(name, {}),
                }
                for name, kinds in (tasks or {}).items()
            },
            modalities={row.name: row.describe(found, tokenizers[row.name]) for row, found in rows},
            vocabulary_size=text.size,
            spe_token_id=text.spe,
            end_token_id=text.end,
            families=list(families),
        )

    @property
    def spatial(self) -> dict[str, Any]:
        """The section of the modality that maps, boxes and keypoints refer to."""
        return self.modalities[MODALITIES.spatial]

    @property
    def language(self) -> dict[str, Any]:
        """The section of the modality that candidates and captions are written in."""
        return self.modalities[MODALITIES.language]

    def section(self, modality: str) -> dict[str, Any]:
        """What the embedding of a modality is made from: its section, with the vocabulary where it is language."""
        if modality != MODALITIES.language:
            return self.modalities[modality]
        biased = bool((self.prompts or {}).get("spe_bias"))
        vocabulary = {"vocabulary_size": self.vocabulary_size, "spe_token_id": self.spe_token_id, "spe_bias": biased}
        return {**self.language, **vocabulary}

    def kinds(self, task: str) -> list[Attributes]:
        """What the tokens of one of `tasks` are; JSON has lists where `Attributes` has tuples."""
        return [Attributes(**{**kind, "given": tuple(kind["given"])}) for kind in self.tasks[task]["kinds"]]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration that a config.json holds; one of a newer format is refused."""
        check_format(config_dict.get("format", FORMAT), FORMAT, "config.json", RecipeError)
        content = checked_config(_upgraded(config_dict), {field.name: field.default for field in fields(cls)})
        tasks = {name: _task(entry) for name, entry in (content.get("tasks") or {}).items()}
        return super().from_dict({**content, "tasks": tasks}, **kwargs)

    @classmethod
    def from_json_file(cls, json_file: Any) -> Any:
        """As `from_dict`, of a file."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    @classmethod
    def _dict_from_json_file(cls, json_file: Any) -> dict[str, Any]:
        """The content of the file, read within limits: transformers reads configurations by this method."""
        content: dict[str, Any] = json_files.read_json(Path(json_file))
        check_steering(content)
        return content


def _upgraded(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a config.json of the first format in today's keys."""
    earlier = {name: content[name] for name in MODALITIES.built_in if name in content}
    rest = {name: value for name, value in content.items() if name not in earlier}
    if earlier and content.get("format", 1) != 1:
        raise RecipeError(f"config.json: expected {' and '.join(earlier)} below modalities, got them beside it")
    if not earlier:
        return dict(content)
    return {**rest, "modalities": {**_published(), **earlier}, "format": FORMAT}


def _by_number(names: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(names))


def _task(entry: Any) -> dict[str, Any]:
    """An entry of `tasks` as it is held: JSON has texts for numbers, and earlier versions listed the kinds alone."""
    if isinstance(entry, list):
        return {"kinds": entry}
    if "id2label" in entry:
        return {**entry, "id2label": {int(number): name for number, name in entry["id2label"].items()}}
    return dict(entry)
