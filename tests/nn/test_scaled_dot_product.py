"""Both ways of attention compute the same, with masks and gradients, and keep a bounded number of numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unified.modalities.sequence import Attributes, attention_mask, layout
from unified.nn import scaled_dot_product
from unified.nn.kernels import ATTENTION, choose
from unified.nn.scaled_dot_product import _Products, attend, attend_fused

LONGEST = choose(ATTENTION, "cpu", torch.float32).keys or 0


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def masks(samples: int, tokens: int) -> dict[str, Tensor | None]:
    """None, padding at the end, and the two blocks of a caption beside an image, with and without padding."""
    real = torch.arange(tokens)[None] < torch.tensor([tokens, *[tokens - 2] * (samples - 1)])[:, None]
    words = (tokens - 3) // 2
    parts = [
        (Attributes("image"), tokens - 2 * words),
        (Attributes("text", causal=True), words),
        (Attributes("text", "query", causal=True), words),
    ]
    caption = layout(parts)
    whole, padded = (attention_mask(caption, real, None, padded=padded) for padded in (False, True))
    assert whole is not None
    assert padded is not None
    return {"none": None, "padding": real[:, None, None], "caption": whole[:, None], "padded": padded[:, None]}


@pytest.mark.parametrize("kind", ["none", "padding", "caption", "padded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_products_equal_the_fused_kernel_with_gradients(
    monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype, tolerance: float
) -> None:
    projected, mask = drawn(3, 11, 3, 2, 8, dtype=dtype), masks(3, 11)[kind]
    gradient = drawn(3, 11, 16, dtype=dtype)
    found = {}
    for way in (True, False):
        monkeypatch.setattr(scaled_dot_product, "by_products", lambda *_, way=way: way)
        for name in ("fused", "split"):
            leaf = projected.clone().requires_grad_()
            if name == "fused":
                out = attend_fused(leaf, mask)
            else:
                out = attend(*leaf.permute(2, 0, 3, 1, 4).unbind(), mask).transpose(1, 2).flatten(2)
            out.backward(gradient)
            assert leaf.grad is not None
            found[way, name] = (out.detach(), leaf.grad)
    query, key, value = (x.double() for x in projected.permute(2, 0, 3, 1, 4).unbind())
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    for out, gradients in found.values():
        torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(gradients, found[False, "split"][1], atol=tolerance, rtol=tolerance)


def test_the_gradient_of_products_is_that_of_finite_differences() -> None:
    projected = drawn(2, 5, 3, 2, 4, dtype=torch.float64).requires_grad_()
    for mask in (None, torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], dtype=torch.bool)[:, None, None]):
        assert torch.autograd.gradcheck(lambda x, mask=mask: _Products.apply(x, mask), (projected,))


def test_values_may_be_wider_than_keys_and_queries_fewer() -> None:
    query, key, value = drawn(2, 2, 3, 8), drawn(2, 2, 7, 8), drawn(2, 2, 7, 24)
    torch.testing.assert_close(attend(query, key, value), F.scaled_dot_product_attention(query, key, value))


def test_autocast_changes_no_dtype_inside() -> None:
    projected = drawn(2, 5, 3, 2, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = attend_fused(projected)
    out.sum().backward()
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, attend_fused(projected))


@pytest.mark.parametrize("tokens", [16, LONGEST, LONGEST + 1])
def test_what_is_kept_for_the_backward_pass_is_bounded(tokens: int) -> None:
    kept: list[int] = []
    projected = drawn(1, tokens, 3, 2, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        attend_fused(projected)
    assert sum(kept) <= 2 * projected.numel() + 2 * tokens * LONGEST
