"""Results in other tools: rows of CLIP_benchmark, and truth, answer and score of every item."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import confusion_matrix
from tiny import write_shards

from tests.evaluate.oracle import PROCESSOR, Oracle
from unified.evaluate.answers import best_classes, scale_of
from unified.evaluate.results import read_results, write_results, write_rows
from unified.evaluate.run import evaluate


def built(files: Sequence[Path], out: Path) -> list[dict[str, str]]:
    """The lines of CSV that CLIP_benchmark's `build` makes (clip_benchmark/cli.py, main_build, restated)."""
    rows = []
    for path in files:
        data = json.loads(path.read_text())
        row = {**data["metrics"], **data}
        del row["metrics"]
        row["model_fullname"] = row["model"] + " " + row["pretrained"]
        rows.append(row)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames={name for row in rows for name in row})
        writer.writeheader()
        writer.writerows(rows)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def colours(folder: Path, **changes: Any) -> Path:
    write_shards(folder / "test", 48, 20)
    write_shards(folder / "train", 40, 20)
    names = ["red", "green", "blue", "grey"]
    one = {"kind": "classification", "data": str(folder / "test"), "labels": names, "train": str(folder / "train")}
    (folder / "spec.yaml").write_text(yaml.safe_dump({"evaluations": {"colours": one | changes}}))
    return folder / "spec.yaml"


def test_one_row_is_read_from_the_results_file(tmp_path: Path) -> None:
    results = evaluate(Oracle({"blue": "green"}), PROCESSOR, [colours(tmp_path)], name="mine")
    write_results(tmp_path / "r.json", results)
    (row,) = built([tmp_path / "r.json"], tmp_path / "all.csv")
    assert (row["dataset"], row["task"], row["model_fullname"]) == ("colours", "zeroshot_classification", "mine ")
    assert (float(row["acc1"]), row["language"], row["acc5"]) == (0.75, "en", "")
    assert read_results(tmp_path / "r.json")["results"] == json.loads(json.dumps(results["results"]))


def test_several_rows_are_a_folder_without_those_of_before(tmp_path: Path) -> None:
    results = evaluate(Oracle(), PROCESSOR, [colours(tmp_path)], shots=(0, 1), seeds=2)
    folder = tmp_path / "r_rows"
    write_rows(folder, results)
    rows = built(sorted(folder.glob("*.json")), tmp_path / "all.csv")
    assert [row["label"] for row in rows] == [entry["label"] for entry in results["results"]]
    assert float(rows[0]["acc1"]) == 1
    assert all(not isinstance(value, dict | list) for row in rows for value in row.values())
    (folder / "notes.json").write_text("{}")
    write_rows(folder, {"results": results["results"][:1]})
    assert len(list(folder.glob("0*.json"))) == 1
    assert (folder / "notes.json").exists()


def test_items_make_a_confusion_matrix_in_every_protocol(tmp_path: Path) -> None:
    spec = colours(tmp_path, probes=["least_squares", "logistic", "knn"])
    results = evaluate(Oracle({"blue": "green"}), PROCESSOR, [spec], shots=(0, 1), seeds=2)["results"]
    zero_shot = results[0]["items"]
    assert zero_shot["classes"] == ["red", "green", "blue", "grey"]
    wanted = np.diag([12, 12, 0, 12])
    found = confusion_matrix(zero_shot["truth"], zero_shot["answer"], labels=range(4))
    assert found[2, 2] == 0
    assert found.trace() == wanted.trace()
    for entry in results:
        items, metrics = entry["items"], entry["metrics"]
        answer, score = np.atleast_2d(items["answer"]), np.atleast_2d(items["score"])
        assert answer.shape == score.shape
        accuracy = metrics.get("acc1", metrics.get("lp_acc1"))
        assert (answer == np.array(items["truth"])).mean() == pytest.approx(accuracy)
        if items["score_is_probability"]:
            assert ((score > 0.25 - 1e-6) & (score <= 1 + 1e-6)).all()
    kinds = {entry["label"].rpartition(", ")[2]: entry["items"]["score_is_probability"] for entry in results}
    assert kinds["logistic regression"]
    assert not kinds["least squares"]


def test_a_probability_is_the_softmax_at_the_models_temperature() -> None:
    features = np.array([[2.0, 0.0], [0.6, 0.8]], dtype=np.float32)
    weights = torch.eye(2)
    found, score = best_classes(features, weights, 5.0)
    assert found.tolist() == [0, 1]
    assert score == pytest.approx([1 / (1 + np.exp(-5.0)), 1 / (1 + np.exp(-5 * 0.2))], abs=1e-6)
    assert best_classes(features, weights, None)[1] == pytest.approx([1.0, 0.8])
    assert scale_of(object(), None) is None


def test_retrieval_names_what_was_found(tmp_path: Path) -> None:
    write_shards(tmp_path / "test", 12, 20)
    one = {"kind": "retrieval", "data": str(tmp_path / "test"), "group": "json.colour", "ks": [1]}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"evaluations": {"pairs": one}}))
    for entry in evaluate(Oracle(), PROCESSOR, [tmp_path / "spec.yaml"])["results"]:
        items = entry["items"]
        (recall,) = (value for name, value in entry["metrics"].items() if name.endswith("@1"))
        assert np.mean([a == b for a, b in zip(items["truth"], items["answer"], strict=True)]) == pytest.approx(recall)
        assert max(items["score"]) <= 1 + 1e-5
