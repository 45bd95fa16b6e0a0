"""What results say of training: data that were trained on, trained tasks, and what cannot be known."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from tiny import COLOURS, tiny_recipe, write_shards

import unified
from unified.config.recipe import Recipe, StartSettings
from unified.core.errors import RecipeError
from unified.core.training_record import FILE, read_record
from unified.data.shards.patterns import read_manifest
from unified.data.shards.write import ShardWriter
from unified.evaluate.commands import compare_command, eval_command
from unified.evaluate.overlap import find_overlap
from unified.evaluate.results import flat_metrics
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Classification, Masked
from unified.evaluate.table import results_table
from unified.hub.export import export
from unified.hub.load import load, open_model, write
from unified.train import loop

NAMES = list(COLOURS)


def train(recipe: Recipe, out: Path) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, and a test makes several runs
    loop.run(recipe, out)
    return out


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    """A step of one task that picks a colour's name."""
    recipe = tiny_recipe(folder, **{"max_steps": 1, "slots": 1, **changes})
    return replace(recipe, tasks={"colour": recipe.tasks["colour"]})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data, other data of the same dataset, and a run."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = recipe_of(folder)
    others(folder).rename(folder / "test")
    manifest = folder / "test" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"other"', '"pairs"').replace('"packed anew"', '"test"'))
    train(recipe, folder / "run")
    return folder


def samples(folder: Path) -> list[tuple[str, dict[str, bytes]]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, column = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[column] = file.read()
    return sorted(found.items())


def packed(folder: Path, chosen: list[tuple[str, dict[str, bytes]]], **options: Any) -> Path:
    with ShardWriter(folder, kind="other", source="packed anew", **options) as writer:
        for key, columns in chosen:
            writer.write(key, columns)
    return folder


def others(folder: Path, count: int = 12) -> Path:
    """Samples that are not among the first 48, which tests train on."""
    return packed(folder / "others", samples(write_shards(folder / "all", 48 + count))[48:])


def spec(folder: Path, test: Path | list[str], **changes: Any) -> Path:
    content = {
        "kind": "classification",
        "data": test if isinstance(test, list) else str(test),
        "labels": NAMES,
        "probes": [],
        **changes,
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"evaluations": {"colours": content}}))
    return path


def result(model: Path, *specs: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """The first row of an evaluation, and the table."""
    results = evaluate(*load(model), specs, **options)
    return results["results"][0], results_table(results)


def test_rows_of_training_shards_say_so(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row, table = result(place / "run", spec(tmp_path, place / "data"))
    assert (row["training_data"], row["trained_tasks"]) == ("seen", ["colour"])
    assert (row["setting"], row["label"]) == ("trained on this data", "bare names")
    assert row["notes"]["training_data"] == {
        "samples": 48, "seen": 48, "shards": 3, "seen_shards": 3, "missing_shards": 0, "fraction": 1.0,
    }  # fmt: skip
    assert "trained on this data (3 of 3 shards)" in table
    assert "zero-shot" not in table
    assert "w/o tuning;" not in table
    assert "its numbers say nothing about new data" in caplog.text


def test_every_kind_of_evaluation_says_so(place: Path, tmp_path: Path) -> None:
    base = {"data": str(place / "data"), "inputs": {"png": "image"}}
    evaluations = {
        "a": {"kind": "retrieval", **base},
        "b": {"kind": "caption", **base, "target": "txt"},
        "c": {"kind": "masked", "data": str(place / "data")},
        "d": {"kind": "classification", **base, "train_share": 0.5, "baselines": ["pixels"], "labels": NAMES},
        "e": {
            "kind": "robustness",
            **base,
            "labels": NAMES,
            **{key: [] for key in ("size", "shift", "rotation", "noise")},
        },
    }
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"evaluations": evaluations}))
    results = evaluate(*load(place / "run"), [tmp_path / "all.yaml"], shots=(0, 1), seeds=1)
    own = [row for row in results["results"] if row["features"] == "model"]
    assert {row["dataset"] for row in own} == set("abcde")
    assert {row["training_data"] for row in own} == {"seen"}
    assert not any("zero-shot" in row["label"] + row["setting"] for row in own)
    baselines = [row for row in results["results"] if not row["features"].startswith("model")]
    assert baselines
    assert {(row["training_data"], row["trained_tasks"]) for row in baselines} == {(None, None)}


def test_other_data_of_a_trained_task_is_a_trained_task(place: Path, tmp_path: Path) -> None:
    row, table = result(place / "run", spec(tmp_path, place / "test"))
    assert (row["training_data"], row["trained_tasks"], row["setting"]) == ("unseen", ["colour"], "trained task")
    assert row["label"] == "bare names"
    assert "trained task, other data; chance 25.0" in table
    assert "zero-shot" not in table


def test_changed_images_of_a_trained_task_are_one(place: Path, tmp_path: Path) -> None:
    only = {"kind": "robustness", "contrast": [0.5], **{key: [] for key in ("size", "shift", "rotation", "noise")}}
    path = spec(tmp_path, place / "test", **only)
    path.write_text(path.read_text().replace("    probes: []\n", ""))
    row, _ = result(place / "run", path)
    assert (row["training_data"], row["trained_tasks"], row["setting"]) == ("unseen", ["colour"], "trained task")


def test_other_names_on_other_data_are_no_trained_task(place: Path, tmp_path: Path) -> None:
    data = packed(tmp_path / "d", samples(place / "test"))
    for unseen, setting in ((False, "w/o tuning"), (True, "zero-shot")):
        row, table = result(
            place / "run", spec(tmp_path, data, labels=["crimson", "lime", "navy", "ash"], unseen=unseen)
        )
        assert (row["training_data"], row["trained_tasks"], row["setting"]) == ("unseen", [], setting)
        assert row["label"] == "zero-shot, bare names"
        assert f"{setting}; chance 25.0" in table


def test_a_part_of_the_training_data_packed_anew_is_found_by_its_bytes(place: Path, tmp_path: Path) -> None:
    trained, other = samples(place / "data"), samples(place / "test")
    data = packed(tmp_path / "mixed", [("x" + key, columns) for key, columns in [*trained[:4], *other]])
    row, table = result(place / "run", spec(tmp_path, data))
    assert row["training_data"] == "seen"
    assert row["notes"]["training_data"]["fraction"] == 0.25
    assert "trained on 25 % of this data (4 of 16 samples)" in table
    # Shards that were trained on beside others count with all their samples.
    row, table = result(place / "run", spec(tmp_path, [str(place / "data" / "shard-00000.tar"), str(data)]))
    assert row["notes"]["training_data"]["seen"] == 24
    assert "(24 of 36 samples)" in table


def test_a_limit_counts_the_items_that_are_evaluated(place: Path, tmp_path: Path) -> None:
    row, _ = result(place / "run", spec(tmp_path, place / "all", limit=20))
    trained = {key for key, _ in samples(place / "data")}
    results = evaluate(*load(place / "run"), [spec(tmp_path, place / "all", limit=20)])
    keys = next(iter(results["keys"].values()))
    assert row["notes"]["training_data"]["samples"] == 20
    assert row["notes"]["training_data"]["seen"] == len(trained & set(keys)) < 20


def test_plain_class_folders_are_compared_too(place: Path, tmp_path: Path) -> None:
    for key, columns in samples(place / "data"):
        folder = tmp_path / "images" / NAMES[int(columns["cls"])]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.png").write_bytes(columns["png"])
    row, table = result(place / "run", tmp_path / "images")
    assert row["training_data"] == "seen"
    assert "trained on this data (all 48 samples)" in table


def test_all_inputs_of_a_sample_must_be_those_of_one_training_sample(place: Path, tmp_path: Path) -> None:
    trained = samples(place / "data")
    same = [(f"s{key}", columns) for key, columns in trained[:2]]
    crossed = [("c0", {**trained[0][1], "txt": trained[1][1]["txt"]})]
    data = packed(tmp_path / "d", [*same, *crossed])
    record = read_record(place / "run" / "model")
    assert record is not None
    asked = Classification(data=str(data), inputs={"png": "image", "txt": "text"})
    assert find_overlap(asked, record).seen == 2
    assert find_overlap(replace(asked, inputs={"png": "image"}), record).seen == 3


def test_a_text_is_not_taken_for_a_class_of_the_same_bytes(place: Path, tmp_path: Path) -> None:
    record = read_record(place / "run" / "model")
    assert record is not None
    data = packed(tmp_path / "d", [(f"s{number}", {"txt": str(number).encode()}) for number in range(4)])
    assert find_overlap(Masked(data=str(data)), record).seen == 0


def test_without_the_training_shards_samples_are_not_checked(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    run = train(recipe, tmp_path / "run")
    other = packed(tmp_path / "again", samples(tmp_path / "data"))
    row, _ = result(run, spec(tmp_path, other))
    assert row["training_data"] == "seen"
    (tmp_path / "data").rename(tmp_path / "moved")
    changed = packed(tmp_path / "third", samples(tmp_path / "moved"), samples_per_shard=7)
    row, table = result(run, spec(tmp_path, changed))
    assert row["training_data"] == "not checked"
    assert "trained task; training data not checked" in table
    row, _ = result(run, spec(tmp_path, tmp_path / "moved"))  # the hashes are known wherever the shards lie
    assert row["training_data"] == "seen"
    row, table = result(run, spec(tmp_path, changed, labels=["a", "b", "c", "d"], unseen=True))
    assert row["setting"] == "zero-shot"
    assert "training data not checked" in table


def test_a_spec_that_claims_unseen_against_the_hashes_is_an_error(place: Path, tmp_path: Path) -> None:
    model, processor = load(place / "run")
    for data in (place / "data", packed(tmp_path / "d", samples(place / "data")[:1] + samples(place / "test"))):
        with pytest.raises(RecipeError, match=r"colours\.unseen: expected data that the model was not trained on, got"):
            evaluate(model, processor, [spec(tmp_path, data, unseen=True)])
    row, table = result(place / "run", spec(tmp_path, place / "test", unseen=True))
    assert row["setting"] == "trained task"
    assert "zero-shot" not in table


def test_without_a_record_the_training_data_is_unknown(place: Path, tmp_path: Path, capsys: Any) -> None:
    export(place / "run", tmp_path / "out")
    (tmp_path / "out" / FILE).unlink()
    row, table = result(tmp_path / "out", spec(tmp_path, place / "data"))
    assert (row["training_data"], row["trained_tasks"]) == ("unknown", None)
    assert "training data unknown" in table
    eval_command(str(tmp_path / "out"), [str(spec(tmp_path, place / "data", unseen=True))], out=tmp_path / "r.json")
    assert "zero-shot; training data unknown" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["results"][0]["training_data"] == "unknown"


def test_exports_carry_the_record_and_their_cards_publish_no_training_data_as_zero_shot(
    place: Path, tmp_path: Path
) -> None:
    eval_command(str(place / "run"), [str(spec(tmp_path, place / "data"))], out=tmp_path / "r.json")
    export(place / "run", tmp_path / "out", results=tmp_path / "r.json")
    assert read_record(tmp_path / "out") == read_record(place / "run" / "model")
    card = (tmp_path / "out" / "README.md").read_text()
    measured = card.partition("## Measured")[2]
    assert "zero-shot" not in measured
    assert "| trained on this data (3 of 3 shards) |" in measured
    row, _ = result(tmp_path / "out", spec(tmp_path, place / "data"))
    assert row["training_data"] == "seen"
    (tmp_path / "out" / FILE).unlink()
    write(open_model(place / "run"), tmp_path / "out", "again")
    assert read_record(tmp_path / "out") == read_record(place / "run" / "model")


def test_results_of_a_time_before_records_are_published_as_unknown(place: Path, tmp_path: Path) -> None:
    eval_command(str(place / "run"), [str(spec(tmp_path, place / "data"))], out=tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    for row in content["results"]:
        for name in ("training_data", "trained_tasks"):
            del row[name]
        row["label"], row["setting"] = "zero-shot, bare names", "w/o tuning"
    (tmp_path / "r.json").write_text(json.dumps(content))
    export(place / "run", tmp_path / "out", results=tmp_path / "r.json")
    measured = (tmp_path / "out" / "README.md").read_text().partition("## Measured")[2]
    assert "zero-shot" not in measured
    assert "| training data unknown |" in measured


def test_evaluations_in_training_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_of(tmp_path)
    evaluated = replace(recipe.train, eval_every=1)
    specs = (str(spec(tmp_path, tmp_path / "data")),)
    run = train(replace(recipe, train=evaluated, evaluate=specs), tmp_path / "run")
    names = {name for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert "eval/colours/bare names on training data/acc1" in names
    assert "trained on this data (3 of 3 shards)" in caplog.text
    claimed = (str(spec(tmp_path, tmp_path / "data", unseen=True)),)
    with pytest.raises(RecipeError, match=r"colours\.unseen"):
        train(replace(recipe, train=evaluated, evaluate=claimed), tmp_path / "claimed")
    assert not (tmp_path / "claimed" / "recipe.yaml").exists()


def test_a_comparison_says_which_model_was_trained_on_the_data(place: Path, tmp_path: Path, capsys: Any) -> None:
    export(place / "run", tmp_path / "out")
    (tmp_path / "out" / FILE).unlink()
    for name, model in (("a", place / "run"), ("b", tmp_path / "out")):
        eval_command(str(model), [str(spec(tmp_path, place / "data"))], out=tmp_path / f"{name}.json")
    capsys.readouterr()
    compare_command(tmp_path / "a.json", tmp_path / "b.json")
    printed = capsys.readouterr().out
    assert "A was trained on data that it is asked about here: colours" in printed
    assert "B was trained" not in printed


def test_flat_names_tell_training_data_apart(place: Path, tmp_path: Path) -> None:
    for data, name in ((place / "data", "bare names on training data"), (place / "test", "bare names")):
        results = evaluate(*load(place / "run"), [spec(tmp_path, data)])
        assert f"colours/{name}/acc1" in flat_metrics(results)


# The record itself, through runs.


def hashes(folder: Path) -> set[str]:
    return {shard["sha256"] for shard in read_manifest(folder)["shards"]}


def test_a_run_records_the_shards_of_all_its_tasks(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, max_steps=1)
    write_shards(tmp_path / "more", 10)
    tasks = {**recipe.tasks, "next": replace(recipe.tasks["next"], data=str(tmp_path / "more"))}
    record = read_record(train(replace(recipe, tasks=tasks), tmp_path / "run") / "model")
    assert record is not None
    assert {shard.sha256 for shard in record.shards} == hashes(tmp_path / "data") | hashes(tmp_path / "more")
    assert sum(shard.samples for shard in record.shards) == 58
    found = {task.name: task for task in record.tasks}
    assert set(found) == set(recipe.tasks)
    assert set(found["next"].shards) == hashes(tmp_path / "more")
    assert set(found["colour"].shards) == hashes(tmp_path / "data")
    assert {name: task.answer for name, task in found.items()} == {
        "retrieve": "batch", "colour": "labels", "caption": "caption", "hidden": "masked", "next": "causal",
    }  # fmt: skip
    assert (found["colour"].target, dict(found["colour"].inputs)) == ("json.colour", {"png": "image"})
    assert record.unrecorded == ()


def test_a_run_that_goes_on_with_other_data_adds_them(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    run = train(recipe, tmp_path / "run")
    more = others(tmp_path)
    tasks = {"colour": replace(recipe.tasks["colour"], data=str(more))}
    changed = replace(recipe, tasks=tasks, max_steps=2, data=replace(recipe.data, allow_change=True))
    record = read_record(train(changed, run) / "model")
    assert record is not None
    assert {shard.sha256 for shard in record.shards} == hashes(tmp_path / "data") | hashes(more)
    (task,) = record.tasks
    assert set(task.shards) == {shard.sha256 for shard in record.shards}
    for data in (tmp_path / "data", more):
        assert result(run, spec(tmp_path, data))[0]["training_data"] == "seen"


def test_a_run_begun_before_there_were_records_knows_its_data_only_if_they_are_the_same(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    run = train(recipe, tmp_path / "run")
    (run / "model" / FILE).unlink()
    record = read_record(train(replace(recipe, max_steps=2), run) / "model")
    assert record is not None
    assert record.unrecorded == ()
    (run / "model" / FILE).unlink()
    more = others(tmp_path)
    tasks = {"colour": replace(recipe.tasks["colour"], data=str(more))}
    changed = replace(recipe, tasks=tasks, max_steps=3, data=replace(recipe.data, allow_change=True))
    record = read_record(train(changed, run) / "model")
    assert record is not None
    assert record.unrecorded == ("the steps of this run before it kept a record",)
    row, table = result(run, spec(tmp_path, tmp_path / "data"))
    assert row["training_data"] == "unknown"
    assert "training data unknown" in table
    assert result(run, spec(tmp_path, more))[0]["training_data"] == "seen"


def test_a_run_inherits_the_record_of_the_model_that_it_starts_from(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    export(train(recipe, tmp_path / "first"), tmp_path / "out")
    more = others(tmp_path)
    tasks = {"colour": replace(recipe.tasks["colour"], data=str(more))}
    second = replace(recipe, tasks=tasks, start=StartSettings(str(tmp_path / "out")))
    run = train(second, tmp_path / "second")
    assert result(run, spec(tmp_path, tmp_path / "data"))[0]["training_data"] == "seen"
    assert result(run, spec(tmp_path, more))[0]["training_data"] == "seen"
    run = train(replace(second, max_steps=2), run)  # and keeps it when it goes on
    assert result(run, spec(tmp_path, tmp_path / "data"))[0]["training_data"] == "seen"
    (tmp_path / "out" / FILE).unlink()
    other = packed(tmp_path / "never", samples(write_shards(tmp_path / "further", 70))[60:])
    row, _ = result(train(second, tmp_path / "third"), spec(tmp_path, other))
    assert row["training_data"] == "unknown"
    assert row["notes"]["training_data"]["unrecorded"] == ["the model that this run started from has no record"]
    assert unified.load(tmp_path / "third")[0].training_record.unrecorded
