"""GPUs that torch cannot use are said in a line, and kernels of a run as well."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe, with_experts, write_recipe

from unified.cli.train import train
from unified.core.errors import RecipeError
from unified.nn.kernels import Capability
from unified.train import devices
from unified.train.devices import check_architecture, check_gpu, one_line, run_device, runs_on, unusable_gpu, ways
from unified.train.dry_run.plan import make_plan
from unified.train.dry_run.report import describe

OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can be used here")
def test_a_gpu_that_this_build_cannot_use_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert unusable_gpu(seems_here=False) is None
    reason = unusable_gpu(seems_here=True)
    assert reason is not None
    assert torch.__version__ in reason
    monkeypatch.setattr(devices, "seems_here", lambda: True)
    check_gpu()
    assert "this run is on the CPU, though an NVIDIA GPU seems to be here: torch" in caplog.text
    assert "\n" not in caplog.messages[0]
    # A build for CUDA asks the driver; what it raises here is torch's own.
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = unusable_gpu(seems_here=True)
    assert asked is not None
    assert "Torch not compiled with CUDA enabled" in asked or torch.cuda.is_initialized()


def test_the_reason_is_one_line_of_torch() -> None:
    assert one_line(RuntimeError(OLD_DRIVER)) == OLD_DRIVER
    advice = "CUDA error: forward compatibility was attempted on non supported HW\nCUDA kernel errors might be"
    assert one_line(RuntimeError(advice)) == advice.splitlines()[0]
    assert one_line(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_gpu_that_is_hidden_on_purpose_is_not_missed(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.seems_here()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not devices.seems_here()


@pytest.mark.parametrize(
    ("architecture", "capability", "expected"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),
        ("sm_100f", (10, 3), True),
        ("sm_120", (12, 0), True),
        ("compute_80", (9, 0), True),
        ("compute_90", (8, 9), False),
        ("compute_120", (12, 1), True),
        ("compute_90a", (10, 0), False),
    ],
)
def test_what_a_gpu_runs(architecture: str, capability: Capability, expected: bool) -> None:
    assert runs_on(architecture, capability) == expected


def test_a_gpu_without_kernels_in_this_build_is_refused() -> None:
    built = ["sm_75", "sm_80", "sm_90", "compute_90"]
    for capability in ((7, 5), (8, 9), (9, 0), (12, 0)):
        check_architecture("GPU", capability, built)
    with pytest.raises(RecipeError, match=r"Tesla P100: expected a compute capability .*\(sm_75 .*\), got 6\.0\. Hint"):
        check_architecture("Tesla P100", (6, 0), built)
    check_architecture("GPU", (6, 0), [])  # a build that does not say


def test_the_dry_run_and_the_log_say_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(tmp_path)
    line = ways(recipe, run_device())
    assert line.startswith("kernels on ")
    assert "optimizer: " in line
    assert "experts" not in line
    assert line in describe(make_plan(recipe))
    assert "experts: loop" in ways(with_experts(recipe, "token"), torch.device("cpu"))
    assert "experts: blocks" in ways(with_experts(recipe, "token"), torch.device("meta"))
    assert "experts" not in ways(with_experts(recipe, "attribute"), torch.device("meta"))
    monkeypatch.setattr("unified.train.dry_run.report.seems_here", lambda: not torch.cuda.is_available())
    if not torch.cuda.is_available():
        assert "an NVIDIA GPU seems to be here, but cannot be used: torch" in describe(make_plan(recipe))
    path = write_recipe(tmp_path, max_steps=1)
    train([str(path), "--out", str(tmp_path / "run")])
    assert line in (tmp_path / "run" / "log.txt").read_text()
