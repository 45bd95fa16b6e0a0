"""Whole evaluations of tasks with queries, on a model with drawn weights that has each of them."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from dense_models import CLASSES, POINTS, SPECS, dense_model
from PIL import Image
from pycocotools import mask as coco_mask

from unified.core import seed
from unified.core.errors import RecipeError, UserError
from unified.data.samples.decode import decode
from unified.data.shards.shards import Shards
from unified.data.shards.write import ShardWriter
from unified.evaluate.commands import eval_command
from unified.evaluate.compare import compare, comparison_table
from unified.evaluate.protocols.table import PROTOCOLS
from unified.evaluate.results import flat_metrics, read_results, write_results
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Dense, load_spec
from unified.evaluate.table import MAIN, results_table
from unified.hub.load import load
from unified.model.inference import Views, see

MODEL = dense_model()
SIZES = [(40, 60), (40, 60), (33, 50), (24, 24), (64, 20), (40, 60)]
NUMBERS = {
    "classes": {"miou", "pixel_accuracy"},
    "points": {"pck@0.1", "distance_px", "oks_ap", "oks_ap50"},
    "bins": {"rmse", "abs_rel", "delta1"},
    "directions": {"angle_mean", "angle_median", "within_11.25", "within_22.5", "within_30"},
    "share": {"ods_f", "edge_ap"},
    "pixels": {"psnr", "ssim"},
    "density": {"count_mae", "count_rmse"},
    "boxes": {"box_ap", "box_ap50"},
    "masks": {"mask_ap", "mask_ap50", "box_ap", "box_ap50"},
    "presence": {"mA", "map"},
    "identity": {"retrieval_map", "rank1"},
}
NUMBERS |= {"places": NUMBERS["points"]}


def png(pixels: Any) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def write(folder: Path, start: int, classes: tuple[str, ...] = CLASSES) -> str:
    """Noise with a square of a class, and all that may be known of it."""
    with ShardWriter(folder, kind="test", source="test") as writer:
        writer.manifest["classes"] = list(classes)
        for number, (height, width) in enumerate(SIZES, start):
            draw = seed.generator("dense", number)
            image = draw.integers(0, 255, (height, width, 3)).astype(np.uint8)
            top, left, side = (int(draw.integers(*span)) for span in ((1, height // 3), (1, width // 3), (8, 12)))
            kind = 1 + number % 2
            labels = np.zeros((height, width), np.uint8)
            labels[top : top + side, left : left + side] = kind
            mask = coco_mask.encode(np.asfortranarray((labels > 0).astype(np.uint8)))
            points = {name: [left + 1.0 + i, top + 2.0 * i, 2] for i, name in enumerate(POINTS)}
            normals = np.zeros((height, width, 3), np.uint8) + np.array([128, 128, 10 * number + 1], np.uint8)
            found = {
                "label": CLASSES[kind], "box": [left, top, left + side, top + side], "crowd": False, "points": points,
                "mask": {"size": mask["size"], "counts": mask["counts"].decode()},
            }  # fmt: skip
            facts = {
                "width": width, "height": height, "objects": [found], "points": points, "depth_unit": 0.001,
                "segments": [{"label": CLASSES[kind], "thing": True, "mask": found["mask"]}],
                "attributes": {CLASSES[1]: int(kind == 1), CLASSES[2]: int(kind == 2)}, "identity": f"no. {number % 3}",
            }  # fmt: skip
            columns = {
                "png": png(image), "classes.png": png(labels), "normals.png": png(normals),
                "depth.png": png(1000 + 500 * labels.astype(np.uint16) + number),
                "edges.png": png(255 * (labels > 0).astype(np.uint8)), "json": facts,
            }  # fmt: skip
            writer.write(f"{number:03d}", columns)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("dense")
    return write(folder / "test", 0), write(folder / "train", 20)


def spec_file(folder: Path, **evaluations: dict[str, Any]) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"evaluations": {n: {"kind": "dense", **e} for n, e in evaluations.items()}}))
    return path


def test_every_reading_has_its_numbers_their_intervals_and_floors(data: tuple[str, str], tmp_path: Path) -> None:
    every = {task: {"task": task, "data": data[0], "floor": data[1]} for task in SPECS}
    results = evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, **every)])
    for task, spec in SPECS.items():
        own, *floors = (entry for entry in results["results"] if entry["dataset"] == task)
        assert own["features"] == "model"
        assert all(floor["features"].startswith("floor: ") for floor in floors)
        nearest = [floor["features"] for floor in floors].count("floor: nearest training picture")
        means = spec.read in ("bins", "directions", "share", "pixels")
        expected = (1, 0) if spec.read == "identity" else (2 + means + (spec.read == "pixels"), 1)
        assert (len(floors), nearest) == expected
        assert own["protocol"] == spec.read
        for entry in (own, *floors):
            assert set(entry["metrics"]) == NUMBERS[spec.read]
            assert MAIN[spec.read] in entry["metrics"]
            assert entry["n"] == len(SIZES)
            for name, interval in entry["ci"].items():
                assert interval["low"] <= entry["metrics"][name] + 1e-9 <= interval["high"] + 2e-9, (task, name)
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json")["results"]
    assert {"classes/classes: classes/miou", "bins/bins: bins on floor: mean at each place/rmse"} <= set(
        flat_metrics(results)
    )
    table = results_table(results)
    assert "floor: most frequent at each place" in table
    assert "near: a tenth of the diagonal of the body" in table


def test_the_numbers_are_those_of_the_answers_about_each_picture(data: tuple[str, str], tmp_path: Path) -> None:
    spec = {"task": "bins", "data": data[0], "flip": True, "window": [24, 30]}
    (entry,) = evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, depth=spec)])["results"]
    assert entry["label"] == "bins: bins, flip, windows 24 × 30"
    found, views = list[float](), Views(flip=True, window=(24, 30))
    for raw in Shards.open([data[0]]):
        sample = decode(raw, ["png", "depth.png"])
        (answer,) = see(MODEL, MODEL.processor.tokenizers["image"], [sample["png"]], ["bins"], views)
        true = sample["depth.png"].double() * 0.001
        found.append(float((answer["bins"]["values"] - true).square().mean().sqrt()))
    assert entry["metrics"]["rmse"] == pytest.approx(np.mean(found), rel=1e-5)


def test_two_evaluations_are_compared_picture_by_picture_in_their_own_units(
    data: tuple[str, str], tmp_path: Path
) -> None:
    first, second = (
        evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, a={"task": "bins", "data": data[0], "flip": flip})])
        for flip in (False, True)
    )
    second["results"][0]["label"] = first["results"][0]["label"]
    found = {row.metric: row for row in compare(first, second)}
    own = [results["results"][0]["metrics"]["rmse"] for results in (first, second)]
    assert found["rmse"].paired.difference == pytest.approx(own[0] - own[1], abs=1e-6)
    assert f"{own[0]:.3f}" in comparison_table(list(found.values()))


def test_other_names_are_other_classes_for_queries_that_are_made_from_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = MODEL.processor
    monkeypatch.setattr(MODEL, "processor", None)  # as in training
    names = ("sea", *CLASSES[1:], "red circle")
    data = write(tmp_path / "named", 0, names)
    spec = {"task": "open", "data": data, "names": list(names), "unseen": True}
    (entry,) = evaluate(MODEL, processor, [spec_file(tmp_path, a=spec)])["results"]
    assert entry["setting"] == "zero-shot"
    assert list(entry["per_class"]) == list(names)


def test_the_command_writes_a_table_and_results(
    data: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MODEL.save_pretrained(tmp_path / "model")
    MODEL.processor.save_pretrained(tmp_path / "model")
    spec = spec_file(tmp_path, a={"task": "density", "data": data[0], "cluster": "json.identity"})
    eval_command(str(tmp_path / "model"), [str(spec)], out=tmp_path / "results.json")
    assert "density: density" in capsys.readouterr().out
    (entry,) = read_results(tmp_path / "results.json")["results"]
    assert entry["n"] == len(SIZES)
    assert entry["ci"]["count_mae"]["clusters"] == 3


def test_regions_that_share_out_a_picture_are_scored_as_objects(data: tuple[str, str], tmp_path: Path) -> None:
    regions = {"task": "masks", "data": data[0], "target": "json.segments"}
    (entry,) = evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, a=regions)])["results"]
    assert entry["notes"]["objects"] == len(SIZES)
    assert set(entry["metrics"]) == NUMBERS["masks"]


def test_a_saved_model_answers_to_the_bit(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path / "model")
    MODEL.processor.save_pretrained(tmp_path / "model")
    model, processor = load(tmp_path / "model")
    picture = torch.from_numpy(seed.generator("picture").integers(0, 256, (3, 30, 50)).astype(np.uint8))
    tokenizer = processor.tokenizers["image"]
    (before,), (after,) = (see(of.eval(), tokenizer, [picture], list(SPECS)) for of in (MODEL, model))
    for task, answer in before.items():
        for name, value in answer.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after[task][name])), (task, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "clases"}, "did you mean 'classes'"),
        ({"names": ["a"]}, "not made from names"),
        ({"floor": "DATA"}, "training data apart"),
        ({"window": [0, 4]}, "from 1"),
        ({"task": "boxes", "flip": True}, "found as a set"),
    ],
)
def test_wrong_specs_are_clear_errors(
    changes: dict[str, Any], message: str, data: tuple[str, str], tmp_path: Path
) -> None:
    given = {name: data[0] if value == "DATA" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message):
        evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, a={"task": "classes", "data": data[0], **given})])


def test_a_task_that_the_model_lacks_is_told_before_others_are_asked(
    data: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    listed = replace(PROTOCOLS[Dense], evaluate=lambda _, title, __: iter(asked.append(title) or []))
    monkeypatch.setitem(PROTOCOLS, Dense, listed)
    there, missing = {"task": "classes", "data": data[0]}, {"task": "clouds", "data": data[0]}
    with pytest.raises(RecipeError, match="'clouds' has no queries in this model"):
        evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, a=there, b=missing)])
    assert not asked
    evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, a=there)])
    assert asked == ["a"]


def test_a_folder_of_annotated_pictures_does_not_say_what_to_ask(data: tuple[str, str]) -> None:
    with pytest.raises(RecipeError, match="kind: dense"):
        load_spec(data[0])


def test_data_with_another_list_of_classes_are_a_clear_error(tmp_path: Path) -> None:
    data = write(tmp_path / "other", 0, ("sea", *CLASSES[1:]))
    with pytest.raises(RecipeError, match="number 0 is 'sea' and 'sky'"):
        evaluate(MODEL, MODEL.processor, [spec_file(tmp_path, a={"task": "classes", "data": data})])
