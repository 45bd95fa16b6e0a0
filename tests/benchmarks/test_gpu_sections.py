"""What sections of `benchmarks/gpu.sh` conclude: that gradients differ, and which batch fits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import equality, memory, steps, zero
from benchmarks.gpu.setting import MissedError, Setting


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(torch.device("cpu"), True, tmp_path)


def test_differences_are_relative_to_the_whole_gradient() -> None:
    exact = (2.0, {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    found = (2.5, {"a": torch.tensor([3.0]), "b": torch.tensor([5.0])})
    said = equality._differences(exact, found)
    assert said["loss difference"] == 0.25
    assert said["gradient difference"] == pytest.approx(0.2)
    assert said["worst parameter"] == "b"


def test_a_device_that_computes_otherwise_is_missed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "FP32", {"loss": -1.0, "gradient": -1.0})  # less than equal ones differ
    with pytest.raises(MissedError, match="loss, gradient") as raised:
        equality.measure("dense fp32", setting)
    assert raised.value.numbers["loss difference"] == 0


def test_weights_apart_are_a_share_of_the_way() -> None:
    before, one, other = ({"w": torch.tensor([value, 0.0])} for value in (1.0, 3.0, 2.5))
    assert zero._apart(before, one, other) == 0.25
    assert zero._apart(before, one, one) == 0


def test_the_largest_batch_is_the_last_within_the_budget(setting: Setting) -> None:
    budget = memory.estimated("dense", setting, 100)
    found = memory.largest("dense", setting, budget)
    assert memory.estimated("dense", setting, found) <= budget
    assert memory.estimated("dense", setting, found + max(1, found // 64) + 1) > budget


def test_the_printed_peak_is_that_of_the_device_by_its_name() -> None:
    names = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA T4": None}
    assert {name: steps.data_sheet(name) for name in names} == names


def test_sizes_of_a_gpu_are_those_of_the_base_model(setting: Setting) -> None:
    shape = replace(setting, tiny=False).shape
    assert (shape.width, shape.depth, shape.heads, shape.size, shape.patch) == (768, 12, 12, 224, 16)
