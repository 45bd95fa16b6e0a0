"""Whole evaluations: a model that sees colours, and a real small one."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tiny import tiny_recipe, with_experts, write_shards

from tests.evaluate.oracle import PROCESSOR, Oracle
from unified.core import seed
from unified.core.errors import DataError, RecipeError
from unified.core.result_files import FORMAT, unpack
from unified.data.shards.write import ShardWriter
from unified.evaluate.commands import compare_command, eval_command
from unified.evaluate.results import flat_metrics, read_results, write_results
from unified.evaluate.run import evaluate
from unified.evaluate.table import results_table
from unified.train.build import build


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Colours by name, with labelled data apart."""
    write_shards(tmp_path / "test", 48, 20)
    write_shards(tmp_path / "train", 40, 20)
    return write_spec(tmp_path, {"colours": {"train": str(tmp_path / "train"), "probes": ["least_squares"]}})


def write_spec(folder: Path, evaluations: dict[str, dict[str, Any]]) -> Path:
    base = {"kind": "classification", "data": str(folder / "test"), "labels": ["red", "green", "blue", "grey"]}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"evaluations": {n: {**base, **e} for n, e in evaluations.items()}}))
    return path


def entry(results: dict[str, Any], label: str) -> dict[str, Any]:
    return next(e for e in results["results"] if label in e["label"] and e["features"] == "model")


def test_names_that_fit_are_found_and_errors_are_reported(spec: Path) -> None:
    found = entry(evaluate(Oracle(), PROCESSOR, [spec]), "zero-shot")
    assert found["metrics"] == {"acc1": 1.0, "mean_per_class_recall": 1.0, "acc5": None}
    assert found["n"] == 48
    assert found["ci"]["acc1"]["low"] == pytest.approx(0.926, abs=1e-3)
    assert found["setting"] == "w/o tuning"
    assert found["seeds"] is None
    assert found["per_class"] == {"red": 1.0, "green": 1.0, "blue": 1.0, "grey": 1.0}


def test_one_name_read_wrongly_costs_its_class(spec: Path) -> None:
    found = entry(evaluate(Oracle({"blue": "green"}), PROCESSOR, [spec]), "zero-shot")
    # Two names are equal then: the first of them takes the green ones, and nothing fits the blue ones.
    assert found["metrics"]["acc1"] == 0.75
    assert found["per_class"] == {"red": 1.0, "green": 1.0, "blue": 0.0, "grey": 1.0}


def test_templates_are_averaged(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 8)
    labels = tmp_path / "labels.yaml"
    labels.write_text('names: [red, green, blue, grey]\ntemplates: ["a {c} square", "the {}"]\n')
    path = write_spec(tmp_path, {"a": {"labels": str(labels), "zero_shot": ["templates"], "unseen": True}})
    model = Oracle()
    (found,) = evaluate(model, PROCESSOR, [path])["results"]
    assert {"a red square", "the red"} <= set(model.texts)
    assert (found["label"], found["setting"], found["notes"]["prompt"]) == (
        "zero-shot, 2 templates",
        "zero-shot",
        "templates",
    )


def test_shots_report_sampling_error_and_spread_over_seeds_apart(spec: Path) -> None:
    results = evaluate(Oracle(), PROCESSOR, [spec], shots=(0, 1, 2), seeds=3)
    found = entry(results, "2-shot")
    assert found["metrics"]["fewshot_k"] == 2
    assert len(found["seeds"]["lp_acc1"]["values"]) == 3
    assert found["ci"]["lp_acc1"]["n"] == 48
    assert unpack(found["items"]["values"]["lp_acc1"]).shape == (3, 48)
    assert [len(s) for s in found["notes"]["subsets"]] == [8, 8, 8]
    table = results_table(results)
    assert "(3 seeds)" in table
    assert "95 % sampling" in table


def test_one_seed_has_no_spread(spec: Path) -> None:
    results = evaluate(Oracle(), PROCESSOR, [spec], shots=(1,), seeds=1)
    assert entry(results, "1-shot")["seeds"]["lp_acc1"]["half_width"] is None
    assert "1 seed" in results_table(results)


def test_too_many_shots_and_wrong_settings_are_clear_errors(spec: Path) -> None:
    with pytest.raises(RecipeError, match="11 shots asked for, the largest class of the training part has 10"):
        evaluate(Oracle(), PROCESSOR, [spec], shots=(11,))
    with pytest.raises(RecipeError, match="shots"):
        evaluate(Oracle(), PROCESSOR, [spec], shots=(-2,))
    with pytest.raises(RecipeError, match="seeds"):
        evaluate(Oracle(), PROCESSOR, [spec], seeds=0)
    with pytest.raises(RecipeError, match="no evaluation spec"):
        evaluate(Oracle(), PROCESSOR, [])


def test_an_empty_label_set_is_a_clear_error(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 4)
    with pytest.raises(RecipeError, match="label set is empty"):
        evaluate(Oracle(), PROCESSOR, [write_spec(tmp_path, {"a": {"labels": []}})])
    with pytest.raises(RecipeError, match="no class names come with the data"):
        evaluate(Oracle(), PROCESSOR, [write_spec(tmp_path, {"a": {"labels": None}})])


def test_probes_may_take_a_share_of_the_data_or_say_what_is_missing(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 40)
    shared = write_spec(tmp_path, {"a": {"train_share": 0.5, "probes": ["least_squares", "knn"]}})
    results = evaluate(Oracle(), PROCESSOR, [shared], shots=(5,), seeds=2)
    keys = set(results["keys"][results["results"][0]["items"]["keys"]])
    trained = set(results["results"][0]["notes"]["subsets"][0])
    assert len(keys) == len(trained) == 20
    assert not keys & trained
    same = write_spec(tmp_path, {"a": {"train": str(tmp_path / "test")}})
    with pytest.raises(RecipeError, match="the same samples"):
        evaluate(Oracle(), PROCESSOR, [same], shots=(1,))
    with pytest.raises(RecipeError, match="train_share"):
        evaluate(Oracle(), PROCESSOR, [write_spec(tmp_path, {"a": {}})], shots=(1,))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.99])
def test_a_share_gives_each_class_an_item_to_learn_and_one_to_be_tested_on(share: float, tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 32)  # eight a class: a tenth of them is less than one
    path = write_spec(tmp_path, {"a": {"train_share": share, "zero_shot": [], "probes": ["least_squares", "knn"]}})
    one_shot, near = evaluate(Oracle(), PROCESSOR, [path], shots=(1,), seeds=3)["results"]
    labelled = {0.01: 1, 0.1: 1, 0.3: 2, 0.99: 7}[share]
    assert one_shot["notes"]["train_items"] == 4 * labelled
    # One item a class to choose from is one subset, whatever the seed.
    assert one_shot["notes"]["train_items_per_seed"] == ([4] if labelled == 1 else [4, 4, 4])
    assert one_shot["notes"]["short_classes"] == one_shot["notes"]["untested_classes"] == []
    assert one_shot["n"] == near["n"] == 32 - 4 * labelled
    assert one_shot["metrics"]["lp_acc1"] == near["metrics"]["acc1"] == 1.0


def test_classes_with_fewer_items_than_shots_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 38)  # red and green have ten, blue and grey nine
    labels = ["red", "green", "blue", "grey", "pink"]
    spec = write_spec(tmp_path, {"a": {"train_share": 0.5, "zero_shot": [], "labels": labels}})
    results = evaluate(Oracle(), PROCESSOR, [spec], shots=(4, 5, -1), seeds=2)
    four, five, whole = results["results"]
    assert four["notes"]["short_classes"] == ["pink"]
    assert five["notes"]["short_classes"] == ["blue", "grey", "pink"]
    assert five["notes"]["train_items_per_seed"] == [18]
    assert whole["notes"]["short_classes"] == []
    assert "fewer labelled items of blue, grey, pink" in results_table(results)


def test_a_class_of_one_item_is_labelled_and_said_to_be_untested(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 5)  # two red ones
    spec = write_spec(tmp_path, {"a": {"train_share": 0.5, "zero_shot": []}})
    results = evaluate(Oracle(), PROCESSOR, [spec], shots=(1,), seeds=2)
    assert results["results"][0]["notes"]["untested_classes"] == ["green", "blue", "grey"]
    assert (results["results"][0]["n"], results["results"][0]["notes"]["train_items"]) == (1, 4)
    printed = results_table(results)
    assert "no test item of green, blue, grey; one item: no interval" in printed
    assert " none " in printed
    alone = tmp_path / "alone"
    write_shards(alone / "test", 4)
    with pytest.raises(RecipeError, match="expected a class with two items, one to label and one to test on"):
        evaluate(Oracle(), PROCESSOR, [write_spec(alone, {"a": {"train_share": 0.5}})], shots=(1,))


def test_a_tested_class_without_labelled_items_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 8)
    write_shards(tmp_path / "train", 2)
    spec = write_spec(tmp_path, {"a": {"train": str(tmp_path / "train")}})
    model = Oracle()
    with pytest.raises(RecipeError, match="a labelled item of each class that is tested, got none of blue, grey"):
        evaluate(model, PROCESSOR, [spec], shots=(0, 1))
    assert model.texts == []
    assert evaluate(model, PROCESSOR, [spec], shots=(0,))["results"][0]["metrics"]["acc1"] == 1.0


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_that_leaves_one_part_empty_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected a share between 0 and 1"):
        evaluate(Oracle(), PROCESSOR, [write_spec(tmp_path, {"a": {"train_share": share}})], shots=(1,))


def write_frames(folder: Path, videos: int) -> Path:
    """Three frames of each video, all red."""
    png = BytesIO()
    Image.new("RGB", (16, 16), "red").save(png, "png")
    with ShardWriter(folder, kind="frames", source="test") as writer:
        for number in range(3 * videos):
            columns = {"png": png.getvalue(), "cls": number % 2, "json": {"video": number // 3}}
            writer.write(f"{number:05d}", columns)
    return folder


def test_one_cluster_has_no_interval_in_the_table_the_file_and_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frames(tmp_path / "test", 1)
    results = evaluate(Oracle(), PROCESSOR, [write_spec(tmp_path, {"a": {"cluster": "json.video"}})])
    path = tmp_path / "results.json"
    write_results(path, results)
    for interval in read_results(path)["results"][0]["ci"].values():
        assert [interval[name] for name in ("low", "high", "se", "df")] == [None] * 4
        assert interval["clusters"] == 1
    compare_command(path, path)
    for printed in (results_table(results), capsys.readouterr().out):
        assert "one cluster: no interval" in printed
        assert " none " in printed
        assert "nan" not in printed


def test_few_clusters_are_told_in_the_table_and_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_frames(tmp_path / "test", 5)
    results = evaluate(Oracle(), PROCESSOR, [write_spec(tmp_path, {"a": {"cluster": "json.video"}})])
    path = tmp_path / "results.json"
    write_results(path, results)
    compare_command(path, path)
    for printed in (results_table(results), capsys.readouterr().out):
        assert "only 5 clusters: interval widened for it, rough" in printed


def test_results_are_the_same_for_any_batch_and_number_of_seeds_before(spec: Path) -> None:
    runs = [evaluate(Oracle(), PROCESSOR, [spec], shots=(2,), seeds=s, batch=b) for s, b in ((2, 7), (4, 48))]
    values = [entry(run, "2-shot")["seeds"]["lp_acc1"]["values"] for run in runs]
    assert values[0] == values[1][:2]


def test_results_files_hold_what_they_are_given(spec: Path, tmp_path: Path) -> None:
    results = evaluate(Oracle(), PROCESSOR, [spec], shots=(0, 1), command="unified eval x", name="x")
    path = tmp_path / "out" / "results.json"
    write_results(path, results)
    assert read_results(path) == json.loads(json.dumps(results))
    assert "NaN" not in path.read_text()
    found = read_results(path)["results"][0]
    assert {"dataset", "model", "pretrained", "task", "metrics", "language", "format", "protocol"} <= set(found)
    path.write_text(json.dumps({**results, "format": FORMAT + 1}))
    with pytest.raises(DataError, match=f"expected a format up to {FORMAT}, got {FORMAT + 1}"):
        read_results(path)
    path.write_text("{")
    with pytest.raises(DataError, match="not a results file"):
        read_results(path)
    assert flat_metrics(results)["colours/zero-shot, bare names/acc1"] == 1.0


# A real model, every kind of evaluation.

WORDS = """
evaluations:
  colours: {kind: classification, data: DATA, labels: [red, green, blue, grey], train_share: 0.5,
            baselines: [pixels, untrained], probes: [least_squares, logistic, knn]}
  pairs: {kind: retrieval, data: DATA}
  names: {kind: caption, data: DATA, family: caption, beams: [1, 2], limit: 8}
  hidden: {kind: masked, data: DATA, family: hidden}
"""


@pytest.fixture
def parts(tmp_path: Path) -> Any:
    return build(tiny_recipe(tmp_path))


@pytest.fixture
def every_kind(tmp_path: Path) -> Path:
    path = tmp_path / "every.yaml"
    path.write_text(WORDS.replace("DATA", str(tmp_path / "data")))
    return path


def test_a_model_in_training_is_left_as_it_was(parts: Any, every_kind: Path) -> None:
    model = parts.model.train()
    model.encoder.eval()  # a part in another mode keeps it
    modes = [module.training for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    results = evaluate(model, parts.processor, [every_kind], shots=(0, 2), seeds=2)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()
    assert {e["dataset"] for e in results["results"]} == {"colours", "pairs", "names", "hidden"}
    features = {"model", "model, another sample's image", "pixels", "untrained"}
    assert {e["features"] for e in results["results"]} == features
    assert all(e["n"] > 0 and e["ci"] for e in results["results"])


def test_two_evaluations_agree_to_the_bit(parts: Any, every_kind: Path) -> None:
    with seed.seeded("somewhere else"):
        first = evaluate(parts.model, parts.processor, [every_kind], shots=(0, 2), seeds=2)
    assert evaluate(parts.model, parts.processor, [every_kind], shots=(0, 2), seeds=2) == first
    assert results_table(first).count("\n") > 15


def test_the_command_prints_and_writes_and_the_second_time_reads_features_from_the_cache(
    parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    parts.model.save_pretrained(tmp_path / "model")
    parts.processor.save_pretrained(tmp_path / "model")
    spec = tmp_path / "colours.yaml"
    spec.write_text(f"evaluations: {{a: {{kind: retrieval, data: {tmp_path / 'data'}, group: json.colour}}}}")
    tables = []
    for _ in range(2):
        eval_command(str(tmp_path / "model"), [str(spec)], out=tmp_path / "results.json")
        tables.append(capsys.readouterr().out)
        (cached,) = (tmp_path / "cache" / "unified" / "features").iterdir()
    assert tables[0] == tables[1]
    assert "only 4 clusters" in tables[0]
    found = read_results(tmp_path / "results.json")
    assert found["command"].startswith("unified eval")
    assert found["model_hash"] == found["results"][0]["model_hash"]
    assert cached.suffix == ".safetensors"


def test_words_need_a_family_of_the_model(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    for family, message in (("", "name one of retrieve"), (", family: captions", "did you mean 'caption'")):
        path.write_text(f"evaluations: {{a: {{kind: caption, data: {tmp_path / 'data'}{family}}}}}")
        with pytest.raises(RecipeError, match=message):
            evaluate(parts.model, parts.processor, [path])
    with pytest.raises(RecipeError, match="which only embeds"):
        evaluate(Oracle(), PROCESSOR, [path])


@pytest.mark.parametrize(("router", "told"), [("task", True), ("attribute", False), (None, False)])
def test_experts_by_task_ask_for_a_family(
    router: str | None, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(tmp_path)
    built = build(with_experts(recipe, router) if router else recipe)
    path = tmp_path / "spec.yaml"
    for family in ("", ", family: colour"):
        path.write_text(f"evaluations: {{a: {{kind: retrieval, data: {tmp_path / 'data'}, limit: 4{family}}}}}")
        evaluate(built.model, built.processor, [path])
        assert ("asked as 'retrieve'" in caplog.text) == (told and not family)
        caplog.clear()
