"""The closed form of operations against torch's own count."""

import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unified.train.flops import forward_flops, gemm_peak, matrix_parameters, training_flops


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
