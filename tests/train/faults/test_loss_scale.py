"""The scale of the loss in fp16."""

from unified.train.faults.loss_scale import FIRST, GROWS_AFTER, LossScale


def test_an_overflow_halves_it_and_many_finite_steps_double_it() -> None:
    scale = LossScale()
    scale.update(finite=False)
    assert scale.value == FIRST / 2
    for _ in range(GROWS_AFTER):
        scale.update(finite=True)
    assert scale.value == FIRST
    scale.update(finite=True)
    assert scale.value == FIRST


def test_finite_steps_are_counted_in_a_row_and_over_checkpoints() -> None:
    scale, resumed = LossScale(), LossScale()
    for step in range(GROWS_AFTER):
        scale.update(finite=step != 5)
    assert scale.value == FIRST / 2
    resumed.load(scale.state())
    for _ in range(6):
        resumed.update(finite=True)
    assert resumed.value == FIRST


def test_it_ends_at_one() -> None:
    scale = LossScale()
    while not scale.smallest:
        scale.update(finite=False)
    scale.update(finite=False)
    assert scale.value == 1.0
