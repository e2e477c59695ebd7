"""Compile the kernels: src/kameleon/ops/native/libkameleon_LEVEL.so for each CPU level. One of them is loaded.

Run by `pip install .` (as hatch's build hook), and by hand after a change: python native/build.py
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # by hand, outside of a package build
    BuildHookInterface = object

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src" / "kameleon" / "ops" / "native"

# Strict floating point apart from fused multiply-add: no reordering, and NaN stays NaN.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
LEVELS = {
    "x86_64": {
        "plain": [],
        "avx2": AVX2,
        "avx512": AVX512,
        "avx512bf16": [*AVX512, "-mavx512bf16"],
    },
    "aarch64": {"neon": []},
}


def build(
    *, source: Path = HERE, target: Path = TARGET, only: Collection[str] | None = None, more: Sequence[str] = ()
) -> list[Path]:
    """Compile every level of this machine's architecture; returns the libraries, none where no compiler is.

    `only` names the levels that are wanted, and `more` are flags behind the usual ones.
    """
    machine = platform.machine().lower()
    levels = LEVELS.get({"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine), {"plain": []})
    if only is not None:
        levels = {level: flags for level, flags in levels.items() if level in only}
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    for old in target.glob("libkameleon_*.so"):
        old.unlink()
    if compiler is None or sys.platform == "win32":
        print("kameleon: no C++ compiler found; the slower reference operators will be used", file=sys.stderr)
        return []
    sources = sorted(str(path) for path in source.glob("*.cpp"))
    jobs = {
        target / f"libkameleon_{level}.so": [compiler, *FLAGS, *flags, *more, "-shared", *sources]
        for level, flags in levels.items()
    }
    running = [(path, subprocess.Popen([*command, "-o", str(path)])) for path, command in jobs.items()]
    failed = [path.name for path, process in running if process.wait() != 0]
    if failed:
        for path in jobs:
            path.unlink(missing_ok=True)
        print(
            f"kameleon: {compiler} failed on {', '.join(failed)}; the reference operators will be used", file=sys.stderr
        )
        return []
    return list(jobs)


class NativeBuildHook(BuildHookInterface):
    """Puts the libraries into the wheel, which then belongs to one platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        built = build()
        build_data["artifacts"] += [f"/src/kameleon/ops/native/{path.name}" for path in built]
        if built:
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    sys.exit(0 if build() else 1)
