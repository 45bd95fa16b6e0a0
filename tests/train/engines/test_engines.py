"""Engines: without one, DDP and ZeRO compute the same steps, on one process and on two, for all tasks and experts."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny import COLOURS, tiny_recipe, write_recipe
from torch import Tensor, nn

from tests.train.launched import launch, resumed
from unified.config.recipe import Recipe
from unified.core.errors import RecipeError
from unified.train.engines import accelerator as engine_module
from unified.train.engines.accelerator import check_running, chosen, make_accelerator
from unified.train.engines.deepspeed import deepspeed_settings

MODELS = ("dense", "attribute", "token")
STAGES = ("zero1", "zero2", "zero3")
ALONE = [
    *[f"none/{model}/curve" for model in MODELS],
    *[f"{stage}/dense/curve" for stage in ("zero0", *STAGES)],
    *[f"zero3/{model}/curve" for model in MODELS[1:]],
    *[
        "none/flat/curve",
        "none+bf16/dense/curve",
        "none+fp16/dense/curve",
        "none+chunks/dense/curve",
        "none/dense/resumed",
        "zero2/dense/resumed",
        "zero3/dense/resumed",
    ],
]
TOGETHER = [
    *[f"{engine}/dense/curve" for engine in ("ddp", *STAGES)],
    *[f"{engine}/{model}/curve" for engine in ("ddp", "zero3") for model in MODELS[1:]],
    *["zero2/attribute/curve", "zero3+recomputed/attribute/curve", "zero3_offload/dense/curve"],
    *["zero3+bf16/dense/curve", "ddp+fp16/dense/curve", "zero3+fp16/dense/curve"],
    *["ddp+chunks/dense/curve", "zero2+chunks/attribute/curve", "zero3+chunks/attribute/curve"],
    *[f"{engine}+fp16/dense/overflow" for engine in ("ddp", "zero2", "zero3")],
    *[f"{engine}/dense/idle" for engine in ("ddp", "zero2", "zero3")],
    *["zero2/dense/not_finite", "zero3/dense/not_finite"],
    *["zero1/dense/resumed", "zero3/dense/resumed", "zero3/flat/kept_gradients", "zero3/dense/uneven"],
]
OTHERS = [
    *["zero1/attribute/curve", "zero1/token/curve", "zero2/token/curve", "zero2+recomputed/attribute/curve"],
    *["zero2_offload/dense/curve", "zero2+bf16/dense/curve", "zero2+fp16/dense/curve", "ddp+chunks/attribute/curve"],
    *["zero1+chunks/dense/curve", "zero1+chunks/attribute/curve", "zero2+chunks/dense/curve"],
    *["zero3+chunks/dense/curve", "zero1/dense/idle"],
]
"""What differs little from the cases above; the slow lane runs it."""
IDLE = {
    "embeddings.image.projection.weight",
    "embeddings.image.temporal.weight",
    "log_scales.retrieve",
    "log_scales.hidden",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("engines")
    write_recipe(folder)
    # An odd number, so that two ranks encode different numbers of labels.
    (folder / "colours.yaml").write_text(yaml.safe_dump({"names": [*COLOURS, "violet"]}))
    for stage in range(4):
        # Otherwise all parameters of a model as small as this one stay whole.
        whole = "  stage3_param_persistence_threshold: 40\n" if stage == 3 else ""
        settings = f"zero_optimization:\n  stage: {stage}\n{whole}"
        (folder / f"zero{stage}.yaml").write_text(settings)
        (folder / f"zero{stage}_offload.yaml").write_text(f"{settings}  offload_optimizer: {{device: cpu}}\n")
    found = {1: launch(folder, 1, ALONE)}
    found[2] = launch(folder, 2, TOGETHER)
    compiled = list((folder / "extensions").rglob("*")) if (folder / "extensions").exists() else []
    assert not compiled, "DeepSpeed compiled an operation"
    return found


@pytest.mark.distributed
def test_every_engine_computes_what_one_process_computes(results: dict[int, dict[str, Any]]) -> None:
    compared = sum(_check_curves(cases, results[1]) for cases in results.values())
    assert compared == (3 + 4 + 2 + 1) + (4 + 4 + 3 + 3)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_other_cases_too(results: dict[int, dict[str, Any]]) -> None:
    found = launch(Path(results[1]["none/dense/curve"]["tensors"]).parent, 2, OTHERS)
    assert _check_curves(found, results[1]) == 10
    _check_engines({2: found})
    assert _check_half_precision({2: found}, results[1]["none/dense/curve"]["losses"]) == 2
    _check_idle(found["zero1/dense/idle"])


def _check_curves(cases: dict[str, Any], alone: dict[str, Any]) -> int:
    """Compare all curves in fp32 with those of one process; returns how many there are."""
    compared = 0
    for case, found in cases.items():
        engine, model, what = case.split("/")
        if what != "curve" or model not in MODELS or "16" in engine:
            continue
        expected = alone[f"none/{model}/curve"]
        assert len(found["losses"]) == 6, case
        for losses, right in zip(found["losses"], expected["losses"], strict=True):
            assert losses == pytest.approx(right, abs=1e-5), case
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5), case
        assert min(found["norms"]) > 1.0, "no gradient was clipped"
        assert found["evaluated"], f"{case}: the average is not what is evaluated"
        _check_tensors(load_file(found["tensors"]), load_file(expected["tensors"]), case)
        for name, value in expected["experts"].items():
            assert found["experts"][name] == pytest.approx(value, abs=1e-4), (case, name)
        compared += 1
    return compared


def _check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], case: str) -> None:
    """Weights, their average and both moments; `exp_avg` is linear in the gradients, those of each step."""
    assert found.keys() == expected.keys(), case
    for name, right in expected.items():
        group = name.split("/")[0]
        if group == "steps":
            assert found[name] == right, (case, name)
        else:
            largest = float((found[name] - right).abs().max())
            assert largest < {"weights": 1e-5, "ema": 1e-5}.get(group, 1e-6), (case, name, largest)


@pytest.mark.distributed
def test_the_engine_that_was_asked_for_runs(results: dict[int, dict[str, Any]]) -> None:
    _check_engines(results)


def _check_engines(results: dict[int, dict[str, Any]]) -> None:
    for processes, cases in results.items():
        for case, found in cases.items():
            engine, _, what = case.split("/")
            if what == "curve":
                expected = {"none": "StepModel", "ddp": "DistributedDataParallel"}.get(engine.split("+")[0])
                assert found["engine"] == (expected or "DeepSpeedEngine"), (processes, case)


@pytest.mark.distributed
def test_half_precision_is_near_and_the_same_on_engines(results: dict[int, dict[str, Any]]) -> None:
    assert _check_half_precision(results, results[1]["none/dense/curve"]["losses"]) == 1 + 1 + 1 + 2


def _check_half_precision(results: dict[int, dict[str, Any]], exact: list[dict[str, float]]) -> int:
    found = {case: of for cases in results.values() for case, of in cases.items() if "16/dense/curve" in case}
    for case, of in found.items():
        assert of["losses"] != exact
        for losses, right in zip(of["losses"], exact, strict=True):
            assert losses == pytest.approx(right, rel=0.02), case
    return len(found)


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_a_gradient_that_overflows_fp16_lowers_the_scale_and_changes_nothing(
    results: dict[int, dict[str, Any]], engine: str
) -> None:
    found = results[2][f"{engine}+fp16/dense/overflow"]
    assert found["changed"] == [[], *[["exp_avg", "exp_avg_sq", "steps", "weights"]] * 2]
    assert found["scales"] == [2.0**39, 2.0**10, 1.0]
    assert [math.isfinite(norm) for norm in found["norms"]] == [False, True, True]
    assert found["shares"] == pytest.approx([1.0, 1.0], rel=1e-3)


@pytest.mark.distributed
def test_old_gradients_that_are_not_cleared_are_seen(results: dict[int, dict[str, Any]]) -> None:
    # Where the gradient of a step is small, an old one makes most of the norm.
    exact = results[1]["none/flat/curve"]["norms"]
    kept = results[2]["zero3/flat/kept_gradients"]["norms"]
    assert kept[0] == pytest.approx(exact[0], rel=1e-5)
    assert max(abs(a - b) / b for a, b in zip(kept, exact, strict=True)) > 10


@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_parameters_of_absent_tasks_stay_bit_equal(results: dict[int, dict[str, Any]], engine: str) -> None:
    _check_idle(results[2][f"{engine}/dense/idle"])


def _check_idle(changed: dict[str, list[str]]) -> None:
    for group in ("weights", "exp_avg", "exp_avg_sq", "steps"):
        assert IDLE.isdisjoint(changed[group]), group
        assert {"embeddings.text.word.weight", "log_scales.next", "encoder.blocks.0.mlp.up.weight"} <= set(
            changed[group]
        ), group


@pytest.mark.distributed
@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_a_gradient_that_is_not_finite_changes_nothing(results: dict[int, dict[str, Any]], stage: str) -> None:
    found = results[2][f"{stage}/dense/not_finite"]
    assert "the gradient is not finite. task '" in found["message"]
    assert found["changed"] == []


@pytest.mark.distributed
def test_runs_go_on_on_any_engine_and_number_of_processes(results: dict[int, dict[str, Any]]) -> None:
    sources = resumed(results)
    assert {(1, "zero3/dense/resumed", "1none"), (2, "zero3/dense/resumed", "1zero2")} <= sources
    assert {(2, "zero1/dense/resumed", "1none"), (2, "zero3/dense/resumed", "2zero1")} <= sources


@pytest.mark.distributed
def test_ranks_with_texts_of_other_lengths_do_not_wait_for_each_other(results: dict[int, dict[str, Any]]) -> None:
    found = results[2]["zero3/dense/uneven"]
    assert found["buckets"] == [1, 2]
    assert found["finite"]


def engine_of(tmp_path: Path, precision: str = "fp32", **engine: Any) -> Recipe:
    return tiny_recipe(tmp_path, engine=engine, train={"precision": precision})


def test_the_engine_follows_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert chosen(engine_of(tmp_path)) == "none"
    assert chosen(engine_of(tmp_path, kind="deepspeed")) == "deepspeed"
    with pytest.raises(RecipeError, match=r"'ddp' needs several processes.*torchrun --nproc-per-node"):
        chosen(engine_of(tmp_path, kind="ddp"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert chosen(engine_of(tmp_path)) == "ddp"
    with pytest.raises(RecipeError, match=r"'none' runs in one process, found 2"):
        chosen(engine_of(tmp_path, kind="none"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert chosen(engine_of(tmp_path)) == "deepspeed"
    with pytest.raises(RecipeError, match="launcher was configured for DeepSpeed"):
        chosen(engine_of(tmp_path, kind="ddp"))


@pytest.mark.parametrize(
    ("content", "train", "message"),
    [
        ("zero_optimization: {stage: 4}", {}, r"stage: expected 0, 1, 2 or 3, found 4"),
        ("bf16: {enabled: true}", {}, r"'bf16' is not for this file; set train.precision"),
        ("zero_optimization: {stage: 2}\ntrain_batch_size: 8", {}, r"'train_batch_size' is not for this file; tasks"),
        ("zero_optimization: {stage: 0}", {"precision": "bf16"}, r"stage 0 is exact in fp32 only.*the engine ddp"),
        ("zero_optimization: {stage: 2, offload_param: {device: cpu}}", {}, r"offload_param needs a stage of 3"),
        ("zero_optimization: {stage: 3, mics_shard_size: 2}", {}, r"mics_shard_size: parts over fewer"),
        ("zero_optimization: {stage: 2, offload_optimizer: {device: nvme}}", {}, r"expected cpu or none, found 'nvme'"),
    ],
)
def test_settings_that_would_compute_something_else_are_refused(
    tmp_path: Path, content: str, train: dict[str, Any], message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        deepspeed_settings(engine_of(tmp_path, deepspeed=str(path), **train))


def test_unknown_settings_name_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"'zero4' is neither a path nor a name in recipes/launch; did you mean 'zero"
    ):
        deepspeed_settings(engine_of(tmp_path, deepspeed="zero4"))


@pytest.mark.parametrize(("engine", "processes"), [("ddp", 2), ("deepspeed", 1)])
def test_another_engine_than_the_one_that_was_asked_for_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, processes: int
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = make_accelerator(engine_of(tmp_path), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(RuntimeError, match=f"{engine} was asked for, but Linear .* runs the steps"):
        check_running(engine_of(tmp_path, kind=engine), accelerator, nn.Linear(1, 1))


def test_restarts_on_several_machines_need_a_store_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        make_accelerator(engine_of(tmp_path), tmp_path)


def test_processes_that_do_not_see_each_other_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    alone = make_accelerator(engine_of(tmp_path), tmp_path)
    monkeypatch.setattr(engine_module, "Accelerator", lambda **_: alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"accelerate sees 1 processes, torch\.distributed 1 and the launcher 2"):
        make_accelerator(engine_of(tmp_path), tmp_path)
