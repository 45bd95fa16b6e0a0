"""Damaged records of a run end nothing: they are told in a line, and kept aside where others take their place."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from commands import recipe_file, run
from tiny import recipe_content

from unified.checkpoint.manifest import _digest, problem
from unified.checkpoint.place import Place
from unified.cli.train import train
from unified.config.recipe import Recipe
from unified.core.errors import DataError, RecipeError, UserError
from unified.core.result_files import check_items, check_rows
from unified.core.schema import build
from unified.train.monitor.records import put_aside, read_metrics, read_recipe, read_starts
from unified.train.monitor.run_folder import RunFolder

Damage = Callable[[Path], object]


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "not UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"e", b"\xe9", 1)),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "another type": lambda path: path.write_text("[5]\n"),
    "folder": _folder,
    "pipe": _pipe,
    "endless": _endless,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["versions.json", "metrics.jsonl"])
def test_damaged_records_are_set_aside_and_the_run_goes_on(
    name: str, damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], resumed: Callable[[Path], Path]
) -> None:
    folder = resumed(tmp_path)
    DAMAGES[damage](folder / name)
    with RunFolder(folder) as held:
        held.start(held.stored_recipe(), 1)  # type: ignore[arg-type]
        held.append({"step": 2})
        assert [record["step"] for record in held.metrics()][-1] == 2
    starts = read_starts(folder / "versions.json")
    assert starts is not None
    assert starts[-1]["step"] == 1
    if not (name == "metrics.jsonl" and damage in ("empty", "cut")):  # a last line may be unfinished
        assert os.path.lexists(folder / f"{name}.damaged")
    status, told = run(capfd, "report", "run", str(folder / "nothing"))
    assert (str(status)[:7], "Traceback" in told) == ("error: ", False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("run")
    recipe = recipe_file(folder, max_steps=1, train={"log_every": 1, "save_every": 1})
    train([str(recipe), "--out", str(folder / "run")])
    return folder


@pytest.fixture
def resumed(trained: Path) -> Callable[[Path], Path]:
    def copy(to: Path) -> Path:
        (to / "run").mkdir()
        for name in ("recipe.yaml", "versions.json", "metrics.jsonl"):
            (to / "run" / name).write_bytes((trained / "run" / name).read_bytes())
        return to / "run"

    return copy


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_recipe_of_a_run_is_told_in_a_line(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], resumed: Callable[[Path], Path]
) -> None:
    folder = resumed(tmp_path)
    DAMAGES[damage](folder / "recipe.yaml")
    with pytest.raises((RecipeError, UserError), match=r"^\S*recipe\.yaml"):
        read_recipe(folder / "recipe.yaml")
    status, told = run(capfd, "report", "run", str(folder))
    assert str(status).startswith(f"error: {folder / 'recipe.yaml'}")
    assert "Traceback" not in told


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints and metrics"])
def test_records_without_a_checkpoint_are_not_dropped(
    lost: str, tmp_path: Path, trained: Path, capfd: pytest.CaptureFixture[str], resumed: Callable[[Path], Path]
) -> None:
    folder = resumed(tmp_path)
    content = json.loads((folder / "versions.json").read_text())
    content["starts"].append({**content["starts"][0], "step": 1})
    (folder / "versions.json").write_text(json.dumps(content))
    if lost == "checkpoints and metrics":
        (folder / "metrics.jsonl").unlink()
    before = sorted(path.name for path in folder.iterdir())
    status, _ = run(capfd, "train", str(trained / "a.yaml"), "--out", str(folder))
    assert "expected a checkpoint, as there are records of 1 steps, got none. Hint: " in str(status)
    assert sorted(path.name for path in folder.iterdir() if path.name not in (".lock", "log.txt")) == before
    raised = ["--train.save-every", "500", "--max-steps", "2"]  # the run itself saved every step
    status, _ = run(capfd, "train", str(trained / "a.yaml"), "--out", str(folder), *raised)
    assert "expected a checkpoint" in str(status)


def test_few_records_from_before_the_first_checkpoint_are_kept_beside(
    tmp_path: Path, trained: Path, resumed: Callable[[Path], Path]
) -> None:
    folder = resumed(tmp_path)
    old = (folder / "metrics.jsonl").read_bytes()
    recipe = read_recipe(folder / "recipe.yaml")
    assert recipe is not None
    with RunFolder(folder) as held:
        held.start(recipe, 0)
    assert (folder / "metrics.jsonl.before").read_bytes() == old
    assert list(read_metrics(folder / "metrics.jsonl")) == []


def test_what_is_put_aside_replaces_nothing(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a").write_text(str(number))
        put_aside(tmp_path / "a")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"a.damaged": "0", "a.damaged-2": "1", "a.damaged-3": "2"}


@pytest.mark.parametrize("name", ["log.txt", ".lock"])
def test_pipes_and_folders_in_place_of_a_log_do_not_stop_a_run(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log.txt")
    (tmp_path / ".lock").write_bytes(b"\xff")
    with RunFolder(tmp_path):
        pass
    assert (tmp_path / "log.txt").is_file()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    if name == ".lock":
        with pytest.raises(UserError, match=r"expected a folder that can be written to, got .*Is a directory"):
            RunFolder(tmp_path)
    else:
        with RunFolder(tmp_path):
            pass


@pytest.mark.parametrize(
    "change",
    [
        {"step": "x"},
        {"files": [1]},
        {"files": {"a": 5}},
        {"files": {"../../a": {"bytes": 1, "blake2b": "x"}}},
        {"files": {"a": {"bytes": None, "blake2b": "x"}}},
        {"files": {"a": {"bytes": 1, "blake2b": "x", "group": "weights", "tensors": [[1]]}}},
        {"tied": []},
        {"tied": {"weights": {"a": 1}}},
        {"format": "x", "files": None},
    ],
)
def test_manifests_whose_digest_fits_other_content_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    content = {"format": 1, "written_by": "x", "step": 1, "files": {}, "tied": {"weights": {}}, **change}
    (tmp_path / "manifest.json").write_text(json.dumps({**content, "blake2b": _digest(content)}))
    found = problem(Place(tmp_path))
    assert found is not None
    assert "expected the files of a checkpoint with their sizes" in found


def test_manifests_nested_too_deeply_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 200_000)
    assert "brackets in too many levels" in str(problem(Place(tmp_path)))


ROW = {
    "dataset": "d", "label": "l", "task": "t", "protocol": "p", "features": "model", "n": 2, "seeds": None, "notes": {},
    "data_hash": "x", "metrics": {"acc1": 0.5}, "ci": {"acc1": {"low": 0.1, "high": None}},
    "items": {"keys": "k", "clusters": None, "values": {"acc1": "01"}, "terms": {}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", None),
        ("features", 3),
        ("n", "2"),
        ("notes", [1]),
        ("seeds", {"acc1": 1}),
        ("metrics", {"acc1": "x"}),
        ("metrics", {}),
        ("ci", {"acc1": {"low": 0.1}}),
        ("items", None),
        ("items", {**ROW["items"], "values": {"acc1": "011"}}),  # type: ignore[dict-item]
        ("items", {**ROW["items"], "keys": ["k"]}),  # type: ignore[dict-item]
        ("data_hash", 5),
    ],
)
def test_rows_of_results_of_other_types_are_named(key: str, value: object) -> None:
    content = {"keys": {"k": ["a", "b"]}, "results": [ROW]}
    check_rows(content, "r.json")
    check_items(content, "r.json")
    content["results"] = [{**ROW, key: value}]

    def check() -> None:
        check_rows(content, "r.json")
        check_items(content, "r.json")

    with pytest.raises(DataError, match=r"^r\.json: results\[0\]\.\w+: expected "):
        check()


@pytest.mark.parametrize(
    "record",
    [
        {"samples_per_second": "x"},
        {"step": 2**70},
        {"step": True},
        {"experts/0/load": [0.5, 0.5]},
        {"experts/0/load": [{}]},
        {"imbalance": 1.0},
        {"memory/host_gib": [1]},
        {"mfu": None},
        {"loss/words": 10**400},
    ],
)
def test_records_of_other_types_do_not_end_a_report(
    record: dict[str, object], tmp_path: Path, trained: Path, resumed: Callable[[Path], Path]
) -> None:
    from unified.reports.run.diagnosis import diagnose
    from unified.reports.run.read import read_run
    from unified.reports.run.report import report, text

    folder = resumed(tmp_path)
    whole = list(read_metrics(folder / "metrics.jsonl"))[-1]
    lines = [whole, {**whole, "step": 2, "experts/0/load": [0.1, 0.2, 0.7]}, {**whole, "step": 3, **record}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_run(folder)
    assert found.step >= 2
    assert text(report(found, diagnose(found)))
    assert yaml.safe_load((folder / "recipe.yaml").read_text())


def test_a_recipe_of_the_first_format_is_upgraded(tmp_path: Path) -> None:
    content = recipe_content(tmp_path, tmp_path / "colours.yaml")
    expected = build(Recipe, content, "recipe")
    model = {**content["model"], **content["model"]["modalities"]}
    del model["modalities"]
    path = tmp_path / "recipe.yaml"
    path.write_text(f"# unified recipe, format 1; resolved\n{yaml.safe_dump({**content, 'model': model})}")
    assert read_recipe(path) == expected
    path.write_text(yaml.safe_dump({**content, "model": model}))
    with pytest.raises(RecipeError, match=r"model: expected the key modalities\.image, got image"):
        read_recipe(path)
