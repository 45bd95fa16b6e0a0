"""Post-processing in the manner of transformers, on a model that was saved and loaded, and on hand-made states."""

from pathlib import Path

import pytest
import torch
from dense_models import CLASSES, SIZE, SPECS, dense_model
from PIL import Image
from torch import Tensor
from transformers import DetrImageProcessor, MaskFormerImageProcessor
from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput

import unified
from unified.answers.base import QueryStates
from unified.answers.map.heatmaps import heat_maps
from unified.answers.table import answers, query_kind
from unified.core import seed
from unified.core.errors import UserError

PIXELS = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8, generator=seed.torch_generator("pictures"))
SIZES = [(20, 30), (64, 48)]
PROCESSOR = dense_model().processor


@pytest.fixture(scope="module")
def found() -> dict[str, QueryStates]:
    with torch.no_grad():
        return dense_model().ask(PROCESSOR(images=PIXELS, size=SIZE), list(SPECS))


def test_a_loaded_model_asks_and_answers_in_a_few_lines(tmp_path: Path) -> None:
    dense_model().save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    Image.new("RGB", (50, 40), "red").save(tmp_path / "street.jpg")

    model, processor = unified.load(str(tmp_path / "model"))
    image = Image.open(tmp_path / "street.jpg")
    features = processor(images=image, size=model.queries.specs["parts"].size)
    assert features["pixel_values"].shape == (1, 3, *SIZE)
    states = model.ask(features, ["parts", "boxes"])
    labels = processor.post_process_semantic_segmentation(states["parts"], target_sizes=[(40, 50)])[0]
    boxes = processor.post_process_object_detection(states["boxes"], threshold=0.0, target_sizes=[(40, 50)])[0]
    assert labels.shape == (40, 50)
    assert int(labels.max()) < len(CLASSES)
    assert boxes["boxes"].shape == (12, 4)  # six queries for two classes


def test_results_have_the_forms_and_sizes_of_the_processors_of_transformers(found: dict[str, QueryStates]) -> None:
    first, second = PROCESSOR.post_process_semantic_segmentation(found["classes"], target_sizes=SIZES)
    assert (first.shape, second.shape) == SIZES_AS_SHAPES
    assert PROCESSOR.post_process_semantic_segmentation(found["parts"])[0].shape == SIZE
    for depth, size in zip(PROCESSOR.post_process_depth_estimation(found["bins"], SIZES), SIZES, strict=True):
        assert depth["predicted_depth"].shape == size
    (normals, _) = PROCESSOR.post_process_normal_estimation(found["directions"], torch.tensor(SIZES))
    torch.testing.assert_close(normals["predicted_normals"].norm(dim=0), torch.ones(SIZES[0]))
    for task in ("points", "likely points", "places"):
        poses = PROCESSOR.post_process_pose_estimation(found[task], target_sizes=SIZES)
        ((body,), _) = poses
        expected = answers(found[task], SIZES)[0]
        assert torch.equal(body["keypoints"], expected["points"])
        assert body["labels"].tolist() == [0, 1, 2]
        above = float(expected["scores"].median())
        (body,) = PROCESSOR.post_process_pose_estimation(found[task], threshold=above, target_sizes=SIZES)[0]
        assert len(body["labels"]) == 1


SIZES_AS_SHAPES = tuple(torch.Size(size) for size in SIZES)


def test_boxes_are_those_that_transformers_makes_of_the_same_numbers(found: dict[str, QueryStates]) -> None:
    """Of one class, whose softmax against nothing is the sigmoid."""
    states = found["boxes"]
    assert states.classes is not None
    one = QueryStates(
        states.spec, states.states, states.features, states.interpreter, states.anchors, states.classes[:1]
    )
    with torch.no_grad():
        queries = query_kind(one.spec.read).object_queries(one, one.states[-1])
    assert queries.boxes is not None
    logits = torch.cat([queries.classes, torch.zeros_like(queries.classes)], dim=-1)
    output = DetrObjectDetectionOutput(logits=logits, pred_boxes=queries.boxes)
    threshold = float(queries.classes.sigmoid().quantile(0.25))  # between two scores, as rounding differs
    theirs = DetrImageProcessor().post_process_object_detection(output, threshold=threshold, target_sizes=SIZES)
    ours = PROCESSOR.post_process_object_detection(one, threshold=threshold, target_sizes=SIZES)
    for our, their, (height, width) in zip(ours, theirs, SIZES, strict=True):
        order = their["scores"].argsort(descending=True)
        limits = torch.tensor([width, height, width, height])
        torch.testing.assert_close(our["scores"], their["scores"][order])
        torch.testing.assert_close(our["boxes"], their["boxes"][order].clamp(min=0).minimum(limits))  # cut at the edges
        assert our["labels"].tolist() == [0] * len(order)


def sharp(found: dict[str, QueryStates]) -> QueryStates:
    """States of masks that are surer than drawn weights are."""
    states = found["masks"]
    return QueryStates(
        states.spec, tuple(20 * s for s in states.states), states.features, states.interpreter, states.anchors,
        states.classes,
    )  # fmt: skip


def covered(segmentation: Tensor, number: int) -> Tensor:
    return segmentation == number


def test_instances_are_numbered_from_the_surest_which_lies_on_top(found: dict[str, QueryStates]) -> None:
    states = sharp(found)
    (result, _) = PROCESSOR.post_process_instance_segmentation(states, threshold=0.0, target_sizes=SIZES)
    (whole, _) = PROCESSOR.post_process_instance_segmentation(
        states, threshold=0.0, target_sizes=SIZES, return_binary_maps=True
    )
    info = result["segments_info"]
    assert len(info) > 1
    assert [part["id"] for part in info] == list(range(len(info)))
    assert [part["score"] for part in info] == sorted((part["score"] for part in info), reverse=True)
    assert set(info[0]) == {"id", "label_id", "was_fused", "score"}
    assert torch.equal(covered(result["segmentation"], 0), whole["segmentation"][0])
    taken = whole["segmentation"][0] | whole["segmentation"][1]
    assert torch.equal(covered(result["segmentation"], 1), taken & ~whole["segmentation"][0])
    assert torch.equal(result["segmentation"] == -1, ~whole["segmentation"].any(0))
    (nothing, _) = PROCESSOR.post_process_instance_segmentation(states, threshold=2.0, target_sizes=SIZES)
    assert nothing["segments_info"] == []
    assert bool((nothing["segmentation"] == -1).all())


def test_panoptic_segments_share_out_the_picture_and_stuff_is_one(found: dict[str, QueryStates]) -> None:
    states = sharp(found)
    settings = {"threshold": 0.0, "overlap_mask_area_threshold": 0.0, "target_sizes": SIZES}
    (apart, _) = PROCESSOR.post_process_panoptic_segmentation(states, **settings)
    (fused, _) = PROCESSOR.post_process_panoptic_segmentation(states, label_ids_to_fuse={0, 1}, **settings)
    assert apart["segmentation"].shape == SIZES[0]
    numbers = set(apart["segmentation"].unique().tolist()) - {0}
    assert numbers == {part["id"] for part in apart["segments_info"]}
    labels = [part["label_id"] for part in apart["segments_info"]]
    assert len(labels) > len(set(labels))
    assert sorted(part["label_id"] for part in fused["segments_info"]) == sorted(set(labels))
    assert all(part["was_fused"] for part in fused["segments_info"])
    names = MaskFormerImageProcessor.post_process_panoptic_segmentation.__code__.co_varnames
    assert {"threshold", "overlap_mask_area_threshold", "label_ids_to_fuse", "target_sizes"} <= set(names)


def test_states_of_another_reading_and_missing_sizes_are_clear_errors(found: dict[str, QueryStates]) -> None:
    with pytest.raises(UserError, match=r"expected answers with 'boxes', got values of 'bins'"):
        PROCESSOR.post_process_object_detection(found["bins"])
    with pytest.raises(UserError, match="1 for 2 pictures"):
        PROCESSOR.post_process_depth_estimation(found["bins"], target_sizes=[(4, 4)])


@pytest.mark.parametrize("task", ["open", "classes"])
def test_new_names_give_as_many_maps_and_leave_other_tasks_alone(task: str) -> None:
    model, features = dense_model(), PROCESSOR(images=PIXELS, size=SIZE)
    if task == "classes":
        with pytest.raises(ValueError, match="not made from names"):
            model.ask(features, [task], names={task: ["boat"]})
        return
    with torch.no_grad():
        before = model.ask(features, [task])[task]
        after = model.ask(features, [task], names={task: [*CLASSES, "a boat", "blue square"]})[task]
        others = model.ask(features, ["bins", task], names={task: ["a boat"]})
    assert heat_maps(after).shape[2] == len(CLASSES) + 2
    one = answers(before, SIZES)
    two = answers(after, SIZES)
    assert all(a["labels"].shape == b["labels"].shape for a, b in zip(one, two, strict=True))
    assert others[task].states[-1].shape[1] == 1
    torch.testing.assert_close(others["bins"].states[-1], model.ask(features, ["bins"])["bins"].states[-1])
