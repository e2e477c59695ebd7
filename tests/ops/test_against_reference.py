"""Every operator against its slow reference, forward and backward, over odd shapes and mixes of adapters."""

import pytest
import torch

from kameleon import ops
from kameleon.ops import NO_ADAPTER, Branch, Segments, SidePath, native, reference
from kameleon.weights import FrozenWeight


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


def leaf(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


# In bf16 both sides compute in fp32 and round once; sums taken in another order may round to the neighbouring value.
TYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@TYPES
@pytest.mark.parametrize("shape", [(1, 3), (7, 64), (33, 576), (5, 3, 16)])
def test_rms_norm(shape, dtype, tolerance):
    x, weight = leaf(*shape, dtype=dtype), torch.randn(shape[-1])
    assert_same(
        lambda: ops.rms_norm(x, weight, eps=1e-5), lambda: reference.rms_norm(x, weight, eps=1e-5), [x], tolerance
    )


def test_rms_norm_of_wide_numbers_in_a_narrow_type():
    x, weight = leaf(9, 64), torch.randn(64)
    fast, slow = (lambda f=f: f(x, weight, eps=1e-5, dtype=torch.bfloat16) for f in (ops.rms_norm, reference.rms_norm))
    assert fast().dtype == torch.bfloat16
    assert_same(fast, slow, [x], 2e-2)


def test_rope_of_wide_numbers_to_a_narrow_type():
    x, (cos, sin) = leaf(11, 40), ops.rotation(torch.arange(3, 14), torch.rand(4))
    fast, slow = (lambda f=f: f(x * 1, cos, sin, 3, torch.bfloat16) for f in (ops.rope, reference.rope))
    assert fast().dtype == torch.bfloat16
    assert_same(fast, slow, [x], 2e-2)


@TYPES
@pytest.mark.parametrize(("heads", "turned"), [(1, 1), (5, 3)])
def test_rope_turns_the_first_heads_and_leaves_the_rest(heads, turned, dtype, tolerance):
    x = leaf(11, heads * 8, dtype=dtype)
    cos, sin = ops.rotation(torch.arange(3, 14), torch.rand(4), factor=1.1)
    fast, slow = (lambda f=f: f(x * 1, cos, sin, turned) for f in (ops.rope, reference.rope))
    assert_same(fast, slow, [x], tolerance)
    assert torch.equal(fast()[:, turned * 8 :], x[:, turned * 8 :])


@TYPES
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gated(activation, dtype, tolerance):
    x = leaf(13, 70, dtype=dtype)
    assert_same(lambda: ops.gated(x, activation), lambda: reference.gated(x, activation), [x], tolerance)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gates_of_large_and_of_broken_numbers(activation):
    gate = torch.tensor([-1e4, -100.0, -88.5, 0.0, 88.5, 100.0, 1e4, torch.nan, torch.inf])
    pair = torch.cat([gate, torch.ones(9)])[None].requires_grad_()
    got = ops.gated(pair, activation)
    expected = reference.gated(pair.detach(), activation)
    torch.testing.assert_close(got.detach(), expected, atol=1e-30, rtol=1e-5, equal_nan=True)
    got[0, :7].sum().backward()
    torch.testing.assert_close(pair.grad[0, :7], torch.tensor([0.0, 0, 0, 0.5, 1, 1, 1]))


@pytest.mark.parametrize("lay", [lambda x: x.T.contiguous().T, lambda x: x.repeat(1, 2)[:, : x.shape[1]]])
def test_rows_may_lie_apart_or_as_columns_and_so_may_gradients(lay):
    segments, (cos, sin) = Segments((7, 15)), ops.rotation(torch.arange(22), torch.rand(4))
    weight, norm = torch.randn(10, 48), ops.RmsNorm(torch.rand(48), 1e-5)
    x = leaf(22, 48)
    for fast, slow in (
        (lambda: ops.rope(lay(x), cos, sin, 4), lambda: reference.rope(x, cos, sin, 4)),
        (
            lambda: ops.attention(lay(x), 2, 2, segments),
            lambda: reference.attention(*ops.split_heads(x, 2, 2), segments).flatten(1),
        ),
        (
            lambda: ops.lora_linear(lay(x), FrozenWeight(weight), [], segments, before=norm),
            lambda: reference.lora_linear(norm(x), weight, [], segments),
        ),
    ):
        assert_same(lambda f=fast: f().T, lambda f=slow: f().T, [x])


LAYOUTS = {
    "one segment": Segments((9,)),
    "one token": Segments((1,)),
    "many lengths": Segments((3, 1, 17, 2, 40, 16)),
    "an empty segment": Segments((4, 0, 5)),
    "a shared prefix": Segments((6, 4, 1, 30, 5), parents=(-1, 0, 0, 0, 0)),
    "blocks and a prefix": Segments((110, 150, 49), parents=(-1, 0, 0)),
    "two prefixes": Segments((6, 4, 2, 3, 5), (0, 0, 1, 1, 1), parents=(-1, 0, -1, 2, 2)),
}


@pytest.mark.parametrize("segments", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2), (3, 1)])
def test_attention(segments, heads, kv_heads):
    check_attention(segments, heads, kv_heads, 32, torch.float32, 1e-4)


@TYPES
@pytest.mark.parametrize("head_dim", [8, 32, 40, 80, 96, 128, 256])
def test_attention_at_every_head_size(head_dim, dtype, tolerance):
    check_attention(LAYOUTS["blocks and a prefix"], 2, 1, head_dim, dtype, tolerance)


@pytest.mark.parametrize("segments", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("window", [1, 2, 7, 48, 100, 1000])
def test_attention_in_a_window(segments, window):
    check_attention(segments, 4, 2, 32, torch.float32, 1e-4, window)


def test_attention_with_large_heads():
    check_attention(LAYOUTS["a shared prefix"], 2, 1, 800, torch.float32, 1e-4)


@TYPES
def test_attention_in_a_window_over_many_blocks(dtype, tolerance):
    check_attention(Segments((130, 400, 0, 90), parents=(-1, 0, 0, -1)), 2, 1, 64, dtype, tolerance, 120)


def test_a_window_is_a_mask_on_full_attention():
    """Written out here, since the reference and the kernel could be wrong alike."""
    segments, window = Segments((5, 4, 6), parents=(-1, 0, -1)), 3
    q, k, v = torch.randn(3, 15, 1, 8)
    got = reference.attention(q, k, v, segments, window)[:, 0]
    places = {7: (5, 6, 7), 5: (3, 4, 5), 6: (4, 5, 6), 9: (9,), 10: (9, 10), 14: (12, 13, 14), 1: (0, 1)}
    for token, seen in places.items():  # tokens 0–4 are the parent of 5–8
        seen = list(seen)
        weights = (k[seen, 0] @ q[token, 0] / 8**0.5).softmax(0)
        torch.testing.assert_close(got[token], weights @ v[seen, 0])


def check_attention(segments, heads, kv_heads, head_dim, dtype, tolerance, window=None):
    qkv = leaf(segments.tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    assert_same(
        lambda: ops.attention(qkv, heads, kv_heads, segments, window),
        lambda: reference.attention(*ops.split_heads(qkv, heads, kv_heads), segments, window).flatten(1),
        [qkv],
        tolerance,
    )


def test_attention_to_scores_of_every_size():
    """An online softmax must neither overflow nor forget its first blocks."""
    qkv = (torch.randn(300, 3 * 32) * torch.tensor([30.0, 30.0, 1.0]).repeat_interleave(32)).requires_grad_()
    segments = Segments((300,))
    slow = lambda: reference.attention(*ops.split_heads(qkv, 1, 1), segments).flatten(1)  # noqa: E731
    assert_same(lambda: ops.attention(qkv, 1, 1, segments), slow, [qkv], 1e-3)


def side_path(in_size, ranks_and_spans, *, dora=False, shifted=False):
    """Random factors, with gradients."""
    a = leaf(sum(rank for rank, _, _ in ranks_and_spans), in_size)
    branches = []
    for rank, start, stop in ranks_and_spans:
        size = stop - start
        more = {"magnitude": leaf(size), "norm": torch.rand(size) + 0.5} if dora else {}
        branches.append(
            Branch(leaf(size, rank), start, stop, 0.5, **more, shift=torch.randn(size) if shifted else None)
        )
    return SidePath(a, tuple(branches))


MIXES = {
    "all the same": (0, 0, 0, 0),
    "all different": (0, 1, 2, 3),
    "the base between": (1, NO_ADAPTER, 1, NO_ADAPTER),
    "only the base": (NO_ADAPTER,) * 4,
    "skewed": (2, 2, 2, 0),
    "an adapter that leaves this projection alone": (4, 0, 4, 1),
}


@TYPES
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_lora_linear(mix, dtype, tolerance):
    segments = Segments((5, 1, 0, 8), mix)
    weight = torch.randn(20, 12, dtype=dtype)
    sides = [side_path(12, [(r, 0, 8), (r + 1, 14, 20)]) for r in (1, 2, 4, 8)] + [None]
    used = [sides[slot] for slot in dict.fromkeys(run.adapter for run in segments.spans) if sides[slot]]
    x = leaf(segments.tokens, 12, dtype=dtype)
    factors = [t for side in used for t in side.trained]
    assert_same(
        lambda: ops.lora_linear(x, FrozenWeight(weight), sides, segments),
        lambda: reference.lora_linear(x.float(), weight.float(), sides, segments).to(dtype),
        [x, *factors],
        2 * tolerance,
    )


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES.keys())
def test_lora_linear_with_magnitudes_and_shifts(mix):
    """DoRA on some adapters of a batch; those without it must not notice."""
    segments = Segments((5, 1, 0, 8), mix)
    weight, norm = torch.randn(20, 12), ops.RmsNorm(torch.rand(12), 1e-5)
    spans = [(2, 0, 8), (3, 14, 20)]
    sides = [
        side_path(12, spans, dora=True),
        side_path(12, spans),
        side_path(12, spans, shifted=True),
        side_path(12, spans, dora=True, shifted=True),
        None,
    ]
    used = [sides[slot] for slot in dict.fromkeys(run.adapter for run in segments.spans) if sides[slot]]
    x, residual = leaf(segments.tokens, 12), leaf(segments.tokens, 20)
    assert_same(
        lambda: ops.lora_linear(x, FrozenWeight(weight), sides, segments, before=norm, residual=residual),
        lambda: reference.lora_linear(norm(x), weight, sides, segments) + residual,
        [x, residual, *(t for side in used for t in side.trained)],
    )
    alone = ops.lora_linear(x, FrozenWeight(weight), [None] * 5, segments, before=norm, residual=residual)
    mixed = ops.lora_linear(x, FrozenWeight(weight), sides, segments, before=norm, residual=residual)
    for start, length, slot in zip(segments.starts, segments.lengths, segments.adapters, strict=True):
        if slot in (NO_ADAPTER, 4) and length > 1:
            torch.testing.assert_close(mixed[start : start + length], alone[start : start + length])


def test_a_magnitude_that_equals_its_norm_changes_nothing_to_the_bit():
    segments, weight = Segments((9,), (0,)), FrozenWeight(torch.randn(20, 12))
    x, residual = torch.randn(9, 12), torch.randn(9, 20)
    norm = weight.row_squares.sqrt()
    fresh = SidePath(torch.randn(3, 12), (Branch(torch.zeros(20, 3), 0, 20, 0.5, norm.clone(), norm),))
    got = ops.lora_linear(x, weight, [fresh], segments, residual=residual)
    assert torch.equal(got, weight.project(x, residual=residual))


@pytest.mark.parametrize("mix", [(0, 0, 0), (0, NO_ADAPTER, 1)], ids=["one adapter", "mixed"])
def test_a_projection_behind_a_norm_and_before_a_residual(mix):
    segments = Segments((30, 9, 20), mix)
    weight, norm = torch.randn(40, 24), ops.RmsNorm(torch.rand(24), 1e-5)
    sides = [side_path(24, [(3, 0, 16), (2, 16, 40)]) for _ in range(2)]
    x, residual = leaf(59, 24), leaf(59, 40)
    used = [sides[slot] for slot in dict.fromkeys(mix) if slot != NO_ADAPTER]
    assert_same(
        lambda: ops.lora_linear(x, FrozenWeight(weight), sides, segments, before=norm, residual=residual),
        lambda: reference.lora_linear(norm(x), weight, sides, segments) + residual,
        [x, residual, *(t for side in used for t in side.trained)],
    )


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 5, 3), (8, 1, 17), (50, 700, 33), (97, 1300, 2100), (9, 5000, 700)]
)
@pytest.mark.parametrize("transposed", [False, True])
def test_multiply(rows, inner, columns, transposed):
    x = torch.randn(rows, inner)
    matrix = torch.randn(columns, inner).T if transposed else torch.randn(inner, columns)
    wanted, near = x.double() @ matrix.double(), {"rtol": 1e-4, "atol": 1e-5 * inner**0.5}
    torch.testing.assert_close(ops.multiply(x, matrix).double(), wanted, **near)
    torch.testing.assert_close(ops.multiply(x.T.clone().T, matrix).double(), wanted, **near)
    residual = torch.randn(rows, columns)
    torch.testing.assert_close(
        ops.sum_products([ops.Term(x, matrix)], residual=residual),
        (wanted + residual).float(),
        rtol=1e-4,
        atol=1e-5 * inner**0.5 + 1e-6,
    )
    half = ops.sum_products([ops.Term(x.bfloat16(), matrix.bfloat16())], residual=residual.bfloat16())
    torch.testing.assert_close(half.double(), wanted + residual, rtol=2e-2, atol=2e-2 * inner**0.5)
    if rows > 7 and native.can_multiply(x.dtype):  # torch promises nothing of the kind
        assert torch.equal(ops.multiply(x, matrix)[3:], ops.multiply(torch.cat([x[3:], x]), matrix)[: rows - 3])


@TYPES
@pytest.mark.parametrize("rows", [1, 20])
def test_terms_that_share_columns_are_summed_with_any_strides(rows, dtype, tolerance):
    pairs = [(torch.randn(rows, k).to(dtype), torch.randn(9, k).to(dtype).T) for k in (16, 5)]
    got = ops.sum_products([ops.Term(a, b) for a, b in pairs])
    torch.testing.assert_close(got, sum(a.float() @ b.float() for a, b in pairs).to(dtype), rtol=tolerance, atol=0.1)


def test_tokens_of_the_plain_base_get_the_frozen_product_to_the_bit():
    segments = Segments((5, 6), (NO_ADAPTER, 0))
    weight, x = FrozenWeight(torch.randn(20, 12)), torch.randn(11, 12)
    got = ops.lora_linear(x, weight, [side_path(12, [(3, 0, 20)])], segments)
    assert torch.equal(got[:5], weight.project(x)[:5])
    assert not torch.equal(got[5:], weight.project(x)[5:])


@TYPES
@pytest.mark.parametrize("rows", [1, 37])
def test_linear_cross_entropy(rows, dtype, tolerance, monkeypatch):
    monkeypatch.setattr("kameleon.ops.cross_entropy.LOGITS_BYTES", 4 * 50 * 8)  # 8 rows a chunk
    hidden, weight = leaf(rows, 16, dtype=dtype), torch.randn(50, 16, dtype=dtype)
    labels = torch.randint(0, 50, (rows,))
    labels[::3] = ops.IGNORE
    labels[-1] = 3
    if dtype == torch.bfloat16 and not native.can_multiply(dtype):
        tolerance *= 3  # torch rounds logits to bf16
    assert_same(
        lambda: ops.linear_cross_entropy(hidden, FrozenWeight(weight), labels, 50).float(),
        lambda: reference.linear_cross_entropy(hidden.float(), weight.float(), labels),
        [hidden],
        tolerance,
    )


@pytest.mark.skipif(not native.can_multiply(torch.bfloat16), reason="torch's products round logits to bf16")
def test_logits_are_not_rounded_on_their_way_to_the_loss(monkeypatch):
    monkeypatch.setattr("kameleon.ops.cross_entropy.LOGITS_BYTES", 4 * 3000 * 8)  # rows of several pieces
    hidden, weight = leaf(20, 64, dtype=torch.bfloat16), torch.randn(3000, 64).bfloat16()
    labels = torch.randint(0, 3000, (20,))
    labels[:3] = torch.tensor([0, 1024, 2999])
    assert (hidden @ weight.T).abs().max() > 16  # where neighbours in bf16 are 1/8 apart
    with_gradient = ops.linear_cross_entropy(hidden, FrozenWeight(weight), labels, 3000).sum()
    wide = hidden.detach().float().requires_grad_()
    wanted = reference.linear_cross_entropy(wide, weight.float(), labels).sum()
    assert with_gradient.item() == pytest.approx(wanted.item(), rel=1e-6)
    (with_gradient / 20).backward()
    (wanted / 20).backward()
    assert torch.cosine_similarity(hidden.grad.float().flatten(), wide.grad.flatten(), dim=0) > 0.99999


def test_loss_without_a_trained_token_is_zero_with_zero_gradient():
    hidden = leaf(4, 16)
    loss = ops.linear_cross_entropy(hidden, FrozenWeight(torch.randn(50, 16)), torch.full((4,), ops.IGNORE), 50)
    loss.sum().backward()
    assert not loss.any()
    assert not hidden.grad.any()


@pytest.mark.parametrize("label", [50, -1, 10**9])
def test_a_label_that_is_no_token_is_refused(label):
    with pytest.raises(IndexError, match=f"{label}.* of a vocabulary of 50"):
        ops.linear_cross_entropy(leaf(2, 16), FrozenWeight(torch.randn(50, 16)), torch.tensor([7, label]), 50)


def test_token_scores_are_log_softmax_and_argmax():
    hidden, weight, labels = torch.randn(9, 16), torch.randn(50, 16), torch.randint(0, 50, (9,))
    scores = ops.token_scores(hidden, FrozenWeight(weight).project, labels, 50)
    logits = hidden @ weight.T
    torch.testing.assert_close(scores.logprob, logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1))
    assert torch.equal(scores.argmax, logits.argmax(-1))
