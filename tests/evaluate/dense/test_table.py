"""What a kind of another package brings along, and how its metrics are shown."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from unified.answers import ANSWERS
from unified.answers.extensions import extension
from unified.answers.kind import QueryKind
from unified.core.errors import UserError
from unified.evaluate.dense.depth import DepthScores
from unified.evaluate.dense.evaluation import DenseEvaluation
from unified.evaluate.dense.table import DENSE, find_evaluation
from unified.evaluate.results import Metric, error_metric
from unified.evaluate.table import LOWER, MAIN, UNITS, find_metric
from unified.reports.prediction.drawing import Drawing
from unified.reports.prediction.drawings import find_drawing


class Warmth(QueryKind):
    """How warm each pixel is."""

    name = "warmth"


WARMTH = Warmth()
EVALUATION = DenseEvaluation(
    kind=WARMTH, scores=lambda _: DepthScores(), metrics=(error_metric("kelvin", "error, kelvin"), Metric("hot"))
)
DRAWING = Drawing(kind=WARMTH, facts=lambda found, _: {"warmest": 1.0})


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> Warmth:
    """A kind in the table, whose evaluation lies in another package."""
    kind = Warmth()
    kind.evaluation, kind.drawing = "warmth_package:EVALUATION", DRAWING
    monkeypatch.setitem(ANSWERS._rows, "warmth", kind)
    monkeypatch.setitem(sys.modules, "warmth_package", SimpleNamespace(EVALUATION=EVALUATION))
    return kind


def test_a_kind_brings_its_evaluation_and_its_drawing(brought: Warmth) -> None:
    assert find_evaluation("warmth") is EVALUATION
    assert find_drawing(brought) is DRAWING
    assert find_evaluation("uni-perceiver") is None


def test_metrics_of_a_brought_kind_are_shown_as_it_says(brought: Warmth) -> None:
    shown = find_metric("kelvin", "warmth")
    assert (shown.title, shown.factor, shown.lower) == ("error, kelvin", 1.0, True)
    assert find_metric("hot", "warmth").factor == find_metric("warm pixels", "warmth").factor == 100.0
    assert find_metric("kelvin", "retrieval").title == "kelvin"
    assert find_metric("image_retrieval_recall@5", "retrieval").title == "R@5"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("warmth.evaluation", "expected package.module:NAME or a DenseEvaluation, got 'warmth.evaluation'"),
        ("no_such_package:EVALUATION", "expected no_such_package:EVALUATION to be imported, got ModuleNotFoundError"),
        ("unified.evaluate.dense.depth:MISSING", "to be imported, got AttributeError"),
        ("unified.evaluate.dense.depth:DEPTH", "to be a DenseEvaluation, got a Depth"),
        (7, "expected package.module:NAME or a DenseEvaluation, got 7"),
    ],
)
def test_what_cannot_be_used_is_named(given: Any, message: str) -> None:
    kind = Warmth()
    kind.evaluation = given
    with pytest.raises(UserError, match=message) as error:
        extension(kind, "evaluation", DenseEvaluation)
    assert "kind of answer 'warmth'" in str(error.value)


def test_a_kind_without_a_drawing_is_refused() -> None:
    with pytest.raises(UserError, match="kind 'warmth': expected a drawing, got none"):
        find_drawing(WARMTH)


def test_main_metrics_are_among_those_that_the_tables_know() -> None:
    assert [*MAIN] == [*DENSE]
    assert MAIN["points"] == MAIN["places"] == "distance_px"
    assert LOWER - {"perplexity"} < UNITS
    assert {"psnr"} == UNITS - LOWER
