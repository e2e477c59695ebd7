"""Generation's kernels beside their slow twins, and the promise that a row's bits do not depend on the other rows."""

import pytest
import torch
from fakes import random_adapter
from tiny import FAMILIES, save_base

import kameleon
from kameleon.generation import PagePool
from kameleon.ops import (
    PAGE_TOKENS,
    LayerPages,
    Segments,
    Stacked,
    attention_paged,
    can_multiply,
    kernels,
    new_pages,
    paged_attention,
    reference,
)
from kameleon.ops.side_table import place_b

pytestmark = pytest.mark.skipif(kernels().level is None, reason="the reference path has no kernels to test")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (40, 33), (576, 5), (8, 1), (260, 70)])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 61])
def test_products_equal_torchs(dtype, inputs, outputs, rows):
    torch.manual_seed(0)
    parts = [torch.randn(n, inputs).to(dtype) for n in (outputs, 3)]
    x = torch.randn(rows, inputs).to(dtype)
    expected = x.double() @ torch.cat(parts).double().T
    torch.testing.assert_close(Stacked(parts).project(x).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (9, 3, 64), (3, 1, 24), (2, 2, 80)])
@pytest.mark.parametrize("window", [None, 5, 70])
def test_attention_over_pages_equals_the_reference(dtype, heads, kv_heads, head_dim, window):
    torch.manual_seed(0)
    width = (heads + 2 * kv_heads) * head_dim
    ours = new_pages(40, 1, kv_heads, head_dim, dtype)
    theirs = tuple(x.clone() for x in ours)
    order = torch.randperm(40).view(4, 10)
    done = [0, 0, 0, 0]
    for lengths in [(1, 20, 0, 40), (90, 1, 1, 33), (1, 1, 1, 1), (30, 17, 100, 1)]:
        segments = Segments(lengths, offsets=tuple(done))
        qkv = torch.randn(sum(lengths), width).to(dtype)
        got = attention_paged(qkv, heads, kv_heads, segments, LayerPages(ours[0][0], ours[1][0], order), window)
        pages = LayerPages(theirs[0][0], theirs[1][0], order)
        expected = paged_attention.reference(qkv, heads, kv_heads, segments, pages, window)
        tolerance = 2e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
        done = [a + b for a, b in zip(done, lengths, strict=True)]
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attend", [attention_paged, lambda *most: paged_attention.reference(*most, None)])
def test_what_another_sequence_left_in_a_page_is_not_seen_even_if_it_is_no_number(attend, dtype):
    torch.manual_seed(0)
    fresh, used = (LayerPages(*(x[0] for x in new_pages(4, 1, 2, 16, dtype)), torch.tensor([[2, 1]])) for _ in range(2))
    attend(torch.full((32, 96), torch.nan).to(dtype), 2, 2, Segments((32,)), used)
    for length, offset in [(3, 0), (1, 3), (20, 4)]:
        qkv, segments = torch.randn(length, 96).to(dtype), Segments((length,), offsets=(offset,))
        assert torch.equal(attend(qkv, 2, 2, segments, used), attend(qkv, 2, 2, segments, fresh))


def _decode(base, bank, slots, tokens, chunks):
    """Final hidden states of some sequences that go through the decoder in the given chunks, all side by side."""
    pool = PagePool(base.config, 64, base.compute_dtype)
    rows = [[pool.take() for _ in range(-(-len(t) // PAGE_TOKENS))] for t in tokens]
    done, parts = [0] * len(tokens), [[] for _ in tokens]
    for lengths in chunks:
        segments = Segments(tuple(lengths), tuple(slots), offsets=tuple(done))
        fresh = torch.cat([t[d : d + n] for t, d, n in zip(tokens, done, lengths, strict=True)])
        hidden = base.decoder.hidden(fresh, segments, bank, cache=pool.tables(rows))
        for part, some in zip(parts, hidden.split(list(lengths)), strict=True):
            part.append(some)
        done = [a + b for a, b in zip(done, lengths, strict=True)]
    return [torch.cat(part) for part in parts]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", sorted(FAMILIES))
@torch.inference_mode()
def test_layers_in_one_call_give_what_operators_give_and_the_same_bits_alone_and_in_any_company(
    family, dtype, tmp_path
):
    _compare(family, dtype, tmp_path)


@pytest.mark.parametrize("dtype", DTYPES)
@torch.inference_mode()
def test_branches_of_an_adapter_may_begin_and_end_anywhere(dtype, tmp_path, monkeypatch):
    kind, config, changes = FAMILIES["mistral"]
    monkeypatch.setitem(FAMILIES, "odd", (kind, config, {**changes, "head_dim": 22, "intermediate_size": 90}))
    _compare("odd", dtype, tmp_path)


def _compare(family, dtype, tmp_path):
    save_base(tmp_path, family)
    loaded = kameleon.load(str(tmp_path), dtype=dtype)
    base, bank = loaded.base, loaded.bank
    slots = [bank.add(random_adapter(base, f"a{r}", r, rank=r)) for r in (3, 4, 16)] + [-1]
    tokens = [torch.randint(0, 300, (n,)) for n in (60, 37, 52, 45)]
    together = _decode(base, bank, slots, tokens, [(16, 1, 0, 3), (40, 30, 1, 1), (1, 1, 50, 40), (3, 5, 1, 1)])
    for slot, sequence, got in zip(slots, tokens, together, strict=True):
        (whole,) = _decode(base, bank, [slot], [sequence], [(len(sequence),)])
        (single,) = _decode(base, bank, [slot], [sequence], [(1,)] * len(sequence))
        for other, part in ((whole, got), (whole, single)):
            other = other[: len(part)]
            if can_multiply(dtype):
                assert torch.equal(part, other)
            else:  # where torch has AMX, long passes are torch's, which promises no bits
                assert float((part - other).norm() / other.norm()) < 0.05
        slow = base.decoder.hidden(sequence, Segments((len(sequence),), (slot,)), bank)
        if dtype == torch.float32:
            torch.testing.assert_close(whole, slow, rtol=1e-3, atol=1e-3)
        else:
            assert float((whole - slow).norm() / slow.norm()) < 0.05


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("out", "rank"), [(16, 16), (1, 1), (33, 3), (48, 64), (40, 131)])
def test_b_lies_in_the_order_of_its_use(dtype, out, rank):
    torch.manual_seed(0)
    step = 2 if dtype == torch.bfloat16 else 1
    b, shape = torch.randn(out, rank), (-(-out // 16), -(-rank // step), 16, step)
    got, expected = torch.full(shape, 7.0, dtype=dtype), torch.full(shape, 7.0, dtype=dtype)
    place_b(b.T.contiguous().T, got)
    reference.place_b(b, expected)
    assert torch.equal(got, expected)
