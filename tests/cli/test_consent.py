"""Commands of `pipe:` data run where the user named them, and otherwise only with consent."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import RECIPE, recipe_file, run

from unified import hub
from unified.config import build, read_yaml
from unified.core.consent import ConsentError, allow_commands
from unified.evaluate.sources import open_source
from unified.evaluate.spec import load_spec
from unified.recipe import Recipe
from unified.train.build import build as build_parts
from unified.types import DataError


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """What the command of these tests makes."""
    return tmp_path / "EXECUTED"


def words(trace: Path, **changes: Any) -> dict[str, Any]:
    data = f"pipe:touch {trace}; cat /dev/null"
    return {"words": {**RECIPE["tasks"]["words"], "data": data, **changes}}  # type: ignore[index]


def spec(folder: Path, **data: Any) -> Path:
    (folder / "spec.yaml").write_text(yaml.safe_dump({"evaluations": {"a": {"kind": "masked", **data}}}))
    return folder / "spec.yaml"


@pytest.mark.parametrize("flags", [(), ("--allow-commands",)], ids=["", "allowed"])
@pytest.mark.parametrize("several", [False, True], ids=["alone", "several"])
def test_a_dry_run_starts_nothing(
    flags: tuple[str, ...], several: bool, tmp_path: Path, trace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = words(trace)
    if several:
        tasks["words"]["data"] = [str(tmp_path / "data"), tasks["words"]["data"]]
    recipe = recipe_file(tmp_path, tasks=tasks)
    status, told = run(capfd, "train", str(recipe), "--dry-run", *flags)
    assert status == 0
    assert not trace.exists()
    assert "words: pipe:touch …: a command, which a dry run does not start" in told


@pytest.mark.parametrize("extended", [False, True])
def test_the_recipe_of_the_command_line_may_run_its_commands(
    extended: bool, tmp_path: Path, trace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_file(tmp_path, tasks=words(trace), data={"workers": 0, "retries": 0})
    if extended:
        recipe = tmp_path / "b.yaml"
        recipe.write_text("extends: a.yaml\nseed: 3\n")
    status, _ = run(capfd, "train", str(recipe), "--out", str(tmp_path / "run"))
    assert trace.exists()
    assert status not in (0, None)  # as it makes no shard


@pytest.mark.parametrize("where", ["data", "train"])
def test_commands_of_specs_need_consent(
    where: str, tmp_path: Path, trace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = words(trace)["words"]["data"]
    path = spec(tmp_path, **{"data": str(tmp_path / "data"), where: [command]})
    status, told = run(capfd, "eval", "nothing/at-all", str(path))
    assert str(status).startswith(f"error: {path}: a: expected data that no command makes, got pipe:touch …, ")
    assert "--allow-commands" in str(status)
    assert "\n" not in str(status)
    assert "EXECUTED" not in told
    status, _ = run(capfd, "eval", "nothing/at-all", str(path), "--allow-commands")
    assert "'nothing/at-all': no folder of that name here" in str(status)  # the spec was taken
    assert not trace.exists()


def test_consent_reaches_the_data_of_specs(tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = words(trace)["words"]["data"]
    with pytest.raises(ConsentError, match="which would run the program 'touch' here"):
        open_source(command)  # as a spec that was made in Python names it
    with allow_commands(["pipe:another"]), pytest.raises(ConsentError):
        load_spec(spec(tmp_path, data=command))
    assert not trace.exists()
    with allow_commands(None), pytest.raises(DataError, match="empty file"):
        open_source(str(next(iter(load_spec(spec(tmp_path, data=command)).evaluations.values())).data))
    assert trace.exists()
    with pytest.raises(ConsentError):  # consent ends with its block
        open_source(command)


def test_specs_of_a_recipe_need_consent_before_training_begins(
    tmp_path: Path, trace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = spec(tmp_path, data=words(trace)["words"]["data"])
    recipe = recipe_file(tmp_path, evaluate=[str(path)])
    status, _ = run(capfd, "train", str(recipe), "--out", str(tmp_path / "run"))
    assert f"{path}: a: expected data that no command makes" in str(status)
    assert run(capfd, "train", str(recipe), "--dry-run", "--allow-commands")[0] == 0
    assert not trace.exists()


def test_commands_of_run_folders_need_consent(tmp_path: Path, trace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_file(tmp_path, tasks=words(trace), data={"workers": 0, "retries": 0})
    parts, folder = build_parts(build(Recipe, read_yaml(recipe), "a.yaml")), tmp_path / "model"
    folder.mkdir()
    hub.write(hub.Loaded(parts.model, parts.processor, "x"), folder, "x")
    (folder / "recipe.yaml").write_text(recipe.read_text())
    command = ("report", "interference", str(folder), "--batches", "2")
    status, told = run(capfd, *command)
    assert f"{folder / 'recipe.yaml'}: expected data that no command makes" in str(status)
    assert "Traceback" not in told
    assert not trace.exists()
    status, _ = run(capfd, *command, "--allow-commands")
    assert trace.exists()
    trace.unlink()
    run(capfd, *command, "--data", str(recipe))  # named on the command line
    assert trace.exists()
