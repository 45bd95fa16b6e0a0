"""The tests that every modality passes, whichever package it comes from.

class TestSeries(ModalityTests):
    modality, column = SERIES, "npy"
    values = [numpy.ones((length, 2)) for length in (4, 9, 16, 30)]

    def encoded(self, value):
        return npy_bytes(value)
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unified.core.seed import seeded, torch_generator
from unified.evaluate.run import evaluate
from unified.hub.export import export
from unified.hub.fold import LIMIT, fold
from unified.hub.load import load
from unified.modalities import load_tokenizers
from unified.modalities.modality import Modality
from unified.testing.runs import FAMILIES, groups_by_step, model_of, recipe_of, spec_of, steps_of, write_shards
from unified.train.loop import run

TOLERANCE = 1e-5
"""Of unit-length features in fp32, which the order of sums changes."""


class ModalityTests:
    """The tests; a subclass says which modality, and how its values look."""

    modality: Modality
    column: str
    """The ending of its columns in shards."""
    values: Sequence[Any]
    """At least four decoded values, the first and the second of different lengths where they may have such."""
    settings: Any = None
    """Settings of a recipe, for a small model; None: the defaults."""

    @abstractmethod
    def encoded(self, value: Any) -> bytes:
        """Return a value as it lies in a column of a shard."""

    def test_padding_changes_nothing(self) -> None:
        """A sample has the features that it has alone, however long the others are."""
        alone = [self._features([value])[0] for value in self.values]
        together = self._features(self.values)
        _close(together, torch.stack(alone))

    def test_the_order_of_samples_changes_nothing(self) -> None:
        """Features follow their samples."""
        forward, backward = self._features(self.values), self._features(self.values[::-1])
        _close(forward, backward.flip(0))

    def test_the_tokenizer_is_saved_and_read(self, tmp_path: Path) -> None:
        """A tokenizer that is read from what another saved makes the same tokens."""
        processor = self._model()[1]
        processor.save_pretrained(tmp_path)
        again = type(processor).from_pretrained(tmp_path)
        first, second = processor(**self._given()), again(**self._given())
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_the_model_is_saved_and_loaded(self, tmp_path: Path) -> None:
        """A loaded model has the same features, bit for bit."""
        model, processor = self._model()
        processor.save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        loaded, again = load(tmp_path)
        with torch.no_grad():
            assert torch.equal(model.embed(**processor(**self._given())), loaded.embed(**again(**self._given())))

    def test_a_missing_modality_changes_nothing(self) -> None:
        """Inputs without it have no part in its embedding, which gets no gradient from them."""
        model, processor = self._model()
        model.train()
        model.embed(**processor(text=["a red square", "two"])).sum().backward()
        assert all(parameter.grad is None for parameter in self._embedding(model).parameters())

    def test_examples_fit_the_embedding(self) -> None:
        """Made-up samples become finite vectors, also those of the most tokens."""
        model = self._model()[0]
        section = model.config.section(self.modality.name)
        for longest in (False, True):
            drawn = self.modality.example(section, torch_generator("example"), longest)
            tokens = self.modality.read_features(drawn, section)
            assert tokens is not None
            vectors = model.vectors(tokens)
            assert vectors.shape == (2, tokens.values.shape[1], model.config.width)
            assert bool(vectors.isfinite().all())

    def test_from_shards_to_a_folded_export(self, tmp_path: Path) -> None:
        """Train beside images and texts, evaluate, export, load and fold."""
        data = write_shards(tmp_path / "data", self.column, [self.encoded(value) for value in self.values])
        recipe = recipe_of(data, self.modality.name, self.column, self.settings)
        run(recipe, tmp_path / "run")
        self._check_steps(tmp_path / "run")
        model, processor = load(tmp_path / "run")
        results = evaluate(model, processor, [spec_of(data, self.modality.name, self.column, tmp_path)])["results"]
        assert results[0]["n"] > 0
        export(tmp_path / "run", tmp_path / "export")
        loaded, again = load(tmp_path / "export")
        with torch.no_grad():
            assert torch.equal(model.embed(**processor(**self._given())), loaded.embed(**again(**self._given())))
        found = fold(tmp_path / "export", tmp_path / "folded")
        assert max(found.difference.values()) <= LIMIT

    def test_added_to_a_finished_model(self, tmp_path: Path) -> None:
        """A model that gets the modality afterwards answers about all else as it did."""
        data = write_shards(tmp_path / "data", self.column, [self.encoded(value) for value in self.values])
        run(recipe_of(data), tmp_path / "before")
        start = {"start": {"model": str(tmp_path / "before")}, "optim": {"lr": 0.0, "final_lr": 0.0}, "max_steps": 1}
        run(recipe_of(data, self.modality.name, self.column, self.settings, **start), tmp_path / "after")
        (before, processor), (after, _) = load(tmp_path / "before"), load(tmp_path / "after")
        inputs = processor(text=["a red square", "two"], images=torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
        with torch.no_grad():
            old, new = (model(**inputs, family=FAMILIES[0]) for model in (before, after))
        assert torch.equal(old.logits_per_image, new.logits_per_image)

    def _check_steps(self, out: Path) -> None:
        """Weights and moments of the embedding change in the steps of its tasks alone."""
        own = f"embeddings.{self.modality.name}."
        used = steps_of(out)
        states = groups_by_step(out)
        assert {True, False} == {self.modality.name in tasks for tasks in list(used.values())[1:]}, "steps of each kind"
        for step, tasks in used.items():
            if step - 1 in states:
                pairs = [(states[step - 1][name], value) for name, value in states[step].items() if own in name]
                assert pairs
                assert any(not torch.equal(a, b) for a, b in pairs) == (self.modality.name in tasks), step

    def _model(self) -> tuple[Any, Any]:
        with seeded("model of tests"):
            return model_of(self.modality.name, self.settings or self.modality.settings())

    def _embedding(self, model: Any) -> nn.Module:
        found: nn.Module = model.embeddings[self.modality.name]
        return found

    def _given(self) -> dict[str, Any]:
        return {self.modality.name: list(self.values)}

    def _features(self, values: Sequence[Any]) -> Tensor:
        model, processor = self._model()
        settings = {self.modality.name: self.settings or self.modality.settings()}
        assert load_tokenizers(settings).keys() == settings.keys()
        with torch.no_grad():
            found: Tensor = model.embed(**processor(**{self.modality.name: list(values)}))
        return found


def _close(found: Tensor, expected: Tensor) -> None:
    assert bool(found.isfinite().all())
    assert float((found - expected).abs().max()) <= TOLERANCE
