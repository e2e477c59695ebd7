"""Products of a frozen weight against the plain ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon.weights import FrozenWeight

sizes = st.integers(1, 9)


@given(rows=st.integers(0, 5), out=sizes, width=sizes, seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_products_and_lookup_equal_the_plain_ones(rows, out, width, seed):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(out, width, generator=random, dtype=torch.float64)
    weight = FrozenWeight(w)
    x = torch.randn(rows, width, generator=random, dtype=torch.float64)
    dy = torch.randn(rows, out, generator=random, dtype=torch.float64)
    ids = torch.randint(out, (rows,), generator=random)
    assert weight.shape == (out, width)
    torch.testing.assert_close(weight.project(x), torch.einsum("ri,oi->ro", x, w))
    torch.testing.assert_close(weight.project_back(dy), torch.einsum("ro,oi->ri", dy, w))
    assert torch.equal(weight.rows(ids), w[ids])
    assert torch.equal(weight.dense(), w)


def test_project_back_is_the_gradient_of_project():
    weight = FrozenWeight(torch.randn(5, 3, dtype=torch.float64))
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(4, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(weight.project(x), x, dy)
    torch.testing.assert_close(weight.project_back(dy), expected)


@given(outs=st.lists(sizes, min_size=1, max_size=4), width=sizes)
@settings(max_examples=30, deadline=None)
def test_joined_matrices_are_multiplied_as_one(outs, width):
    matrices = [torch.randn(out, width, dtype=torch.float64) for out in outs]
    parts, joined = [FrozenWeight(matrix) for matrix in matrices], FrozenWeight(*matrices)
    x = torch.randn(3, width, dtype=torch.float64)
    assert joined.shape == (sum(outs), width)
    torch.testing.assert_close(joined.project(x), torch.cat([part.project(x) for part in parts], dim=1))
    pieces = torch.randn(3, sum(outs), dtype=torch.float64).split(outs, dim=1)
    back = sum(part.project_back(piece) for part, piece in zip(parts, pieces, strict=True))
    torch.testing.assert_close(joined.project_back(torch.cat(pieces, dim=1)), back)


def test_a_frozen_weight_never_holds_a_gradient():
    parameter = torch.nn.Parameter(torch.randn(3, 2))
    weight = FrozenWeight(parameter)
    weight.project(torch.randn(4, 2, requires_grad=True)).sum().backward()
    assert not weight.dense().requires_grad
    assert parameter.grad is None


def test_dense_shares_the_tensors_memory():
    tensor = torch.randn(3, 2)
    assert FrozenWeight(tensor).dense().data_ptr() == tensor.data_ptr()


def test_a_weight_has_two_axes():
    with pytest.raises(AssertionError, match="two axes"):
        FrozenWeight(torch.zeros(3))
