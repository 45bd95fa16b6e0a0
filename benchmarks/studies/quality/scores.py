"""How each task is scored: one number on held-out data, the same samples and the same function for every model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified.evaluate.spec import Caption, Classification, Evaluation, Masked, Retrieval, Spec

IMAGE = {"png": "image"}


@dataclass(frozen=True)
class Score:
    """A number with its sampling error: what another test set of this kind would change."""

    value: float
    error: float
    n: int


@dataclass(frozen=True)
class Question:
    """One column of the table."""

    task: str
    title: str
    evaluation: Evaluation
    metric: str
    """Key in the results; a perplexity is turned into the loss that it is the exponential of."""

    @property
    def higher_is_better(self) -> bool:
        """False for losses."""
        return self.metric != "perplexity"

    def score(self, results: Mapping[str, Any]) -> Score:
        """The number in the content of a results file."""
        found = next(e for e in results["results"] if e["dataset"] == self.task and self.metric in e["metrics"])
        interval = found["ci"][self.metric]
        value, error = interval["value"], math.nan if interval["se"] is None else interval["se"]
        if not self.higher_is_better:
            value, error = math.log(value), error / value
        return Score(value, error, found["n"])


def questions(folder: Path) -> dict[str, Question]:
    """The questions by name; `folder` is that of `held_out.write_held_out`.

    `digits` is transfer of `names` to handwriting: no task of its own, and no part of the gap.
    """
    glyphs = "data/glyphs/test_fonts"
    groups = ["data/glyphs/train", "data/glyphs/test_characters"]
    names = ["data/glyphs/names.yaml", "data/glyphs/test_names.yaml"]
    asked = [
        Question("names", "accuracy, %", Classification(
            data=str(folder / "names"), inputs=IMAGE, target="txt", labels="labels/ascii", probes=(),
            cluster="json.group", family="names"), "acc1"),
        Question("retrieve", "R@10, %", Retrieval(
            data=glyphs, inputs=IMAGE, group="json.group", groups=groups, candidates=names, family="names"),
            "text_retrieval_recall@10"),
        Question("caption", "loss, nats", Caption(
            data=glyphs, inputs=IMAGE, group="json.group", groups=groups[:1], family="caption", beams=()),
            "perplexity"),
        Question("words", "loss, nats", Masked(
            data=str(folder / "words"), family="words", cluster="json.module"),
            "perplexity"),
        Question("script", "accuracy, %", Classification(
            data=glyphs, inputs=IMAGE, target="json.script", labels="data/glyphs/scripts.yaml", probes=(),
            cluster="json.group", family="script"), "acc1"),
        Question("digits", "accuracy, %", Classification(
            data=["data/digits/train", "data/digits/test"], inputs=IMAGE, labels="labels/digits", probes=(),
            family="names"), "acc1"),
    ]  # fmt: skip
    return {question.task: question for question in asked}


TRANSFER = {"names": ("digits",)}
"""Questions beyond its own that a task is asked."""


def asked_of(tasks: Sequence[str]) -> list[str]:
    """The questions for a model that was trained on `tasks`."""
    return [*tasks, *(name for task in tasks for name in TRANSFER.get(task, ()))]


def spec(asked: Mapping[str, Question]) -> Spec:
    """The questions as one evaluation spec."""
    return Spec("quality", {name: question.evaluation for name, question in asked.items()})
