import subprocess
import sys

import numpy as np
import torch

from unified.core import seed


def test_keys_tell_words_numbers_and_order_apart() -> None:
    keys = {seed.key(1, "a"), seed.key("1", "a"), seed.key("a", 1), seed.key(1, "b"), seed.key("1a")}
    assert len(keys) == 5


def test_keys_are_the_same_in_another_process() -> None:
    code = "from unified.core import seed; print(seed.key(7, 'order', 3), seed.generator(7).random())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(seed.key(7, "order", 3)), str(seed.generator(7).random())]


def test_a_uniform_draw_depends_on_its_own_index_only() -> None:
    whole = seed.uniform(np.arange(1000), 4, 0, "crop")
    part = seed.uniform(np.array([17, 900]), 4, 0, "crop")
    np.testing.assert_array_equal(whole[[17, 900]], part)
    np.testing.assert_array_equal(whole[:, :2], seed.uniform(np.arange(1000), 2, 0, "crop"))
    assert not np.array_equal(whole, seed.uniform(np.arange(1000), 4, 1, "crop"))


def test_uniform_draws_look_uniform_and_independent() -> None:
    draws = seed.uniform(np.arange(20000), 3, 5, "test")
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 1 / 12, atol=0.003)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03


def test_seeded_code_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with seed.seeded(1, "weights"):
        first = torch.randn(3)
    with seed.seeded(1, "weights"):
        second = torch.randn(3)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())
