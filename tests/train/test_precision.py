"""`precision: auto` is resolved once, by what the machine multiplies in hardware, and a run keeps it."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_recipe

from unified.config.recipe import EngineSettings, Recipe
from unified.core.errors import RecipeError
from unified.train import loop, precision
from unified.train.dry_run.plan import make_plan
from unified.train.engines import accelerator
from unified.train.monitor.records import read_recipe
from unified.train.precision import PRECISIONS, check_precision, has_fast_bf16, resolved


def of(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, train=replace(recipe.train, precision=name))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True}, "fp32"),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({}, "fp32"),
    ],
)
def test_auto_asks_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    recipe = tiny_recipe(tmp_path)
    assert resolved(of(recipe, "auto")).train.precision == expected
    assert make_plan(of(recipe, "auto")).recipe.train.precision == expected
    for name in PRECISIONS:
        assert resolved(of(recipe, name)).train.precision == name


def test_a_run_records_what_auto_was_and_keeps_it_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, out = of(tiny_recipe(tmp_path, max_steps=4), "auto"), tmp_path / "run"
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: True)
    loop.run(replace(recipe, max_steps=2), out)
    stored = read_recipe(out / "recipe.yaml")
    assert stored is not None
    assert stored.train.precision == "bf16"
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: False)
    with caplog.at_level(logging.WARNING):
        loop.run(recipe, out)
    assert "bf16 is slower than fp32 on this machine" in caplog.text
    assert "train.precision was" not in caplog.text
    again = read_recipe(out / "recipe.yaml")
    assert again is not None
    assert again.train.precision == "bf16"


def test_bf16_that_is_slow_is_said_and_fp16_without_a_gpu_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(tmp_path)
    for fast in (True, False):
        monkeypatch.setattr(precision, "has_fast_bf16", lambda fast=fast: fast)
        caplog.clear()
        check_precision(of(recipe, "bf16"))
        assert ("slower than fp32" in caplog.text) != fast
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="fp16 is for GPUs"):
        check_precision(of(recipe, "fp16"))


def test_processes_that_resolve_auto_differently_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gather_objects", lambda own: [own, "bf16"])
    with pytest.raises(RecipeError, match="got bf16, fp32 from machines that differ"):
        accelerator.check_agreed(of(tiny_recipe(tmp_path), "fp32"))


def test_this_machine_answers() -> None:
    assert has_fast_bf16() in (True, False)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 0), "fp16"), ((7, 5), "fp16"), ((6, 1), "fp32"), ((5, 2), "fp32")]
)
def test_auto_on_a_gpu_without_bf16_is_what_it_multiplies_fast(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capability: tuple[int, int],
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    recipe = tiny_recipe(tmp_path)
    with caplog.at_level(logging.INFO):
        assert resolved(of(recipe, "auto")).train.precision == expected
    assert f"auto is {expected}" in caplog.text
    assert ("scale of the loss" in caplog.text) == (expected == "fp16")
    assert f"{capability[0]}.{capability[1]} does not multiply bf16 in hardware" in caplog.text
    caplog.clear()
    check_precision(of(recipe, "bf16"))
    assert f"it is emulated, and slower than fp32. Hint: --train.precision {expected}" in caplog.text
    check_precision(of(recipe, "fp16"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(RecipeError, match=f"expected at least 8.0, or an emulation.*precision {expected}"):
        check_precision(of(recipe, "bf16"))


def test_auto_is_fp32_under_an_engine_that_is_exact_in_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: True)
    recipe = of(tiny_recipe(tmp_path), "auto")
    for stage, expected in ((0, "fp32"), (1, "bf16")):
        assert resolved(replace(recipe, engine=EngineSettings("deepspeed", stage))).train.precision == expected
