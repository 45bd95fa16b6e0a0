"""Predictions: one picture an image and one JSON for all, from one pass over the encoder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dense_models import CLASSES, POINTS, SPECS, dense_model
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from squares import content, matching, picture, write_squares
from torch import Tensor

from unified.answers.map.density import DENSITY
from unified.answers.map.heatmaps import HEATMAPS
from unified.answers.regress.objects import BOXES
from unified.answers.table import make_spec
from unified.cli.ends import guarded
from unified.cli.main import call
from unified.cli.predict import predict
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError, UserError
from unified.core.schema import build
from unified.data.commands.visualize import name_colour
from unified.hub.export import export
from unified.hub.load import Loaded, write
from unified.nn.encoder import Encoder
from unified.reports.coco_results import CocoResults
from unified.reports.prediction import predict as command
from unified.reports.prediction.drawing import Prediction
from unified.reports.prediction.figure import sheet
from unified.reports.prediction.panels import MARGIN, SIDE
from unified.train.loop import run

OWN = tuple(name for name, spec in SPECS.items() if not spec.from_names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with every reading, and images."""
    made = tmp_path_factory.mktemp("predict")
    model = dense_model()
    write(Loaded(model, model.processor, "a test"), made / "model", "dense")
    draw = np.random.default_rng(0)
    for name, (height, width) in {"a": (30, 50), "b": (64, 64), "dot": (1, 1), "long": (3000, 20)}.items():
        Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(made / f"{name}.png")
    (made / "torn.png").write_bytes((made / "b.png").read_bytes()[:60])
    return made


def predicted(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "predictions.json").read_text())
    return found


def test_all_tasks_are_drawn_and_told(folder: Path, tmp_path: Path) -> None:
    files = tuple(folder / f"{name}.png" for name in ("a", "dot", "long"))
    predict(str(folder / "model"), files, threshold=0.0, out=tmp_path)
    found = predicted(tmp_path)
    assert [image["picture"] for image in found["images"]] == ["a.png", "dot.png", "long.png"]
    assert [(image["height"], image["width"]) for image in found["images"]] == [(30, 50), (1, 1), (3000, 20)]
    for image in found["images"]:
        assert set(image["answers"]) == set(SPECS)
        assert {name: answer["read"] for name, answer in image["answers"].items()} == {
            name: spec.read for name, spec in SPECS.items()
        }
        drawn = Image.open(tmp_path / image["picture"])
        assert drawn.width > SIDE
        assert len(drawn.getcolors(2**24) or ()) > 20
    answers = found["images"][0]["answers"]
    assert sum(each["share"] for each in answers["classes"]["classes"]) == pytest.approx(1, abs=1e-3)
    pixels = sum(coco_mask.decode(each["mask"]) for each in answers["classes"]["classes"])
    assert pixels.shape == (30, 50)
    assert (pixels == 1).all()
    assert set(answers["points"]["points"]) == set(POINTS)
    assert set(answers["presence"]["presence"]) == set(CLASSES[1:])
    assert answers["larger"]["height"] == 60
    boxes = answers["boxes"]["objects"]
    assert [each["score"] for each in boxes] == sorted((each["score"] for each in boxes), reverse=True)


def test_several_tasks_are_one_pass_over_the_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, forward = [], Encoder.forward

    def counted(self: Encoder, *arguments: Any, **options: Any) -> Any:
        passes.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Encoder, "forward", counted)
    model, files = str(folder / "model"), (folder / "a.png", folder / "b.png")
    predict(model, files, tasks=OWN, out=tmp_path)
    assert len(passes) == 2
    assert list(predicted(tmp_path)["images"][0]["answers"]) == list(OWN)
    counts = []
    for shown in (files[:1], files):
        passes.clear()
        predict(model, shown, out=tmp_path)
        counts.append(len(passes))
    assert counts[1] - counts[0] == 1  # names are encoded once for all


def test_other_names_are_asked_for(folder: Path, tmp_path: Path) -> None:
    predict(str(folder / "model"), (folder / "a.png",), tasks=("open",), names=("open=a zebra, grass",), out=tmp_path)
    (image,) = predicted(tmp_path)["images"]
    assert {each["label"] for each in image["answers"]["open"]["classes"]} <= {"a zebra", "grass"}


def test_images_of_one_name_have_pictures_of_their_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes((folder / "b.png").read_bytes())
    files = (folder / "a.png", tmp_path / "in" / "a.jpg")
    predict(str(folder / "model"), files, tasks=("bins",), out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png", "predictions.json"]
    assert [image["file"] for image in predicted(tmp_path / "out")["images"]] == [str(file) for file in files]


def test_an_image_that_cannot_be_read_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    files = [folder / name for name in ("torn.png", "b.png", "absent.png")]
    arguments = ["predict", str(folder / "model"), *map(str, files), "--tasks", "boxes", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"error: 2 of 3 images could not be read, the others are in .*torn\.png"):
        guarded(call, arguments, "")
    found = predicted(tmp_path)
    assert [image["picture"] for image in found["images"]] == ["b.png"]
    assert [failed["file"] for failed in found["failed"]] == [str(files[0]), str(files[2])]
    assert "no such file" in found["failed"][1]["error"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, of a cut TIFF
def test_images_that_are_damaged_in_any_way_are_named_at_the_end(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "b.png").read_bytes()
    length = bytearray(whole)
    start = length.index(b"IDAT")
    length[start - 4 : start] = (int.from_bytes(length[start - 4 : start], "big") - 40).to_bytes(4, "big")
    damaged = {
        "chunk.png": bytes(length),
        "values.pgm": b"P5\n64 48\n4095\n" + bytes(100),
        "header.pgm": b"P5\n64",
        "tags.tif": b"II*\0\x08\0\0\0\x05\0" + bytes(20),
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    }
    (tmp_path / "in").mkdir()
    for name, data in {"a.png": whole, **damaged, "z.png": whole}.items():
        (tmp_path / "in" / name).write_bytes(data)
    files = tuple(tmp_path / "in" / name for name in ("a.png", *damaged, "z.png"))
    with pytest.raises(UserError, match=r"6 of 8 images could not be read, the others are in .*chunk\.png"):
        predict(str(folder / "model"), files, tasks=("bins",), out=tmp_path / "out")
    found = predicted(tmp_path / "out")
    assert [image["picture"] for image in found["images"]] == ["a.png", "z.png"]
    assert [Path(failed["file"]).name for failed in found["failed"]] == list(damaged)
    assert all(Path(failed["file"]).name in failed["error"] for failed in found["failed"])


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"tasks": ("boxs",)}, UserError, "'boxs' is not a task of this model; did you mean 'boxes'"),
        ({"names": ("boxes=a,b,c",)}, UserError, "learned the queries of its 2 names and cannot answer for 3 others"),
        ({"names": ("opne=a",)}, UserError, "'opne' is not a task that is asked; did you mean 'open'"),
        ({"names": ("open",)}, UserError, "expected TASK=NAME,NAME"),
        ({"names": ("open=a,,b",)}, RecipeError, "blank"),
        ({"names": ("open=a,a",)}, RecipeError, "more than once"),
        ({"threshold": 1.5}, UserError, "--threshold: 1.5; expected a score from 0 to 1"),
        ({"flip": True}, UserError, "no flip"),
        ({"window": (16, 16)}, UserError, "windows cannot share them"),
    ],
)
def test_what_cannot_be_asked(
    folder: Path, tmp_path: Path, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        predict(str(folder / "model"), (folder / "a.png",), **asked, out=tmp_path)


def test_images_must_be_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images are named"):
        predict(str(folder / "model"), (), out=tmp_path)


def test_a_folder_stands_for_all_images_in_it(folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "in"
    for name in ("10.png", "9.png", "sub/1.JPG", ".hidden.png", "old/0.png"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes((folder / "a.png").read_bytes())
    (made / "notes.txt").write_text("no image")
    (made / "sub" / "IMG_2").write_bytes((folder / "a.png").read_bytes())  # told by its content
    out = made / "old"  # answers of before are no images to ask about
    predict(str(folder / "model"), (made,), tasks=("bins",), out=out)
    assert [image["file"] for image in predicted(out)["images"]] == [
        str(made / n) for n in ("9.png", "10.png", "sub/1.JPG", "sub/IMG_2")
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"expected a folder with images .*, got none in it"):
        predict(str(folder / "model"), (tmp_path / "empty",), out=out)


def test_litter_is_passed_over_and_what_cannot_be_taken_is_told(tmp_path: Path) -> None:
    made = tmp_path / "in"
    for name in ("sub/1.png", "sub/._1.png", "@eaDir/1.png", "__MACOSX/in/1.png", "caf\udce9.png", "caf\udce9.doc"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(b"x")
    (made / "up").symlink_to("..")
    (made / "linked").symlink_to("sub")
    found, failed = command.expanded([made], tmp_path / "out")
    assert found == [made / "linked" / "1.png", made / "sub" / "1.png"]
    assert [(one["file"], one["error"].split(": ")[1]) for one in failed] == [
        (f"{made}/caf\udce9.png", "name that is not UTF-8"),
        (f"{made}/up", "link in a circle"),
    ]


def test_coco_results_are_read_by_pycocotools(folder: Path, tmp_path: Path) -> None:
    for name in ("000000000042.png", "b.png"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes((folder / "a.png").read_bytes())
    tasks = ("boxes", "masks", "points")
    predict(str(folder / "model"), (tmp_path / "in",), tasks=tasks, threshold=0.0, coco=True, out=tmp_path / "out")
    image = predicted(tmp_path / "out")["images"][0]
    for task in tasks:
        truth = COCO(tmp_path / "out" / f"coco_{task}_images.json")
        found = truth.loadRes(str(tmp_path / "out" / f"coco_{task}.json"))
        assert truth.imgs[42]["file_name"] == "000000000042.png"
        rows = found.imgToAnns[42]
        if task == "points":
            assert [row["keypoints"][:2] for row in rows] == [image["answers"]["points"]["points"][POINTS[0]][:2]]
            continue
        told = image["answers"][task]["objects"]
        assert [truth.cats[row["category_id"]]["name"] for row in rows] == [each["label"] for each in told]
        assert [row["score"] for row in rows] == [each["score"] for each in told]
        for row, each in zip(rows, told, strict=True):
            if task == "masks":
                assert row["segmentation"] == each["mask"]
                assert row["area"] == coco_mask.area(each["mask"])
            else:
                x0, y0, x1, y1 = each["box"]
                assert row["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0])


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    listed = {"train/1.jpg": 7, "valid/1.jpg": 8, "2.jpg": 9, "/data/3.jpg": 10}
    images = [{"file_name": name, "id": number} for name, number in listed.items()]
    (tmp_path / "known.json").write_text(json.dumps({"images": images}))
    coco = CocoResults(tmp_path / "known.json")
    for name, number in (("train/1.jpg", 7), ("valid/1.jpg", 8), ("x/2.jpg", 9), ("3.jpg", 10)):
        coco.add(tmp_path / name, (4, 4), [], 0.5)
        assert list(coco._images)[-1] == number
    with pytest.raises(UserError, match=r"got .*/1.jpg, which may be train/1.jpg or valid/1.jpg"):
        coco.add(tmp_path / "1.jpg", (4, 4), [], 0.5)


def test_coco_results_take_numbers_from_annotations(folder: Path, tmp_path: Path) -> None:
    known = {"images": [{"id": 7, "file_name": "a.png"}], "categories": [], "annotations": []}
    known["categories"] = [{"id": 30 + number, "name": name} for number, name in enumerate(CLASSES)]
    (tmp_path / "known.json").write_text(json.dumps(known))
    asked = {"tasks": ("boxes",), "threshold": 0.0, "coco_annotations": tmp_path / "known.json"}
    predict(str(folder / "model"), (folder / "a.png",), **asked, out=tmp_path)  # type: ignore[arg-type]
    rows = json.loads((tmp_path / "coco_boxes.json").read_text())
    assert {row["image_id"] for row in rows} == {7}
    assert {row["category_id"] for row in rows} <= {30, 31, 32}
    with pytest.raises(UserError, match=r"expected images that the annotations list, got .*b\.png"):
        predict(str(folder / "model"), (folder / "b.png",), **asked, out=tmp_path)  # type: ignore[arg-type]


def test_views_are_used(folder: Path, tmp_path: Path) -> None:
    for number, asked in enumerate(({}, {"flip": True}, {"window": (20, 30)}, {"aspect": True})):
        predict(str(folder / "model"), (folder / "a.png",), tasks=("bins",), **asked, out=tmp_path / str(number))  # type: ignore[arg-type]
    found = [predicted(tmp_path / str(number))["images"][0]["answers"]["bins"]["median"] for number in range(4)]
    assert len(set(found)) > 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tasks with and without queries."""
    made = write_squares(tmp_path_factory.mktemp("trained"))
    recipe = content(made, "boxes", max_steps=1, slots=3, train={"save_every": 1})
    recipe["tasks"] |= matching(made)
    run(build(Recipe, recipe, "squares.yaml"), made / "run")
    (made / "a.png").write_bytes(picture(0)["png"])
    return made


def test_captions_and_labels_of_a_run(trained: Path, tmp_path: Path) -> None:
    predict(str(trained / "run"), (trained / "a.png",), labels=("a cat", "a dog", "red"), out=tmp_path)
    (image,) = predicted(tmp_path)["images"]
    assert list(image["answers"]) == ["boxes", "caption", "labels", "person"]
    assert isinstance(image["answers"]["caption"]["caption"], str)
    for name, words in (("labels", {"a cat", "a dog", "red"}), ("person", {"ada", "bo"})):
        found = image["answers"][name]["labels"]
        assert {each["label"] for each in found} == words
        assert sum(each["score"] for each in found) == pytest.approx(1, abs=1e-3)
    predict(str(trained / "run"), (trained / "a.png",), tasks=("caption",), out=tmp_path / "one")
    assert list(predicted(tmp_path / "one")["images"][0]["answers"]) == ["caption"]


def test_classes_are_known_without_the_recipe_and_its_files(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run names its label sets by paths from the folder it was started in; they may be elsewhere, or gone."""
    copy = tmp_path / "moved"
    shutil.copytree(trained / "run", copy)
    (copy / "recipe.yaml").write_text((copy / "recipe.yaml").read_text().replace(str(trained), "gone"))
    export(copy, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["tasks"]["person"]["id2label"] == {"0": "ada", "1": "bo"} == config["id2label"]
    names = config["queries"]["tasks"]["boxes"]["names"]
    assert config["tasks"]["boxes"]["id2label"] == {str(number): name for number, name in enumerate(names)}
    monkeypatch.chdir(tmp_path)
    for model in (copy, tmp_path / "model"):
        predict(str(model), (trained / "a.png",), out=tmp_path / f"of_{model.name}")
        (image,) = predicted(tmp_path / f"of_{model.name}")["images"]
        assert list(image["answers"]) == ["boxes", "caption", "person"]
        assert {each["label"] for each in image["answers"]["person"]["labels"]} == {"ada", "bo"}


def test_label_sets_of_earlier_runs_are_found_by_their_recipe(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "earlier"
    shutil.copytree(trained / "run", copy)
    file = copy / "model" / "config.json"
    config = json.loads(file.read_text())
    config["tasks"] = {name: entry["kinds"] for name, entry in config["tasks"].items()}
    file.write_text(json.dumps(config))
    predict(str(copy), (trained / "a.png",), tasks=("person",), out=tmp_path / "out")
    (image,) = predicted(tmp_path / "out")["images"]
    assert {each["label"] for each in image["answers"]["person"]["labels"]} == {"ada", "bo"}


@pytest.fixture(scope="module")
def of_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model reads 4 frames, and animated images of 3 and of 6."""
    made = write_squares(tmp_path_factory.mktemp("videos"))
    recipe = content(made, "boxes", max_steps=1, slots=3, train={"save_every": 1})
    recipe["model"]["modalities"]["image"]["frames"] = 4
    recipe["tasks"] |= matching(made)
    run(build(Recipe, recipe, "squares.yaml"), made / "run")
    frames = [Image.new("RGB", (40, 30), (40 * number, 0, 0)) for number in range(6)]
    for name, count in (("short", 3), ("long", 6)):
        frames[0].save(made / f"{name}.gif", save_all=True, append_images=frames[1:count])
    return made


def test_an_animated_image_is_a_video(of_videos: Path, tmp_path: Path) -> None:
    predict(str(of_videos / "run"), (of_videos / "short.gif",), tasks=("caption", "person"), out=tmp_path)
    (image,) = predicted(tmp_path)["images"]
    assert (image["frames"], image["height"], image["width"]) == (3, 30, 40)
    assert list(image["answers"]) == ["caption", "person"]
    assert (tmp_path / image["picture"]).is_file()


@pytest.mark.parametrize(
    ("name", "tasks", "message"),
    [
        ("long", ("caption",), r"long\.gif: expected at most 4 frames \(model.modalities.image.frames\), got 6"),
        ("short", ("boxes",), r"short\.gif: expected one image for boxes, got 3 frames"),
        ("short", (), r"short\.gif: expected one image for boxes, got 3 frames"),
    ],
)
def test_frames_that_are_not_read_are_refused(
    of_videos: Path, tmp_path: Path, name: str, tasks: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        predict(str(of_videos / "run"), (of_videos / f"{name}.gif",), tasks=tasks, out=tmp_path)
    assert len(predicted(tmp_path)["failed"]) == 1


def test_a_model_of_one_frame_refuses_animated_images(of_videos: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected at most 1 frame \(model.modalities.image.frames\), got 3"):
        predict(str(trained / "run"), (of_videos / "short.gif",), tasks=("caption",), out=tmp_path)


def test_labels_may_be_a_file(trained: Path) -> None:
    assert command.words([str(trained / "people.yaml")]).names == ("ada", "bo")
    assert command.words(["ada"]).names == ("ada",)


# the picture

BLUE = (40, 60, 200)
PAPER = torch.tensor(BLUE, dtype=torch.uint8)[:, None, None]


def shown_boxes(masks: Tensor | None = None) -> Prediction:
    answer = {
        "boxes": torch.tensor([[10.0, 20, 60, 80], [0, 0, 100, 100]]),
        "labels": torch.tensor([1, 0]),
        "scores": torch.tensor([0.9, 0.1]),
    }
    return Prediction("things", BOXES, answer if masks is None else {**answer, "masks": masks}, ("cat", "dog"))


def pixels(picture: Tensor, *found: Prediction, threshold: float = 0.5) -> NDArray[Any]:
    return np.asarray(sheet(picture, found, threshold)).astype(int)


def found_colour(drawn: NDArray[Any], name: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels in the colour of a name, within the image and not the legend."""
    blue = np.where((drawn == BLUE).all(-1))[0]
    rows, columns = np.where((drawn[: blue.min() + SIDE] == name_colour(name)).all(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_boxes_are_drawn_where_they_are_and_unlikely_ones_are_not() -> None:
    plain = PAPER.expand(3, 100, 100)
    drawn = pixels(plain, shown_boxes())
    left, top = (int(edge.min()) for edge in np.where((drawn == BLUE).all(-1))[::-1])
    box = found_colour(drawn, "dog")
    scale = SIDE / 100
    assert box[0] == left + 10 * scale
    assert box[2] == left + 60 * scale - 1
    assert box[3] == top + 80 * scale - 1
    assert not (drawn == name_colour("cat")).all(-1).any()
    assert (pixels(plain, shown_boxes(), threshold=0.05) == name_colour("cat")).all(-1).any()


def test_masks_colour_their_pixels_alone() -> None:
    plain = PAPER.expand(3, 100, 100)
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0, 30:70, 20:50] = True
    bare, drawn = pixels(plain, shown_boxes()), pixels(plain, shown_boxes(masks))
    rows, columns = np.where((bare != drawn).any(-1))
    left, top = (int(edge.min()) for edge in np.where((bare == BLUE).all(-1))[::-1])
    scale = SIDE / 100
    assert (columns.min(), columns.max() + 1) == (left + 20 * scale, left + 50 * scale)
    assert (rows.min(), rows.max() + 1) == (top + 30 * scale, top + 70 * scale)


def test_facts_are_of_what_is_sure_and_masks_are_run_lengths() -> None:
    masks = torch.rand(2, 8, 9) > 0.5
    found = command.told(shown_boxes(masks), 0.5)["objects"]
    assert [(each["label"], each["box"]) for each in found] == [("dog", [10, 20, 60, 80])]
    assert found[0]["score"] == pytest.approx(0.9)
    assert (coco_mask.decode(found[0]["mask"]) == masks[0].numpy()).all()
    assert len(command.told(shown_boxes(), 0.05)["objects"]) == 2


def test_bones_join_points_that_are_sure() -> None:
    points = torch.tensor([[4.0, 4.0], [28.0, 4.0], [4.0, 28.0]])
    answer = {"points": points, "scores": torch.tensor([0.9, 0.8, 0.1])}
    plain = Prediction("body", HEATMAPS, answer, ("a", "b", "c"))
    joined = replace(plain, spec=make_spec("points", 3, skeleton=((0, 1), (0, 2))))
    black = torch.zeros(3, 32, 32, dtype=torch.uint8)
    before, after = (np.array(sheet(black, [shown], 0.3)) for shown in (plain, joined))
    changed = (before != after).any(-1)
    assert changed.any()
    rows, columns = np.nonzero(changed)
    assert columns.max() - columns.min() > rows.max() - rows.min()  # along the top, not down to what is not sure


def test_each_task_has_a_panel_with_a_legend_of_its_colours() -> None:
    plain = PAPER.expand(3, 100, 100)
    one = sheet(plain, [shown_boxes()], 0.05)
    two = sheet(plain, [shown_boxes(), replace(shown_boxes(), task="others")], 0.05)
    assert two.width - MARGIN == 2 * (one.width - MARGIN)
    drawn = np.asarray(one).astype(int)
    below = drawn[np.where((drawn == BLUE).all(-1))[0].min() + SIDE :]
    for name in ("cat", "dog"):
        assert (below == name_colour(name)).all(-1).any()


def test_count_maps_have_a_scale_from_nothing_to_the_densest_cell() -> None:
    density = torch.zeros(4, 4)
    density[1, 2] = 0.5
    drawn = np.asarray(
        sheet(PAPER.expand(3, 100, 100), [Prediction("n", DENSITY, {"density": density, "count": 0.5})], 0.3)
    )
    colours = (colormaps["inferno"]([0.0, 0.5, 1.0])[:, :3] * 255).astype(int)
    assert not (drawn[: SIDE + 20] == colours[1]).all(-1).any()  # the map itself has the ends alone
    rows = [np.where((drawn == colour).all(-1))[0].max() for colour in colours]
    assert min(rows) > SIDE
    assert (density.max(), len(set(rows))) == (0.5, 1)
