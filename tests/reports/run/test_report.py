"""What a run's records say about it: each diagnosis, on records that show it and on such that do not."""

import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_recipe, with_experts

from unified.cli.app import call
from unified.cli.ends import guarded
from unified.config.recipe import Recipe
from unified.core.errors import UserError
from unified.core.seed import generator
from unified.reports.run.diagnosis import diagnose, late_loads, spikes, waiting
from unified.reports.run.figure import lines_of, looks_of, maps_of, smooth
from unified.reports.run.read import Log, Resume, Run, Samples, forward, read_log, read_run, resumes
from unified.reports.run.report import report, run_command
from unified.train.loop import run as train
from unified.train.monitor.run_folder import RunFolder

STEPS = 40
EVEN = [0.25, 0.25, 0.25, 0.25]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    made = tiny_recipe(tmp_path_factory.mktemp("recipe"))
    return replace(made, optim=replace(made.optim, clip=100.0))  # above the norms of `records`


def records(steps: int = STEPS, **changes: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Those of a run that is fine, with noise; keyword: another value of a key (`__` for /) by the record's number."""
    draw = generator("records").normal(0, 1, (steps, 4)).tolist()
    tasks = ("retrieve", "colour", "caption", "hidden", "next")
    found: list[dict[str, Any]] = []
    for number in range(steps):
        noise = draw[number]
        record: dict[str, Any] = {"step": number + 1}
        record |= {f"loss/{task}": 4 * math.exp(-number / 30) + 0.5 + 0.02 * noise[0] for task in tasks}
        record |= {"metric/colour.accuracy": number / steps, "lr": 1e-3, "gradient_norm": 2 + 0.2 * noise[1]}
        record |= {"samples_per_second": 500 + 10 * noise[2], "tokens_per_second": 9000.0}
        record |= {"data_wait": 0.02 if number else 0.9, "seconds_left": None}
        record |= {name.replace("__", "/"): value(number) for name, value in changes.items()}
        found.append(record)
    return found


def made(recipe: Recipe, found: list[dict[str, Any]] | None = None, **changes: Any) -> Run:
    return Run(Path("runs/made"), recipe, records() if found is None else found, **changes)


def kinds(run: Run) -> list[str]:
    return [one.kind for one in diagnose(run)]


def test_a_run_that_is_fine_has_no_diagnosis(recipe: Recipe) -> None:
    assert kinds(made(recipe)) == []
    assert kinds(made(with_experts(recipe, "token"), records(**{"experts/0.mlp/load": lambda _: EVEN}))) == []


def test_one_record_is_enough_and_too_few_to_judge(recipe: Recipe) -> None:
    for count in range(1, 9):
        assert kinds(made(recipe, records(count))) == []
    assert waiting(made(recipe, records(1))) is None, "the first record of a process warms up"


def test_waiting_for_data_counts_by_time_and_without_warm_up(recipe: Recipe) -> None:
    slow = {"data_wait": lambda n: 0.4 if n % 2 else 0.0, "samples_per_second": lambda n: 100.0 if n % 2 else 300.0}
    run = made(recipe, records(41, **slow))
    assert waiting(run) == pytest.approx(0.3), "three times as long at a third of the speed"
    (found,) = diagnose(run)
    assert (found.kind, found.level) == ("data-bound", "problem")
    assert "30% of the time" in found.text
    assert "data.workers, now 0" in found.text
    assert kinds(made(recipe, records(data_wait=lambda _: 0.09))) == []


def test_stalls_of_the_loader_are_told(recipe: Recipe) -> None:
    (found,) = diagnose(made(recipe, stalls=["step 3: no batch for 60 s", "step 9: no batch for 60 s; waiting"]))
    assert found.text == "the loader stalled 2 times; the last: step 9: no batch for 60 s; waiting"


def test_a_loss_spike_has_its_step_and_task(recipe: Recipe) -> None:
    def loss(number: int) -> float:
        usual = 4 * math.exp(-number / 30) + 0.01 * (-1) ** number
        return usual * 2 if number in (24, 25, 33) else usual

    (found,) = diagnose(made(recipe, records(loss__colour=loss)))
    assert (found.kind, found.subject, found.steps) == ("loss spike", "colour", (25, 34))
    assert "the loss of colour spiked 2 times: step 25 to 26 (3.6" in found.text


def test_small_and_early_rises_are_no_spikes(recipe: Recipe) -> None:
    tiny = records(loss__colour=lambda n: 3 - n / 100 + 0.25 * (n == 30))  # under a tenth
    noisy = generator("noise").normal(0, 1, STEPS).tolist()
    assert kinds(made(recipe, tiny)) == []
    assert kinds(made(recipe, records(loss__colour=lambda n: 6 - n / 10 + noisy[n]))) == []
    assert kinds(made(recipe, records(loss__colour=lambda n: 3 - n / 100 + 9 * (n == 5)))) == []


def test_gradient_spikes_are_notes_and_twice_the_norm_at_least(recipe: Recipe) -> None:
    (found,) = diagnose(made(recipe, records(gradient_norm=lambda n: 50.0 if n == 20 else 2 + n % 3 / 10)))
    assert (found.kind, found.level, found.steps) == ("gradient spike", "note", (21,))
    assert kinds(made(recipe, records(gradient_norm=lambda n: 3.9 if n == 20 else 2 + n % 3 / 10))) == []


def test_the_part_of_a_gradient_spike_is_named(recipe: Recipe) -> None:
    def norm(number: int) -> float:
        return 50.0 if number == 20 else 2 + number % 3 / 10

    parts = {"gradient_norm/text": lambda _: 0.5, "gradient_norm/layers 0-3": lambda n: norm(n) - 0.01}
    first, second = diagnose(made(recipe, records(gradient_norm=norm, **parts)))
    assert (first.kind, second.kind, second.subject, second.steps) == (
        "gradient spike",
        "spike in part",
        "layers 0-3",
        (21,),
    )


def test_slow_ranks_are_told_and_whether_it_is_always_the_same(recipe: Recipe) -> None:
    slow = {"imbalance": lambda _: 1.4, "slowest_rank": lambda _: 3}
    (found,) = diagnose(made(recipe, records(**slow)))
    assert (found.kind, found.level, found.subject) == ("imbalance", "problem", "3")
    assert "takes 1.40 times the mean" in found.text
    assert "rank 3 is the slowest in 100% of the records" in found.text
    (found,) = diagnose(made(recipe, records(**{**slow, "slowest_rank": lambda n: n % 4})))
    assert "now one rank is slow, now another" in found.text
    assert kinds(made(recipe, records(**{**slow, "imbalance": lambda n: 2.0 if n < 20 else 1.05}))) == [], "it was"
    assert kinds(made(recipe, records(2, **slow))) == []


def test_skipped_steps_are_told_with_the_records_that_have_them(recipe: Recipe) -> None:
    (found,) = diagnose(made(recipe, records(skipped_steps=lambda n: (n >= 9) + 2 * (n >= 30))))
    assert (found.kind, found.level, found.steps) == ("skipped steps", "note", (10, 31))
    assert found.text.startswith("3 steps changed nothing")


def test_parts_and_shares_have_panels_and_columns(recipe: Recipe, tmp_path: Path) -> None:
    more = {"gradient_norm/image": lambda n: float(n % 2), "gradient_norm/text": lambda _: 1.0}
    more |= {
        "time/colour": lambda _: 0.7,
        "time/next": lambda _: 0.3,
        "mfu": lambda _: 0.4,
        "mfu/colour": lambda _: 0.5,
        "mfu/next": lambda _: 0.2,
    }
    more |= {"epochs/colour": lambda n: n / 10, "memory/host_gib": lambda _: 3.0, "samples/colour": lambda n: 8 * n}
    run = made(recipe, records(**more, imbalance=lambda _: 1.01, slowest_rank=lambda _: 1))
    panels = {panel.title: panel for panel in lines_of(run, [])}
    assert (panels["gradient norm by part"].curves["image"].values == 1).all(), "steps without an image are left out"
    assert list(panels["share of the time"].curves) == ["colour", "next"]
    assert list(panels["model FLOPs utilization"].curves) == ["all", "colour", "next"]
    assert {"slowest rank / mean, forward", "epochs", "most memory of a process"} <= panels.keys()
    assert "skipped steps" not in panels
    with RunFolder(tmp_path / "run") as folder:
        folder.start(recipe, 0)
        for record in run.records:
            folder.append(dict(record))
    run_command(tmp_path / "run")
    page = (tmp_path / "run" / "reports" / "run.html").read_text()
    cells = ["312", "3.9", "70%", "50%"]
    assert "".join(f'<td class="number">{cell}</td>' for cell in cells) in page
    assert "rank 1, 1.01 times the mean of all" in page


def test_spikes_of_runs_with_many_records_are_found_among_noise(recipe: Recipe) -> None:
    noise = generator("long").normal(0, 0.1, 5000).tolist()
    found = spikes(
        made(recipe, records(5000, gradient_norm=lambda n: 1 + noise[n] + (n == 4321))).curve("gradient_norm"), 0.5
    )
    assert [spike.first for spike in found] == [4322]


def test_losses_that_do_not_fall_or_rise_again_are_told(recipe: Recipe) -> None:
    flat = diagnose(made(recipe, records(loss__hidden=lambda n: 3 + n % 2 / 50)))
    assert [(one.kind, one.subject) for one in flat] == [("no fall", "hidden")]
    again = diagnose(made(recipe, records(loss__next=lambda n: 1 + abs(n - 18) / 12)))
    assert [one.kind for one in again] == ["no fall"], "as high as at the beginning"
    again = diagnose(made(recipe, records(loss__next=lambda n: 1 + abs(n - 26) / 12)))
    assert [(one.kind, one.subject) for one in again] == [("rises", "next")]
    assert kinds(made(recipe, records(loss__next=lambda n: 0.001 + n % 2 / 1000))) == [], "there is nothing to fall"


def test_warm_up_is_not_judged(recipe: Recipe, tmp_path: Path) -> None:
    warm = tiny_recipe(tmp_path, optim={"warmup": 38})
    assert kinds(made(warm, records(loss__hidden=lambda _: 3.0))) == []


def test_tasks_that_no_step_had_are_told(recipe: Recipe) -> None:
    found = [{name: value for name, value in one.items() if name != "loss/next"} for one in records()]
    (one,) = diagnose(made(recipe, found))
    assert (one.kind, one.level) == ("unseen", "note")
    assert "had next;" in one.text
    assert kinds(made(recipe, found[:3])) == []


@pytest.mark.parametrize(
    ("load", "kind", "words"),
    [
        ([0.97, 0.01, 0.01, 0.01], "collapsed", "0.mlp (as diverse as 1.18 of 4)"),
        ([0.5, 0.5, 0.0, 0.0], "idle", "2 of 4 experts had nothing to do in the last records: 0.mlp (2, 3)"),
    ],
)
def test_collapsed_and_idle_experts_are_told(recipe: Recipe, load: list[float], kind: str, words: str) -> None:
    experts = with_experts(recipe, "token")
    (found,) = diagnose(made(experts, records(**{"experts/0.mlp/load": lambda n: load if n > 20 else EVEN})))
    assert (found.kind, found.level) == (kind, "problem")
    assert words in found.text
    early = records(**{"experts/0.mlp/load": lambda n: load if n < 20 else EVEN})
    assert kinds(made(experts, early)) == [], "they are in use again"


def test_an_expert_that_does_nearly_all_of_many_is_told(recipe: Recipe) -> None:
    crowded = [0.92, *[0.08 / 99] * 99]
    experts = with_experts(recipe, "token", count=100)
    (found,) = diagnose(made(experts, records(**{"experts/0.mlp/load": lambda _: crowded})))
    assert (found.kind, "0.mlp (expert 0 has 92%)" in found.text) == ("crowded", True)


def test_few_kinds_of_token_cannot_use_all_experts(recipe: Recipe) -> None:
    half = records(**{"experts/0.mlp/load": lambda _: [0.5, 0.5, *[0.0] * 6]})
    modalities = made(with_experts(recipe, "modality", count=8), half)
    assert (modalities.rows(), kinds(modalities)) == (2, [])
    attributes = made(with_experts(recipe, "attribute", count=8), half)
    assert (attributes.rows() or 0) >= 4
    assert [(one.kind, one.level) for one in diagnose(attributes)] == [("idle", "note")]
    assert made(with_experts(recipe, "token"), half).rows() is None


def test_late_loads_reach_back_until_every_task_has_had_its_turn(recipe: Recipe) -> None:
    found = records(**{"experts/0.mlp/load": lambda n: [1.0, 0.0] if n == 10 else [0.0, 1.0]})
    for number, record in enumerate(found):
        if number != 10:
            del record["loss/next"]
    assert late_loads(made(recipe, found))["0.mlp"].tolist() == pytest.approx([1 / 30, 29 / 30])


def test_falling_speed_is_told_and_that_of_a_noisy_machine_is_not(recipe: Recipe) -> None:
    (found,) = diagnose(made(recipe, records(samples_per_second=lambda n: 500 - 5 * n + n % 2)))
    assert (found.kind, "(-3" in found.text) == ("slower", True)
    assert kinds(made(recipe, records(samples_per_second=lambda n: 500 - n))) == []
    assert kinds(made(recipe, records(samples_per_second=lambda n: (500 if n % 2 else 200) - 4 * n))) == []


@pytest.mark.parametrize(("bad", "level"), [(0, None), (2, "note"), (60, "problem")])
def test_bad_samples_are_notes_until_the_run_may_stop(recipe: Recipe, bad: int, level: str | None) -> None:
    found = diagnose(made(recipe, samples=Samples(100_000, bad, ("a.tar: 00012.png: not a picture",))))
    assert [one.level for one in found] == ([level] if level else [])
    if level:
        assert f"{bad} bad samples of 100,000" in found[0].text
        assert found[0].text.endswith("The last: a.tar: 00012.png: not a picture")


def test_numbers_that_are_not_finite_are_told_and_drawn_around(recipe: Recipe, tmp_path: Path) -> None:
    run = made(recipe, records(loss__next=lambda n: math.nan if n in (7, 9) else 3 - n / 20))
    (found,) = diagnose(run)
    assert (found.kind, found.subject, found.steps) == ("not finite", "loss/next", (8, 10))
    assert found.text == "loss/next is not a finite number in 2 records, first at step 8"
    panels = {panel.title: panel for panel in lines_of(run, [found])}
    assert len(panels["loss"].curves["next"].finite().steps) == STEPS - 2


def test_resumes_say_what_was_repeated_and_what_no_record_has(recipe: Recipe) -> None:
    log = Log(continued=((20, 5), (30, 0)))
    assert resumes([0, 20, 30], log, [1, 10, 20, 40]) == [Resume(20, 5), Resume(30, 0, (21, 30))]
    assert resumes([0, 20, 10], Log(), [10, 20]) == [Resume(20), Resume(10)], "records after 10 were cut"
    assert resumes([], log, [20, 30]) == [Resume(20, 5), Resume(30)], "without versions.json"
    (found,) = diagnose(made(recipe, resumes=[Resume(20, 5), Resume(30, 1, (21, 30))]))
    assert found.text == (
        "resumed 2 times: from step 20, 5 steps done again; from step 30, 1 step done again, steps 21 to 30 are in no "
        "record"
    )


def test_records_cover_the_steps_since_the_last_one_or_the_resume(recipe: Recipe) -> None:
    found = [one | {"step": step} for one, step in zip(records(4), (1, 10, 20, 40), strict=True)]
    run = made(recipe, found, resumes=[Resume(30, 0, (21, 30))])
    assert run.covered().tolist() == [1, 9, 10, 10]
    assert run.first_of_process().tolist() == [True, False, False, True]


def test_the_log_is_read_from_where_the_run_last_began(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert read_log(log) == Log()
    bad, stall = "WARNING bad sample, replaced by the next good one:", "step 4: no batch for 60 s; waiting"
    again = "INFO continuing runs/x from step 20 of 60"
    lines = [
        f"{bad} of another run", "INFO step  3/60  a 2.0", "INFO continuing runs/x from step 3 of 60",
        "INFO step  1/60  a 2.0", "INFO step 20/60  a 1.0", "INFO step 27/60  a 1.0", again, "INFO step 29/60  a 1.0",
        again, f"{bad} one", f"{bad} one", f"WARNING {stall}", f"{bad} two", "WARNING something else",
    ]  # fmt: skip
    log.write_text("".join(f"2026-01-01 00:00:00,000 {line}\n" for line in lines) + "2026-01-01 00:00")
    assert read_log(log) == Log(((20, 7), (20, 9)), ("one", "two"), (stall,))


def test_steps_that_go_back_replace_what_was_there(recipe: Recipe) -> None:
    told = [*records(3), {"step": 3, "eval/digits/acc1": 0.5}, *records(3)[1:]]
    kept, dropped = forward(told)
    assert ([one["step"] for one in kept], dropped) == ([1, 2, 3], 3)
    assert [one.kind for one in diagnose(made(recipe, overwritten=3))] == ["overwritten"]


def test_smooth_keeps_a_level_to_the_ends() -> None:
    np.testing.assert_allclose(smooth(np.full(230, 3.0)), 3.0)
    np.testing.assert_array_equal(smooth(np.arange(20.0)), np.arange(20.0))


def test_deep_models_have_the_maps_of_the_least_even_layers(recipe: Recipe) -> None:
    def load(layer: int) -> Callable[[int], list[float]]:
        return lambda _: [1 - layer / 100, layer / 100]

    run = made(recipe, records(3, **{f"experts/{layer}.mlp/load": load(layer) for layer in range(40)}))
    assert [panel.title for panel in maps_of(run)] == [f"load of experts: {layer}.mlp" for layer in range(12)]


def test_folders_without_a_run_or_records_are_errors(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"recipe\.yaml is not in it"):
        read_run(tmp_path)
    with RunFolder(tmp_path / "new") as folder:
        folder.start(recipe, 0)
        with pytest.raises(UserError, match="no records yet"):
            read_run(tmp_path / "new")
        folder.append(records(1)[0])
        with (tmp_path / "new" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 2, "loss/colour": 1.')
        run = read_run(tmp_path / "new")  # while it is held by this process
        assert (run.step, kinds(run)) == (1, [])
        run_command(tmp_path / "new")
    assert (tmp_path / "new" / "reports" / "run.html").is_file()


def test_names_of_tasks_cannot_break_the_page(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with RunFolder(tmp_path / "run") as folder:
        folder.start(recipe, 0)
        folder.append(records(1, **{"loss__<b>&": lambda _: math.inf})[0])
    run_command(tmp_path / "run")
    page = (tmp_path / "run" / "reports" / "run.html").read_text()
    assert "<b>&" not in page
    assert "loss/&lt;b&gt;&amp; is not a finite number" in page


def test_the_command_reports_a_real_run_that_was_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = with_experts(tiny_recipe(tmp_path, evaluate=[]), "token")
    train(replace(recipe, max_steps=4), tmp_path / "run")
    train(recipe, tmp_path / "run")
    guarded(call, ["report", "run", str(tmp_path / "run"), "--out", str(tmp_path / "out")], "")
    told = capsys.readouterr().out
    assert "6 of 6, finished" in told
    assert "note: resumed 1 time: from step 4" in told
    content = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (content["format"], content["step"], content["max_steps"]) == (1, 6, 6)
    assert content["samples"]["seen"] > 0
    assert content["curves"]["lr"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert list(content["experts"]) == ["0.attention", "0.mlp"]
    assert content["resumes"] == [{"step": 4, "repeated": 0, "gap": None}]
    page = (tmp_path / "out" / "run.html").read_text()
    image = page.partition("data:image/png;base64,")[2].partition('"')[0]
    assert base64.b64decode(image) == (tmp_path / "out" / "run.png").read_bytes()
    assert "http" not in page, "it needs no network"
    with Image.open(tmp_path / "out" / "run.png") as figure:
        assert figure.width > 1000


def test_the_report_is_the_same_twice(recipe: Recipe, tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.start(recipe, 0)
        for record in records(5):
            folder.append(record)
    first, second = (report(read_run(tmp_path), diagnose(read_run(tmp_path))) for _ in range(2))
    assert first == second


def test_clipping_at_every_step_is_told_with_the_norm(recipe: Recipe) -> None:
    low = replace(recipe, optim=replace(recipe.optim, clip=1.0, warmup=10))
    (found,) = diagnose(made(low))
    assert (found.kind, found.level) == ("clipped", "note")
    assert "clipped in 100% of the records after warm-up: their norm is 1.9" in found.text
    assert kinds(made(replace(low, optim=replace(low.optim, clip=2.0)))) == []  # about every other step
    assert kinds(made(replace(low, optim=replace(low.optim, clip=None)))) == []


@pytest.mark.parametrize(("begin", "end"), [(30, 50), (20, 75), (60, 70)])
def test_a_slow_stretch_in_the_middle_is_told_with_its_steps(recipe: Recipe, begin: int, end: int) -> None:
    slow = {"samples_per_second": lambda n: (300.0 if begin <= n < end else 500.0) + n % 7}
    (found,) = diagnose(made(recipe, records(100, **slow)))
    assert found.kind == "slow stretch"
    first, last = found.steps
    assert abs(first - (begin + 1)) <= 1
    assert abs(last - end) <= 1
    assert "samples/s, usually 50" in found.text


def test_one_slow_record_and_tasks_in_turns_are_no_slow_stretch(recipe: Recipe) -> None:
    assert kinds(made(recipe, records(100, samples_per_second=lambda n: 200.0 if n == 50 else 500.0))) == []
    assert kinds(made(recipe, records(100, samples_per_second=lambda n: 200.0 if n % 2 else 500.0))) == []


def test_memory_that_keeps_growing_is_told_and_a_cache_that_fills_is_not(recipe: Recipe) -> None:
    (found,) = diagnose(made(recipe, records(100, memory__host_gib=lambda n: 2 + 0.01 * n)))
    assert (found.kind, found.subject) == ("memory", "host")
    assert "10 GiB more in 1,000 steps" in found.text
    assert kinds(made(recipe, records(100, memory__host_gib=lambda n: min(2 + 0.05 * n, 3.0)))) == []
    assert kinds(made(recipe, records(100, memory__host_gib=lambda _: 2.0))) == []


def test_a_task_has_one_colour_in_all_panels() -> None:
    tasks = ["names", "caption"]
    alone, parts = looks_of(["caption"], tasks), looks_of(["names", "caption/0", "caption/1", "host"], tasks)
    assert alone["caption"][0] == parts["caption/0"][0] == parts["caption/1"][0] != parts["names"][0]
    assert parts["caption/0"][1] != parts["caption/1"][1]
    of_tasks = {looks_of([task], tasks)[task][0] for task in tasks}
    assert parts["host"][0] not in of_tasks
    many = [f"task{number}" for number in range(20)]
    assert len(set(looks_of(many, many).values())) == 20
