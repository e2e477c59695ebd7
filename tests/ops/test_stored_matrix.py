"""Matrices in blocks of quantised numbers: unpacked to the gguf package's own bits, multiplied like plain ones."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kameleon import ops
from kameleon.ops import KINDS, StoredMatrix, Term, native, nf4, reference
from kameleon.weights import FrozenWeight

BY_BLOCKS = [kind for kind in KINDS if kind not in ("F32", "BF16", "F16")]


def block_of(kind):
    if kind == "NF4":  # a row's own scale comes before its blocks
        return 64, 33
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


def random_bytes(kind, rows, columns, seed=0):
    block, size = block_of(kind)
    random, before = np.random.default_rng(seed), 4 if kind == "NF4" else 0
    return torch.from_numpy(random.integers(0, 256, (rows, before + columns // block * size), dtype=np.uint8))


def sane(kind, rows, columns, seed=0, half=0):
    """A packed matrix with numbers of ordinary size: each block's fp16 scales are set to small ones."""
    data, (_, size) = random_bytes(kind, rows, columns, seed), block_of(kind)
    if kind in ("F32", "BF16", "F16"):
        plain = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[kind]
        data = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(plain).view(torch.uint8)
        return StoredMatrix(kind, data, columns, half)
    if kind == "NF4":
        data[:, :4] = torch.rand(rows, 1).mul_(1e-3).view(torch.uint8)
        return StoredMatrix(kind, data, columns, half)
    small = torch.from_numpy(np.random.default_rng(seed).uniform(0.001, 0.01, (rows, data.shape[1] // size)))
    blocks = data.view(rows, -1, size)
    scales = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2)}
    for at in scales.get(kind, (0, 2) if kind.endswith("_1") else (0,)):
        blocks[:, :, at : at + 2] = small[:, :, None].half().view(torch.uint8)
    return StoredMatrix(kind, data, columns, half)


def plain(matrix):
    """What it holds, without any kernel."""
    rows = matrix.stored_rows(torch.arange(len(matrix.data)))
    whole = reference.unpack(matrix.kind, matrix.data[rows])
    return whole.T if matrix.transposed else whole


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_unpack_to_the_bits_of_the_reference(kind):
    """With any bytes: infinite and subnormal scales, and numbers that are none."""
    data = random_bytes(kind, 300, 512, seed=1)
    wanted = reference.unpack(kind, data)
    got = StoredMatrix(kind, data, 512).dense()
    assert got.isnan().equal(wanted.isnan())
    number = ~wanted.isnan()
    assert got[number].view(torch.int32).equal(wanted[number].view(torch.int32))


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_unpack_to_bf16_as_their_fp32_numbers_round(kind):
    """Numbers below the normal ones of fp32 may become zero: units for bf16 take them as such."""
    data = random_bytes(kind, 300, 512, seed=2)
    wanted = reference.unpack(kind, data).bfloat16()
    got = StoredMatrix(kind, data, 512).dense(torch.bfloat16)
    assert got.isnan().equal(wanted.isnan())
    tiny = wanted.abs().float() < 2.0**-126
    assert (got[tiny].abs().float() < 2.0**-126).all()
    number = ~wanted.isnan() & ~tiny
    assert got[number].view(torch.int16).equal(wanted[number].view(torch.int16))


@pytest.mark.skipif(not native.available(), reason="generation's products are kernels")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_generation_have_the_bits_of_those_with_the_unpacked_matrix(kind, rows, dtype):
    packed = [sane(kind, 48, 768, seed=3, half=6), sane(kind, 21, 768, seed=4)]
    x = torch.randn(rows, 768, generator=torch.Generator().manual_seed(5)).to(dtype)
    plain_ones = [one.dense(dtype) for one in packed]
    assert ops.Stacked(packed).project(x).equal(ops.Stacked(plain_ones).project(x))


def test_the_reference_unpacks_one_row_as_it_does_many():
    rows = random_bytes("NF4", 3, 128, seed=2)
    rows[:, :4] = torch.rand(3, 1).view(torch.uint8)
    one_by_one = [reference.unpack("NF4", row) for row in rows.split(1)]
    assert torch.equal(torch.cat(one_by_one), reference.unpack("NF4", rows))


def test_nf4_is_near_the_numbers_it_packs():
    """Half the widest gap between its 16 values, of the block's largest number, and a 510th of the row's largest."""
    numbers = torch.randn(20, 192) * torch.logspace(-3, 2, 20)[:, None]
    numbers[3], numbers[4, 64:] = 0, 0
    got = StoredMatrix("NF4", nf4.pack(numbers), 192).dense()
    assert nf4.pack(numbers).shape == (20, nf4.row_bytes(192))
    assert not got[3].any()
    near = 0.16 * numbers.view(20, 3, 64).abs().amax(2) + numbers.abs().amax(1, keepdim=True) / 255
    assert ((got - numbers).view(20, 3, 64).abs().amax(2) <= near).all()
    assert (got - numbers).norm() < 0.12 * numbers.norm()


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q4_0"])
def test_what_the_gguf_package_packs_unpacks_here(kind):
    numbers = np.random.default_rng(0).standard_normal((7, 96)).astype(np.float32)
    packed = gguf.quantize(numbers, gguf.GGMLQuantizationType[kind])
    got = StoredMatrix(kind, torch.from_numpy(packed), 96).dense()
    assert got.equal(torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType[kind]).copy()))
    torch.testing.assert_close(got, torch.from_numpy(numbers), rtol=0, atol=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("half", [0, 4])
def test_rows_are_looked_up_by_their_own_numbers(dtype, half):
    matrix = sane("Q4_1", 24, 64, half=half)
    ids = torch.tensor([23, 0, 5, 5, 9])
    assert matrix.rows(ids, dtype).equal(plain(matrix)[ids].to(dtype))
    assert matrix.rows(ids[:0]).shape == (0, 64)
    with pytest.raises(IndexError, match="24"):
        matrix.rows(torch.tensor([24]))


def test_the_order_of_rotary_rows_is_that_of_the_converter():
    """llama.cpp's converter moves row i of the first half and row i of the second next to each other."""
    heads, half = 3, 4
    numbers = torch.randn(heads * 2 * half, 32)
    moved = numbers.view(heads, 2, half, 32).swapaxes(1, 2).reshape(-1, 32).contiguous()
    assert StoredMatrix("F32", moved.view(torch.uint8), 32, half).dense().equal(numbers)


@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_are_the_matrix_piece_by_piece(transposed, monkeypatch):
    monkeypatch.setattr("kameleon.ops.stored_matrix._TILE_NUMBERS", 20 * 256)
    matrix = sane("Q4_K", 20, 1024)
    matrix = matrix.T if transposed else matrix
    tiles = [(cut, tile.clone()) for cut, tile in matrix.tiles(torch.float32)]  # each is written over the one before
    assert len(tiles) > 1
    assert [column for cut, _ in tiles for column in range(cut.start, cut.stop)] == list(range(matrix.shape[1]))
    assert torch.cat([tile for _, tile in tiles], dim=1).equal(plain(matrix))


@pytest.fixture(params=["our own products", "torch's"])
def products(request, monkeypatch):
    """Packed matrices are also multiplied by torch, tile by tile: where it has AVX-512 or AMX."""
    if request.param == "torch's":
        monkeypatch.setattr(native, "can_multiply", lambda dtype, *tensors: False)
        monkeypatch.setattr("kameleon.ops.stored_matrix._TILE_NUMBERS", 5000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_products_with_every_kind(kind, rows, dtype, near, products):
    matrix = sane(kind, 48, 768, half=6)
    weight, wide = FrozenWeight(matrix, dtype=dtype), plain(matrix).double()
    x, dy = torch.randn(rows, 768).to(dtype), torch.randn(rows, 48).to(dtype)
    for got, wanted in (
        (weight.project(x), x.double() @ wide.T),
        (weight.project_back(dy), dy.double() @ wide),
    ):
        assert got.dtype == dtype
        assert (got.double() - wanted).abs().max() <= near * wanted.abs().max()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_several_kinds_joined_with_side_paths(data):
    """As in a real file: q and k of one kind and order, v of another, adapters on some of the rows and columns."""
    kinds = data.draw(st.lists(st.sampled_from(["Q4_K", "Q6_K", "Q2_K", "F16", "BF16", "F32"]), min_size=1, max_size=3))
    outs = [data.draw(st.sampled_from([8, 24, 40, 100])) for _ in kinds]
    columns, rows = data.draw(st.sampled_from([256, 512, 2560])), data.draw(st.sampled_from([1, 3, 8, 9, 70]))
    parts = [sane(kind, out, columns, seed) for seed, (kind, out) in enumerate(zip(kinds, outs, strict=True))]
    weight, wide = FrozenWeight(*parts), torch.cat([plain(part) for part in parts]).double()
    x, residual = torch.randn(rows, columns), torch.randn(rows, sum(outs))
    start = data.draw(st.integers(0, rows - 1))
    a, b = torch.randn(rows - start, 3), torch.randn(3, outs[-1])
    addition = ops.Addition(start, rows, sum(outs) - outs[-1], sum(outs), a, b, 0.5)
    wanted = x.double() @ wide.T + residual
    wanted[start:, -outs[-1] :] += 0.5 * a.double() @ b.double()
    got = weight.project(x, [addition], residual)
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    dy = torch.randn(rows, sum(outs))
    back = dy.double() @ wide
    assert (weight.project_back(dy) - back).abs().max() <= 1e-5 * back.abs().max() + 1e-6


def test_wide_and_deep_matrices_of_blocks():
    """Beyond one strip of columns, one panel of rows, and one batch of panels."""
    matrix = sane("Q4_K", 2100, 4352)
    weight, wide = FrozenWeight(matrix), plain(matrix)
    x, dy = torch.randn(9, 4352), torch.randn(9, 2100)
    torch.testing.assert_close(weight.project(x), x @ wide.T, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(weight.project_back(dy), dy @ wide, rtol=1e-4, atol=1e-3)


def test_few_rows_equal_many_rows():
    matrix = sane("Q5_K", 33, 512)
    x = torch.randn(20, 512)
    many = ops.sum_products([Term(x, matrix.T)])
    for row in range(3):
        alone = ops.sum_products([Term(x[row : row + 1], matrix.T)])
        torch.testing.assert_close(alone, many[row : row + 1], rtol=1e-5, atol=1e-5 * float(many.abs().max()))


def test_frozen_weights_say_how_they_are_stored():
    weight = FrozenWeight(sane("Q4_K", 8, 256), sane("Q6_K", 8, 256), torch.zeros(4, 256))
    if native.available():
        assert weight.kinds == ("Q4_K", "Q6_K", "float32")
    assert weight.shape == (20, 256)
    assert weight.dense().shape == (20, 256)
