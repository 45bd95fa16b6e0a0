"""What programs that know CLIP-like models of transformers call: its outputs, and methods by its names."""

import copy
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from unified.answers.match.similarity import TEMPERATURES
from unified.checkpoint.names import RENAMED, current_name
from unified.core.errors import DataError, quoted
from unified.core.hub_files import fetched_folder
from unified.core.training_record import write_record
from unified.core.types import Tokens
from unified.modalities.sequence import Attributes
from unified.model.config_bounds import ATTENTION
from unified.model.task_queries import NEWER
from unified.model.weight_files import check_loaded, check_weights, compare_shapes, one_set_of_weights
from unified.nn.scaled_dot_product import EAGER, set_eager

NOT_FETCHED = ("force_download", "local_files_only", "proxies", "subfolder", "variant", "gguf_file")
"""Keywords with which transformers fetches from the hub by itself."""
OF_TASKS = (TEMPERATURES, "queries.")
"""What the names of weights begin with that come and go with tasks."""


def contrastive_loss(logits: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Return the mean of both directions of pairs that belong together (CLIP, ICML 2021).

    Args:
        logits: of each image with each text, those on the diagonal the pairs.

    Raises:
        ValueError: for unlike numbers of images and texts.
    """
    images, texts = logits.shape
    if images != texts:
        raise ValueError(
            f"return_loss: expected one text an image, got {images} images and {texts} texts. Hint: pairs stand at "
            "equal places; for classes give `labels` with their texts"
        )
    right = torch.arange(images, device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


class ClientMethods:
    """Methods of `UnifiedModel` under the names that transformers and its clients use."""

    accepts_loss_kwargs = False  # the loss is the mean of a batch: a Trainer divides it where it adds up several
    config_class: Any
    words: Any
    config: Any
    processor: Any
    training_record: Any
    project: Any
    encode: Any
    tokens: Any

    def get_input_embeddings(self) -> nn.Module:
        """The table of word vectors, under the name that transformers asks for it."""
        return self.words.word  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put another table of word vectors in its place."""
        self.words.word = value

    def get_image_features(
        self, pixel_values: Tensor, family: str | None = None, return_dict: bool | None = None
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """Return the representations of images, as `CLIPModel` does.

        Args:
            pixel_values: uint8 (b, 3, h, w), or videos (b, t, 3, h, w).
            family: the task family that asks; None: the model's first.
            return_dict: False: a tuple of the fields; None: what the configuration says.

        Returns:
            `pooler_output` (b, w), of unit length, and `last_hidden_state` (b, 1 + n, w) of the encoder.
        """
        return self._features(self.tokens(pixel_values=pixel_values), "input", family, return_dict)

    def get_text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        family: str | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """Return the representations of texts that images are compared with, as `CLIPModel` does.

        Args:
            input_ids: (b, n).
            attention_mask: (b, n), 0 where a text is padded; None: nowhere.
            family, return_dict: as in `get_image_features`.

        Returns:
            As there.
        """
        tokens = self.tokens(input_ids=input_ids, attention_mask=attention_mask)
        return self._features(tokens, "candidate", family, return_dict)

    def _features(
        self, tokens: Mapping[str, Tokens], role: Any, family: str | None, return_dict: bool | None
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        parts = [(Attributes(name, role, family=family or ""), part) for name, part in tokens.items()]
        states = self.encode(parts).states
        found = BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.project(states[:, 0]))
        as_fields = self.config.return_dict if return_dict is None else return_dict
        return found if as_fields else found.to_tuple()

    def set_attn_implementation(self, attn_implementation: Any, **options: Any) -> None:
        """Choose how attention is computed, as in `PreTrainedModel`: "eager" is by products and a softmax."""
        super().set_attn_implementation(attn_implementation, **options)  # type: ignore[misc]
        set_eager(self, self.config._attn_implementation == EAGER)  # type: ignore[arg-type]

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *given: Any, **options: Any
    ) -> Any:
        """Refuse names under which transformers fetches and runs kernels, wherever they come from."""
        if attn_implementation not in ATTENTION:
            raise DataError(
                f"attn_implementation: expected 'eager' or 'sdpa', got {quoted(attn_implementation)}. Hint: this model "
                "computes attention itself, and takes no other kernels"
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *given, **options)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """Load a model as `PreTrainedModel` does, if the weights are whole and those of its configuration.

        Args:
            pretrained_model_name_or_path: a folder, a name on the hub, or None where the weights are given.
            arguments, options: as there. With a `config` of other tasks than the folder's, weights of tasks alone may
                be absent or left over. `ignore_mismatched_sizes` lets shapes differ; with `output_loading_info` the
                caller gets the names of what is absent and left over, and nothing is refused for them. No pickles are
                read.

        Raises:
            WeightsError: a folder holds two sets of weights, files that are cut off or none of weights, or tensors
                that the configuration does not have; or it lacks some.
        """
        name, told = pretrained_model_name_or_path, options.pop("output_loading_info", False)
        given = name
        if name is not None and not Path(name).exists() and not any(options.get(key) for key in NOT_FETCHED):
            given = str(fetched_folder(name, options))
        sizes_differ = options.pop("ignore_mismatched_sizes", False)
        if given is not None and Path(given).is_dir() and not {"variant", "subfolder"} & options.keys():
            stored = {current_name(key): shape for key, shape in check_weights(Path(given)).items()}
            if not told:  # before memory is taken for what is not there
                cls._check(compare_shapes(stored, cls._shapes(given, options)), name, sizes_differ, options)
        options.setdefault("use_safetensors", True)
        options.setdefault("key_mapping", {f"^{re.escape(old)}": new for old, new in RENAMED.items()})
        model, report = super().from_pretrained(  # type: ignore[misc]
            given, *arguments, output_loading_info=True, ignore_mismatched_sizes=not told or sizes_differ, **options
        )
        if not told:
            cls._check(report, name, sizes_differ, options)
        if given != name:
            model.name_or_path = model.config.name_or_path = name
        return (model, report) if told else model

    @classmethod
    def _shapes(cls, folder: Any, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors of the model that is asked for, by name."""
        config = options.get("config")
        if not isinstance(config, PretrainedConfig):
            known = {field.name for field in fields(cls.config_class)}
            asked = {name: value for name, value in options.items() if name in known - {"dtype"}}
            config = cls.config_class.from_pretrained(config or folder, **asked)
        with torch.device("meta"):
            model = cls(copy.deepcopy(config))  # type: ignore[call-arg]
        return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}  # type: ignore[attr-defined]

    @classmethod
    def _check(cls, report: Mapping[str, Any], where: Any, sizes_differ: bool, options: Mapping[str, Any]) -> None:
        """Refuse tensors that are not those of the model, but for those that may come and go."""
        found = {**report, "mismatched_keys": () if sizes_differ else report["mismatched_keys"]}
        found["missing_keys"] = [name for name in found["missing_keys"] if not name.startswith(NEWER)]
        if any(found[f"{kind}_keys"] for kind in ("missing", "unexpected")) and cls._has_other_tasks(where, options):
            for kind in ("missing", "unexpected"):
                found[f"{kind}_keys"] = [key for key in found[f"{kind}_keys"] if not key.startswith(OF_TASKS)]
        check_loaded(found, "state_dict" if where is None else str(where))

    @classmethod
    def _has_other_tasks(cls, given: Any, options: Mapping[str, Any]) -> bool:
        """Whether a model is loaded with a configuration of other tasks than lies beside its weights."""
        config = options.get("config")
        if not isinstance(config, PretrainedConfig) or given is None:
            return False
        beside = {name: options[name] for name in ("revision", "cache_dir", "token", "subfolder") if name in options}
        stored = config.from_pretrained(given, **beside)
        return any(getattr(stored, name) != getattr(config, name) for name in ("families", "queries"))

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, **options: Any) -> None:
        """Write the model, and beside it the processor and the record of training that came with it.

        Args:
            save_directory: the folder.
            is_main_process: whether this process is the one that writes; the others take part alone.
            options: as in `PreTrainedModel.save_pretrained`.
        """
        with one_set_of_weights(Path(save_directory)) if is_main_process else nullcontext():
            super().save_pretrained(save_directory, is_main_process=is_main_process, **options)  # type: ignore[misc]
        if is_main_process and self.processor is not None:
            self.processor.save_pretrained(save_directory)
        if is_main_process and self.training_record is not None:
            write_record(Path(save_directory), self.training_record)
