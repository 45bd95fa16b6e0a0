"""What engines hold and send, computed; tests/train/engines/test_engines.py counts what they really do."""

import pytest

from unified.model.config import UnifiedConfig
from unified.train.dry_run.communication import of_candidates, of_experts, of_states, seconds
from unified.train.dry_run.model_states import Sizes, states

SIZES = Sizes(total=1000, largest=100, group=400, experts=800)
BUCKET = 50


def zero(stage: int, **more: object) -> dict[str, object]:
    return {"stage": stage, "reduce_bucket_size": BUCKET, **more}


def test_one_process_and_ddp_hold_all() -> None:
    for processes in (1, 8):
        need = states(SIZES, None, processes, average=True)
        assert (need.weights, need.gradients, need.moments, need.average) == (4000, 4000, 8000, 4000)
        assert (need.total, need.host) == (20000, 0)
    assert states(SIZES, None, 1, average=False).total == 16000


def test_each_stage_splits_more() -> None:
    first, second, third = (states(SIZES, zero(stage), 10, average=True) for stage in (1, 2, 3))
    assert (first.weights, first.copy, first.moments, first.average) == (4000, 400, 800, 4000)
    assert (first.gradients, second.gradients, third.gradients) == (4400, 560, 560)
    assert (third.weights, third.copy, third.fetched, third.average) == (400, 400, 4000, 400)
    assert first.buckets == second.buckets == third.buckets == 4 * BUCKET
    assert states(SIZES, zero(2, overlap_comm=True), 10, average=False).buckets == 8 * BUCKET
    assert states(SIZES, zero(3, stage3_max_live_parameters=200), 10, average=False).fetched == 800
    assert states(SIZES, zero(3, stage3_max_live_parameters=2), 10, average=False).fetched == 400, "the largest"


def test_offload_moves_to_the_host() -> None:
    cpu = {"device": "cpu"}
    second = states(SIZES, zero(2, offload_optimizer=cpu), 10, average=False)
    assert (second.weights, second.copy, second.moments, second.host) == (4000, 0, 0, 2400)
    third = states(SIZES, zero(3, offload_optimizer=cpu), 10, average=False)
    everything = states(SIZES, zero(3, offload_optimizer=cpu, offload_param=cpu), 10, average=False)
    assert third.weights - everything.weights == everything.host - third.host == 400


def test_experts_that_processes_share_are_whole_where_they_are() -> None:
    need = states(SIZES, zero(2), 10, average=True, expert_parallel=5)
    assert need.weights == 4 * 200 + 4 * 800 / 5
    assert need.moments == 8 * 200 / 10 + 8 * 800 / 5
    found = {one.what: one for one in of_states(SIZES, zero(2), 10, passes=2, expert_parallel=5)}
    assert found["gradients"].size == found["changed weights"].size == 800
    assert found["gradients of experts"].size == 640
    assert found["gradients of experts"].sent == 2 * 640 * 1 / 2, "two processes have the same ones"


def test_what_is_sent_follows_the_stage() -> None:
    def sent(stage: int | None, **more: object) -> float:
        settings = None if stage is None else zero(stage, **more)
        return sum(one.sent for one in of_states(SIZES, settings, 4, passes=3))

    assert sent(None) == 2 * 3000
    assert sent(1) == sent(2) == 3 * 3000
    assert sent(3) == 2 * 3000
    assert sent(3, stage3_max_live_parameters=10) == 7 * 3000, "three passes, forward and backward, and gradients"
    assert of_states(SIZES, None, 1, passes=3) == []
    features = of_candidates(16.0, 16, 4)
    assert [one.size for one in features] == [16 * 16 * 4] * 2
    assert seconds(features, 1024) == pytest.approx(3 * 0.75)
    assert of_candidates(0, 16, 4) == []


def test_tokens_travel_to_their_experts_and_back() -> None:
    experts = {"router": "token", "top": 2, "layers": [0, 1], "linears": ["up", "down"], "hidden": None, "count": 4}
    config = UnifiedConfig(width=8, depth=2, heads=2, hidden=32, experts={**experts, "shared_decisions": True})
    (found,) = of_experts(config, 100, 2, 4)
    assert found.size == 2 * 100 * 2 * 2 * (8 + 8) * 4, "back and forth, tokens, choices, layers, numbers, bytes"
    config.experts = {**experts, "shared_decisions": False}
    assert of_experts(config, 100, 2, 4)[0].size == 2 * 100 * 2 * 2 * (40 + 40) * 4
    assert of_experts(config, 100, 1, 4) == []
    assert of_experts(UnifiedConfig(width=8, depth=2, heads=2, hidden=32), 100, 2, 4) == []
