"""A tensor that is not on the CPU never reaches a kernel: it goes the reference path, or is refused."""

import pytest
import torch

from kameleon import ops
from kameleon.errors import KernelError
from kameleon.ops import Addition, Branch, Segments, SidePath, StoredMatrix, Term, native
from kameleon.ops.products import gemm
from kameleon.weights import FrozenWeight

SEGMENTS = Segments((6, 4), (0, -1))


def meta(*shape, dtype=torch.float32, requires_grad=False):
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=requires_grad)


@pytest.mark.parametrize("rows", [1, 7, 8, 40])
def test_products_of_meta_tensors_are_meta_tensors(rows):
    assert ops.multiply(meta(rows, 64), meta(64, 32)).is_meta
    assert ops.multiply(meta(rows, 64, dtype=torch.bfloat16), meta(64, 32)).shape == (rows, 32)
    added = Addition(0, rows, 0, 32, meta(rows, 4), meta(4, 32), 1.0)
    residual = meta(rows, 32)
    assert ops.sum_products([Term(meta(rows, 64), meta(64, 32))], [added], residual).is_meta
    assert FrozenWeight(meta(32, 64)).project(meta(rows, 64)).is_meta


def test_other_operators_take_the_reference_path():
    assert ops.rms_norm(meta(10, 64), meta(64), eps=1e-5).is_meta
    assert ops.gated(meta(10, 64), "silu").shape == (10, 32)
    assert ops.rope(meta(10, 64), meta(10, 8), meta(10, 8), 2).is_meta
    side = SidePath(meta(4, 64, requires_grad=True), (Branch(meta(32, 4, requires_grad=True), 0, 32, 2.0),))
    y = ops.lora_linear(meta(10, 64, requires_grad=True), FrozenWeight(meta(32, 64)), [side], SEGMENTS)
    y.sum().backward()
    assert y.is_meta and side.a.grad.shape == (4, 64)


@pytest.mark.skipif(not native.available(), reason="kernels are called")
@pytest.mark.parametrize(
    "calls",
    [
        lambda: native.call("rms_norm", 0, meta(10, 64), torch.ones(64), 1e-5, 10, 64, 0, torch.empty(10, 64)),
        lambda: native.call("clear", meta(10), 40),
        lambda: gemm(torch.empty(10, 32), [Term(meta(10, 64), torch.empty(64, 32))]),
        lambda: gemm(torch.empty(10, 32), [Term(torch.empty(10, 64), meta(64, 32))]),
        lambda: gemm(torch.empty(10, 32), [Term(torch.empty(10, 64), torch.empty(64, 32))], meta(10, 32)),
        lambda: StoredMatrix.view(meta(32, 64)).dense(),
        lambda: ops.Stacked([meta(32, 64)]),
        lambda: ops.attention_paged(
            torch.empty(10, 64), 2, 1, SEGMENTS, ops.LayerPages(*(p[0] for p in pages()), meta(2, 1, dtype=torch.int64))
        ),
    ],
)
def test_a_call_with_a_meta_tensor_is_refused_before_the_kernel(calls):
    with pytest.raises(KernelError):
        calls()


def pages():
    return ops.new_pages(2, 1, 1, 16, torch.float32)


@pytest.mark.skipif(not native.available(), reason="kernels are called")
def test_the_refusal_says_where_the_tensor_is():
    with pytest.raises(KernelError, match=r"on the CPU, not one of shape \(3, 5\) on meta"):
        native.address(meta(3, 5))
