"""Pictures of any size, mirrored and in windows, asked of a model with every reading."""

import pytest
import torch
from dense_models import SIZE, SPECS, dense_model
from small_models import words_and_images
from torch import Tensor

from unified.answers.table import answers, query_kind
from unified.core import seed
from unified.core.errors import UserError
from unified.model.inference import Views, input_size, see, windows

TOKENIZER = words_and_images()["image"]
AT_PIXELS = {"labels", "values", "vectors", "share", "image", "masks"}


def picture(height: int, width: int) -> Tensor:
    generator = seed.torch_generator("picture", height, width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((32, 48), (32, 48)), ((96, 64), (48, 32)), ((1, 1), (48, 48)), ((8000, 50), (48, 8)), ((100, 90), (48, 40))],
)
def test_the_longer_side_becomes_that_of_the_task_in_whole_patches(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert input_size(*shape, size=(32, 48), patch=8) == expected


@pytest.mark.parametrize("shape", [(1, 1), (20, 30), (64, 64), (1000, 7)])
def test_windows_cover_every_pixel_within_the_picture(shape: tuple[int, int]) -> None:
    covered = torch.zeros(shape)
    for top, left, tall, wide in windows(*shape, (20, 30)):
        assert (tall, wide) == (min(20, shape[0]), min(30, shape[1]))
        assert top + tall <= shape[0]
        assert left + wide <= shape[1]
        covered[top : top + tall, left : left + wide] += 1
    assert covered.min() >= 1


def test_windows_lie_two_thirds_of_one_apart() -> None:
    assert [top for top, *_ in windows(70, 10, (30, 30))] == [0, 20, 40]


def test_a_plain_view_is_the_model_asked_at_the_size_of_the_task() -> None:
    model, shown = dense_model(), picture(50, 40)
    tokens = TOKENIZER.tokens([TOKENIZER.resize(shown, *SIZE)])
    with torch.no_grad():
        expected = {
            task: answers(found, [(50, 40)])[0] for task, found in model.ask({"image": tokens}, list(SPECS)).items()
        }
    (found,) = see(model, TOKENIZER, [shown], list(SPECS))
    assert found.keys() == SPECS.keys()
    for task, answer in expected.items():
        assert answer.keys() == found[task].keys()
        for name, value in answer.items():
            torch.testing.assert_close(torch.as_tensor(found[task][name]), torch.as_tensor(value))


@pytest.mark.parametrize("aspect", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (800, 5), (33, 47)])
def test_answers_have_the_size_of_any_picture(shape: tuple[int, int], aspect: bool) -> None:
    (found,) = see(dense_model(), TOKENIZER, [picture(*shape)], list(SPECS), Views(aspect=aspect))
    for task, answer in found.items():
        scale = getattr(SPECS[task], "scale", 1)
        for name, value in answer.items():
            if name in AT_PIXELS and value.dim() > 1:
                assert tuple(value.shape[-2:]) == (scale * shape[0], scale * shape[1]), (task, name)
            assert bool(torch.as_tensor(value, dtype=torch.float32).isfinite().all()), (task, name)


@pytest.mark.parametrize("views", [Views(aspect=True, flip=True), Views(window=(64, 64))])
def test_a_ribbon_is_answered_in_full_length(views: Views) -> None:
    (found,) = see(dense_model(), TOKENIZER, [picture(8000, 50)], ["classes", "density"], views)
    assert found["classes"]["labels"].shape == (8000, 50)
    assert found["density"]["density"].shape == (8000, 50)
    assert found["density"]["count"] == pytest.approx(float(found["density"]["density"].sum()), rel=1e-4)


def test_pictures_of_different_sizes_do_not_touch_each_other() -> None:
    model, pictures = dense_model(), [picture(20, 30), picture(64, 16), picture(20, 30) // 2]
    together = see(model, TOKENIZER, pictures, ["classes", "bins"], Views(aspect=True), batch=2)
    for shown, found in zip(pictures, together, strict=True):
        (alone,) = see(model, TOKENIZER, [shown], ["classes", "bins"], Views(aspect=True))
        torch.testing.assert_close(found["bins"]["values"], alone["bins"]["values"])
        assert (found["classes"]["labels"] == alone["classes"]["labels"]).float().mean() > 0.99


ALIKE = [task for task, spec in SPECS.items() if spec.read not in ("boxes", "masks")]


@pytest.mark.parametrize("task", ALIKE)
def test_with_flip_a_mirrored_picture_has_the_mirrored_answer(task: str) -> None:
    shown, read = picture(*SIZE), SPECS[task].read
    flip = Views(flip=True)
    (found,), (mirrored,) = (see(dense_model(), TOKENIZER, [p], [task], flip) for p in (shown, shown.flip(-1)))
    for name, value in found[task].items():
        other = mirrored[task][name]
        if name in AT_PIXELS or name == "density":
            other = other.flip(-1)
        if name == "vectors":
            other = other * torch.tensor([-1.0, 1, 1])[:, None, None]
        if read in ("points", "places"):
            other = other[[1, 0, 2]]  # left and right
            other = torch.stack([SIZE[1] - other[:, 0], other[:, 1]], dim=1) if name == "points" else other
        if name == "labels":
            assert (other == value).float().mean() > 0.99
        else:
            torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(value), atol=1e-4, rtol=1e-4)


WINDOWED = [task for task, spec in SPECS.items() if (ops := query_kind(spec.read).merge()) is not None and ops.windows]


@pytest.mark.parametrize("task", WINDOWED)
def test_a_window_as_large_as_the_picture_changes_nothing_and_smaller_ones_look_closer(task: str) -> None:
    shown = picture(40, 60)
    whole, same, parts = (
        see(dense_model(), TOKENIZER, [shown], [task], Views(window=window))[0][task]
        for window in (None, (100, 100), (24, 30))
    )
    for name, value in whole.items():
        if name == "density":
            assert same[name].shape == parts[name].shape == (40, 60)
        elif name == "labels":
            assert (same[name] == value).float().mean() > 0.99
        elif name == "count":
            assert same[name] == pytest.approx(value, rel=1e-4)
            assert parts[name] > 2 * value  # the picture shown larger has more of what the weights count
        else:
            torch.testing.assert_close(same[name], value, atol=1e-5, rtol=1e-5)
            assert parts[name].shape == value.shape
            assert not torch.allclose(parts[name], value, atol=1e-3)


def test_windows_are_averaged_where_they_overlap() -> None:
    shown = picture(32, 80)
    places = windows(32, 80, SIZE)
    assert [left for _, left, *_ in places] == [0, 32]
    (found,) = see(dense_model(), TOKENIZER, [shown], ["bins"], Views(window=SIZE))
    parts = [see(dense_model(), TOKENIZER, [shown[:, :, left : left + 48]], ["bins"])[0] for left in (0, 32)]
    first, second = (part["bins"]["values"] for part in parts)
    expected = torch.cat([first[:, :32], (first[:, 32:] + second[:, :16]) / 2, second[:, 16:]], dim=1)
    torch.testing.assert_close(found["bins"]["values"], expected)


def test_one_pass_over_the_encoder_serves_all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = dense_model(), []
    encode = type(model).encode
    monkeypatch.setattr(type(model), "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    see(model, TOKENIZER, [picture(30, 30)] * 3, [task for task in SPECS if task != "open"])
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("task", "views", "message"),
    [
        ("boxes", Views(flip=True), "found as a set"),
        ("points", Views(window=(8, 8)), "not of single pixels"),
        ("classes", Views(window=(0, 8)), "from 1"),
        ("clases", Views(), "there are: classes"),
    ],
)
def test_views_that_a_task_cannot_have_are_clear_errors(task: str, views: Views, message: str) -> None:
    with pytest.raises(UserError, match=message):
        see(dense_model(), TOKENIZER, [picture(8, 8)], [task], views)
