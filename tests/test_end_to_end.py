"""What the README promises, in processes of their own: train, evaluate, compare, export, and three lines to use it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from PIL import Image
from tiny import write_recipe

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent
UNIFIED = [sys.executable, "-c", "from unified.cli.main import main; main()"]


def run(*arguments: str, expected: int = 0, folder: Path = ROOT) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*UNIFIED, *arguments] if arguments[0] != "-c" else [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end_to_end")
    recipe = write_recipe(folder, max_steps=4, train={"trackers": ["tensorboard"], "eval_every": 4, "log_every": 1})
    spec = f"evaluations: {{squares: {{kind: retrieval, data: {folder}/data, group: json.colour}}}}"
    (folder / "squares.yaml").write_text(spec)
    recipe.write_text(recipe.read_text() + f"evaluate: [{folder}/squares.yaml]\n")
    run("train", str(recipe), "--out", str(folder / "run"))
    return folder


def test_a_run_leaves_metrics_evaluation_events_and_a_loadable_model(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [record for record in records if any(name.startswith("eval/squares/") for name in record)]
    assert [record["step"] for record in evaluated] == [4]
    assert list((folder / "run").rglob("events.out.tfevents*")), "TensorBoard was asked for"
    assert "nothing is left to train" in run("train", str(folder / "tiny.yaml"), "--out", str(folder / "run"))


def test_evaluate_compare_export_and_load_in_three_lines(folder: Path) -> None:
    results = folder / "results.json"
    table = run("eval", str(folder / "run"), str(folder / "squares.yaml"), "--out", str(results))
    assert "R@1" in table
    assert json.loads(results.read_text())["format"] == 2
    assert "Holm" in run("compare", str(results), str(results))
    run("export", str(folder / "run"), str(folder / "out"), "--results", str(results))
    assert "| squares |" in (folder / "out" / "README.md").read_text()
    Image.new("RGB", (30, 20), "red").save(folder / "red.png")
    code = (
        "import unified\n"
        "model, processor = unified.load('out')\n"
        "print(tuple(model.classify(processor(images='red.png'), labels=['a red square', 'a blue one']).shape))\n"
        "print(tuple(model.embed(processor(text=['a', 'b'])).shape), len(model.caption(processor(images='red.png'))))\n"
        "from transformers import AutoModel, AutoProcessor, pipeline\n"
        "print(type(AutoModel.from_pretrained('out')).__name__, type(AutoProcessor.from_pretrained('out')).__name__)\n"
        "pipe = pipeline('zero-shot-image-classification', model='out')\n"
        "print(len(pipe('red.png', candidate_labels=['red', 'blue'], hypothesis_template='{}')))\n"
    )
    printed = run("-c", code, folder=folder)
    for expected in ("(1, 2)", "(2, 32) 1", "UnifiedModel UnifiedProcessor", "\n2\n"):
        assert expected in printed


def test_errors_for_people_have_no_traceback_and_say_what_exists(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        ("train", "recipes/quickstrat.yaml"): "did you mean 'quickstart",
        ("eval", str(folder / "nowhere"), "digits"): "nowhere",
        ("eval", str(folder / "run"), "digitz"): "did you mean 'digits'",
        ("shards", "inspect", str(folder / "nothing")): "nothing",
        ("export", str(folder / "data"), str(folder / "x")): "data",
    }
    for arguments, message in wrong.items():
        status, output = commands.run(capfd, *arguments)
        assert str(status).startswith("error: ")
        assert message in output, output
        assert "Traceback" not in output
