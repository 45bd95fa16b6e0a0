"""The model as transformers and people call it: forward, features, classification, captions and task queries."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unified.answers.base import QueryStates
from unified.answers.match.generation import generate
from unified.answers.match.similarity import similarity
from unified.core.types import Tokens
from unified.modalities import MODALITIES
from unified.model.clients import ClientMethods, contrastive_loss
from unified.model.inputs import processed
from unified.model.network import Network
from unified.model.outputs import UnifiedOutput
from unified.model.query_forward import ask
from unified.model.task_loss import answer
from unified.nn.encoder import Noise


class UnifiedModel(ClientMethods, Network):  # type: ignore[misc]
    """One transformer for all modalities and tasks; answers by comparing representations (Uni-Perceiver, CVPR 2022)."""

    def ask(
        self,
        inputs: Mapping[str, Any],
        tasks: Sequence[str],
        *,
        names: Mapping[str, Any] | None = None,
        noise: Noise | None = None,
    ) -> dict[str, QueryStates]:
        """What the queries of several tasks find in the same pictures, which the encoder passes once.

        `inputs` are processor features or tokens. `names`: for tasks whose queries are made from names, other ones than
        they have: words, or their representations (c, w).
        """
        return ask(self, self.tokens(**processed(inputs, "ask")), tasks, names=names, noise=noise)

    def embed(
        self, inputs: Mapping[str, Any] | None = None, role: Any = "input", family: str | None = None, **features: Any
    ) -> Float[Tensor, "b w"]:
        """Unit-length features of tokens by modality, or of `input_ids`, `attention_mask`, `pixel_values`.

        `role`: "candidate" for texts that images are compared with, which conditional layers tell from others.
        """
        return self.represent(self.tokens(**{**features, **processed(inputs, "embed")}), role, family=family)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        family: str | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
        task: str | None = None,
        return_loss: bool | None = None,
        **given: Any,
    ) -> UnifiedOutput | tuple[Tensor, ...]:
        """Representations of images and of texts, the similarity of each pair where both are given, and a loss.

        A tuple of what there is in the order of `UnifiedOutput`'s fields where `return_dict` is False. `labels`, of a
        `task` of the model: what is right, as `task_loss.answer` takes it. `return_loss`: images and texts are pairs.
        """
        for name in ("output_hidden_states", "output_attentions"):
            if given.pop(name, False):
                raise TypeError(f"{name}: this model returns representations alone; leave it out or False")
        tokens = self.tokens(input_ids, attention_mask, pixel_values, **given)
        if task is not None or labels is not None:
            output = answer(self, tokens, labels, task, family)
        else:
            output = self.compared(tokens, family)
        if return_loss:
            if output.logits_per_image is None:
                raise TypeError("return_loss: expected images and texts, got one of them. Hint: give both, or `labels`")
            output.loss = contrastive_loss(output.logits_per_image) if output.loss is None else output.loss
        as_fields = self.config.return_dict if return_dict is None else return_dict
        return output.in_order() if as_fields else output.in_order().to_tuple()

    @torch.no_grad()
    def classify(
        self,
        inputs: Mapping[str, Any],
        labels: Sequence[str] | Tensor | Tokens,
        *,
        templates: Sequence[str] = ("{}",),
        family: str | None = None,
    ) -> Float[Tensor, "b c"]:
        """Probability of each candidate for each sample; `family` names the temperature, and what routers look at."""
        tokens = self.tokens(**processed(inputs, "classify"))
        features = self.represent(tokens, family=family, unit=False)
        candidates = self.candidates(labels, templates, given=tokens, family=family)
        logits = similarity(F.normalize(features, dim=-1), candidates, self.scale(family))
        return (logits if self.classifier is None else self.classifier(logits, features)).softmax(dim=1)

    def caption(
        self,
        inputs: Mapping[str, Any],
        *,
        beams: int = 1,
        max_length: int | None = None,
        family: str | None = None,
        vocabulary: str = "embedding",
    ) -> list[str]:
        """A text for each sample, built word by word by matching against the vocabulary.

        `family` names the temperature, that of the captioning task where there are several (the model's first one
        by default); with one beam it changes nothing. `vocabulary` is how that task represents its entries:
        "embedding" or "encoder", as its recipe says (`answer.vocabulary`).
        """
        tokens = self.tokens(**processed(inputs, "caption"))
        found = generate(self, tokens, beams=beams, max_length=max_length, family=family, vocabulary=vocabulary)
        tokenizer = self._processor().tokenizers[MODALITIES.language]
        return [tokenizer.text(ids) for ids in found]
