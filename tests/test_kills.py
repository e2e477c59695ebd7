"""200 kills: after the next start the result has the bits of work that was never killed, and nothing is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import save_gguf

TESTS = Path(__file__).parent
KILLS = {
    "train": (50, 20),
    "shelf": (30, 0),
    "merge": (20, 10),
    "convert": (10, 10),
    "pull": (20, 10),
    "serve": (12, 8),
}
"""At changes of the disk, and at random moments."""


def test_there_are_200():
    assert sum(map(sum, KILLS.values())) == 200


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("what", KILLS)
def test_after_a_kill_the_next_start_gives_the_same_bits_and_leaves_nothing(tmp_path, tiny_folder, what):
    (tmp_path / "given").mkdir()
    save_gguf(tmp_path / "given" / "base.gguf")
    path = os.pathsep.join([str(TESTS), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    words = [sys.executable, TESTS / "kills.py", what, tmp_path / "work", tiny_folder, *map(str, KILLS[what])]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout)
    assert int(done.stdout.split()[1]) >= KILLS[what][0]  # of those at random some end before their moment
