"""A library of other sources is refused before a kernel is called, with the command that compiles it again."""

import ctypes
import shutil
import subprocess

import pytest

from kameleon.errors import KernelError
from kameleon.ops import native
from kameleon.ops.native import abi, library

BUILT = sorted(library._FOLDER.glob("libkameleon_*.so"))
needs_kernels = pytest.mark.skipif(not BUILT, reason="no kernels were built")


@needs_kernels
@pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)
def test_every_library_that_was_built_has_this_interface(path):
    assert abi.differences(ctypes.CDLL(str(path))) == []


class Longer(ctypes.Structure):
    _fields_ = (*abi.Term._fields_, ("one_more", ctypes.c_int64))


@needs_kernels
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("STRUCTURES", tuple(Longer if s is abi.Term else s for s in abi.STRUCTURES), "sizeof Longer"),
        ("VERSION", abi.VERSION + 1, f"ABI_VERSION is {abi.VERSION}, expected {abi.VERSION + 1}"),
        ("PAGE_TOKENS", 32, "PAGE_TOKENS is 16, expected 32"),
        ("KINDS", (*abi.KINDS[:3], "Q9_0", *abi.KINDS[3:]), "Q4_0 is 5, expected 6"),
        ("ACTIVATIONS", {"silu": 1, "gelu_tanh": 0}, "GELU_TANH is 1, expected 0"),
    ],
)
def test_a_library_that_differs_is_refused_with_the_command_that_mends_it(monkeypatch, name, value, told):
    monkeypatch.setattr(abi, name, value)
    with pytest.raises(KernelError, match=r"python native/build\.py") as refusal:
        library.load(BUILT[0])
    assert any(told in line for line in abi.differences(ctypes.CDLL(str(BUILT[0])))), str(refusal.value)


def test_a_library_from_before_it_told_its_version_is_refused(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no compiler")
    source, built = tmp_path / "old.cpp", tmp_path / "old.so"
    source.write_text('extern "C" void kameleon_gemm() {}\n')
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    with pytest.raises(KernelError, match="it does not tell its version"):
        library.load(built)


@needs_kernels
def test_each_declared_function_is_in_the_library():
    loaded = library.load(BUILT[0])
    for name in abi.SIGNATURES:
        assert getattr(loaded, f"kameleon_{name}").argtypes is not None
    assert native.choice() is not None
