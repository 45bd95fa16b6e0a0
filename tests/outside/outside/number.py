"""One number an image, such as an age: a kind of answer of another package, with its evaluation and its drawing."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unified.answers.base import SceneExample, layer_mean
from unified.answers.kind import FieldOps, QueryKind, QuerySettings
from unified.answers.spec import QuerySpec
from unified.data.augment.geometric import Scene
from unified.data.samples.decode import column
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.scores import PictureMeans
from unified.evaluate.results import error_metric
from unified.reports.prediction.drawing import Drawing


@dataclass(frozen=True, kw_only=True)
class NumberSettings(QuerySettings):
    kind: ClassVar[str] = "number"
    regress: Literal["number"] = "number"
    limits: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class NumberSpec(QuerySpec):
    limits: tuple[float, float] = (0.0, 1.0)


class Number(QueryKind):
    name, key = NumberSettings.kind, "regress"
    Settings, Spec = NumberSettings, NumberSpec
    evaluation, drawing = "outside.number:EVALUATION", "outside.number:DRAWING"

    def made(self, task: Any, names: Any, cell: int) -> dict[str, Any]:
        return {"queries": 1, "limits": task.answer.limits}

    def annotated(self, asked: Any, sample: Any, image: Tensor) -> SceneExample:
        number = torch.tensor(float(column(sample, asked.task.target)))
        return SceneExample(sample["__key__"], Scene(image), number)

    def target(self, asked: Any, examples: Any) -> dict[str, Tensor]:
        return {"number": torch.stack([example.target for example in examples])}

    def loss(self, found: Any, target: Any) -> tuple[Tensor, Tensor]:
        apart = [(_numbers(found, states) - target["number"]).abs() for states in found.states]
        return layer_mean(apart), (1 - apart[-1].detach()).clamp(min=0)

    def predict(self, found: Any, sizes: Any) -> list[dict[str, Any]]:
        return [{"number": number} for number in _numbers(found, found.states[-1])]

    def merge(self) -> FieldOps:
        return FieldOps(
            lambda found, _: list(_numbers(found, found.states[-1])),
            lambda field, _: {"number": field},
            lambda field, *_: field,
            windows=False,
        )


def _numbers(found: Any, states: Tensor) -> Tensor:
    low, high = found.spec.limits
    return low + (high - low) * found.presence(states)[:, 0].float().sigmoid()


class Errors(PictureMeans):
    names = ("mae",)

    def add(self, answer: Any, truth: Any) -> None:
        self.rows.append((abs(float(answer["number"]) - float(truth.target)),))


def _mean(truths: Any, *_: Any) -> dict[str, Any]:
    mean = torch.stack([truth.target for truth in truths]).mean()
    return {"mean": lambda _: {"number": mean}}


NUMBER = Number()
EVALUATION = DenseEvaluation(
    kind=NUMBER,
    scores=lambda _: Errors(),
    metrics=(error_metric("mae", "mean absolute error"),),
    column=lambda _: "json.number",
    fit=_mean,
    nearest=lambda truth, _: {"number": truth.target},
)
DRAWING = Drawing(
    kind=NUMBER,
    facts=lambda found, _: {"number": round(float(found.answer["number"]), 4)},
    draw=lambda found, _: [(f"  {float(found.answer['number']):.2f}", None)],
)
