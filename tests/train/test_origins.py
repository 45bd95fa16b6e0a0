"""A run goes on exactly over what it began with, and says what is not that any more."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from tiny import losses, tiny_recipe

from unified import checkpoint
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.core.paths import data_folder
from unified.data.shards.contents import Content, Contents
from unified.data.shards.index import build_index, index_path, write_index
from unified.train import loop
from unified.train.origins import check_origins


def run(recipe: Recipe, out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)


def recipe_here() -> Recipe:
    """One step of two tasks; shards, label set and tokenizer lie in the current folder, or are written there."""
    recipe = tiny_recipe(Path(), max_steps=1, slots=1)
    if not Path("words").exists():
        shutil.copytree(data_folder("tokenizers") / "text", "words")
    text = replace(recipe.model.modalities["text"], tokenizer="./words")
    tasks = {name: recipe.tasks[name] for name in ("colour", "hidden")}
    return replace(
        recipe, tasks=tasks, model=replace(recipe.model, modalities={**recipe.model.modalities, "text": text})
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step and all that it read."""
    folder = tmp_path_factory.mktemp("begun")
    with contextlib.chdir(folder):
        run(recipe_here(), Path("run"))
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both, which is the current folder."""
    shutil.copytree(begun, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def go_on(folder: Path, change: Callable[[Path], object], steps: int = 2, **settings: Any) -> None:
    recipe = recipe_here()
    change(folder)
    run(replace(recipe, max_steps=steps, data=replace(recipe.data, **settings)), folder / "run")


def edit(folder: Path, name: str = "shard-00001.tar") -> Path:
    tar = folder / "data" / name
    tar.write_bytes(tar.read_bytes().replace(b"a red square", b"a big circle"))
    return tar


def edit_and_set_back(folder: Path) -> None:
    before = (folder / "data" / "shard-00001.tar").stat()
    os.utime(edit(folder), ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_and_index(folder: Path) -> None:
    tar = edit(folder)
    write_index(build_index(tar), index_path(tar))


def exchange(folder: Path) -> None:
    first, second = (folder / "data" / f"shard-0000{number}.tar" for number in (0, 1))
    for path in (first, second):
        index_path(path).unlink()
    first.rename(folder / "kept")
    second.rename(first)
    (folder / "kept").rename(second)


def leave_out(folder: Path) -> None:
    (folder / "data" / "manifest.json").unlink()
    (folder / "data" / "shard-00002.tar").unlink()


def add(folder: Path) -> None:
    (folder / "data" / "manifest.json").unlink()
    shutil.copy(folder / "data" / "shard-00000.tar", folder / "data" / "shard-00003.tar")


def label(content: dict[str, Any]) -> Callable[[Path], object]:
    return lambda folder: (folder / "colours.yaml").write_text(yaml.safe_dump(content))


def retrain(folder: Path) -> None:
    """A tokenizer of the same size that tells capitals and small letters no more."""
    path = folder / "words" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "normalizer": {"type": "Lowercase"}}))


NAMES = ["red", "green", "blue", "grey"]
CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "edited": (edit, r"shard-00001\.tar: expected the content .* got other content"),
    "edited, time set back": (edit_and_set_back, r"shard-00001\.tar: expected the content"),
    "edited, new index": (edit_and_index, r"shard-00001\.tar: expected the content"),
    "exchanged": (exchange, r"shard-00000\.tar: expected the content .*; .*shard-00001\.tar: expected the content"),
    "left out": (leave_out, r"shard-00002\.tar: expected this shard, .* got none"),
    "added": (add, r"shard-00003\.tar: expected no such shard"),
    "names exchanged": (label({"names": NAMES[::-1]}), r"colours\.yaml of task 'colour'.*the same in another order"),
    "a name changed": (label({"names": [*NAMES[:3], "gray"]}), r"colours\.yaml.*others \(4 then, 4 now\)"),
    "a name more": (label({"names": [*NAMES, "white"]}), r"colours\.yaml.*others \(4 then, 5 now\)"),
    "templates": (label({"names": NAMES, "templates": ["a {}"]}), r"colours\.yaml.*expected the templates"),
    "tokenizer": (retrain, r"tokenizer .*words \(model\.modalities\.text\.tokenizer\): expected the content"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_in_one_line_that_names_it_and_the_run_stays_as_it_was(folder: Path, name: str) -> None:
    change, message = CHANGES[name]
    before = {path: path.read_bytes() for path in (folder / "run" / "model").iterdir()}
    with pytest.raises(RecipeError, match=message) as error:
        go_on(folder, change)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("accept the change with --data.allow-change")
    assert {path: path.read_bytes() for path in (folder / "run" / "model").iterdir()} == before
    assert [row["step"] for row in losses(folder / "run")] == [1]


def test_a_run_goes_on_over_accepted_changes_which_are_compared_from_then_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(folder: Path) -> None:
        edit(folder)
        label({"names": NAMES[::-1]})(folder)

    go_on(folder, change, allow_change=True)
    assert caplog.text.count("as data.allow_change says") == 2
    go_on(folder, label({"names": NAMES[::-1]}), steps=3)
    assert [row["step"] for row in losses(folder / "run")] == [1, 2, 3]
    with pytest.raises(RecipeError, match="the same in another order"):
        go_on(folder, label({"names": NAMES}), steps=4)


def test_copies_go_on_whatever_their_times_and_in_folders_that_cannot_be_written_to(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, path in enumerate((folder / "data").iterdir()):
        os.utime(path, (number, number))
    (folder / "data").chmod(0o555)
    go_on(folder, lambda _: None)
    (folder / "data").chmod(0o755)
    assert [row["step"] for row in losses(folder / "run")] == [1, 2]
    assert "expected" not in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_compared_by_indexes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = checkpoint.load(folder / "run" / "checkpoints" / "step_00000001", groups=()).state
    now = state.pop("origins")
    was = [Content(*shard) for shard in now["shards"]["colour"]]
    others = Contents({"colour": tuple(reversed(was)), "hidden": tuple(was)})
    recipe = recipe_here()
    with caplog.at_level("INFO", "unified"):
        check_origins(state, {"labels": {}, "tokenizers": {}}, others, state["data"], recipe)
    assert "label sets and tokenizers are not" in caplog.text
    with pytest.raises(RecipeError, match="shards of task 'colour': expected those that this run began with"):
        check_origins(state, {"labels": {}, "tokenizers": {}}, others, others.digests(), recipe)


def test_shards_in_another_folder_are_told_by_their_files(folder: Path) -> None:
    state = checkpoint.load(folder / "run" / "checkpoints" / "step_00000001", groups=()).state
    was = [Content(*shard) for shard in state["origins"]["shards"]["colour"]]
    moved = tuple(Content(f"/elsewhere/{Path(shard.name).name}", shard.sha256) for shard in was)
    same = Contents({"colour": moved, "hidden": moved})
    check_origins(state, state["origins"], same, {}, recipe_here())
    other = Contents({"colour": (Content(moved[0].name, "0" * 64), *moved[1:])})
    with pytest.raises(RecipeError, match=r"^/elsewhere/shard-00000\.tar: expected the content .* \(0{12}…\)\. Hint"):
        check_origins(state, state["origins"], other, {}, recipe_here())


def test_the_order_of_shards_counts(folder: Path) -> None:
    state = checkpoint.load(folder / "run" / "checkpoints" / "step_00000001", groups=()).state
    was = tuple(Content(*shard) for shard in state["origins"]["shards"]["colour"])
    assert state["origins"]["shards"]["hidden"] == "colour"  # the same shards are listed once
    others = Contents({"colour": was, "hidden": was[::-1]})
    with pytest.raises(RecipeError, match="shards of task 'hidden': expected the order of the run's beginning"):
        check_origins(state, state["origins"], others, {}, recipe_here())
