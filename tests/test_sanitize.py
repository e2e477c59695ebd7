"""`make sanitize` finds faults in the kernels: it is shown some."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kameleon.ops import native

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not native.available() or not shutil.which("g++"), reason="needs kernels and their compiler")
def test_each_fault_that_is_planted_in_a_copy_of_the_kernels_is_found():
    """Two by the kernels' own tests, and one that only mutated files reach."""
    paths = os.pathsep.join((str(ROOT / "native"), os.environ.get("PYTHONPATH", "")))
    ran = subprocess.run(
        [sys.executable, "-c", "import sanitize; sanitize.find_plants()"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("found the fault planted in") == 3
