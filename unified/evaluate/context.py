"""What every protocol needs to know of the run that it is part of."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unified.core import seed
from unified.core.errors import DataError
from unified.evaluate.features import Encoder, ModelEncoder, PixelEncoder, embed_items
from unified.evaluate.items import Items
from unified.modalities.base import Tokenizer

UNTRAINED = "untrained"
"""The model with fresh weights."""


@dataclass(frozen=True)
class Context:
    """The model under evaluation and the settings of the command."""

    model: Any
    tokenizers: Mapping[str, Tokenizer]
    shots: tuple[int, ...]
    seeds: int
    batch: int
    cache: Path | None
    model_hash: str | None
    given: tuple[str, ...] = ()  # modalities of the question, as conditional layers look at them
    family: str | None = None
    memory: dict[tuple[str, str, str], NDArray[np.float32]] = field(default_factory=dict)
    """Features of the evaluation at hand: several protocols read the same ones."""

    @property
    def asked(self) -> dict[str, Any]:
        """What candidates are told of the question."""
        return {"given": self.given, "family": self.family}

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie."""
        if isinstance(self.model, torch.nn.Module):
            return next(self.model.parameters()).device
        return torch.device("cpu")

    def features(self, name: str, items: Items, inputs: Mapping[str, str]) -> NDArray[np.float32]:
        """Features of items (n, w), computed once an evaluation."""
        place = (name, items.digest, str(sorted(inputs.items())))
        if place not in self.memory:
            self.memory[place] = embed_items(self.encoder(name), items, inputs, self.tokenizers, self.batch, self.cache)
        return self.memory[place]

    def encoder(self, name: str) -> Encoder:
        """The features of the `model`, of raw `pixels`, or of the `untrained` model."""
        return {PixelEncoder.name: PixelEncoder, UNTRAINED: self._untrained}.get(name, self._trained)()

    def _trained(self) -> Encoder:
        identity = f"{self.model_hash} {self.family}" if self.model_hash and self.family else self.model_hash
        return ModelEncoder(self.model, self.tokenizers, identity, family=self.family)

    def _untrained(self) -> Encoder:
        identity = f"{UNTRAINED} {self.model_hash} {self.family}" if self.model_hash else None
        return ModelEncoder(self._fresh(), self.tokenizers, identity, UNTRAINED, self.family)

    def _fresh(self) -> Any:
        """The same network with its first weights, drawn by a fixed key."""
        config = getattr(self.model, "config", None)
        if config is None:
            raise DataError("baselines: `untrained` needs a model with a configuration to build it anew")
        with seed.seeded(UNTRAINED):
            model = type(self.model)(copy.deepcopy(config))
        return model.to(self.device).eval()


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in."""
    if not isinstance(model, torch.nn.Module):
        with torch.no_grad():
            yield
        return
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
