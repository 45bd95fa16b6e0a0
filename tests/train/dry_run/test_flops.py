"""Counted operations against the closed form, and that against whole passes."""

import time

import pytest
import torch
import torch.nn.functional as F
from dense_models import dense_model
from flop_formulas import Formula, forward_flops, matrix_parameters, training_flops
from small_models import small_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unified.model.config import UnifiedConfig
from unified.model.parameter_count import skeleton
from unified.nn import scaled_dot_product
from unified.nn.encoder import Encoder
from unified.nn.moe.experts import Experts
from unified.nn.moe.settings import ExpertSettings
from unified.train.dry_run.flops import Cost, gemm_peak
from unified.train.dry_run.workload import Work


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        weights = torch.softmax(torch.einsum("bnw,bmw->bnm", q, k), dim=-1)
        return x + self.mlp(x + self.out(torch.einsum("bnm,bmw->bnw", weights, v)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(100, 16)
        self.blocks = nn.Sequential(Layer(), Layer())

    def forward(self, ids: Tensor) -> Tensor:
        return self.blocks(F.layer_norm(self.word(ids), (16,)))


def test_closed_form_is_what_torch_counts() -> None:
    net = Net()
    matrices = matrix_parameters(net)
    assert matrices == 2 * 12 * 16 * 16
    sequences = [(3, 7), (2, 11)]
    batches = [torch.zeros(count, length, dtype=torch.long) for count, length in sequences]
    with FlopCounterMode(display=False) as counter:
        output = [net(ids) for ids in batches]
    assert forward_flops(sequences, matrices=matrices, depth=2, width=16) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        torch.cat([o.flatten() for o in output]).sum().backward()
    both = training_flops(sequences, matrices=matrices, depth=2, width=16)
    assert both - forward_flops(sequences, matrices=matrices, depth=2, width=16) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("router", "copies"), [("attribute", 1), ("task", 1), ("hash", 1), ("token", 2), ("context", 2)]
)
def test_of_experts_those_are_counted_that_a_token_is_multiplied_with(router: str, copies: int) -> None:
    experts = Experts(5, 2, router, linears=("qkv", "up", "down"))
    encoder = Encoder(16, 2, 2, 24, None, experts, layers=(1,))
    dense = 2 * (4 * 16 * 16 + 2 * 16 * 24)
    more = (copies - 1) * (3 * 16 * 16 + 2 * 16 * 24)
    gates = {"token": 2 * 5 * 16, "context": 2 * 5 * 32}.get(router, 0)
    assert matrix_parameters(encoder, copies) == dense + more + gates


@pytest.mark.parametrize("router", [None, "attribute", "token"])
def test_the_cost_of_a_model_with_experts_is_what_torch_counts(
    router: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExpertSettings(count=4, top=2, router=router, layers="all", linears=("up", "down")) if router else None
    model = small_model(settings)
    width, hidden, depth = model.config.width, model.config.hidden, model.config.depth
    # Sums for the load of experts, which tokens have, are not counted.
    counted = Cost(model).forward(Work(sequences=((3, 7, 1),), inputs={}, read=3, pairs=0))
    monkeypatch.setattr(scaled_dot_product, "by_products", lambda *_: True)  # torch does not count its fused kernel
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.embed(input_ids=torch.zeros(3, 6, dtype=torch.long))
    merging = 4 * (2 * width * hidden + width + hidden) + (8 + 4) * width if router == "attribute" else 0
    found = counter.get_total_flops() - 2 * depth * merging
    assert found == pytest.approx(counted, rel=0.001 if router == "token" else 0)


def test_states_that_nobody_reads_cost_what_the_formula_says() -> None:
    for router in (None, "attribute", "context"):
        model = small_model(ExpertSettings(count=4, top=2, router=router, layers="all") if router else None)
        done = Work(((3, 7, 1), (2, 5, 2), (1, 4, 4)), inputs={"image": 12}, read=9, pairs=8)
        assert Cost(model).forward(done) == Formula(model).forward(done)


@pytest.mark.parametrize("changed", [{}, {"place": "encoder"}, {"sharing": "attention"}, {"object_content": "memory"}])
def test_queries_cost_what_the_formula_says_and_the_places_of_patches(changed: dict[str, str]) -> None:
    config = dense_model().config
    model = skeleton(UnifiedConfig.from_dict({**config.to_dict(), "queries": {**config.queries, **changed}}))
    for task in ("classes", "pixels", "boxes"):
        done = Work(((2, 17, 17),), {"image": 32}, 0, 0, (task, 2, 16))
        counted, said = Cost(model).forward(done), Formula(model).forward(done)
        assert said <= counted < 1.05 * said
        assert counted == said or "place" not in changed


def test_peak_is_measured_once() -> None:
    threads = torch.get_num_threads()
    peak = gemm_peak(torch.float32, torch.device("cpu"), 1, seconds=0.05)
    assert torch.get_num_threads() == threads
    a = torch.ones(256, 256)
    begin = time.perf_counter()
    a @ a
    assert peak > 1e9
    assert peak > 0.1 * 2 * 256**3 / (time.perf_counter() - begin)
    begin = time.perf_counter()
    assert gemm_peak(torch.float32, torch.device("cpu"), 1, seconds=0.05) == peak
    assert time.perf_counter() - begin < 0.05
