"""The comparison of generalists with specialists: equal budgets, the gap, the table, skipping and going on."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from benchmarks.studies.quality import results
from benchmarks.studies.quality.figure import draw
from benchmarks.studies.quality.plan import BASE, Run, budget, plan, scaled
from benchmarks.studies.quality.results import Result, training_seconds
from benchmarks.studies.quality.runs import Times, carry_out
from benchmarks.studies.quality.scores import Question, Score, questions
from benchmarks.studies.quality.summary import Estimate, estimate, gap, relative, sampling, summarise
from benchmarks.studies.quality.table import markdown
from benchmarks.studies.quality.variants import SPECIALISTS, VARIANTS
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.schema import build, read_yaml
from unified.evaluate.spec import Masked, Retrieval
from unified.pipeline.schedule import samples_before
from unified.train.faults.stop_signal import StopRequest

pytestmark = pytest.mark.slow

HIGHER = {"names": True, "words": False}
TASKS = ("names", "words")


def result(variant: str, seed: int, scores: dict[str, float], tasks: tuple[str, ...] = TASKS) -> Result:
    found = {name: Score(value, 0.01, 100) for name, value in scores.items()}
    between = {"names": {"names": 1.0, "words": -0.1}, "words": {"names": 0.5, "words": 1.0}} if len(tasks) > 1 else {}
    return Result(variant, seed, tasks, {}, 10.0, 1, 1_000_000, 500_000, found, between)


def test_specialists_of_a_seed_see_the_samples_of_the_generalist() -> None:
    dense, *specialists = plan(550, ["dense", SPECIALISTS], seeds=1)
    seen = samples_before(dense.recipe, 0, 550)
    assert [run.tasks[0] for run in specialists] == list(dense.recipe.tasks)
    for run in specialists:
        assert samples_before(run.recipe, 0, run.recipe.max_steps) == {run.tasks[0]: seen[run.tasks[0]]}
    assert sum(run.slots for run in specialists) == dense.slots == 1100
    assert budget(dense.recipe)["names"] == 550  # a weight of 6 in 12, two slots a step
    assert (
        budget(scaled(dense.recipe, 1))["script"] == 1
    )  # a specialist takes a step even where the budget is too small


def test_the_schedule_keeps_its_shape() -> None:
    base = build(Recipe, read_yaml(BASE), BASE)
    short = scaled(base, 185)
    assert (short.max_steps, short.optim.warmup) == (185, 10)
    assert replace(short, max_steps=base.max_steps, optim=base.optim) == base


def test_plan_has_all_seeds_of_all_variants_and_extras_only_by_name() -> None:
    runs = plan(100)
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) == 3 * (5 + 3) + 4
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert not [name for name in names if VARIANTS[name.split("-")[0]].extra]
    every = plan(100, list(VARIANTS), seeds=2)
    assert len({run.name for run in every}) == 2 * (5 + len(VARIANTS) - 1)
    experts = {run.variant: run.recipe.model.experts for run in every}
    assert experts["dense"] is None
    assert experts["attribute_ffn"].linears == ("up", "down")  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="did you mean 'attribute'"):
        plan(100, ["atribute"])


def test_gap_is_the_mean_relative_difference_and_counts_the_spread_of_both_sides() -> None:
    assert relative(0.6, 0.5, higher_is_better=True) == pytest.approx(0.2)
    assert relative(0.6, 0.5, higher_is_better=False) == pytest.approx(-0.2)
    reference = {"names": Estimate(0.5, 0.0, 2), "words": Estimate(4.0, 0.0, 2)}
    runs = [{"names": 0.6, "words": 4.4}, {"names": 0.6, "words": 3.6}]
    found = gap(runs, reference, HIGHER)
    assert found is not None
    assert found.mean == pytest.approx(0.1)  # (+20 % − 10 %) / 2 and (+20 % + 10 %) / 2
    assert found.error == pytest.approx(0.05)
    noisy = gap(runs, reference | {"names": Estimate(0.5, 0.1, 2)}, HIGHER)
    assert noisy is not None
    assert noisy.error == pytest.approx(math.hypot(0.05, 0.6 * 0.1 / 0.5**2 / 2))
    single = gap(runs[:1], reference, HIGHER)
    assert single is not None
    assert single.error is None
    assert gap(runs, reference | {"names": Estimate(0.0, 0.0, 2)}, HIGHER) is None


def test_rows_join_the_models_of_a_seed_and_leave_unfinished_seeds_out(tmp_path: Path) -> None:
    found = [
        result("dense", 0, {"names": 0.4, "words": 5.0, "digits": 0.3}),
        result("dense", 1, {"names": 0.6, "words": 5.0, "digits": 0.5}),
        result(SPECIALISTS, 0, {"names": 0.5, "digits": 0.6}, ("names",)),
        result(SPECIALISTS, 0, {"words": 4.0}, ("words",)),
        result(SPECIALISTS, 1, {"names": 0.9, "digits": 0.9}, ("names",)),
    ]
    specialists, dense = summarise(found, TASKS, HIGHER)
    assert (specialists.variant, dense.variant) == (SPECIALISTS, "dense")
    assert specialists.scores["names"] == Estimate(0.5, None, 1)
    assert (specialists.stored, specialists.active, specialists.seconds) == (2_000_000, 500_000, 20.0)
    assert specialists.gap is None
    assert dense.scores["names"] == estimate([0.4, 0.6])
    assert dense.gap is not None
    assert dense.gap.mean == pytest.approx((0.0 - 0.25) / 2)
    assert dense.by_task == {"names": pytest.approx(0.0), "words": pytest.approx(-0.25)}
    asked = {name: question for name, question in questions(tmp_path).items() if name in (*TASKS, "digits")}
    text = markdown([specialists, dense], asked, TASKS, sampling(found))
    lines = text.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:6]]
    assert len({len(line) for line in lines[:6]}) == 1
    assert cells[2][:5] == [SPECIALISTS, "1", "50.0", "4.000", "60.0"]
    assert cells[3][:6] == ["dense", "2", "50.0 ± 10.0", "5.000 ± 0.000", "40.0 ± 10.0", "-12.5"]
    assert cells[3][6] == "+0.20 ± 0.00"
    assert cells[4][2] == "± 1.0"
    assert "Transfer, not counted: digits" in text
    draw([specialists, dense], asked, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_perplexity_becomes_a_loss_with_its_error(tmp_path: Path) -> None:
    interval = {"value": math.e**2, "se": 0.1 * math.e**2}
    entry = {"dataset": "words", "metrics": {"perplexity": math.e**2}, "ci": {"perplexity": interval}, "n": 7}
    assert questions(tmp_path)["words"].score({"results": [entry]}) == Score(pytest.approx(2.0), pytest.approx(0.1), 7)


def test_training_time_is_that_of_the_steps(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe(tmp_path)
    seen = [sum(samples_before(recipe, recipe.seed, step).values()) for step in (2, 6)]
    records: list[dict[str, Any]] = [
        {"step": 2, "samples_per_second": seen[0] / 5.0},
        {"step": 2, "eval/x": 1.0},
        {"step": 6, "samples_per_second": (seen[1] - seen[0]) / 3.0},
    ]
    assert training_seconds(recipe, records) == pytest.approx(8.0)


def test_expected_time_follows_the_slots() -> None:
    dense, *specialists = plan(100, ["dense", SPECIALISTS], seeds=1)
    times = Times()
    assert times.expected([dense]) is None
    times.add(specialists[0], 50.0)  # 100 slots
    assert times.expected([dense, specialists[0]]) == pytest.approx(150.0)
    times.add(dense, 40.0)
    assert times.expected([dense]) == pytest.approx(40.0)


def tiny_run(folder: Path) -> tuple[Run, dict[str, Question]]:
    recipe = tiny.tiny_recipe(folder)
    tasks = {name: recipe.tasks[name] for name in ("retrieve", "hidden")}
    data = str(folder / "data")
    asked = [
        Question("retrieve", "R@1, %", Retrieval(data=data, inputs={"png": "image"}), "text_retrieval_recall@1"),
        Question("hidden", "loss, nats", Masked(data=data, family="hidden"), "perplexity"),
    ]
    run = Run("dense", recipe.seed, tuple(tasks), replace(recipe, tasks=tasks))
    return run, {question.task: question for question in asked}


def test_a_stopped_run_goes_on_and_a_finished_one_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, asked = tiny_run(tmp_path)
    [(_, whole)] = carry_out([run], tmp_path / "whole", asked)
    assert set(whole.scores) == {"retrieve", "hidden"}
    assert whole.stored == whole.active > 0
    answers = itertools.chain([False, True], itertools.repeat(False))
    monkeypatch.setattr(StopRequest, "agreed", lambda *_: next(answers))
    with pytest.raises(KeyboardInterrupt):
        list(carry_out([run], tmp_path / "stopped", asked))
    folder = tmp_path / "stopped" / run.name
    assert results.read(folder, run, asked) is None
    [(_, resumed)] = carry_out([run], tmp_path / "stopped", asked)
    assert resumed.scores == whole.scores
    assert len(list(tiny.losses(folder))) == run.recipe.max_steps
    capsys.readouterr()
    before = (folder / results.FILE).stat().st_mtime_ns
    assert list(carry_out([run], tmp_path / "stopped", asked)) == [(run, resumed)]
    assert (folder / results.FILE).stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""
    assert results.read(folder, run, ["retrieve"]) is None  # asked other questions than the result answers
    other = replace(run, recipe=replace(run.recipe, max_steps=7))
    with pytest.raises(RecipeError, match="max_steps was 6 and is 7 now"):
        results.read(folder, other, asked)
