"""Commands of `pipe:` data run where the user named them, and otherwise only with consent."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import failing_store
import pytest
import yaml
from commands import RECIPE, recipe_file, run
from failing_store import FailingStore
from PIL import Image

from tests.hub.test_export import SETTINGS, write_run
from unified.checkpoint.place import checkpoints_of
from unified.config.recipe import Recipe
from unified.core.consent import allow_commands
from unified.core.errors import CheckpointError, DataError, UserError
from unified.core.schema import build, read_yaml
from unified.evaluate.sources import open_source
from unified.evaluate.spec import load_spec
from unified.hub.load import Loaded, write
from unified.reports.source import find_recipe
from unified.train.build import build as build_parts


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
    with pytest.raises(UserError, match="which would run the program 'touch' here"):
        open_source(command)  # as a spec that was made in Python names it
    with allow_commands(["pipe:another"]), pytest.raises(UserError):
        load_spec(spec(tmp_path, data=command))
    assert not trace.exists()
    with allow_commands(None), pytest.raises(DataError, match="empty file"):
        open_source(str(next(iter(load_spec(spec(tmp_path, data=command)).evaluations.values())).data))
    assert trace.exists()
    with pytest.raises(UserError):  # consent ends with its block
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
    write(Loaded(parts.model, parts.processor, "x"), folder, "x")
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


def run_elsewhere(folder: Path, recipe: str = "") -> Path:
    """A run whose recipe names a store of checkpoints."""
    failing_store.register()
    place = f"failing://{folder}/store"
    settings = replace(SETTINGS, width=16, hidden=16, depth=1)
    found = write_run(folder / "run", place, settings)
    if recipe:
        content = yaml.safe_load((folder / recipe).read_text()) | {"train": {"checkpoints": place}}
        (found / "recipe.yaml").write_text(yaml.safe_dump(content))
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "RUN", "digits"),
        ("predict", "RUN", "a.png", "--labels", "x", "y"),
        ("export", "RUN", "out"),
        ("fold", "RUN", "out", "--keep-experts"),
        ("convert", "uni-perceiver", "RUN", "x.pth", "--reverse"),
        ("report", "interference", "RUN", "--batches", "2"),
        ("report", "routing", "RUN"),
        ("train", "a.yaml", "--out", "new", "--start.model", "RUN"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_addresses_of_run_folders_need_consent(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = run_elsewhere(tmp_path)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    recipe_file(tmp_path, start={"model": str(folder)})
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as shut:
        shut.setattr(FailingStore, "ls", lambda *_, **__: pytest.fail("the store was asked"))
        status, told = run(capfd, *(word.replace("RUN", str(folder)) for word in command))
    at = f"{folder / 'recipe.yaml'}: expected places on this machine, got failing://{tmp_path}/store, "
    assert str(status).startswith(f"error: {at}which would be fetched. Hint: ")
    assert "--allow-commands" in str(status)
    assert "\n" not in str(status)
    assert "Traceback" not in told


@pytest.mark.parametrize("place", ["s3://bucket/run", "simplecache::http://h/run", "file://x::http://h/run"])
def test_other_machines_are_told_by_their_addresses(place: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"train": {"checkpoints": place}}))
    with pytest.raises(UserError, match="which would be fetched"):
        checkpoints_of(tmp_path)
    assert checkpoints_of(tmp_path, place) == place  # as the recipe of the command line says
    with allow_commands(None):
        assert checkpoints_of(tmp_path) == place


@pytest.mark.parametrize("place", ["file:///data/run", "memory://run", "/data/run", "checkpoints"])
def test_places_on_this_machine_need_none(place: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"train": {"checkpoints": place}}))
    assert str(checkpoints_of(tmp_path)).endswith(place)


@pytest.mark.parametrize(("train", "key"), [(5, "train"), ({"checkpoints": [1]}, "checkpoints")])
def test_a_place_of_another_type_is_refused(train: object, key: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"train": train}))
    with pytest.raises(CheckpointError, match=f"recipe.yaml: {key}: expected a folder or a URL, got "):
        checkpoints_of(tmp_path)


def test_with_consent_addresses_of_run_folders_are_fetched(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = run_elsewhere(tmp_path)
    status, _ = run(capfd, "export", str(folder), str(tmp_path / "out"), "--allow-commands")
    assert status == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_data_of_run_folders_on_other_machines_need_consent(tmp_path: Path) -> None:
    tasks = {"words": {**RECIPE["tasks"]["words"], "data": ["a.tar", "http://user:hush@h/x.tar"]}}  # type: ignore[index]
    recipe_file(tmp_path, tasks=tasks).rename(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match=r"got http://…@h/x\.tar, which would be fetched"):
        find_recipe(tmp_path, None)
    assert find_recipe("nothing", str(tmp_path / "recipe.yaml")).tasks  # named on the command line


def test_a_report_of_a_run_does_without_its_store(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    recipe_file(tmp_path)
    folder = run_elsewhere(tmp_path, "a.yaml")
    record = {"step": 1, "gradient_norm": 1.0, "samples_per_second": 1.0, "tokens_per_second": 1.0, "data_wait": 0.0}
    record["loss/words"] = 1.0
    (folder / "metrics.jsonl").write_text(f'{{"format": 1}}\n{json.dumps(record)}\n')
    status, _ = run(capfd, "report", "run", str(folder))
    assert status == 0
    assert "which would be fetched" in caplog.text
    assert "Samples are counted by the log alone" in caplog.text
    caplog.clear()
    status, _ = run(capfd, "report", "run", str(folder), "--allow-commands")
    assert (status, "which would be fetched" in caplog.text) == (0, False)
