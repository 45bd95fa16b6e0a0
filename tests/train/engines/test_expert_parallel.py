"""Expert parallelism: experts split over processes compute what one process computes, on every engine that has them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_recipe, with_experts, write_recipe

from tests.train.engine_cases import WHAT, recipe_of
from tests.train.launched import launch, resumed
from unified.config.recipe import EngineSettings, Recipe
from unified.core.errors import RecipeError
from unified.train.engines.accelerator import check_expert_parallel

ENGINES = ("ddp", "zero1", "zero2")
QUICK = ["ddp+ep2/token/curve", "zero2+ep2/context/curve"]
TWO = [
    *[f"{engine}+ep2/token/{what}" for engine in ENGINES for what in ("curve", "bad_expert")],
    *[f"{engine}+ep2/context/curve" for engine in ("ddp", "zero2")],
    *[f"{engine}+ep2+chunks/token/curve" for engine in ("ddp", "zero2")],
    *[f"zero2+ep2+{option}/token/curve" for option in ("recomputed", "bf16", "fp16")],
    *[f"{engine}+ep2+fp16/token/overflow" for engine in ("ddp", "zero2")],
    *[f"{engine}+ep2/token/idle" for engine in ("ddp", "zero2")],
    *["ddp+ep2/token/not_averaged", "ddp+ep2/token/uneven", "zero2+ep2/token/resumed"],
]
FOUR = [
    *[f"{engine}+ep2/token/curve" for engine in ENGINES],
    *["zero2+ep4/token/curve", "ddp+ep2/token/own_average", "zero1+ep4/token/resumed"],
]
ALONE = ["none/token/curve", "none/context/curve"]
Results = dict[int, dict[str, Any]]


def run(folder: Path, cases: dict[int, list[str]]) -> Results:
    """What cases find, by the number of processes, one of them being this one."""
    write_recipe(folder)
    for stage in (1, 2):
        (folder / f"zero{stage}.yaml").write_text(f"zero_optimization:\n  stage: {stage}\n")
    found: Results = {
        processes: launch(folder, processes, names) for processes, names in cases.items() if processes > 1
    }
    found[1] = {}
    for case in cases[1]:
        engine, model, what = case.split("/")
        found[1][case] = WHAT[what](recipe_of(folder, engine, model), folder)
    return found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(tmp_path_factory.mktemp("experts"), {4: QUICK, 1: ALONE})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run(
        tmp_path_factory.mktemp("experts"),
        {2: TWO, 4: FOUR, 1: [*ALONE, "none+chunks/token/curve", "none/token/resumed"]},
    )


def compare(results: Results) -> int:
    """Check all curves of experts in parts against those of one process; returns how many there were."""
    compared = 0
    for processes, cases in results.items():
        for case, found in cases.items():
            engine, model, what = case.split("/")
            if what != "curve" or processes == 1 or "16" in engine:
                continue
            # Experts are balanced over a chunk at a time, in one process as well.
            expected = results[1][f"none{'+chunks' if 'chunks' in engine else ''}/{model}/curve"]
            assert len(found["losses"]) == 6, case
            for losses, right in zip(found["losses"], expected["losses"], strict=True):
                assert losses == pytest.approx(right, abs=1e-5), (processes, case)
            assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5), (processes, case)
            assert min(found["norms"]) > 1.0, "no gradient was clipped"
            assert found["kept"] * (4 if "ep4" in engine else 2) == expected["kept"] == 4, "experts are not in parts"
            assert found["evaluated"], f"{case}: the average is not what is evaluated"
            for name, value in expected["experts"].items():
                assert found["experts"][name] == pytest.approx(value, abs=1e-4), (processes, case, name)
            tensors, whole = load_file(found["tensors"]), load_file(expected["tensors"])
            assert tensors.keys() == whole.keys()
            for name, tensor in whole.items():
                torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-5, msg=f"{processes} {case} {name}")
            compared += 1
    return compared


@pytest.mark.distributed
def test_four_processes_with_experts_in_parts_compute_what_one_computes(quick: Results) -> None:
    assert compare(quick) == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_experts_in_parts_compute_what_one_process_computes(results: Results) -> None:
    assert compare(results) == 3 + 2 + 2 + 1 + 4


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(results: Results, precision: str) -> None:
    exact = results[1]["none/token/curve"]["losses"]
    found = results[2][f"zero2+ep2+{precision}/token/curve"]["losses"]
    assert found != exact
    for losses, right in zip(found, exact, strict=True):
        assert losses == pytest.approx(right, rel=0.02)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_a_gradient_that_overflows_fp16_changes_no_expert(results: Results, engine: str) -> None:
    found = results[2][f"{engine}+ep2+fp16/token/overflow"]
    assert found["changed"][0] == []
    assert "weights" in found["changed"][1]
    assert [math.isfinite(norm) for norm in found["norms"]] == [False, True, True]


@pytest.mark.slow
@pytest.mark.distributed
def test_gradients_of_experts_that_are_not_averaged_are_seen(results: Results) -> None:
    exact = results[1]["none/token/curve"]["norms"]
    for found in (results[2]["ddp+ep2/token/not_averaged"], results[4]["ddp+ep2/token/own_average"]):
        assert max(abs(a - b) / b for a, b in zip(found["norms"], exact, strict=True)) > 0.01


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_number_changes_nothing_on_any_engine(results: Results, engine: str) -> None:
    found = results[2][f"{engine}+ep2/token/bad_expert"]
    assert "the gradient is not finite. task '" in found["message"]
    assert found["changed"] == []


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_idle_parameters_beside_experts_in_parts_stay_bit_equal(results: Results, engine: str) -> None:
    changed = results[2][f"{engine}+ep2/token/idle"]
    for group in ("weights", "exp_avg", "exp_avg_sq", "steps"):
        assert {"embeddings.image.projection.weight", "log_scales.retrieve"}.isdisjoint(changed[group]), group
        assert {"embeddings.text.word.weight", "encoder.blocks.0.mlp.up.weight"} <= set(changed[group]), group


@pytest.mark.slow
@pytest.mark.distributed
def test_runs_go_on_with_experts_split_otherwise(results: Results) -> None:
    sources = {(processes, source) for processes, _, source in resumed(results)}
    assert sources == {(2, "2zero2"), (4, "2zero2"), (4, "4zero1"), (1, "2zero2"), (1, "4zero1"), (1, "1none")}


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_that_cut_their_texts_otherwise_send_each_other_rows_all_the_same(results: Results) -> None:
    found = results[2]["ddp+ep2/token/uneven"]
    assert found["buckets"] == [1, 2]
    assert found["finite"]


def split(folder: Path, size: int, router: str = "token", **engine: Any) -> Recipe:
    recipe = with_experts(tiny_recipe(folder), router)
    return replace(recipe, engine=EngineSettings(expert_parallel=size, **engine))


@pytest.mark.parametrize(
    ("size", "router", "message"),
    [
        (3, "token", r"expert_parallel: 3 does not divide model\.experts\.count 4"),
        (2, "attribute", r"by the routers token and context; found the router 'attribute'.*engine\.zero 3"),
        (0, "token", r"expert_parallel: expected 1 to 65,536, got 0"),
    ],
)
def test_experts_that_cannot_be_split_are_refused(tmp_path: Path, size: int, router: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        split(tmp_path, size, router)


def test_a_dense_model_has_no_experts_to_split(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found a dense model"):
        replace(tiny_recipe(tmp_path), engine=EngineSettings(expert_parallel=2))


@pytest.mark.parametrize(
    ("processes", "engine", "message"),
    [
        (3, {}, r"expert_parallel: 2 does not divide the number of processes, 3.*torchrun"),
        (2, {"kind": "deepspeed", "zero": 3}, r"does not go with ZeRO stage 3, which splits all.*stage 1 or 2, or ddp"),
        (2, {"kind": "deepspeed", "zero": 0}, r"does not go with ZeRO stage 0"),
        (2, {"kind": "deepspeed", "offload": "optimizer"}, r"does not go with offload"),
    ],
)
def test_engines_that_cannot_hold_parts_of_experts_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, engine: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(RecipeError, match=message):
        check_expert_parallel(split(tmp_path, 2, **engine))
