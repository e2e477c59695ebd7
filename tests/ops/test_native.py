"""Which kernels run is decided in one place, and a wish that cannot be met is an error."""

import platform
import sys
import threading

import pytest
import torch
from resident import resident_bytes

from kameleon.errors import SettingError
from kameleon.ops import Term, native
from kameleon.ops.products import gemm


@pytest.fixture
def wish(monkeypatch):
    """Set KAMELEON_NATIVE and look at the choice anew."""

    def look(value):
        monkeypatch.setenv(native.SWITCH, value)
        return native.choice.__wrapped__()

    return look


def test_off_means_the_reference_path(wish):
    assert wish("off").level is None


def test_an_unknown_level_names_the_known_ones(wish):
    with pytest.raises(SettingError, match="use off, plain, avx2"):
        wish("sse9")


def test_a_level_that_was_not_built_is_refused(wish):
    if native.choice().level is None:
        pytest.skip("no kernels here")
    foreign = "neon" if platform.machine() == "x86_64" else "avx2"
    with pytest.raises(SettingError, match="were not built"):
        wish(foreign)


def test_only_fp32_and_bf16_on_the_cpu_are_taken():
    assert not native.can_run(torch.zeros(2, dtype=torch.float64))
    assert not native.can_run(torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16))
    assert not native.can_run(torch.zeros(2, device="meta"))


def test_a_compiler_is_here_so_kernels_run_unless_switched_off():
    """CI has g++: a build that silently failed must not pass as the reference path."""
    assert (native.choice().level is None) == (native.choice().reason == f"{native.SWITCH}=off")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_a_product_over_no_numbers_is_zero(dtype, out_dtype):
    if native.choice().level is None:
        pytest.skip("no kernels here")
    nothing = Term(torch.empty(20, 0, dtype=dtype), torch.empty(0, 8))
    out = torch.full((20, 8), 7.0, dtype=out_dtype)
    assert torch.equal(gemm(out, [nothing]), torch.zeros(20, 8, dtype=out_dtype))
    assert torch.equal(gemm(out, [nothing], torch.ones(20, 8)), torch.ones(20, 8, dtype=out_dtype))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    if native.choice().level is None:
        pytest.skip("no kernels here")
    torch.manual_seed(0)
    a, b, before = torch.randn(101, 300), torch.randn(300, 90), torch.get_num_threads()
    wanted = gemm(torch.empty(101, 90), [Term(a, b)])
    try:
        torch.set_num_threads(threads)
        assert torch.equal(gemm(torch.empty(101, 90), [Term(a, b)]), wanted)
    finally:
        torch.set_num_threads(before)


def test_a_thread_can_compute_alone_while_others_keep_their_teams():
    if native.choice().level is None:
        pytest.skip("no kernels here")
    found = []

    def alone():
        native.compute_in_one_thread()
        torch.ones(1 << 20).sum()
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    assert found == [1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("sparing", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
def test_clearing_zeroes_what_is_given_and_nothing_beside_it(size, sparing):
    around = torch.ones(size + 6)
    native.clear(around[3 : size + 3], sparing=sparing)
    assert torch.equal(around, torch.tensor([1.0] * 3 + [0.0] * size + [1.0] * 3))


@pytest.mark.skipif(sys.platform != "linux" or native.choice().level is None, reason="a kernel asks Linux for it")
def test_where_memory_counts_what_was_cleared_takes_none_until_something_is_written():
    x = torch.ones(1 << 20)
    native.clear(x, sparing=False)
    assert resident_bytes(x) > 4_000_000
    native.clear(x, sparing=True)
    assert resident_bytes(x) == 0
    x[1000:2000] = 1.0
    assert 0 < resident_bytes(x) < 4_000_000
    assert x.sum() == 1000
