"""A training step, and inference, on a device that has no values: whatever asks it for one fails (`accelerator.py`).

`python tests/train/test_meta_device.py` prints what is tried, as a table.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the table; pytest does so by itself

from accelerator import META, OnlyAllowed, WaitError, meta_device
from squares import content, matching, tasks, write_squares
from tiny import with_experts

from unified.answers.map.semantic import class_logits
from unified.answers.match.generation import _ask, _begin, _grow
from unified.config.recipe import Recipe
from unified.core.schema import build
from unified.modalities.image.patches import patches
from unified.modalities.sequence import Attributes
from unified.modalities.text.tokenizer import text_tokens
from unified.model.pretrained import UnifiedModel
from unified.nn.queries.modules import Interpreter
from unified.pipeline.loader import StepLoader
from unified.train.build import build as build_parts
from unified.train.outcome import Slots
from unified.train.trainer import Trainer

ROUTERS = ("attribute", "task", "modality", "hash", "context", "token")
MODELS = ("dense", *ROUTERS)
SETTINGS = ("plain", "chunks", "checkpointing")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SOME = ("classes", "boxes", "attributes", "caption", "retrieve", "person")
"""Kinds that are tried with every router by default; all are in the slow tests."""


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


def every_kind(squares: Path, kinds: Sequence[str] | None = None) -> dict[str, Any]:
    """A recipe with a task of every kind of answer, or of some kinds."""
    found = content(squares, *tasks(squares))
    common = {"data": str(squares / "data"), "target": "txt", "batch": 4, "metric": "accuracy"}
    words = {"candidates": "vocabulary"}
    found["tasks"] |= matching(squares) | {
        "retrieve": {**common, "inputs": {"png": "image"}, "answer": {"candidates": "batch"}},
        "hidden": {**common, "inputs": {"txt": "text"}, "answer": {**words, "read": "masked"}},
        "next": {**common, "inputs": {"txt": "text"}, "answer": {**words, "read": "causal"}},
        "encoded": {
            **common, "inputs": {"png": "image"}, "answer": {**words, "read": "caption", "vocabulary": "encoder"},
        },
    }  # fmt: skip
    found["tasks"] = {name: task for name, task in found["tasks"].items() if kinds is None or name in kinds}
    found["slots"] = len(found["tasks"])
    found["model"] |= {"drop_path": 0.1, "depth": 1}
    found["model"]["queries"]["depth"] = 1
    found["optim"] |= {"ema": 0.9}
    return found


@contextlib.contextmanager
def on_meta(
    monkeypatch: pytest.MonkeyPatch, made: dict[str, Any], model: str, precision: str
) -> Iterator[tuple[Trainer, StepLoader]]:
    """What trains a recipe on the meta device; the probe of its constructor has made what is made once."""
    recipe = build(Recipe, made, "squares.yaml")
    if model != "dense":
        recipe = with_experts(recipe, model, bias_rate=0.01 if model == "token" else 0.0)
    with meta_device(monkeypatch) as accelerator:
        parts = build_parts(recipe)
        parts.model.to(PRECISIONS[precision])
        loader = StepLoader(recipe, parts.tokenizers, parts.labels)
        yield Trainer(recipe, accelerator(), parts, loader.probe()), loader


def put(trainer: Trainer, setting: str) -> None:
    """Have a trainer make its next steps in a setting."""
    chunks = 3 if setting == "chunks" else 1
    trainer.recipe = replace(trainer.recipe, engine=replace(trainer.recipe.engine, chunks=chunks))
    trainer.model.encoder.gradient_checkpointing = setting == "checkpointing"


def waits(trainer: Trainer, loader: StepLoader) -> dict[str, str]:
    """What the tasks ask the device for in a step, each and all together: nothing."""
    slots = loader.probe()
    if (of_all := _wait(trainer, slots)) is None:
        return {}
    each = {slot.task: _wait(trainer, [(slot, batch)]) for slot, batch in slots}
    return {name: text for name, text in {**each, "all": of_all}.items() if text is not None}


def _wait(trainer: Trainer, slots: Slots) -> str | None:
    try:
        with OnlyAllowed():
            trainer.launch(slots, norms_by_part=True)
    except (WaitError, RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return None


def outcomes(trainer: Trainer, loader: StepLoader, settings: Sequence[str] = SETTINGS) -> dict[str, dict[str, str]]:
    """What the tasks ask for, by setting."""
    found = {}
    for setting in settings:
        put(trainer, setting)
        found[setting] = waits(trainer, loader)
    return found


BRIEF = [(name, SOME, "fp32") for name in ("dense", "attribute", "context", "token")] + [
    (name, SOME, "bf16") for name in ("dense", "token")
]
LONG = [(name, None, precision) for name, precision in product(MODELS, PRECISIONS)]


@pytest.mark.parametrize(
    ("model", "kinds", "precision"),
    [*BRIEF, *(pytest.param(*case, marks=pytest.mark.slow, id=f"{case[0]}-all-{case[2]}") for case in LONG)],
)
def test_a_step_asks_an_accelerator_for_nothing(
    squares: Path, monkeypatch: pytest.MonkeyPatch, model: str, kinds: Sequence[str] | None, precision: str
) -> None:
    with on_meta(monkeypatch, every_kind(squares, kinds), model, precision) as (trainer, loader):
        assert trainer.model.device == META
        assert not trainer.at_once
        settings = SETTINGS if kinds is None or (model, precision) == ("token", "fp32") else SETTINGS[:1]
        assert outcomes(trainer, loader, settings) == {setting: {} for setting in settings}


def test_every_kind_of_answer_asks_an_accelerator_for_nothing(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with on_meta(monkeypatch, every_kind(squares), "dense", "fp32") as (trainer, loader):
        put(trainer, "chunks")
        assert waits(trainer, loader) == {}


def asked(states: Tensor) -> None:
    states.sum().item()


def copied(states: Tensor) -> None:
    torch.tensor([1.0, 2.0], device=states.device)


@pytest.mark.parametrize(("wait", "said"), [(asked, "meta"), (copied, "test_meta_device.py.*copies to the device")])
def test_a_wait_that_is_put_back_is_found(squares: Path, monkeypatch: pytest.MonkeyPatch, wait: Any, said: str) -> None:
    plain = Interpreter.presence

    def presence(self: Interpreter, states: Tensor) -> Tensor:
        wait(states)
        return plain(self, states)

    with on_meta(monkeypatch, every_kind(squares, SOME), "dense", "fp32") as (trainer, loader):
        monkeypatch.setattr(Interpreter, "presence", presence)
        found = waits(trainer, loader)
    assert {"attributes", "classes", "all"} == set(found)
    assert all(said.partition(".*")[0] in text for text in found.values())


def inference(model: UnifiedModel) -> list[torch.Size]:
    """What evaluation runs, up to the numbers and words that it reads."""
    pixels = torch.zeros(3, 3, 32, 32, dtype=torch.uint8, device=META)
    ids = torch.zeros(3, 5, dtype=torch.long, device=META)
    seen = torch.ones_like(ids)
    labels = text_tokens(ids, seen)
    with OnlyAllowed(), torch.no_grad():
        shapes = [model.embed(pixel_values=pixels).shape, model.embed(input_ids=ids, attention_mask=seen).shape]
        shapes.append(model.classify({"pixel_values": pixels}, labels).shape)
        asked_of = model.ask({"pixel_values": pixels}, ["classes", "boxes"])
        shapes.append(class_logits(asked_of["classes"], (40, 40)).shape)
        kind = Attributes("text", causal=True, given=("image", "text"))
        beams = _begin(model, {"image": patches(pixels, model.config.spatial["patch"])}, 2, kind)
        for step in range(2):  # after each word the loop reads, a word late, whether all captions are closed
            logits = model.project(_ask(model, beams, step, kind)) @ model.vocabulary().T
            _grow(beams, logits.log_softmax(1), 2, model.config.end_token_id)
    return [*shapes, beams.ids.shape]


@pytest.mark.parametrize(
    "model",
    [*("dense", "attribute", "token"), *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS[2:-1])],
)
def test_inference_asks_an_accelerator_for_nothing_but_its_answers(
    squares: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    with on_meta(monkeypatch, every_kind(squares, SOME), model, "fp32") as (trainer, _):
        inference(trainer.model.eval())  # warms what is made once
        assert inference(trainer.model) == [(3, 32), (3, 32), (3, 3), (3, 3, 40, 40), (6, 2)]


def table() -> str:
    """What is tried, a row for each kind of answer and a column for each model, over all settings and precisions."""
    rows: dict[str, dict[str, list[bool]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = every_kind(write_squares(Path(folder)))
        for model, precision in product(MODELS, PRECISIONS):
            patch = pytest.MonkeyPatch()
            with patch.context() as patched, on_meta(patched, made, model, precision) as (trainer, loader):
                for found in outcomes(trainer, loader).values():
                    for name in [*made["tasks"], "all"]:
                        rows.setdefault(name, {}).setdefault(model, []).append(name not in found)
    width = max(map(len, rows))
    lines = [f"{'kind':{width}}  " + "".join(f"{model:>14}" for model in MODELS)]
    for name, of in rows.items():
        cells = [f"{sum(of[model])} of {len(of[model])}" for model in MODELS]
        lines.append(f"{name:{width}}  " + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join([f"settings: {', '.join(SETTINGS)}; precisions: {', '.join(PRECISIONS)}", *lines])


if __name__ == "__main__":
    print(table())
