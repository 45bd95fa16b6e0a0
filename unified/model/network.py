"""The network as a Hugging Face model: embeddings, encoder, and the head that makes representations comparable."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import PreTrainedModel

from unified.answers.match.similarity import Temperatures, similarity
from unified.answers.table import read_specs
from unified.config.labels import check_words
from unified.core.errors import nearest
from unified.core.types import Tokens
from unified.modalities import MODALITIES
from unified.modalities.sequence import (
    PREFIX,
    Attributes,
    asked,
    attention_mask,
    layout,
    visibility,
)
from unified.modalities.text.length_buckets import TEXTS_AT_ONCE, by_length, trimmed
from unified.modalities.text.tokenizer import text_tokens
from unified.model.config import UnifiedConfig
from unified.model.init_weights import LOG_SCALE, initialise
from unified.model.outputs import Encoded, UnifiedOutput
from unified.model.processor import UnifiedProcessor
from unified.model.routing_attributes import Conditioner, shape
from unified.model.task_queries import TaskQueries
from unified.nn.attention import Cache
from unified.nn.encoder import Encoder, Noise
from unified.nn.prompts import Classifier
from unified.nn.scaled_dot_product import EAGER, set_eager


class Network(PreTrainedModel):  # type: ignore[misc]
    """Embeddings, encoder and head: what sequences become, and how representations are compared."""

    config_class = UnifiedConfig
    base_model_prefix = "unified"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _supports_sdpa = True
    _skip_keys_device_placement = ("norm",)  # a module that embeddings are given, and places itself

    def __init__(self, config: UnifiedConfig) -> None:
        super().__init__(config)
        width, prompts = config.width, config.prompts or {}
        self.rows = tuple(MODALITIES[name] for name in config.modalities)  # not looked up in compiled calls
        rows = sorted(self.rows, key=lambda row: row.name != MODALITIES.language)
        self.embeddings = nn.ModuleDict({row.name: row.embedding(width, config.section(row.name)) for row in rows})
        self.norm = nn.LayerNorm(width)  # of the embeddings of all modalities: one norm, held here alone
        experts = config.experts
        self.encoder = Encoder(
            width, config.depth, config.heads, config.hidden, config.layer_scale,
            *((shape(experts, config.families, list(config.modalities)), experts["layers"]) if experts else ()),
            prompts=prompts.get("tokens", 0), candidate_prompts=prompts.get("candidates", False),
        )  # fmt: skip
        self._conditioner = Conditioner.of(config) if experts else None
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Linear(width, width)
        self.classifier = Classifier(width, prompts["classes"]) if prompts.get("classes") else None
        self.log_scales = Temperatures(
            {family: nn.Parameter(torch.full((1,), LOG_SCALE)) for family in config.families}
        )
        queries = config.queries
        self.queries = None
        if queries:
            trunk = (width, config.depth, config.spatial["patch"])
            self.queries = TaskQueries(*trunk, queries, read_specs(queries["tasks"]))
        self.processor: Any = None  # attached by `unified.load`, so that `classify` and `caption` take plain words
        self.training_record: Any = None  # attached by `unified.load`, for evaluations
        self.post_init()
        set_eager(self, config._attn_implementation == EAGER)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The first values of one module's own parameters."""
        initialise(module, self.config.layer_scale)

    def scale(self, family: str | None = None) -> Float[Tensor, "1"]:
        """The factor of the similarities of a task family (the inverse temperature); the first family by default."""
        name = family or self.config.families[0]
        if name not in self.log_scales:
            raise KeyError(f"family {name!r} has no temperature in this model{nearest(name, list(self.log_scales))}")
        return self.log_scales(name)

    @property
    def input_device(self) -> torch.device:
        """Where inputs go: to the weights, or to where accelerate runs those that it keeps elsewhere."""
        place = getattr(getattr(self, "_hf_hook", None), "execution_device", None)
        return self.device if place is None else torch.device(place)

    @property
    def words(self) -> Any:
        """The embedding of the vocabulary, whose [SPE] begins every sequence."""
        return self.embeddings[MODALITIES.language]

    def prefix(self, rows: int, device: torch.device) -> Float[Tensor, "b 1 w"]:
        """The [SPE] token that begins every sequence: the norm of its word vector, without position."""
        return self.words.prefix(self.config.spe_token_id, self.norm, device).expand(rows, 1, -1)

    def vectors(self, tokens: Tokens) -> Float[Tensor, "b n w"]:
        """The vectors of one modality's tokens."""
        if tokens.modality not in self.embeddings:
            known = nearest(tokens.modality, list(self.embeddings))
            raise KeyError(f"modality {tokens.modality!r} is not one of this model{known}")
        return self.embeddings[tokens.modality](tokens, norm=self.norm)

    def encode(
        self,
        parts: Sequence[tuple[Attributes, Tokens]],
        *,
        past: tuple[Cache, ...] | None = None,
        past_mask: Tensor | None = None,
        noise: Noise | None = None,
        keep_past: bool = False,
        keep_layers: bool = False,
        queries: tuple[Attributes, Float[Tensor, "b q w"]] | None = None,
        read: slice | None = None,
    ) -> Encoded:
        """Run [SPE] and the parts through the encoder as one sequence; with `past` the parts continue another.

        `keep_past`: return what further parts need to continue this one; `keep_layers`: the states of all layers.
        `queries`: vectors that come last, and what they are. `read`: the places whose states are wanted; None: all.
        """
        samples = parts[0][1].values.shape[0]  # `len` would fix the number in what is exported
        if any(tokens.values.shape[0] != samples for _, tokens in parts):
            found = ", ".join(f"{len(tokens)} of {tokens.modality}" for _, tokens in parts)
            raise ValueError(f"inputs of one batch differ in their number of samples: {found}; give as many of each")
        parts = asked(parts)
        vectors = [self.vectors(tokens) for _, tokens in parts]
        masks = [tokens.mask for _, tokens in parts]
        lengths = [vector.shape[1] for vector in vectors]
        if past is None:
            vectors.insert(0, self.prefix(samples, vectors[0].device).to(vectors[0].dtype))
            masks.insert(0, masks[0].new_ones(masks[0].shape[0], 1))
            lengths[0] += 1  # the prefix belongs to the first part
        kinds = [attributes for attributes, _ in parts]
        if queries is not None:
            kinds.append(replace(queries[0], given=kinds[0].given))
            vectors.append(queries[1].to(vectors[0].dtype))
            masks.append(masks[0].new_ones(masks[0].shape[0], queries[1].shape[1]))
            lengths.append(queries[1].shape[1])
        whole = layout(list(zip(kinds, lengths, strict=True)), continues=past is not None)
        real = torch.cat(masks, dim=1)
        mask = attention_mask(whole, real, past_mask, padded=any(tokens.may_be_padded for _, tokens in parts))
        segments, conditions = whole.segments, None
        if self._conditioner is not None:
            segments, conditions = self._conditioner(whole, real, visibility(whole, real.device))
        output = self.encoder(
            torch.cat(vectors, dim=1), mask, segments, conditions=conditions, past=past, noise=noise,
            candidate=any(kind.role == "candidate" for kind in kinds), keep_past=keep_past, keep_layers=keep_layers,
            read=None if read is None else slice(*read.indices(len(whole))[:2]),
        )  # fmt: skip
        return Encoded(output.states, whole, output.past, output.routing, output.layers)

    def project(self, states: Float[Tensor, "*n w"], unit: bool = True) -> Float[Tensor, "*n w"]:
        """Unit-length representations of states: the same norm and projection for inputs and candidates."""
        projected = self.proj(self.ln_post(states)).float()
        return F.normalize(projected, dim=-1) if unit else projected

    def represent(
        self,
        inputs: Mapping[str, Tokens],
        role: Any = "input",
        noise: Noise | None = None,
        *,
        given: Iterable[str] = (),
        family: str | None = None,
        unit: bool = True,
    ) -> Float[Tensor, "b w"]:
        """The representation of each sample, read at [SPE]; of unit length unless `unit` is false.

        Conditional layers look at `given`, the modalities of the question's inputs (for candidates, which are asked
        about images otherwise), and at the task's `family` (the model's first one by default).
        """
        language = MODALITIES.language
        buckets = by_length(inputs[language]) if set(inputs) == {language} else None
        whose = {"role": role, "given": tuple(sorted(given)), "family": family or ""}
        with self.encoder.sharing():
            if buckets is None:
                parts = [(Attributes(tokens.modality, **whose), tokens) for tokens in inputs.values()]
                return self.project(self.encode(parts, noise=noise, read=PREFIX).states[:, 0], unit)
            states = []
            for rows in buckets:
                part = [(Attributes(language, **whose), trimmed(inputs[language], rows))]
                drawn = None if noise is None else noise.rows(rows)
                states.append(self.encode(part, noise=drawn, read=PREFIX).states[:, 0])
            return self.project(torch.cat(states)[torch.cat(buckets).argsort()], unit)

    def vocabulary(
        self,
        how: str = "embedding",
        chunk: int = 4096,
        *,
        given: Iterable[str] = MODALITIES.built_in,
        family: str | None = None,
    ) -> Float[Tensor, "v w"]:
        """The representations of all vocabulary entries: of their word vectors, or each `[entry, end]` encoded.

        `given` and `family` as in `represent`, for encoded entries.
        """
        ids = torch.arange(self.config.vocabulary_size, device=self.input_device)
        if how == "embedding":
            return self.project(self.norm(self.words.table(ids)))
        entries = torch.stack([ids, torch.full_like(ids, self.config.end_token_id)], dim=1)
        asked_by: dict[str, Any] = {"given": tuple(given), "family": family}
        with self.encoder.sharing():
            chunks = [
                self.represent({MODALITIES.language: text_tokens(rows)}, "candidate", **asked_by)
                for rows in entries.split(chunk)
            ]
        return torch.cat(chunks)

    def tokens(
        self,
        input_ids: Int[Tensor, "b n"] | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: UInt8[Tensor, "i 3 h w"] | UInt8[Tensor, "i t 3 h w"] | None = None,
        **given: Any,
    ) -> dict[str, Tokens]:
        """Processor features as tokens by modality; entries that are tokens already pass through."""
        found = {name: value for name, value in given.items() if isinstance(value, Tokens)}
        features = {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}
        features |= {name: value for name, value in given.items() if name not in found}
        known = [name for row in self.rows for name in row.input_names]
        if unknown := set(features) - set(known) - {"token_type_ids"}:
            raise TypeError(f"unexpected input {sorted(unknown)}; this model takes {', '.join(known)}")
        for row in self.rows:
            tokens = row.read_features(features, self.config.section(row.name))
            if tokens is not None:
                found[row.name] = tokens
        if not found:
            raise TypeError("nothing to encode; give input_ids, pixel_values or tokens of a modality")
        return {name: tokens.to(self.input_device) for name, tokens in found.items()}

    def compared(self, tokens: Mapping[str, Tokens], family: str | None = None) -> UnifiedOutput:
        """Representations of images and of texts, and their similarities where there are both."""
        spatial, language = MODALITIES.spatial, MODALITIES.language
        image = self.represent({spatial: tokens[spatial]}, family=family) if spatial in tokens else None
        role = "input" if image is None else "candidate"
        text = self.represent({language: tokens[language]}, role, family=family) if language in tokens else None
        if image is None or text is None:
            return UnifiedOutput(image_embeds=image, text_embeds=text)
        logits = similarity(image, text, self.scale(family))
        return UnifiedOutput(logits_per_image=logits, logits_per_text=logits.T, image_embeds=image, text_embeds=text)

    def candidates(
        self,
        labels: Sequence[str] | Tensor | Tokens,
        templates: Sequence[str] = ("{}",),
        *,
        given: Iterable[str] = (),
        family: str | None = None,
    ) -> Tensor:
        """Representations of candidate answers (c, w): names in all templates, averaged; ids (c, n); or tokens.

        `given` and `family` as in `represent`.
        """
        asked_by: dict[str, Any] = {"given": tuple(given), "family": family}
        if isinstance(labels, Tensor):
            labels = text_tokens(labels.to(self.input_device))
        if isinstance(labels, Tokens):
            return self.represent({labels.modality: labels.to(self.input_device)}, "candidate", **asked_by)
        check_words(labels, templates)
        prompts = [template.replace("{c}", "{}").replace("{}", name) for name in labels for template in templates]
        parts = (prompts[start : start + TEXTS_AT_ONCE] for start in range(0, len(prompts), TEXTS_AT_ONCE))
        tokens = (self.tokens(**self._processor()(text=part)) for part in parts)
        features = torch.cat([self.represent(text, "candidate", **asked_by) for text in tokens])
        return F.normalize(features.view(len(labels), len(templates), -1).mean(dim=1), dim=-1)

    def _processor(self) -> Any:
        place = self.name_or_path  # of a model that `AutoModel` loaded
        if self.processor is None and place and Path(place, "processor_config.json").is_file():
            self.processor = UnifiedProcessor.from_pretrained(place)
        if self.processor is None:
            raise RuntimeError(
                "this model has no processor, so it cannot read words. Use `model, processor = unified.load(folder)`, "
                "or add `model.processor = AutoProcessor.from_pretrained(folder)`"
            )
        return self.processor
