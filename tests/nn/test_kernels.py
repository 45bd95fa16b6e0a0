"""The table of kernels: what it says for devices that are not here, and that what it says is what runs."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from unified.nn import kernels
from unified.nn.kernels import (
    ATTENTION,
    CAPTION,
    CROSS,
    EXPERTS,
    HALF,
    LAYER_NORM,
    MASKED,
    MASKED_CROSS,
    OPERATIONS,
    OPTIMIZER,
    TABLE,
    Capability,
    Machine,
    choose,
    describe,
    has_whole_rows,
    machine,
)
from unified.nn.scaled_dot_product import by_products
from unified.train.optim import GroupSkipAdamW

CPU = torch.device("cpu")
V100, T4, A100, H100, B200, RTX50 = (7, 0), (7, 5), (8, 0), (9, 0), (10, 0), (12, 0)


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        (H100, torch.bfloat16, "grouped_mm"),
        (B200, torch.bfloat16, "grouped_mm"),
        (A100, torch.bfloat16, "blocks"),  # it would wait for the device
        (RTX50, torch.bfloat16, "blocks"),
        (T4, torch.float16, "blocks"),
        (H100, torch.float16, "blocks"),
        (H100, torch.float32, "blocks"),
        (None, torch.bfloat16, "blocks"),
    ],
)
def test_experts_take_a_grouped_product_where_it_waits_for_nothing(
    capability: Capability | None, dtype: torch.dtype, expected: str
) -> None:
    assert choose(EXPERTS, "cuda", dtype, capability=capability).name == expected
    assert choose(EXPERTS, "cuda", dtype, capability=capability, whole_rows=False).name == "blocks"


def test_experts_elsewhere() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        assert choose(EXPERTS, "cpu", dtype).name == "loop"
        assert choose(EXPERTS, "mps", dtype).name == "blocks"
        assert choose(EXPERTS, "hip", dtype).name == "blocks"
    assert choose(EXPERTS, "meta", torch.bfloat16).name == "grouped_mm"
    assert choose(EXPERTS, "meta", torch.float32).name == "blocks"


@pytest.mark.parametrize(
    ("capability", "dtype", "plain", "masked"),
    [
        (H100, torch.bfloat16, "cudnn", "cudnn"),
        (A100, torch.bfloat16, "flash", "efficient"),
        (RTX50, torch.float16, "flash", "efficient"),
        (A100, torch.float32, "efficient", "efficient"),
        (T4, torch.float16, "efficient", "efficient"),
        (T4, torch.bfloat16, "math", "math"),
        (V100, torch.float32, "efficient", "efficient"),
        (H100, torch.float64, "math", "math"),
    ],
)
def test_attention_on_gpus_is_as_torch_chooses(
    capability: Capability, dtype: torch.dtype, plain: str, masked: str
) -> None:
    for operations, expected in (((ATTENTION, CROSS), plain), ((MASKED, CAPTION, MASKED_CROSS), masked)):
        assert {choose(name, "cuda", dtype, capability=capability).name for name in operations} == {expected}


def test_attention_on_cpus_is_by_products_up_to_a_length() -> None:
    for operation in (ATTENTION, MASKED, CAPTION, CROSS):
        assert choose(operation, "cpu", torch.float32, keys=128).name == "products"
        assert choose(operation, "cpu", torch.float32, keys=129).name == "fused"
        assert choose(operation, "cpu", torch.float16, keys=8).name == "fused"
        for amx in (True, False):
            assert (choose(operation, "cpu", torch.bfloat16, amx=amx, keys=256).name == "products") == amx
            assert choose(operation, "cpu", torch.bfloat16, amx=amx, keys=257).name == "fused"
        assert not by_products(operation, torch.device("meta"), torch.float32, 8)
        assert by_products(operation, CPU, torch.float32, 128)
        assert not by_products(operation, CPU, torch.float32, 129)
    assert choose(MASKED_CROSS, "cpu", torch.float32, keys=8).name == "fused", "products know no mask there"


def test_every_operation_has_a_way_on_every_device_in_every_dtype() -> None:
    capabilities = [None, (3, 5), V100, T4, A100, H100, B200, RTX50]
    for operation, device, dtype, capability in itertools.product(
        OPERATIONS, ("cpu", "cuda", "hip", "meta", "mps", "xpu"), kernels.FLOATS, capabilities
    ):
        found = choose(operation, device, dtype, capability=capability)
        assert found.reference
        assert operation in found.operations
    with pytest.raises(ValueError, match=r"kernels: expected an operation .*got 'convolution'"):
        choose("convolution", "cpu", torch.float32)
    with pytest.raises(ValueError, match="int64"):
        choose(OPTIMIZER, "cpu", torch.int64)


def test_every_row_is_taken_somewhere() -> None:
    capabilities = [None, V100, T4, A100, H100, RTX50]
    reached = {
        choose(operation, device, dtype, capability=capability, amx=True, keys=keys)
        for operation, device, dtype, capability, keys in itertools.product(
            OPERATIONS, ("cpu", "cuda", "meta", "vulkan"), kernels.FLOATS, capabilities, (8, 1000)
        )
    }
    assert set(TABLE) - reached == set()


def test_rows_are_whole_by_their_bytes() -> None:
    assert has_whole_rows(torch.bfloat16, 8, 16)
    assert not has_whole_rows(torch.bfloat16, 8, 12)
    assert has_whole_rows(torch.float32, 12)


def test_this_machine_is_known() -> None:
    assert machine(CPU).device == "cpu"
    assert machine(torch.device("meta")) == Machine("meta")


def test_a_line_says_what_is_taken_and_what_a_device_is_too_old_for() -> None:
    old = describe(Machine("cuda", A100), torch.bfloat16, experts=True)
    assert old.startswith("kernels on cuda 8.0 in bfloat16: attention, cross-attention: flash; ")
    assert "masked attention, caption attention, masked cross-attention: efficient" in old
    assert "experts: blocks" in old
    assert "optimizer: fused AdamW" in old
    assert "not grouped_mm, which needs compute capability 9.0 to below 11.0" in old
    new = describe(Machine("cuda", H100), torch.bfloat16, experts=True)
    assert "experts: grouped_mm" in new
    assert "not " not in new
    dense = describe(Machine("cuda", T4), torch.float16, experts=False)
    assert "experts" not in dense
    assert "not flash, which needs compute capability 8.0 or newer" in dense
    assert "not efficient" not in dense
    assert "products up to 128 keys, then fused" in describe(Machine("cpu"), torch.float32, experts=False)
    assert "not " not in describe(Machine("cpu"), torch.bfloat16, experts=True)
    assert "experts: blocks" in describe(Machine("meta"), torch.bfloat16, experts=True, whole_rows=False)


def test_the_optimizer_takes_the_way_of_the_table() -> None:
    for device in ("cpu", "cuda", "mps", "xpu", "meta"):
        assert choose(OPTIMIZER, device, torch.float32, capability=T4).name == "fused AdamW"
    assert choose(OPTIMIZER, "vulkan", torch.float32).name == "foreach AdamW"
    parameter = nn.Parameter(torch.ones(3))
    optimizer = GroupSkipAdamW([{"params": [parameter], "active": True}], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    assert optimizer.defaults["fused"]
    assert not optimizer.defaults["foreach"]


def test_fused_and_foreach_steps_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Tensor] = {}
    for way in ("fused AdamW", "foreach AdamW"):
        row = next(row for row in TABLE if row.name == way)
        monkeypatch.setattr("unified.train.optim.chosen", lambda *_, row=row: row)
        parameter = nn.Parameter(torch.linspace(-1, 1, 7))
        group = {"params": [parameter], "active": True, "weight_decay": 0.1}
        optimizer = GroupSkipAdamW([group], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
        assert optimizer.defaults["fused"] == (way == "fused AdamW")
        for _ in range(3):
            parameter.grad = parameter.detach().sin()
            optimizer.step()
        found[way] = parameter.detach()
    torch.testing.assert_close(found["foreach AdamW"], found["fused AdamW"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_layer_norm_is_the_same_in_every_dtype(dtype: torch.dtype) -> None:
    assert choose(LAYER_NORM, "cuda", dtype, capability=H100).name == "native"
    x = torch.linspace(-3, 5, 48).view(2, 24)
    exact = (x.double() - x.double().mean(-1, keepdim=True)) / (
        x.double().var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    found = nn.functional.layer_norm(x.to(dtype), (24,))
    torch.testing.assert_close(found.double(), exact, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)
