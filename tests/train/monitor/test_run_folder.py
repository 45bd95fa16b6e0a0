"""A run folder belongs to one process, and its files read as one run however often it was resumed."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from unified.config.model import ModelSettings
from unified.config.recipe import OptimSettings, Recipe
from unified.config.task import Answer, Task
from unified.core.errors import RecipeError, UserError
from unified.core.schema import build, read_yaml
from unified.nn.moe.settings import ExpertSettings
from unified.train.monitor.recipe_diff import differences, plain
from unified.train.monitor.records import read_metrics
from unified.train.monitor.run_folder import RunFolder


def recipe(**changes: object) -> Recipe:
    task = Task(
        data=("a/{000..003}.tar", "b.tar"),
        inputs={"png;jpg": "image"},
        target="txt",
        answer=Answer.of(candidates="labels/digits", label_smoothing=0.1),
        metric="accuracy",
        batch=8,
        augment=({"kind": "affine", "degrees": 10, "scale": [0.9, 1.1], "fill": None},),
    )
    values: dict[str, object] = {
        "tasks": {"read": task},
        "max_steps": 9,
        "slots": 2,
        "optim": OptimSettings(lr=3e-5, final_lr=1e-7, ema=None),
        "model": ModelSettings(width=24, heads=4),
    }
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


def test_the_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "x") as run:
        run.start(recipe(), 0)
        path = run.path / "recipe.yaml"
        assert build(Recipe, read_yaml(path), "x") == recipe() == run.stored_recipe()
    assert "betas:\n  - 0.9\n  - 0.95" in path.read_text(), "defaults are written out"


def test_versions_are_kept_for_every_start(tmp_path: Path) -> None:
    for step in (0, 5):
        with RunFolder(tmp_path) as run:
            run.start(recipe(), step)
    content = json.loads((tmp_path / "versions.json").read_text())
    assert content["format"] == 1
    assert [start["step"] for start in content["starts"]] == [0, 5]
    assert content["starts"][0]["torch"].startswith("2.")
    assert {"python", "git", "transformers"} <= set(content["starts"][0])


def test_changed_versions_are_told_on_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RunFolder(tmp_path) as run:
        run.start(recipe(), 0)
        content = json.loads((tmp_path / "versions.json").read_text())
        content["starts"][0]["torch"] = "1.0"
        (tmp_path / "versions.json").write_text(json.dumps(content))
        with caplog.at_level(logging.WARNING, logger="unified"):
            run.start(recipe(), 1)
    assert "torch was 1.0 at the last start and is 2." in caplog.text


def test_metrics_read_as_one_run_after_a_resume(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.start(recipe(), 0)
        for step in range(1, 8):
            run.append({"step": step, "loss": 1 / (3 * step), "life": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed in the middle of a line
    with RunFolder(tmp_path) as run:
        run.start(recipe(), 4)
        run.append({"step": 5, "loss": 0.1, "life": 2})
        records = run.metrics()
    assert [(r["step"], r["life"]) for r in records] == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]
    assert [r["loss"] for r in records[:4]] == [1 / (3 * step) for step in range(1, 5)]
    assert (tmp_path / "metrics.jsonl").read_text().startswith('{"format": 1}\n')


def test_a_new_run_in_an_old_folder_starts_with_empty_metrics(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path) as run:
            run.start(recipe(), 0)
            run.append({"step": 1})
            assert [record["step"] for record in run.metrics()] == [1]


def test_records_carry_time_and_the_seconds_that_training_took(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.start(recipe(), 0)
        before = time.time()
        run.append({"step": 1})
        run.append({"step": 2})
    first, second = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert before - 1 <= first["time"] <= second["time"] <= time.time() + 1
    assert 0 <= first["elapsed_seconds"] <= second["elapsed_seconds"]
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        path.read_text().replace(f'"elapsed_seconds": {second["elapsed_seconds"]}', '"elapsed_seconds": 500.0')
    )
    with RunFolder(tmp_path) as run:
        run.start(recipe(), 2)
        run.append({"step": 3})
        assert 500 <= run.metrics()[-1]["elapsed_seconds"] < 600  # not the time between the two starts


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("versions.json", b""),
        ("versions.json", b'{"format": 1, "starts": ['),
        ("versions.json", b"[]"),
        ("versions.json", b'{"format": 1, "starts": [3]}'),
        ("versions.json", b"[" * 200_000),
        ("metrics.jsonl", b'{"format": 1}\n{"step": 1, "x": "\xe1"}\n'),
        ("metrics.jsonl", b'{"format": 1}\n{"loss": 1}\n'),
        ("metrics.jsonl", b'{"format": 1}\n[1]\n{"step": 1, "los\n'),
    ],
)
def test_damaged_notes_are_kept_aside_and_the_run_goes_on(
    tmp_path: Path, name: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.start(recipe(), 0)
        folder.append({"step": 1})
    (tmp_path / "run" / name).write_bytes(content)
    with RunFolder(tmp_path / "run") as folder:
        folder.start(recipe(), 1)
        folder.append({"step": 2})
        assert [record["step"] for record in folder.metrics()][-1] == 2
    assert (tmp_path / "run" / f"{name}.damaged").read_bytes() == content
    assert f"{name}: damaged; kept as {name}.damaged" in caplog.text
    assert len(caplog.text) < 2000


def test_newer_notes_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.start(recipe(), 0)
        for name in ("versions.json", "metrics.jsonl"):
            before = (folder.path / name).read_bytes()
            (folder.path / name).write_text('{"format": 2}\n')
            with pytest.raises(UserError, match=f"{name}: expected a format up to 1, got 2"):
                folder.start(recipe(), 1)
            (folder.path / name).write_bytes(before)


def test_records_of_checkpoints_that_are_gone_are_not_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    often = replace(recipe(), train=replace(recipe().train, save_every=2))
    with RunFolder(tmp_path / "run") as folder:
        folder.check_new(often)
        folder.start(often, 0)
        folder.append({"step": 1})
        folder.check_new(often)
        assert "records of 1 steps without a checkpoint; the run begins anew" in caplog.text
        folder.append({"step": 2})
        with pytest.raises(UserError, match=r"expected a checkpoint, as there are records of 2 steps, got none"):
            folder.check_new(often)
        assert [record["step"] for record in folder.metrics()] == [1, 2]


def test_a_newer_stored_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("# unified recipe, format 3; resolved\nx: 1\n")
    with RunFolder(tmp_path) as run, pytest.raises(UserError, match="expected a format up to 2, got 3"):
        run.check(recipe())


def test_resuming_with_another_model_lists_what_differs(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.start(recipe(), 0)
        other = recipe(model=ModelSettings(width=48, heads=8, drop_path=0.1), max_steps=20)
        with pytest.raises(RecipeError) as caught:
            run.check(other)
        assert run.stored_recipe() == recipe(), "a refused start changes nothing"
        run.start(other, 0)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == [
        "  model.width: 24 in the run, 48 in the recipe",
        "  model.heads: 4 in the run, 8 in the recipe",
    ]
    assert "drop_path" not in str(caught.value)
    assert "max_steps" not in str(caught.value)
    assert "--out" in lines[-1]


def test_other_changes_are_logged_and_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before, after = recipe(), recipe(max_steps=20)
    after.tasks["more"] = dataclasses.replace(before.tasks["read"], data="c.tar")
    with RunFolder(tmp_path) as run:
        run.start(before, 0)
        with caplog.at_level(logging.WARNING, logger="unified"):
            run.check(after)
            run.start(after, 5)
        assert run.stored_recipe() == after
    assert "max_steps was 9 and is 20 now" in caplog.text
    assert "tasks.more was '(absent)'" in caplog.text
    assert "tasks.read" not in caplog.text


def test_secrets_of_urls_are_not_logged_with_a_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def signed(secret: str) -> Recipe:
        whole = recipe()
        return replace(
            whole, tasks={"read": replace(whole.tasks["read"], data=[f"https://u:{secret}@h/x/?s={secret}"])}
        )

    with RunFolder(tmp_path / "run") as run:
        run.start(signed("hush"), 0)
        with caplog.at_level(logging.WARNING, logger="unified"):
            run.check(signed("hushhush"))
    assert "tasks.read.data was ['https://…@h/x/?…'] and is" in caplog.text
    assert "hush" not in caplog.text


def test_of_the_model_what_no_weight_depends_on_may_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def with_experts(**changes: object) -> Recipe:
        experts = ExpertSettings(router="token", **{"capacity": 1.0, "bias_rate": 1e-3, **changes})  # type: ignore[arg-type]
        return recipe(model=ModelSettings(width=24, heads=4, drop_path=0.2, experts=experts))

    attribute = ModelSettings(width=24, heads=4, experts=ExpertSettings(noise=0.5))
    with RunFolder(tmp_path / "attribute") as run, caplog.at_level(logging.WARNING, logger="unified"):
        run.start(recipe(model=attribute), 0)
        run.check(recipe(model=dataclasses.replace(attribute, drop_path=0.3, experts=ExpertSettings(noise=0.0))))
    with RunFolder(tmp_path / "token") as run, caplog.at_level(logging.WARNING, logger="unified"):
        run.start(with_experts(), 0)
        run.check(with_experts(balance=0.5, z_loss=0.25, capacity=2.0, bias_rate=1e-4))
        with pytest.raises(RecipeError, match=r"model\.experts\.bias_rate: 0\.001 in the run, 0\.0 in the recipe"):
            run.check(with_experts(bias_rate=0.0))
        with pytest.raises(RecipeError, match=r"model\.experts\.top: 2 in the run, 3 in the recipe"):
            run.check(with_experts(top=3, capacity=2.0))
    for words in (
        "model.drop_path was 0.0 and is 0.3 now",
        "model.experts.noise was 0.5 and is 0.0 now",
        "model.experts.balance was 0.01 and is 0.5 now",
        "model.experts.z_loss was 0.0 and is 0.25 now",
        "model.experts.capacity was 1.0 and is 2.0 now",
        "model.experts.bias_rate was 0.001 and is 0.0001 now",
    ):
        assert f"resumed with a changed recipe: {words}" in caplog.text


def test_differences_go_into_nested_keys() -> None:
    old, new = plain(recipe()), plain(recipe(seed=3))
    new["tasks"]["read"]["answer"]["read"] = "masked"
    assert list(differences(old, new)) == [("tasks.read.answer.read", "(absent)", "masked"), ("seed", 0, 3)]
    assert list(differences(old, plain(recipe()))) == []


def test_messages_go_to_the_log_file_while_the_folder_is_held(tmp_path: Path) -> None:
    with RunFolder(tmp_path):
        logging.getLogger("unified").warning("inside")
    logging.getLogger("unified").warning("outside")
    text = (tmp_path / "log.txt").read_text()
    assert "WARNING inside" in text
    assert "outside" not in text


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match=r"x: expected a folder that can be written to"):
        RunFolder(tmp_path / "x")


HOLD = """
import os, signal, sys, time
from unified.train.monitor.run_folder import RunFolder
run = RunFolder(sys.argv[1])
if os.fork() == 0:  # like a loader worker: it outlives a killed parent for a while
    os.setpgid(0, 0)
    os.write(1, f"{os.getpid()}\\n".encode())
time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(UserError, match=rf"in use by process {holder.pid} on .*--out"):
            RunFolder(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(worker, 0)  # it is still there, and does not hold the folder
        RunFolder(tmp_path).close()
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.kill()
        holder.communicate()


def test_closing_lets_the_next_one_in(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        RunFolder(tmp_path)
    run.close()
    run.close()
    RunFolder(tmp_path).close()


def test_what_ends_a_run_is_in_its_log(tmp_path: Path) -> None:
    for error in (UserError("words for people"), ZeroDivisionError("a fault of the code")):
        with pytest.raises(type(error)), RunFolder(tmp_path):
            raise error
    log = (tmp_path / "log.txt").read_text()
    people, code = log.split("ERROR the run ends: ")[1:]
    assert people.startswith("words for people")
    assert "Traceback" not in people
    assert code.startswith("ZeroDivisionError('a fault of the code')\nTraceback")


FULL = """
import resource, signal, sys
from unified.core.log import logger
from unified.train.monitor.run_folder import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with RunFolder(sys.argv[1]) as run:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
    for step in range(9):
        logger.warning("step %d: %s", step, "x" * 50)
    run.append({"step": 1, "lr": 0.5})
    run.append({"step": 2, "text": "y" * 300})
"""


def test_a_full_disk_ends_a_run_at_its_metrics_and_not_at_its_log(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("log.txt: [Errno 27] File too large; the log goes on without what is missing") == 1
    assert "metrics.jsonl: could not be written: [Errno 27] File too large. Make room" in done.stderr
    assert "Logging error" not in done.stderr
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]
