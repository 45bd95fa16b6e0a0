"""Accuracy on changed images: changes are exact, rows are those of the items that they name; and the figure."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import COLOURS, tiny_recipe

from tests.evaluate.oracle import PROCESSOR, Oracle
from unified.core import seed
from unified.core.errors import DataError, RecipeError
from unified.data.augment.augment import augment
from unified.data.shards.write import ShardWriter
from unified.evaluate.commands import eval_command
from unified.evaluate.robustness import AXES, changes
from unified.evaluate.robustness_figure import save_figure
from unified.evaluate.run import evaluate
from unified.evaluate.spec import Robustness
from unified.evaluate.table import results_table
from unified.train.build import build

IMAGE = torch.from_numpy(seed.generator("robust").integers(0, 256, (3, 32, 32)).astype(np.uint8))
NONE: dict[str, list[float]] = {kind: [] for kind in AXES}


def changed(image: torch.Tensor, sample: int = 0, fill: str = "white", **strengths: list[float]) -> list[torch.Tensor]:
    """The variants of an image under one change."""
    spec = Robustness(data="x", fill=fill, **{**NONE, **strengths})  # type: ignore[arg-type]
    (change,) = changes(spec)
    return [augment([image], [variant], np.array([sample]), 0, "robustness")[0] for variant in change.variants]


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found.float() - expected.float()).abs().max() <= 1)


def test_a_shift_is_exact_and_goes_four_ways() -> None:
    variants = changed(IMAGE, shift=[0.25])
    inside = IMAGE[:, 8:, :], IMAGE[:, :-8, :], IMAGE[:, :, 8:], IMAGE[:, :, :-8]
    found = [(v[:, :-8], v[:, 8:], v[:, :, :-8], v[:, :, 8:]) for v in variants]
    moved = [[near(part, expected) for part, expected in zip(parts, inside, strict=True)] for parts in found]
    assert sorted(map(tuple, moved)) == sorted(tuple(n == m for n in range(4)) for m in range(4))
    assert all(int((v == 255).all(0).sum()) >= 8 * 32 for v in variants), "white comes in from outside"


def test_a_rotation_is_exact_and_goes_both_ways() -> None:
    one, other = changed(IMAGE, rotation=[90.0])
    turned = [torch.rot90(IMAGE, k, (1, 2)) for k in (1, 3)]
    assert (near(one, turned[0]) and near(other, turned[1])) or (near(one, turned[1]) and near(other, turned[0]))


def test_a_size_is_a_factor_about_the_centre() -> None:
    square = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    square[:, 12:20, 12:20] = 0
    for factor in (0.5, 1.5, 2.0):
        (image,) = changed(square, size=[factor])
        ink = (255 - image[0].float()) / 255
        assert float(ink.sum()) == pytest.approx((8 * factor) ** 2, rel=0.02)
        assert near(image, image.flip(1))
        assert near(image, image.flip(2))
    assert near(changed(IMAGE, size=[1.0])[0], IMAGE)


def test_contrast_is_a_factor_about_middle_grey() -> None:
    assert near(changed(IMAGE, contrast=[0.5])[0], 127.5 + (IMAGE.float() - 127.5) / 2)
    assert near(changed(IMAGE, contrast=[1.0])[0], IMAGE)


def test_noise_has_its_deviation_and_is_the_same_for_a_sample_at_every_strength() -> None:
    grey = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    small, large, again, other = (
        changed(grey, sample, noise=[std])[0].float() - 128 for sample, std in ((0, 0.05), (0, 0.1), (0, 0.1), (1, 0.1))
    )
    assert float(large.std()) == pytest.approx(0.1 * 255, rel=0.1)
    assert torch.equal(large, again)
    assert not torch.equal(large, other)
    assert float((2 * small - large).abs().max()) <= 2


# A model that sees colours.


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Grey squares and coloured ones, each drawn in two sizes that a column names."""
    with ShardWriter(tmp_path / "data", kind="pairs", source="test") as writer:
        for number in range(24):
            colour = list(COLOURS.values())[number % 4]
            image = np.full((16, 16, 3), colour, dtype=np.uint8)
            path = tmp_path / "image.png"
            Image.fromarray(image).save(path)
            facts = {"size": 10 + number % 3, "name": str(number % 6)}
            writer.write(f"{number:02d}", {"png": path.read_bytes(), "cls": number % 4, "json": facts})
    return tmp_path / "spec.yaml"


def run(spec: Path, batch: int = 256, **evaluation: Any) -> dict[str, Any]:
    content = {"kind": "robustness", "data": str(spec.parent / "data"), "labels": list(COLOURS), **NONE, **evaluation}
    spec.write_text(yaml.safe_dump({"evaluations": {"a": content}}))
    return evaluate(Oracle(), PROCESSOR, [spec], batch=batch)


def test_each_strength_is_a_row(spec: Path) -> None:
    results = run(spec, contrast=[1.0, 0.0], noise=[0.01], size=[2.0], fill="border")
    found = {e["label"]: e["metrics"]["acc1"] for e in results["results"]}
    # Without contrast all are grey.
    assert found == {"as they are": 1, "size × 2": 1, "contrast × 0": 0.25, "contrast × 1": 1, "noise of 0.01": 1}
    assert [e["protocol"] for e in results["results"]] == [
        "unchanged", "size_2", "contrast_0", "contrast_1", "noise_0.01"
    ]  # fmt: skip
    assert all(e["n"] == 24 and e["notes"]["chance"] == 0.25 for e in results["results"])
    assert "contrast × 0" in results_table(results)


def test_an_items_score_is_the_mean_over_its_variants(spec: Path) -> None:
    # A black border that comes in from the right or from below darkens all squares alike.
    results = run(spec, shift=[1.0], rotation=[180.0], fill="black")
    shifted, rotated = results["results"][1:]
    assert rotated["metrics"]["acc1"] == 1
    assert shifted["metrics"]["acc1"] == pytest.approx(0.25)  # what is left is black: nearest is one class for all


def test_sizes_are_rows_and_the_reference_is_what_is_changed(spec: Path) -> None:
    results = run(spec, size_column="json.size", reference=11, contrast=[0.5], cluster="json.name")
    rows = {e["label"]: e for e in results["results"]}
    assert list(rows) == ["as they are", *(f"drawn at json.size = {n}" for n in (10, 11, 12)), "contrast × 0.5"]
    keys = {label: results["keys"][row["items"]["keys"]] for label, row in rows.items()}
    of_eleven = [f"{n:02d}" for n in range(24) if n % 3 == 1]
    assert keys["as they are"] == keys["drawn at json.size = 11"] == keys["contrast × 0.5"] == of_eleven
    assert keys["drawn at json.size = 12"] == [f"{n:02d}" for n in range(24) if n % 3 == 2]
    assert rows["contrast × 0.5"]["ci"]["acc1"]["clusters"] == 2


def test_any_batch_gives_the_same_rows(spec: Path) -> None:
    asked: dict[str, Any] = {
        "size_column": "json.size",
        "reference": 12,
        "noise": [0.3],
        "shift": [0.3],
        "fill": "black",
    }
    assert run(spec, batch=7, **asked)["results"] == run(spec, **asked)["results"]


def test_mistakes_have_clear_errors(spec: Path) -> None:
    with pytest.raises(DataError, match=r"a\.reference: expected a value of json\.size \(10, 11, 12\), got 13"):
        run(spec, size_column="json.size", reference=13)
    with pytest.raises(DataError, match="expected a number, got '0'"):
        run(spec, size_column="json.name")
    for wrong, message in (
        ({"reference": 1}, "size_column"),
        ({"size": [0]}, "size: expected numbers"),
        ({"shift": [2.0]}, "shift: expected numbers"),
        ({"inputs": {"txt": "text"}}, "expected one image"),
    ):
        with pytest.raises(RecipeError, match=message):
            run(spec, **wrong)


def test_the_figure_stands_beside_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = build(tiny_recipe(tmp_path))
    parts.model.save_pretrained(tmp_path / "model")
    parts.processor.save_pretrained(tmp_path / "model")
    spec = tmp_path / "spec.yaml"
    robust = {"kind": "robustness", "data": str(tmp_path / "data"), "labels": list(COLOURS), "rotation": [], "limit": 8}
    pairs = {"kind": "retrieval", "data": str(tmp_path / "data")}
    for name, evaluation in (("robust", robust), ("pairs", pairs)):
        spec.write_text(yaml.safe_dump({"evaluations": {"a": evaluation}}))
        eval_command(str(tmp_path / "model"), [str(spec)], out=tmp_path / f"{name}.json")
    assert "noise of 0.2" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("*.png")] == ["robust_robustness.png"]
    with Image.open(tmp_path / "robust_robustness.png") as image:
        assert image.width > 3 * image.height / 2
        assert np.asarray(image.convert("L")).std() > 5


def test_a_figure_has_a_line_of_panels_for_each_evaluation(spec: Path, tmp_path: Path) -> None:
    one = run(spec, size_column="json.size", contrast=[0.5])
    two = {**one, "results": [*one["results"], *({**e, "dataset": "b"} for e in one["results"])]}
    heights = []
    for name, results in (("one", one), ("two", two)):
        assert save_figure(results, tmp_path / f"{name}_figure.png")
        with Image.open(tmp_path / f"{name}_figure.png") as image:
            heights.append(image.height)
    assert heights[1] > 1.5 * heights[0]
    assert not save_figure({**one, "results": []}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
