"""Every operator against its slow reference, forward and backward, over odd shapes and mixes of adapters."""

import pytest
import torch

from kameleon import ops
from kameleon.ops import NO_ADAPTER, Branch, Segments, SidePath, reference
from kameleon.weights import DenseWeight


def assert_same(fast, slow, inputs, tolerance=1e-4):
    """Equal outputs, and equal gradients for a random upstream gradient."""
    for tensor in inputs:
        tensor.grad = None
    expected = slow()
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    wanted = [t.grad.clone() for t in inputs]
    for tensor in inputs:
        tensor.grad = None
    got = fast()
    got.backward(upstream)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    for tensor, grad in zip(inputs, wanted, strict=True):
        torch.testing.assert_close(tensor.grad, grad, rtol=tolerance, atol=tolerance)


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(1, 3), (7, 64), (33, 576)])
def test_rms_norm(shape):
    x, weight = leaf(*shape), torch.randn(shape[-1])
    assert_same(lambda: ops.rms_norm(x, weight, 1e-5), lambda: reference.rms_norm(x, weight, 1e-5), [x])


def test_rms_norm_in_bf16_stays_close_to_fp32():
    x, weight = torch.randn(9, 64), torch.randn(64)
    got = ops.rms_norm(x.bfloat16(), weight.bfloat16(), 1e-5)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), reference.rms_norm(x, weight, 1e-5), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("heads", [1, 5])
def test_rope(heads):
    x = leaf(11, heads, 8)
    cos, sin = ops.rotation(torch.arange(3, 14), torch.rand(4), factor=1.1)
    assert_same(lambda: ops.rope(x, cos, sin), lambda: reference.rope(x, cos, sin), [x])


def test_swiglu():
    x = leaf(13, 10)
    assert_same(lambda: ops.swiglu(x), lambda: reference.swiglu(x), [x])


LAYOUTS = {
    "one segment": Segments((9,)),
    "one token": Segments((1,)),
    "many lengths": Segments((3, 1, 17, 2, 40, 16)),
    "an empty segment": Segments((4, 0, 5)),
    "a shared prefix": Segments((6, 4, 1, 30, 5), parents=(-1, 0, 0, 0, 0)),
    "two prefixes": Segments((6, 4, 2, 3, 5), (0, 0, 1, 1, 1), parents=(-1, 0, -1, 2, 2)),
}


@pytest.mark.parametrize("segments", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (3, 1)])
def test_attention(segments, heads, kv_heads):
    q, k, v = leaf(segments.tokens, heads, 32), leaf(segments.tokens, kv_heads, 32), leaf(segments.tokens, kv_heads, 32)
    assert_same(lambda: ops.attention(q, k, v, segments), lambda: reference.attention(q, k, v, segments), [q, k, v])


def side_path(in_size, ranks_and_spans):
    """Random factors, with gradients."""
    a = leaf(sum(rank for rank, _, _ in ranks_and_spans), in_size)
    branches = tuple(Branch(leaf(stop - start, rank), start, stop, 0.5) for rank, start, stop in ranks_and_spans)
    return SidePath(a, branches)


MIXES = {
    "all the same": (0, 0, 0, 0),
    "all different": (0, 1, 2, 3),
    "the base between": (1, NO_ADAPTER, 1, NO_ADAPTER),
    "only the base": (NO_ADAPTER,) * 4,
    "skewed": (2, 2, 2, 0),
    "an adapter that leaves this projection alone": (4, 0, 4, 1),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_lora_linear(mix):
    segments = Segments((5, 1, 0, 8), mix)
    weight = torch.randn(20, 12)
    sides = [side_path(12, [(r, 0, 8), (r + 1, 14, 20)]) for r in (1, 2, 4, 8)] + [None]
    used = [sides[slot] for slot in dict.fromkeys(run.adapter for run in segments.runs) if sides[slot]]
    x = leaf(segments.tokens, 12)
    factors = [t for side in used for t in (side.a, *(b.b for b in side.branches))]
    assert_same(
        lambda: ops.lora_linear(x, DenseWeight(weight), sides, segments),
        lambda: reference.lora_linear(x, weight, sides, segments),
        [x, *factors],
    )


def test_tokens_of_the_plain_base_get_the_frozen_product_to_the_bit():
    segments = Segments((5, 6), (NO_ADAPTER, 0))
    weight, x = DenseWeight(torch.randn(20, 12)), torch.randn(11, 12)
    got = ops.lora_linear(x, weight, [side_path(12, [(3, 0, 20)])], segments)
    assert torch.equal(got[:5], weight.project(x)[:5])
    assert not torch.equal(got[5:], weight.project(x)[5:])


@pytest.mark.parametrize("rows", [1, 37])
def test_linear_cross_entropy(rows, monkeypatch):
    monkeypatch.setattr("kameleon.ops.cross_entropy._CHUNK_BYTES", 4 * 50 * 8)  # 8 rows a chunk
    hidden, weight = leaf(rows, 16), torch.randn(50, 16)
    labels = torch.randint(0, 50, (rows,))
    labels[::3] = ops.IGNORE
    labels[-1] = 3
    assert_same(
        lambda: ops.linear_cross_entropy(hidden, DenseWeight(weight), labels, 50),
        lambda: reference.linear_cross_entropy(hidden, weight, labels),
        [hidden],
    )


def test_loss_without_a_trained_token_is_zero_with_zero_gradient():
    hidden = leaf(4, 16)
    loss = ops.linear_cross_entropy(hidden, DenseWeight(torch.randn(50, 16)), torch.full((4,), ops.IGNORE), 50)
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()


def test_token_scores_are_log_softmax_and_argmax():
    hidden, weight, labels = torch.randn(9, 16), torch.randn(50, 16), torch.randint(0, 50, (9,))
    scores = ops.token_scores(hidden, DenseWeight(weight), labels, 50)
    logits = hidden @ weight.T
    torch.testing.assert_close(scores.logprob, logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1))
    assert torch.equal(scores.argmax, logits.argmax(-1))


def test_the_compute_type_names_both_measured_speeds():
    chosen = ops.measure_compute_type()
    assert chosen.dtype in (torch.float32, torch.bfloat16)
    assert "bf16" in chosen.reason
    assert "fp32" in chosen.reason
